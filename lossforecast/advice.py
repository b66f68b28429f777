"""The decay of the learning rate that ends lowest, and the loss after more or fewer steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Estimate, Forecast
from lossforecast.schedule import DECAY_SHAPES, Decay, LRSchedule

__all__ = [
    "SHAPES",
    "Ending",
    "Option",
    "decays",
    "endings",
    "first_decay",
    "known_shapes",
    "optimised",
]

SHAPES = tuple(DECAY_SHAPES)
"""Shapes of a decay, as in `LRSchedule.with_decay`."""

# starts of a decay that are tried, as shares of the steps left
_START_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_FIRST_SHARES = (0.0, 0.3, 0.6, 0.9)  # those of a first look
_FINER_SHIFTS = (-0.05, -0.025, 0.025, 0.05)  # tried next, around the best of these shares
_ENDING_SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # of the steps left
_ENDING_START_SHARES = (0.0, 0.25, 0.5, 0.75)  # starts of its decay, as shares of the steps to it
_N_SEGMENTS = 12  # straight segments of an optimised schedule
_GRADIENT_STEP = 1e-4  # step of the finite differences in the square root of each fall
_MAX_ITERATIONS = 60  # of L-BFGS-B


@dataclass(frozen=True)
class Option:
    """A schedule for the steps left: the present rate is held, then it decays until the end.

    Attributes:
        schedule: the learning rate of every step.
        decay: the decay that the schedule ends with; None if `optimised` made it.
        gain: how much lower the loss ends than under the plan.
    """

    schedule: LRSchedule
    decay: Decay | None
    gain: Estimate

    def __str__(self) -> str:
        how = self.schedule if self.decay is None else self.decay
        return f"{how}: ends lower than the plan by {self.gain!r}"


@dataclass(frozen=True)
class Ending:
    """The end of the run after some further steps, reached by the best linear decay.

    Attributes:
        steps: number of further steps, 0 or more.
        schedule: the learning rates up to the end.
        loss: the loss at the end.
        per_step: reduction of the loss per step since the previous ending; nan for the first.
    """

    steps: int
    schedule: LRSchedule
    loss: Estimate
    per_step: float

    def __str__(self) -> str:
        more = "if it ended now" if self.steps == 0 else f"after {self.steps:,} more steps"
        return f"{more}: {self.loss!r}"


def decays(
    forecast: Forecast, shapes: Sequence[str] = SHAPES, total_steps: int | None = None
) -> tuple[Option, ...]:
    """The best decay of each shape, sorted by gain, the largest first.

    Its start is the one with the largest median gain over the plan. Rates end at 0, those of "exp"
    at a hundredth of the present one. Empty without data, during a warm-up and at a rate of 0.

    Args:
        forecast: the forecast of the end of the plan.
        shapes: some of `SHAPES`.
        total_steps: length of the run in optimizer steps; by default that of the plan.

    Raises:
        ConfigurationError: a shape is unknown, or the run is past `total_steps`.

    Example:
        >>> from lossforecast import Forecaster, LRSchedule, RunInfo
        >>> plan = LRSchedule.constant(total_steps=1_000, peak=1e-3)
        >>> forecaster = Forecaster(plan, RunInfo("val", "adamw", task="language modelling"))
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
    options = []
    for shape in shapes:
        starts = _starts(now, left, _START_SHARES)
        best = _best(forecast, held, starts, shape)
        finer = _starts(now, left, [(best - now) / left + shift for shift in _FINER_SHIFTS])
        start = _best(forecast, held, [best, *finer], shape)
        options.append(_option(forecast, held, start, shape))
    return tuple(sorted(options, key=lambda option: -option.gain))


def first_decay(forecast: Forecast, shape: str = SHAPES[0]) -> Option | None:
    """The best of four decays of one shape: a first look, at a tenth of the cost of `decays`.

    None without data, during a warm-up and at a rate of 0.

    Args:
        forecast: the forecast of the end of the plan.
        shape: one of `SHAPES`.

    Raises:
        ConfigurationError: the shape is unknown.
    """
    known_shapes([shape])
    held = _held(forecast, None)
    if forecast.made_at < 0 or held is None:
        return None
    now = max(forecast.made_at, 0)
    start = _best(forecast, held, _starts(now, held.total_steps - now, _FIRST_SHARES), shape)
    return _option(forecast, held, start, shape)


def endings(forecast: Forecast, more: Sequence[int] | None = None) -> tuple[Ending, ...]:
    """The final loss if the run ended now or after more steps, and the gain per further step.

    Empty without data.

    Args:
        forecast: the forecast of the end of the plan.
        more: numbers of further steps, 0 or more; by default eight, from 0 to the end of the plan.

    Raises:
        ConfigurationError: a number of steps is negative or not whole.
    """
    if forecast.made_at < 0:
        return ()
    now, plan = forecast.made_at, forecast.schedule
    if more is None:
        left = max(plan.total_steps - now, 0)
        more = [round(share * left) for share in _ENDING_SHARES]
    further = sorted({whole("more", steps, ConfigurationError, least=0) for steps in more})
    results: list[Ending] = []
    for steps in further:
        end = now + steps
        schedule = plan.truncated_to(max(min(end, plan.total_steps), 1))
        held = _held(forecast, end) if steps else None
        if held is not None:
            start = _best(forecast, held, _starts(now, steps, _ENDING_START_SHARES), "linear")
            schedule = held.with_decay(start=start)
        loss = forecast.under(schedule)
        before = results[-1] if results else None
        per_step = (before.loss - loss) / (steps - before.steps) if before else math.nan
        results.append(Ending(steps, schedule, loss, per_step))
    return tuple(results)


def optimised(forecast: Forecast, total_steps: int | None = None) -> Option | None:
    """The best schedule of twelve straight segments that never rises from the present rate.

    It takes about a second and gains at most a few thousandths of the loss over the best of
    `decays`, a difference between shapes that the laws do not predict reliably. None without data,
    during a warm-up, at a rate of 0 and with fewer than twelve steps left.

    Args:
        forecast: the forecast of the end of the plan.
        total_steps: length of the run in optimizer steps; by default that of the plan.

    Raises:
        ConfigurationError: the run is past `total_steps`.
    """
    from scipy.optimize import minimize  # slow: takes a fifth as long as this package

    held = _held(forecast, total_steps)
    now = max(forecast.made_at, 0)
    if forecast.made_at < 0 or held is None or held.total_steps - now < _N_SEGMENTS:
        return None
    rate, end = float(held.lr(held.total_steps)), held.total_steps
    knots = np.unique(np.rint(np.linspace(now, end, _N_SEGMENTS + 1)).astype(np.int64))

    def schedule_of(x: NDArray[np.float64]) -> LRSchedule:
        # share of the rate lost in each segment; the last share is never lost
        falls = x**2 / max(float(x @ x), 1e-12)
        rates = rate * (1 - np.concatenate([[0.0], np.cumsum(falls[:-1])]))
        ahead = LRSchedule.from_points(knots, np.maximum(rates, 0.0), total_steps=end)
        return held.joined(now, ahead) if now else ahead

    unit = max(abs(forecast.median), 1e-300)

    def cost(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        moved = [x, *(x + _GRADIENT_STEP * np.eye(x.size))]
        gains = forecast.gains(schedule_of(point) for point in moved) / unit
        return -float(gains[0]), (gains[0] - gains[1:]) / _GRADIENT_STEP

    begin: NDArray[np.float64] = np.append(np.ones(_N_SEGMENTS), 0.1)
    result: Any = minimize(
        cost, begin, (), "L-BFGS-B", jac=True, options={"maxiter": _MAX_ITERATIONS}
    )
    schedule = schedule_of(result.x)
    return Option(schedule, None, forecast.gain(schedule))


def known_shapes(shapes: Sequence[str]) -> Sequence[str]:
    """Return the shapes after checking that they are some of `SHAPES`.

    Raises:
        ConfigurationError: a shape is unknown, or there is none.
    """
    unknown = [shape for shape in shapes if shape not in SHAPES]
    if unknown or not shapes:
        raise ConfigurationError(f"unknown shapes {unknown}: give some of {', '.join(SHAPES)}")
    return shapes


def _held(forecast: Forecast, total_steps: int | None) -> LRSchedule | None:
    """The present rate held to the end; None at the end, during a warm-up and at a rate of 0.

    Raises:
        ConfigurationError: the run is past `total_steps`.
    """
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


def _starts(now: int, left: int, shares: Sequence[float]) -> list[int]:
    """Steps at these shares of the steps left, at least one step before the end."""
    return sorted({now + min(max(round(share * left), 0), left - 1) for share in shares})


def _best(forecast: Forecast, held: LRSchedule, starts: Sequence[int], shape: str) -> int:
    """The start of a decay with the largest gain over the plan."""
    gains = forecast.gains(held.with_decay(start=start, shape=shape) for start in starts)
    return starts[int(np.argmax(gains))]


def _option(forecast: Forecast, held: LRSchedule, start: int, shape: str) -> Option:
    schedule = held.with_decay(start=start, shape=shape)
    decay = Decay(start, held.total_steps - start, shape)
    return Option(schedule, decay, forecast.gain(schedule))
