"""Four forecasters to be measured against: last value, power law in steps, and two published laws.

Each is a function of what was seen, ``(steps (n,), losses (n,), schedule)``, and returns a
predictor: steps in, losses out. The annealing law and the multi-power law are fitted as their
authors fit them (see `published_laws`), with nothing believed beforehand; before the learning
rate has begun to fall they cannot know the drop and keep the gain they started from, as the
authors' scripts do. Points of the warm-up are left out where enough others are left, and long
curves are averaged in bins. Losses that are not finite or not above 0 are left out; where too few
are left, where a fit fails or predicts a loss that cannot be, the last value is predicted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.backtest.published_laws import (
    DropPairs,
    LinearLaw,
    MultiPowerLaw,
    fit_linear_law,
    fit_multi_power_law,
)
from lossforecast.checks import reals, wholes
from lossforecast.errors import ObservationError
from lossforecast.schedule import LRSchedule

__all__ = [
    "BASELINES",
    "Baseline",
    "Predictor",
    "SeenRun",
    "annealing_clock",
    "annealing_law",
    "drop_pairs",
    "fit_annealing_law",
    "fit_multi_power",
    "fit_power_law",
    "last_value",
    "multi_power_law",
    "power_law",
]

Predictor = Callable[[ArrayLike], FloatArray]
"""Predicts the losses at steps of any shape."""
Baseline = Callable[[ArrayLike, ArrayLike, LRSchedule], Predictor]

LAMBDA = 0.999
"""Decay of the annealing momentum in the authors' script."""
_LEAST = 5  # points a law is fitted to
_AFTER_WARMUP = 10  # points that must be left when those of the warm-up go
_POINTS = 150  # of one run, after averaging
_SEGMENTS = 48  # of equal learning-rate change, in the multi-power sum
_FRESH = 6  # parts of a group that is not long past
_FIRST_C, _FIRST_B = 1.0, 100.0  # first of the gains in the authors' starting grids


@dataclass(frozen=True)
class SeenRun:
    """The losses of a run that a law is fitted to.

    Attributes:
        steps: increasing, 1 or more, shape (n,).
        losses: above 0, shape (n,).
        schedule: the learning rates.
        weight: observations per point.
    """

    steps: IntArray
    losses: FloatArray
    schedule: LRSchedule
    weight: float = 1.0


def last_value(steps: ArrayLike, losses: ArrayLike, schedule: LRSchedule) -> Predictor:
    """The last finite loss, for ever; nan before any.

    Args:
        steps: increasing, shape (n,).
        losses: shape (n,).
        schedule: ignored.

    Raises:
        ObservationError: steps and losses are not two arrays (n,) of numbers.

    Example:
        >>> last_value([1, 2, 3], [4.0, 3.0, float("nan")], LRSchedule.constant(10, 1e-3))([10])
        array([3.])
    """
    _, values = _checked(steps, losses)
    finite = values[np.isfinite(values)]
    last = float(finite[-1]) if finite.size else float("nan")
    return lambda at: np.full(np.shape(at), last)


def power_law(steps: ArrayLike, losses: ArrayLike, schedule: LRSchedule) -> Predictor:
    """``L0 + A t^-alpha``, t the step: what one would fit who ignores the learning rate.

    Args and Raises as `last_value`.
    """
    return _fitted(steps, losses, schedule, lambda seen: _predict_power(fit_power_law([seen])))


def annealing_law(steps: ArrayLike, losses: ArrayLike, schedule: LRSchedule) -> Predictor:
    """``L0 + A S1^-alpha - C S2`` as Tissue et al. 2024 (arXiv:2408.11029) fit it.

    lambda = 0.999, warm-up rates replaced by the rate that ends it, Huber(1e-3) on the log loss,
    all parameters 0 or more. Args and Raises as `last_value`.
    """
    return _fitted(
        steps, losses, schedule, lambda seen: _predict_annealing(fit_annealing_law([seen]))
    )


def multi_power_law(steps: ArrayLike, losses: ArrayLike, schedule: LRSchedule) -> Predictor:
    """The multi-power law as Luo et al. 2025 (arXiv:2503.12811) fit it.

    The warm-up as it was; from the best memoryless law, at most 200 steps of AdamW on Huber(1e-3)
    of the log loss. Args and Raises as `last_value`.
    """
    return _fitted(steps, losses, schedule, lambda seen: _predict_multi(fit_multi_power([seen])))


BASELINES: dict[str, Baseline] = {
    "last value": last_value,
    "power law in steps": power_law,
    "annealing law": annealing_law,
    "multi-power law": multi_power_law,
}
"""Every baseline by name."""


def fit_power_law(runs: Sequence[SeenRun]) -> LinearLaw:
    """The power law in steps with the lowest Huber objective over the points of all runs."""
    clock = np.concatenate([run.steps for run in runs]).astype(float)
    return fit_linear_law(clock, np.zeros_like(clock), _losses(runs), 0.0)


def fit_annealing_law(runs: Sequence[SeenRun]) -> LinearLaw:
    """The annealing law with the lowest Huber objective over the points of all runs."""
    parts = [annealing_clock(run.schedule, run.steps) for run in runs]
    s1, s2 = (np.concatenate(each) for each in zip(*parts, strict=True))
    return fit_linear_law(s1, s2, _losses(runs), _FIRST_C)


def fit_multi_power(runs: Sequence[SeenRun]) -> MultiPowerLaw:
    """The multi-power law where its authors' procedure ends, over the points of all runs."""
    s1 = np.concatenate([run.schedule.s1(run.steps) for run in runs])
    below = [run.schedule.peak - run.schedule.lr(run.steps) for run in runs]
    losses = _losses(runs)
    memoryless = fit_linear_law(s1, np.concatenate(below), losses, _FIRST_B)
    pairs = DropPairs.joined([drop_pairs(run.schedule, run.steps) for run in runs])
    weight = float(np.average([run.weight for run in runs], weights=[len(r.steps) for r in runs]))
    return fit_multi_power_law(s1, pairs, losses, memoryless, weight=weight)


def annealing_clock(schedule: LRSchedule, steps: IntArray) -> tuple[FloatArray, FloatArray]:
    """S1 and S2 of the annealing law at steps (n,), the warm-up replaced by the rate that ends it.

    S2 is summed over the straight lines between the schedule's knots, exactly on each of them.
    """
    warmup = schedule.warmup_steps
    s1 = schedule.s1(steps)
    if warmup:
        rate, area = float(schedule.lr(warmup)), float(schedule.s1(warmup))
        s1 = np.where(steps < warmup, rate * steps, s1 + rate * warmup - area)
    knots, rates = schedule.knots
    after = knots >= max(warmup, 1)
    first, last, fall = _moving(knots[after], rates[after])
    row, segment = np.nonzero(first < steps[:, np.newaxis])
    passed = steps[row] - first[segment]
    done = np.minimum(passed, (last - first)[segment])
    # of the `done` changes of one segment, sum of 1 - lambda^(t - k + 1): a geometric series
    kept = LAMBDA ** (passed - done + 1.0) * (1 - LAMBDA ** done.astype(float)) / (1 - LAMBDA)
    weight = (fall / (last - first))[segment] * (done - kept) / (1 - LAMBDA)
    return s1, np.bincount(row, weight, minlength=steps.size).astype(np.float64)


def drop_pairs(schedule: LRSchedule, steps: IntArray) -> DropPairs:
    """The learning-rate changes before each of the steps (n,), in about 48 groups.

    A group is a straight line between two knots; of the changes on it that a step has seen, the
    middle one stands for all, or for each of 6 parts while they are fresh. A rate below 1e-6 of the
    peak counts as that.
    """
    knots, rates = schedule.knots
    knots, rates = np.insert(knots, 0, 0), np.insert(rates, 0, rates[0])
    first, last, fall = _grouped(*_moving(knots, rates))
    slope = fall / (last - first)
    s1_first, s1_last, s1 = schedule.s1(first), schedule.s1(last), schedule.s1(steps)
    s1_step = (s1_last - s1_first) / np.maximum(last - first, 1)
    begin = schedule.lr(np.maximum(first, 1))
    row, segment = np.nonzero(first < steps[:, np.newaxis])
    passed = steps[row] - first[segment]
    done = np.minimum(passed, (last - first)[segment])
    fresh = np.where((done >= 2 * _FRESH) & (passed < 2 * done), _FRESH, 1)
    part = np.arange(fresh.sum()) - np.repeat(np.cumsum(fresh) - fresh, fresh)
    row, segment, done, parts = (np.repeat(each, fresh) for each in (row, segment, done, fresh))
    since, until = done * (1 - ((part + 1) / parts) ** 2), done * (1 - (part / parts) ** 2)
    done, earlier = until - since, (since + until - 1) / 2  # changes before the middle one
    travelled = s1[row] - s1_first[segment] - s1_step[segment] * earlier
    rate = begin[segment] - slope[segment] * (earlier + 1)
    return DropPairs(
        row,
        slope[segment] * done,
        np.log(np.maximum(rate, max(1e-6 * schedule.peak, 1e-300))),
        np.maximum(travelled, 0.0),
        steps.size,
    )


def _moving(knots: IntArray, rates: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """First and last step, and fall, of those intervals between knots where the rate changes."""
    fall = -np.diff(rates)
    moving = fall != 0
    return knots[:-1][moving], knots[1:][moving], fall[moving]


def _grouped(
    first: IntArray, last: IntArray, fall: FloatArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """Neighbouring intervals of one direction joined, up to a 48th of the whole variation."""
    if first.size == 0:
        return first, last, fall
    change = np.abs(fall)
    share = np.cumsum(change) / change.sum() * _SEGMENTS
    large = change * 2 * _SEGMENTS > change.sum()
    apart = np.ones(first.size, dtype=bool)
    apart[1:] = (
        (first[1:] != last[:-1])
        | (np.sign(fall[1:]) != np.sign(fall[:-1]))
        | (np.floor(share[1:]) != np.floor(share[:-1]))
        | large[1:]
        | large[:-1]
    )
    begin = np.flatnonzero(apart)
    end = np.append(begin[1:], first.size) - 1
    return first[begin], last[end], np.add.reduceat(fall, begin)


def _predict_power(law: LinearLaw) -> Callable[[LRSchedule, IntArray], FloatArray]:
    return lambda _, steps: law.loss(np.maximum(steps, 1).astype(float), np.zeros(steps.shape))


def _predict_annealing(law: LinearLaw) -> Callable[[LRSchedule, IntArray], FloatArray]:
    return lambda schedule, steps: law.loss(*annealing_clock(schedule, steps))


def _predict_multi(law: MultiPowerLaw) -> Callable[[LRSchedule, IntArray], FloatArray]:
    return lambda schedule, steps: law.loss(schedule.s1(steps), drop_pairs(schedule, steps))


def _fitted(
    steps: ArrayLike,
    losses: ArrayLike,
    schedule: LRSchedule,
    fit: Callable[[SeenRun], Callable[[LRSchedule, IntArray], FloatArray]],
) -> Predictor:
    """The law's predictions, and the last value where it has none."""
    otherwise = last_value(steps, losses, schedule)
    seen = _seen(*_checked(steps, losses), schedule)
    if seen.steps.size < _LEAST:
        return otherwise
    with np.errstate(all="ignore"):
        law = fit(seen)

    def predict(at: ArrayLike) -> FloatArray:
        wanted = wholes("steps", at, ObservationError)
        with np.errstate(all="ignore"):
            found = law(schedule, wanted.ravel()).reshape(wanted.shape)
        return np.where(np.isfinite(found) & (found > 0), found, otherwise(wanted))

    return predict


def _seen(steps: IntArray, losses: FloatArray, schedule: LRSchedule) -> SeenRun:
    """The sound points after the warm-up, averaged in at most 150 bins of equal count."""
    sound = np.isfinite(losses) & (losses > 0) & (steps >= 1) & (steps <= schedule.total_steps)
    sound[sound] = schedule.s1(steps[sound]) > 0
    late = sound & (steps > schedule.warmup_steps)
    keep = late if late.sum() >= _AFTER_WARMUP else sound
    steps, losses = steps[keep], losses[keep]
    if steps.size <= _POINTS:
        return SeenRun(steps, losses, schedule)
    edges = np.arange(_POINTS) * steps.size // _POINTS
    count = np.diff(edges, append=steps.size)
    mean = np.add.reduceat(losses, edges) / count
    middle = np.rint(np.add.reduceat(steps.astype(float), edges) / count).astype(np.int64)
    return SeenRun(middle, mean, schedule, steps.size / _POINTS)


def _losses(runs: Sequence[SeenRun]) -> FloatArray:
    return np.concatenate([run.losses for run in runs])


def _checked(steps: ArrayLike, losses: ArrayLike) -> tuple[IntArray, FloatArray]:
    at = wholes("steps", steps, ObservationError)
    values = reals("losses", losses, ObservationError).astype(np.float64)
    if at.ndim != 1 or at.shape != values.shape:
        raise ObservationError(
            f"steps has shape {at.shape} and losses {values.shape}; give two arrays (n,)"
        )
    return at, values
