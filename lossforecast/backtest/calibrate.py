"""Calibration of intervals from the errors of replayed forecasts.

Conformal calibration: the calibrated intervals of 80 and 95% are those that would have had their
nominal coverage, with the same total weight for every family (fold and metric) of a kind, and in it
for every cluster. Intervals are calibrated for every kind, metric and fraction of the run. The
families of the same kind with the other metric count too, with less weight, and so do those of
other kinds, except that large language models, which have a prior of their own, are kept separate.

With F the distribution function of a forecast with centre c, calibrated by scale s and tail t, the
probability below an outcome y is

    0.8 F(c + (y - c) / s) + 0.2 F(c + (y - c) / t).

F is therefore kept at c + (y - c) / m for every candidate m of scale and tail.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.backtest.backtest import FRACTIONS
from lossforecast.numerics import NO_CALIBRATION, TAIL_WEIGHT, Calibration, Mixture
from lossforecast.prior import calibration_key
from lossforecast.runs import RunKind

__all__ = [
    "MULTIPLES",
    "UNKNOWN_ERROR_SHARES",
    "StandardizedError",
    "calibration_of",
    "calibrations",
    "common_error_shares",
    "family_weights",
    "standardized_error",
]

UNKNOWN_ERROR_SHARES = (0.45, 0.2)
"""Result of `common_error_shares` where no sweep is large enough."""

_OTHER_METRIC_WEIGHT = 0.25  # of a family with the other metric
_OTHER_KIND_WEIGHT = 0.1  # of a family of another kind
_LEVELS = (0.8, 0.95)
_NARROW = 1e-5  # breaks ties in favour of narrow intervals
MULTIPLES = np.geomspace(0.5, 12.0, 48)
"""Candidates for scale and tail."""
_MIN_FOLDS = 2  # with errors at a fraction, for its calibration
_MIN_RUNS_PER_SWEEP = 15  # for a sweep to show which errors its runs have in common
_MAX_SWEEP_FRACTION = 0.5  # of a run: sweeps are pruned before that
_MAX_SWEEP_Z = 3.5  # errors are clipped here in the variances of a sweep


@dataclass(frozen=True)
class StandardizedError:
    """The error of one replayed forecast.

    Attributes:
        fold: the fold of the run.
        metric: "train" or "val".
        cluster: the cluster of the run.
        kind: the kind of the run.
        fraction: share of the planned steps seen.
        z: the error in standard deviations of the forecast.
        below: probability below the outcome for a forecast stretched by each of `MULTIPLES`, (48,).
        sweep: the sweep of the run, if any.
        optimizer: the optimizer of the run.
    """

    fold: str
    metric: str
    cluster: str
    kind: str
    fraction: float
    z: float
    below: FloatArray
    sweep: str | None
    optimizer: str


def standardized_error(mixture: Mixture, truth: float) -> tuple[float, FloatArray]:
    """``(y - c) / std`` of a forecast at one step, and its probabilities below y when stretched.

    y is the truth or, on a log scale, its logarithm, and c the mean on that scale; see the
    attributes `z` and `below` of `StandardizedError`.
    """
    value = np.log(truth) if mixture.logarithmic and truth > 0 else truth
    centre = float(mixture.weight @ mixture.mean[:, 0])
    variance = mixture.std[:, 0] ** 2 + (mixture.mean[:, 0] - centre) ** 2
    at = centre + (value - centre) / MULTIPLES[:, np.newaxis]
    below = mixture.cdf(np.exp(at) if mixture.logarithmic else at)[:, 0]
    return float((value - centre) / np.sqrt(mixture.weight @ variance)), below


def calibrations(errors: Sequence[StandardizedError]) -> dict[str, Calibration]:
    """The calibration of every kind and metric, as in `Prior.calibration`."""
    large = [e for e in errors if e.kind == RunKind.LARGE_LANGUAGE_MODEL]
    rest = [e for e in errors if e.kind != RunKind.LARGE_LANGUAGE_MODEL]
    return {
        calibration_key(kind, metric): calibration_of(
            large if kind == RunKind.LARGE_LANGUAGE_MODEL else rest, metric, kind
        )
        for kind in RunKind
        for metric in ("train", "val")
    }


def calibration_of(errors: Sequence[StandardizedError], metric: str, kind: str) -> Calibration:
    """For each fraction, the scale and tail with which intervals have their nominal coverage.

    Fractions with errors from a single fold are left out; without any fraction nothing is changed.
    For n folds, the levels are raised by ``(1 - level) / (n + 1)``: a new run is of a new fold.

    Args:
        errors: errors of runs with the same prior.
        metric: "train" or "val".
        kind: the kind of the runs to be calibrated.
    """
    rows = []
    for fraction in FRACTIONS:
        mine = [e for e in errors if e.fraction == fraction]
        if len({e.fold for e in mine}) < _MIN_FOLDS:
            continue
        weight = family_weights([(e.fold, e.metric) for e in mine], [e.cluster for e in mine])
        weight *= [1.0 if e.metric == metric else _OTHER_METRIC_WEIGHT for e in mine]
        weight *= [1.0 if e.kind == kind else _OTHER_KIND_WEIGHT for e in mine]
        n_folds = len({e.fold for e in mine})
        below = np.array([e.below for e in mine])
        rows.append((fraction, *_scale_and_tail(below, weight / weight.sum(), n_folds)))
    return tuple(rows) or NO_CALIBRATION


def _scale_and_tail(below: FloatArray, weight: FloatArray, n_folds: int) -> tuple[float, float]:
    """Scale, and tail at least as large, whose 80 and 95% intervals hold nearest to 80 and 95%.

    Args:
        below: as in `StandardizedError`, (n, 48).
        weight: weights of the errors, (n,), sum 1.
        n_folds: number of folds.
    """
    best, chosen = np.inf, (1.0, 1.0)
    for index, scale in enumerate(MULTIPLES):
        main = (1 - TAIL_WEIGHT) * below[:, index, np.newaxis]
        probability = np.abs(main + TAIL_WEIGHT * below[:, index:] - 0.5)  # (n, tails)
        misfit = np.zeros(MULTIPLES.size - index)
        for level in _LEVELS:
            wanted = level + (1 - level) / (n_folds + 1)
            misfit += (weight @ (probability <= level / 2) - wanted) ** 2
        misfit += _NARROW * np.log(MULTIPLES[index:] * scale**4)
        if misfit.min() < best:
            best, chosen = misfit.min(), (float(scale), float(MULTIPLES[index + misfit.argmin()]))
    return chosen


def common_error_shares(errors: Sequence[StandardizedError]) -> tuple[float, float]:
    """Shares of the error variance common to a sweep, and to the runs of one optimizer in it.

    In one sweep at one early fraction, with m_o the mean of z over the runs of optimizer o:

        common to the sweep       (mean over o of m_o)^2
        common to an optimizer    variance over o of m_o
        of the run alone          mean over runs of (z - m_o)^2

    Each is averaged over fractions, then over sweeps; the shares are of the sum of the three.
    """
    groups: dict[tuple[str, float], list[StandardizedError]] = {}
    for error in errors:
        early = error.fraction <= _MAX_SWEEP_FRACTION
        if error.metric == "val" and error.sweep is not None and early:
            groups.setdefault((error.sweep, error.fraction), []).append(error)
    variances: dict[str, list[tuple[float, float, float]]] = {}
    for (sweep, _), mine in groups.items():
        if len(mine) < _MIN_RUNS_PER_SWEEP:
            continue
        z = np.clip([e.z for e in mine], -_MAX_SWEEP_Z, _MAX_SWEEP_Z)
        optimizers = np.array([e.optimizer for e in mine])
        mean_of = {name: float(z[optimizers == name].mean()) for name in np.unique(optimizers)}
        means = np.array(list(mean_of.values()))
        own = z - np.array([mean_of[name] for name in optimizers])
        variances.setdefault(sweep, []).append(
            (float(means.mean() ** 2), float(means.var()), float((own**2).mean()))
        )
    if not variances:
        return UNKNOWN_ERROR_SHARES
    parts = np.mean([np.mean(rows, axis=0) for rows in variances.values()], axis=0)
    sweep_share, optimizer_share, _ = parts / parts.sum()
    return float(sweep_share), float(optimizer_share)


def family_weights(
    families: Sequence[Hashable], clusters: Sequence[Hashable] | None = None
) -> FloatArray:
    """Weights (n,) whose sum is 1 for every family, and in it the same for every cluster.

    Without clusters, every member is one.
    """
    members = list(zip(families, clusters or range(len(families)), strict=True))
    sizes, counts = Counter(members), Counter(family for family, _ in set(members))
    return np.array([1 / (sizes[member] * counts[member[0]]) for member in members])
