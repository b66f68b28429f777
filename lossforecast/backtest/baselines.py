"""Four baselines to compare with: last value, power law in steps, and two published laws.

A baseline takes the losses seen, ``(steps (n,), losses (n,), schedule)``, and returns a predictor
from steps to losses. The annealing law and the multi-power law are fitted as their authors fit them
(see `published_laws`), without a prior; before the learning rate begins to fall the data say
nothing about the drop, and the gain keeps its starting value, as in the authors' scripts.

Losses that are not finite or not positive are dropped, points of the warm-up too if enough others
remain, and long curves are averaged in bins. The last value is predicted where too few points
remain and where a fit predicts a loss that is not finite or not positive.
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
"""Maps steps of any shape to losses of the same shape."""
Baseline = Callable[[ArrayLike, ArrayLike, LRSchedule], Predictor]

_MOMENTUM_DECAY = 0.999  # lambda of the annealing momentum, in the authors' script
_MIN_POINTS_FOR_FIT = 5
_MIN_POINTS_AFTER_WARMUP = 10  # else the points of the warm-up are kept
_MAX_POINTS_FOR_FIT = 150  # per run, after averaging in bins
_LR_CHANGE_GROUPS = 48  # of equal learning-rate change, in the multi-power sum
_RECENT_PARTS = 6  # a recent group is summed in so many parts
_MIN_RATE_SHARE = 1e-6  # of the peak: lower rates count as this in the multi-power sum
_FIRST_C, _FIRST_B = 1.0, 100.0  # first of the gains in the authors' starting grids


@dataclass(frozen=True)
class SeenRun:
    """The points of a run to which a law is fitted.

    Attributes:
        steps: increasing, at least 1, shape (n,).
        losses: positive, shape (n,).
        schedule: the learning rate of every step.
        weight: observations averaged in each point.
    """

    steps: IntArray
    losses: FloatArray
    schedule: LRSchedule
    weight: float = 1.0


def last_value(steps: ArrayLike, losses: ArrayLike, schedule: LRSchedule) -> Predictor:
    """Predict the last finite loss at every step; nan if there is none.

    Args:
        steps: steps seen, increasing, shape (n,).
        losses: losses at these steps, shape (n,).
        schedule: unused.

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
    """Fit ``L(t) = L0 + A t^-alpha`` in the step t, ignoring the learning rate.

    Args and Raises as `last_value`.
    """
    return _fitted(steps, losses, schedule, lambda seen: _predict_power(fit_power_law([seen])))


def annealing_law(steps: ArrayLike, losses: ArrayLike, schedule: LRSchedule) -> Predictor:
    """Fit ``L = L0 + A S1^-alpha - C S2`` as Tissue et al. 2024 (arXiv:2408.11029) do.

    lambda = 0.999, the rates of the warm-up replaced by the rate at its end, Huber loss of the log
    loss with delta = 1e-3, all parameters non-negative. Args and Raises as `last_value`.
    """
    return _fitted(
        steps, losses, schedule, lambda seen: _predict_annealing(fit_annealing_law([seen]))
    )


def multi_power_law(steps: ArrayLike, losses: ArrayLike, schedule: LRSchedule) -> Predictor:
    """Fit the multi-power law as Luo et al. 2025 (arXiv:2503.12811) do.

    The warm-up is kept; from the best memoryless law, at most 200 steps of AdamW on the Huber loss
    of the log loss with delta = 1e-3. Args and Raises as `last_value`.
    """
    return _fitted(steps, losses, schedule, lambda seen: _predict_multi(fit_multi_power([seen])))


BASELINES: dict[str, Baseline] = {
    "last value": last_value,
    "power law in steps": power_law,
    "annealing law": annealing_law,
    "multi-power law": multi_power_law,
}
"""All baselines by name."""


def fit_power_law(runs: Sequence[SeenRun]) -> LinearLaw:
    """The power law in steps with the lowest Huber objective over the points of all runs."""
    clock = np.concatenate([run.steps for run in runs]).astype(float)
    return fit_linear_law(clock, np.zeros_like(clock), _losses(runs), 0.0)


def fit_annealing_law(runs: Sequence[SeenRun]) -> LinearLaw:
    """The annealing law with the lowest Huber objective over the points of all runs."""
    parts = [annealing_clock(run.schedule, run.steps) for run in runs]
    s1, s2 = (np.concatenate(part) for part in zip(*parts, strict=True))
    return fit_linear_law(s1, s2, _losses(runs), _FIRST_C)


def fit_multi_power(runs: Sequence[SeenRun]) -> MultiPowerLaw:
    """The multi-power law at which its authors' procedure ends, over the points of all runs."""
    s1 = np.concatenate([run.schedule.s1(run.steps) for run in runs])
    below = [run.schedule.peak - run.schedule.lr(run.steps) for run in runs]
    losses = _losses(runs)
    memoryless = fit_linear_law(s1, np.concatenate(below), losses, _FIRST_B)
    pairs = DropPairs.joined([drop_pairs(run.schedule, run.steps) for run in runs])
    weight = float(np.average([run.weight for run in runs], weights=[len(r.steps) for r in runs]))
    return fit_multi_power_law(s1, pairs, losses, memoryless, weight=weight)


def annealing_clock(schedule: LRSchedule, steps: IntArray) -> tuple[FloatArray, FloatArray]:
    """S1 and S2 of the annealing law at steps (n,), as if the warm-up had the rate at its end.

        S1(t) = sum_{k <= t} eta_k
        S2(t) = sum_{k <= t} (eta_{k-1} - eta_k) (1 - lambda^(t - k + 1)) / (1 - lambda)

    The rate is linear between two knots of the schedule, so S2 is an exact geometric sum there.
    """
    warmup = schedule.warmup_steps
    s1 = schedule.s1(steps)
    if warmup:
        rate, area = float(schedule.lr(warmup)), float(schedule.s1(warmup))
        s1 = np.where(steps < warmup, rate * steps, s1 + rate * warmup - area)
    knots, rates = schedule.knots
    after = knots >= max(warmup, 1)
    first, last, fall = _changing_segments(knots[after], rates[after])
    row, segment = np.nonzero(first < steps[:, np.newaxis])
    passed = steps[row] - first[segment]
    done = np.minimum(passed, (last - first)[segment])
    # sum of lambda^(t - k + 1) over the `done` changes of one segment: a geometric series
    decay = _MOMENTUM_DECAY
    remaining = decay ** (passed - done + 1.0) * (1 - decay ** done.astype(float)) / (1 - decay)
    weight = (fall / (last - first))[segment] * (done - remaining) / (1 - decay)
    return s1, np.bincount(row, weight, minlength=steps.size).astype(np.float64)


def drop_pairs(schedule: LRSchedule, steps: IntArray) -> DropPairs:
    """The learning-rate changes before each of the steps (n,), in about 48 groups.

    The rate is linear on a group. The changes of a group that lie before a step are represented by
    the middle one; while they are recent, in 6 parts by the middle one of each. Rates below 1e-6 of
    the peak are raised to it.
    """
    knots, rates = schedule.knots
    knots, rates = np.insert(knots, 0, 0), np.insert(rates, 0, rates[0])
    first, last, fall = _grouped(*_changing_segments(knots, rates))
    slope = fall / (last - first)
    s1_first, s1_last, s1 = schedule.s1(first), schedule.s1(last), schedule.s1(steps)
    s1_step = (s1_last - s1_first) / np.maximum(last - first, 1)
    begin = schedule.lr(np.maximum(first, 1))
    row, segment = np.nonzero(first < steps[:, np.newaxis])
    passed = steps[row] - first[segment]
    done = np.minimum(passed, (last - first)[segment])
    recent = (done >= 2 * _RECENT_PARTS) & (passed < 2 * done)
    n_parts = np.where(recent, _RECENT_PARTS, 1)
    part = np.arange(n_parts.sum()) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    row, segment, done, n_parts = (np.repeat(x, n_parts) for x in (row, segment, done, n_parts))
    # parts become shorter towards the present, quadratically
    since, until = done * (1 - ((part + 1) / n_parts) ** 2), done * (1 - (part / n_parts) ** 2)
    done, earlier = until - since, (since + until - 1) / 2  # changes before the middle one
    travelled = s1[row] - s1_first[segment] - s1_step[segment] * earlier
    rate = begin[segment] - slope[segment] * (earlier + 1)
    return DropPairs(
        row=row,
        fall=slope[segment] * done,
        log_rate=np.log(np.maximum(rate, max(_MIN_RATE_SHARE * schedule.peak, 1e-300))),
        travelled=np.maximum(travelled, 0.0),
        n_points=steps.size,
    )


def _changing_segments(knots: IntArray, rates: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """First and last step, and fall, of the intervals between knots where the rate changes."""
    fall = -np.diff(rates)
    changing = fall != 0
    return knots[:-1][changing], knots[1:][changing], fall[changing]


def _grouped(
    first: IntArray, last: IntArray, fall: FloatArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """Join neighbouring intervals of one direction, up to 1/48 of the total variation each."""
    if first.size == 0:
        return first, last, fall
    change = np.abs(fall)
    position = np.cumsum(change) / change.sum() * _LR_CHANGE_GROUPS
    large = change * 2 * _LR_CHANGE_GROUPS > change.sum()
    starts_group = np.ones(first.size, dtype=bool)
    starts_group[1:] = (
        (first[1:] != last[:-1])
        | (np.sign(fall[1:]) != np.sign(fall[:-1]))
        | (np.floor(position[1:]) != np.floor(position[:-1]))
        | large[1:]
        | large[:-1]
    )
    begin = np.flatnonzero(starts_group)
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
    """The predictor of a fitted law, which falls back to the last value."""
    fallback = last_value(steps, losses, schedule)
    seen = _seen_run(*_checked(steps, losses), schedule)
    if seen.steps.size < _MIN_POINTS_FOR_FIT:
        return fallback
    with np.errstate(all="ignore"):
        law = fit(seen)

    def predict(at: ArrayLike) -> FloatArray:
        at_steps = wholes("steps", at, ObservationError)
        with np.errstate(all="ignore"):
            predicted = law(schedule, at_steps.ravel()).reshape(at_steps.shape)
        possible = np.isfinite(predicted) & (predicted > 0)
        return np.where(possible, predicted, fallback(at_steps))

    return predict


def _seen_run(steps: IntArray, losses: FloatArray, schedule: LRSchedule) -> SeenRun:
    """The valid points after the warm-up, averaged in at most 150 bins of equal count."""
    valid = np.isfinite(losses) & (losses > 0) & (steps >= 1) & (steps <= schedule.total_steps)
    valid[valid] = schedule.s1(steps[valid]) > 0
    warm = valid & (steps > schedule.warmup_steps)
    keep = warm if warm.sum() >= _MIN_POINTS_AFTER_WARMUP else valid
    steps, losses = steps[keep], losses[keep]
    n_bins = _MAX_POINTS_FOR_FIT
    if steps.size <= n_bins:
        return SeenRun(steps, losses, schedule)
    edges = np.arange(n_bins) * steps.size // n_bins
    count = np.diff(edges, append=steps.size)
    mean = np.add.reduceat(losses, edges) / count
    middle = np.rint(np.add.reduceat(steps.astype(float), edges) / count).astype(np.int64)
    return SeenRun(middle, mean, schedule, steps.size / n_bins)


def _losses(runs: Sequence[SeenRun]) -> FloatArray:
    return np.concatenate([run.losses for run in runs])


def _checked(steps: ArrayLike, losses: ArrayLike) -> tuple[IntArray, FloatArray]:
    at = wholes("steps", steps, ObservationError)
    values = reals("losses", losses, ObservationError).astype(np.float64)
    if at.ndim != 1 or at.shape != values.shape:
        raise ObservationError(
            f"steps has shape {at.shape} and losses {values.shape}; give two arrays of shape (n,)"
        )
    return at, values
