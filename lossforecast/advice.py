"""Which decay of the learning rate would end lowest, given the steps that are left."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Estimate, Forecast
from lossforecast.schedule import DECAY_SHAPES, Decay, LRSchedule

__all__ = ["SHAPES", "Ending", "Option", "decays", "endings", "known_shapes", "optimised"]

SHAPES = tuple(DECAY_SHAPES)
"""Shapes of a decay, as in `LRSchedule.with_decay`."""

_STARTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # shares of the steps left
_FINER = (-0.05, -0.025, 0.025, 0.05)  # around the best of them
_ENDINGS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
_EARLIER = (0.0, 0.25, 0.5, 0.75)
_PARTS = 12  # of the way ahead, in which the optimised schedule is straight
_STEP, _TURNS = 1e-4, 60  # of the search: of its differences, and at most


@dataclass(frozen=True)
class Option:
    """One way to spend the steps left: the present rate is held, then decays until the end.

    Attributes:
        schedule: the learning rate of every step.
        decay: what the schedule ends with; None where it was optimised.
        gain: how much lower it would end than the plan.
    """

    schedule: LRSchedule
    decay: Decay | None
    gain: Estimate


@dataclass(frozen=True)
class Ending:
    """What a run would give that ended after so many more steps, decayed as well as it can be.

    Attributes:
        steps: more steps, 0 or more.
        schedule: the learning rates up to there.
        loss: at the end.
        per_step: how much lower each step since the ending before makes it; nan for the first.
    """

    steps: int
    schedule: LRSchedule
    loss: Estimate
    per_step: float


def decays(
    forecast: Forecast, shapes: Sequence[str] = SHAPES, total_steps: int | None = None
) -> tuple[Option, ...]:
    """The best start of a decay of each shape, the best shape first.

    Empty where nothing is known, during a warm-up and where the rate is 0 already. Best is where
    the median of the gain over the plan is highest. Rates end at 0, those of "exp" at a hundredth.

    Args:
        forecast: of the end of the plan.
        shapes: some of `SHAPES`.
        total_steps: length of the run in optimizer steps; by default that of the plan.

    Raises:
        ConfigurationError: an unknown shape, or a run that is over by now.

    Example:
        >>> from lossforecast import Forecaster, LRSchedule, RunInfo
        >>> plan = LRSchedule.constant(total_steps=1_000, peak=1e-3)
        >>> forecaster = Forecaster(plan, RunInfo(metric="val", optimizer="adamw"))
        >>> forecaster.observe_many(range(500), [2 + 3 * (t + 5) ** -0.5 for t in range(500)])
        >>> best = decays(forecaster.forecast())[0]
        >>> best.gain.lower > 0, 500 <= best.decay.start < 1_000
        (True, True)
    """
    known_shapes(shapes)
    now = max(forecast.made_at, 0)
    held = _held(forecast, total_steps)
    if forecast.made_at < 0 or held is None:
        return ()
    left = held.total_steps - now
    found = []
    for shape in shapes:
        starts = _shares(now, left, _STARTS)
        best = _best(forecast, held, starts, shape)
        finer = _shares(now, left, [(best - now) / left + shift for shift in _FINER])
        start = _best(forecast, held, [best, *finer], shape)
        schedule = held.with_decay(start=start, shape=shape)
        decay = Decay(start, held.total_steps - start, shape)
        found.append(Option(schedule, decay, forecast.gain(schedule)))
    return tuple(sorted(found, key=lambda option: -option.gain))


def endings(forecast: Forecast, more: Sequence[int] | None = None) -> tuple[Ending, ...]:
    """What ending now would give, what more steps would give, and the gain of each of them.

    Args:
        forecast: of the end of the plan.
        more: numbers of further steps, 0 or more; by default eight from 0 to what the plan has.

    Raises:
        ConfigurationError: a number of steps that is negative or not whole.
    """
    if forecast.made_at < 0:
        return ()
    now, plan = forecast.made_at, forecast.schedule
    if more is None:
        left = max(plan.total_steps - now, 0)
        more = [round(share * left) for share in _ENDINGS]
    asked = sorted({whole("more", steps, ConfigurationError, least=0) for steps in more})
    found: list[Ending] = []
    for steps in asked:
        end = now + steps
        schedule = plan.truncated_to(max(min(end, plan.total_steps), 1))
        held = _held(forecast, end) if steps else None
        if held is not None:
            start = _best(forecast, held, _shares(now, steps, _EARLIER), "linear")
            schedule = held.with_decay(start=start)
        loss = forecast.under(schedule)
        before = found[-1] if found else None
        per_step = (before.loss - loss) / (steps - before.steps) if before else math.nan
        found.append(Ending(steps, schedule, loss, per_step))
    return tuple(found)


def optimised(forecast: Forecast, total_steps: int | None = None) -> Option | None:
    """The best of all schedules that never rise from the present rate, straight in twelve parts.

    A second or so of work. What it gains over the best of `decays` is a few thousandths of the
    loss or less, and as sure as the laws are about shapes, which is not very.

    Raises:
        ConfigurationError: the run is over by now.
    """
    held = _held(forecast, total_steps)
    now = max(forecast.made_at, 0)
    if forecast.made_at < 0 or held is None or held.total_steps - now < _PARTS:
        return None
    rate, end = float(held.lr(held.total_steps)), held.total_steps
    knots = np.unique(np.rint(np.linspace(now, end, _PARTS + 1)).astype(np.int64))

    def schedule_of(x: NDArray[np.float64]) -> LRSchedule:
        falls = x**2 / max(float(x @ x), 1e-12)  # how far it falls in each part, and not at all
        rates = rate * (1 - np.concatenate([[0.0], np.cumsum(falls[:-1])]))
        ahead = LRSchedule.from_points(knots, np.maximum(rates, 0.0), total_steps=end)
        return held.joined(now, ahead) if now else ahead

    unit = max(abs(forecast.mean), 1e-300)

    def cost(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        moved = [x, *(x + _STEP * np.eye(x.size))]
        gains = forecast.gains(schedule_of(each) for each in moved) / unit
        return -float(gains[0]), (gains[0] - gains[1:]) / _STEP

    begin: NDArray[np.float64] = np.append(np.ones(_PARTS), 0.1)
    found: Any = minimize(cost, begin, (), "L-BFGS-B", jac=True, options={"maxiter": _TURNS})
    schedule = schedule_of(found.x)
    return Option(schedule, None, forecast.gain(schedule))


def known_shapes(shapes: Sequence[str]) -> Sequence[str]:
    """The shapes, if they are some of `SHAPES`.

    Raises:
        ConfigurationError: they are not.
    """
    unknown = [shape for shape in shapes if shape not in SHAPES]
    if unknown or not shapes:
        raise ConfigurationError(f"unknown shapes {unknown}: some of {', '.join(SHAPES)}")
    return shapes


def _held(forecast: Forecast, total_steps: int | None) -> LRSchedule | None:
    """The present rate held to the end; None at the end, during a warm-up and at a rate of 0."""
    plan = forecast.schedule
    end = plan.total_steps
    if total_steps is not None:
        end = whole("total_steps", total_steps, ConfigurationError, least=1)
    now = max(forecast.made_at, 1)
    if end < now:
        raise ConfigurationError(f"total_steps is {end}, but the run is at step {now} already")
    since = min(now, plan.total_steps)
    if end <= since or since < plan.warmup_steps or plan.lr(since) == 0:
        return None
    return plan.truncated_to(since).extended_to(end)


def _shares(now: int, left: int, shares: Sequence[float]) -> list[int]:
    return sorted({now + min(max(round(share * left), 0), left - 1) for share in shares})


def _best(forecast: Forecast, held: LRSchedule, starts: Sequence[int], shape: str) -> int:
    """The start of a decay with the largest gain over the plan."""
    gains = forecast.gains(held.with_decay(start=start, shape=shape) for start in starts)
    return starts[int(np.argmax(gains))]
