"""Calibration of intervals from the errors of replayed forecasts.

An error is standardized, ``z = (y - mean) / std``, in the units in which the forecast is a mixture
(the logarithm of the loss, or the loss itself). Calibrated intervals assume that z has the density
`tail_density` with a scale and a tail; both are chosen by maximum likelihood, separately for each
fraction of the run.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.backtest.backtest import FRACTIONS
from lossforecast.numerics import NO_CALIBRATION, Calibration, Mixture, tail_density

__all__ = [
    "UNKNOWN_ERROR_SHARES",
    "StandardizedError",
    "calibration_of",
    "common_error_shares",
    "family_weights",
    "standardized_error",
]

UNKNOWN_ERROR_SHARES = (0.45, 0.2)
"""Result of `common_error_shares` where no sweep is large enough."""

_SCALES = (1.0, 1.2, 1.5, 2.0)  # candidates; 1 leaves intervals as they are
_TAILS = (1.5, 2.5, 4.0)
_MAX_CALIBRATION_Z = 12.0  # errors are clipped here: one gross outlier must not choose the tail
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
        known: whether the rule of the annealing drop is known for the run's optimizer.
        fraction: share of the planned steps seen.
        z: the error in standard deviations of the forecast.
        sweep: the sweep of the run, if any.
        optimizer: the optimizer of the run.
    """

    fold: str
    metric: str
    known: bool
    fraction: float
    z: float
    sweep: str | None
    optimizer: str


def standardized_error(mixture: Mixture, truth: float) -> float:
    """``(y - mean) / std`` of a forecast at one step, y the truth or, on a log scale, its log."""
    value = np.log(truth) if mixture.logarithmic and truth > 0 else truth
    centre = float(mixture.weight @ mixture.mean[:, 0])
    variance = mixture.std[:, 0] ** 2 + (mixture.mean[:, 0] - centre) ** 2
    return float((value - centre) / np.sqrt(mixture.weight @ variance))


def calibration_of(errors: Sequence[StandardizedError]) -> Calibration:
    """For each fraction, the scale and tail that maximize the likelihood of the errors.

    ``sum_i w_i log p(z_i; scale, tail)``, with equal total weight for every fold and metric.
    Fractions with errors from a single fold are left out; without any fraction nothing is changed.
    """
    rows = []
    for fraction in FRACTIONS:
        mine = [e for e in errors if e.fraction == fraction]
        if len({e.fold for e in mine}) < _MIN_FOLDS:
            continue
        weight = family_weights([(e.fold, e.metric) for e in mine])
        z = np.clip([e.z for e in mine], -_MAX_CALIBRATION_Z, _MAX_CALIBRATION_Z)
        likelihood = {
            (scale, tail): float(weight @ np.log(tail_density(z, scale, tail)))
            for scale, tail in product(_SCALES, _TAILS)
        }
        scale, tail = max(likelihood, key=lambda candidate: likelihood[candidate])
        rows.append((fraction, scale, tail))
    return tuple(rows) or NO_CALIBRATION


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


def family_weights(families: Sequence[Hashable]) -> FloatArray:
    """Weights (n,) whose sum is the same for every family, however many members it has."""
    counts = Counter(families)
    return np.array([1 / counts[family] for family in families])
