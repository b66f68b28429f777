"""Comparison of two plans from a step on, such as those before and after a run is resumed."""

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["plan_difference", "possible_futures", "same_future", "with_rate_held"]

_MAX_STEPS_BETWEEN_KNOTS = 100_000  # searched for the first step that differs
_LR_TOLERANCE = 1e-6  # of the peak: a saved plan and a resumed one differ by rounding


def possible_futures(followed: LRSchedule, now: int) -> tuple[LRSchedule, ...]:
    """Return the schedules that a run may follow from the present step on, all equally likely.

    There is one, unless no learning rate is known and `followed` only holds it: then the rate may
    equally decay to 0 from now on.
    """
    start = max(now, 1)
    if Caveat.LR_UNKNOWN not in followed.caveats or start >= followed.total_steps:
        return (followed,)
    if not _is_constant(_rates_after(followed, start)):
        return (followed,)
    return followed, followed.with_decay(start=start)


def same_future(saved: LRSchedule, planned: LRSchedule, step: int) -> bool:
    """Return whether two plans agree after a step.

    Two plans that both only assume a constant rate agree, whatever the rate:
    `Forecaster.follow_rate` corrects it.
    """
    if saved.total_steps != planned.total_steps:
        return False
    assumed = Caveat.LR_ASSUMED in saved.caveats & planned.caveats
    if assumed and all(_is_constant(_rates_after(plan, step)) for plan in (saved, planned)):
        return True
    steps = planned.knots[0]
    steps = steps[steps > step]
    difference = np.abs(saved.lr(steps) - planned.lr(steps))
    return bool((difference <= _LR_TOLERANCE * planned.peak).all())


def with_rate_held(plan: LRSchedule, step: int, present_rate: float) -> LRSchedule:
    """Return a plan that only assumes a constant rate with the present rate from a step on.

    A plan without `Caveat.LR_ASSUMED`, or whose rates change after the step, is returned itself.
    """
    if Caveat.LR_ASSUMED not in plan.caveats or step >= plan.total_steps:
        return plan
    rates = _rates_after(plan, step)
    if rates[0] == present_rate or not _is_constant(rates):
        return plan
    held = LRSchedule.constant(plan.total_steps, present_rate)
    return plan.joined(step, held).with_caveats(Caveat.LR_ASSUMED)


def plan_difference(saved: LRSchedule, planned: LRSchedule, step: int) -> str:
    """Return how two plans differ after a step: in length, in rate and in peak.

    For the rate, the first step at which they differ is named.
    """
    parts = []
    if saved.total_steps != planned.total_steps:
        parts.append(f"{planned.total_steps:,} steps instead of {saved.total_steps:,}")
    at = _first_difference(saved, planned, step)
    if at is not None:
        now, before = _distinct(float(planned.lr(at)), float(saved.lr(at)))
        parts.append(f"learning rate {now} instead of {before} at step {at:,}")
    if step < saved.total_steps:
        knots = np.union1d(saved.knots[0], planned.knots[0])
        ahead = [knots[(knots > step) & (knots <= p.total_steps)] for p in (planned, saved)]
        peaks = [float(p.lr(k).max()) for p, k in zip((planned, saved), ahead, strict=True)]
        if abs(peaks[0] - peaks[1]) > _LR_TOLERANCE * max(peaks):
            now, before = _distinct(*peaks)
            parts.append(f"its largest from here on {now} instead of {before}")
    return ", ".join(parts)


def _rates_after(plan: LRSchedule, step: int) -> FloatArray:
    """Learning rates at the knots of a plan after a step."""
    steps, rates = plan.knots
    return rates[steps > step]


def _is_constant(rates: FloatArray) -> bool:
    """Return whether all rates are equal."""
    return bool((rates == rates[0]).all())


def _first_difference(saved: LRSchedule, planned: LRSchedule, step: int) -> int | None:
    """Return the first step after `step` at which the rates differ; None if they never do."""
    last = min(saved.total_steps, planned.total_steps)
    if step >= last:
        return None

    def differing(steps: IntArray) -> IntArray:
        difference = np.abs(saved.lr(steps) - planned.lr(steps))
        return steps[difference > _LR_TOLERANCE * planned.peak]

    knots = np.concatenate([saved.knots[0], planned.knots[0], [step + 1, last]])
    knots = np.unique(knots[(knots > step) & (knots <= last)])
    found = differing(knots)
    if not found.size:
        return None
    earlier = knots[knots < found[0]]
    start = max(int(earlier[-1]) + 1 if earlier.size else step + 1, 1)
    start = max(start, int(found[0]) - _MAX_STEPS_BETWEEN_KNOTS)
    return int(differing(np.arange(start, found[0] + 1))[0])


def _distinct(one: float, other: float) -> tuple[str, str]:
    """Format two different numbers with as many digits as it takes to distinguish them."""
    for digits in (3, 6, 9):
        pair = f"{one:.{digits}g}", f"{other:.{digits}g}"
        if pair[0] != pair[1]:
            break
    return pair
