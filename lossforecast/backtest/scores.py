"""Scores of forecasts: pure functions over arrays with one entry per forecast.

Errors are relative and signed, ``(forecast - truth) / |truth|``; 0.01 is 1%. Runs of one cluster
are not independent, so the uncertainty of a score comes from resampling whole clusters, never
single runs; two forecasters are compared on the same resamples (a paired cluster bootstrap).
Everything is deterministic: the seed is an argument with a default.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossforecast.arrays import FloatArray
from lossforecast.errors import ConfigurationError

__all__ = [
    "CRPS_LEVELS",
    "Conformal",
    "PointScore",
    "best_constant_interval",
    "bootstrap",
    "bootstrap_difference",
    "cluster_mean",
    "conformal_last_value",
    "coverage",
    "crps",
    "interval_score",
    "point_score",
    "relative_error",
    "relative_width",
]

Statistic = Literal["median", "mean"]

CRPS_LEVELS = np.arange(1, 20) / 20
"""The 19 probabilities 0.05, 0.10, ..., 0.95 at which `crps` evaluates a forecast."""
_RESAMPLES = 2_000
_CONFORMAL_LEVELS = np.arange(0.01, 0.995, 0.005)
_CONFORMAL_STRETCHES = np.geomspace(1, 1e3, 150)  # of the whole range, where no level covers enough


@dataclass(frozen=True)
class PointScore:
    """Scores of point forecasts, as shares of the truth.

    Attributes:
        n: number of forecasts scored.
        median: median of the absolute error.
        mean: mean of the absolute error.
        bias: median of the signed error; positive where forecasts are too high.
        mean_bias: mean of the signed error.
    """

    n: int
    median: float
    mean: float
    bias: float
    mean_bias: float


@dataclass(frozen=True)
class Conformal:
    """The interval around the last value that covers as much as another forecaster's.

    Attributes:
        level: share of the other runs' relative changes between its ends.
        stretch: factor by which their whole range was widened to cover enough; 1 if it was not.
        coverage: share of the truths inside the interval.
        width: mean width, as a share of the truth.
    """

    level: float
    stretch: float
    coverage: float
    width: float


def relative_error(forecast: ArrayLike, truth: ArrayLike) -> FloatArray:
    """Relative error ``(forecast - truth) / |truth|``, any shape.

    Example:
        >>> relative_error([1.1, 1.8], [1.0, 2.0]).round(3).tolist()
        [0.1, -0.1]
    """
    actual = np.asarray(truth, dtype=np.float64)
    error: FloatArray = (np.asarray(forecast, dtype=np.float64) - actual) / np.abs(actual)
    return error


def point_score(error: ArrayLike) -> PointScore:
    """Scores of signed relative errors of shape (n,); nan if there are none."""
    signed = np.asarray(error, dtype=np.float64)
    if signed.size == 0:
        return PointScore(0, *(float("nan"),) * 4)
    size = np.abs(signed)
    return PointScore(
        n=signed.size,
        median=float(np.median(size)),
        mean=float(size.mean()),
        bias=float(np.median(signed)),
        mean_bias=float(signed.mean()),
    )


def coverage(lower: ArrayLike, upper: ArrayLike, truth: ArrayLike) -> NDArray[np.bool_]:
    """True where ``lower <= truth <= upper``, shape (n,); the mean is the coverage.

    A nan in any of the three counts as outside.
    """
    actual = np.asarray(truth, dtype=np.float64)
    inside: NDArray[np.bool_] = (np.asarray(lower) <= actual) & (actual <= np.asarray(upper))
    return inside


def relative_width(lower: ArrayLike, upper: ArrayLike, truth: ArrayLike) -> FloatArray:
    """Relative width ``(upper - lower) / |truth|``, shape (n,)."""
    actual = np.abs(np.asarray(truth, dtype=np.float64))
    width: FloatArray = (np.asarray(upper, dtype=np.float64) - np.asarray(lower)) / actual
    return width


def crps(quantiles: ArrayLike, truth: ArrayLike, levels: ArrayLike = CRPS_LEVELS) -> FloatArray:
    """Continuous ranked probability score from quantiles, in units of the loss, shape (n,).

    ``CRPS = 2 * integral over q of (1{truth < Q(q)} - q) (Q(q) - truth)``, twice the pinball loss,
    approximated by the average over `levels`. The default 19 levels leave out the tails below 5%
    and above 95%; for a normal forecast the result is within 2% of the exact one unless the
    forecast misses by many standard deviations.

    Args:
        quantiles: quantiles Q of each forecast at `levels`, shape (n, m).
        truth: observed values, shape (n,).
        levels: probabilities q, evenly spaced, shape (m,).
    """
    q, actual = np.asarray(levels, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    above = np.asarray(quantiles, dtype=np.float64) - actual[..., np.newaxis]
    pinball = np.where(above > 0, 1 - q, -q) * above
    score: FloatArray = 2 * pinball.mean(axis=-1)
    return score


def interval_score(
    lower: ArrayLike, upper: ArrayLike, truth: ArrayLike, level: float = 0.8
) -> FloatArray:
    """Interval score: the width plus a penalty for a truth outside, shape (n,); lower is better.

        (u - l) + 2 / (1 - level) * ((l - y)+ + (y - u)+)

    In expectation it is smallest for the central interval of probability `level` (Gneiting and
    Raftery 2007, eq. 43). The unit is that of the arguments.

    Args:
        lower: lower ends l, shape (n,) or a number.
        upper: upper ends u, shape (n,) or a number.
        truth: observed values y, shape (n,).
        level: probability of the interval, above 0 and below 1.

    Example:
        >>> interval_score([1.0, 1.0], [2.0, 2.0], [1.5, 2.1]).round(6).tolist()
        [1.0, 2.0]
    """
    low, high, actual = (np.asarray(x, dtype=np.float64) for x in (lower, upper, truth))
    outside = np.maximum(low - actual, 0) + np.maximum(actual - high, 0)
    score: FloatArray = (high - low) + 2 / (1 - level) * outside
    return score


def best_constant_interval(values: ArrayLike, level: float = 0.8) -> tuple[float, float]:
    """The interval [a, b] with the smallest mean `interval_score` over values of shape (n,).

    The score is the sum of a convex, piecewise linear function of a and one of b. Both are smallest
    at order statistics: a is the k-th smallest and b the k-th largest value, with k the least whole
    number of at least n (1 - level) / 2.

    Raises:
        ConfigurationError: there are no values.

    Example:
        >>> best_constant_interval([3.0, 1.0, 2.0])
        (1.0, 3.0)
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if ordered.size == 0:
        raise ConfigurationError("an interval needs at least one value")
    k = math.ceil(ordered.size * (1 - level) / 2)
    return float(ordered[k - 1]), float(ordered[-k])


def cluster_mean(values: ArrayLike, clusters: ArrayLike) -> float:
    """Mean over clusters of their means, so that each counts once; nan if there are none.

    Args:
        values: shape (n,).
        clusters: label of the cluster of each value, shape (n,).

    Example:
        >>> cluster_mean([1.0, 1.0, 0.0], ["a", "a", "b"])
        0.5
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        return float("nan")
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    index = index.ravel()
    return float((np.bincount(index, sample) / np.bincount(index)).mean())


def bootstrap(
    values: ArrayLike,
    clusters: ArrayLike,
    statistic: Statistic = "median",
    *,
    level: float = 0.95,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of the median or mean of values, resampling clusters.

    Args:
        values: shape (n,).
        clusters: label of the cluster of each value, shape (n,).
        statistic: "median" or "mean".
        level: probability between the two ends.
        resamples: number of resamples.
        seed: seed of the resampling.

    Returns:
        Lower and upper end; both equal with a single cluster, nan without values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        return float("nan"), float("nan")
    weight = _resample_weights(clusters, resamples, seed)
    return _central_interval(_statistic(sample, weight, statistic), level)


def bootstrap_difference(
    first: ArrayLike,
    second: ArrayLike,
    clusters: ArrayLike,
    statistic: Statistic = "median",
    *,
    level: float = 0.95,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of ``statistic(first) - statistic(second)``, over the same resamples.

    An interval entirely below 0 means that `first` is significantly smaller. Both have shape (n,)
    and are paired by position; the other arguments are those of `bootstrap`.

    Raises:
        ConfigurationError: the shapes of `first` and `second` differ.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != two.shape:
        raise ConfigurationError(
            f"paired values have shapes {one.shape} and {two.shape}: give one of each per forecast"
        )
    if one.size == 0:
        return float("nan"), float("nan")
    weight = _resample_weights(clusters, resamples, seed)
    difference = _statistic(one, weight, statistic) - _statistic(two, weight, statistic)
    return _central_interval(difference, level)


def conformal_last_value(
    last: ArrayLike,
    truth: ArrayLike,
    folds: ArrayLike,
    target_coverage: float,
    changes: ArrayLike | None = None,
    change_folds: ArrayLike | None = None,
) -> Conformal:
    """The narrowest interval around the last value that reaches a coverage.

    The interval is ``last * (1 + Q)``, where Q are the two central quantiles of the relative
    changes ``(truth - last) / |last|`` of the runs in the other folds: a split-conformal forecaster
    that knows only how much losses usually change until the end.

    Args:
        last: the last loss seen of each run, shape (n,).
        truth: the loss each run ended with, shape (n,).
        folds: the fold of each run, shape (n,).
        target_coverage: share of the truths to cover. If the whole range of the changes covers
            less, it is widened around its median.
        changes: relative changes to learn from, shape (m,); by default those of the runs scored.
        change_folds: the fold of each change, shape (m,).

    Returns:
        The interval's scores; all nan if a fold has no other folds to learn from.
    """
    now, actual = np.asarray(last, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    fold = np.asarray(folds)
    pool = relative_error(actual, now) if changes is None else np.asarray(changes, dtype=float)
    pool_fold = fold if change_folds is None else np.asarray(change_folds)
    levels = np.append(_CONFORMAL_LEVELS, np.ones(_CONFORMAL_STRETCHES.size))
    stretch = np.append(np.ones(_CONFORMAL_LEVELS.size), _CONFORMAL_STRETCHES)
    lower, upper = np.empty((levels.size, now.size)), np.empty((levels.size, now.size))
    for name in np.unique(fold):
        mine, others = fold == name, pool[pool_fold != name]
        if others.size == 0:
            return Conformal(*(float("nan"),) * 4)
        middle = np.median(others)
        for ends, sign in ((lower, -1), (upper, 1)):
            change = middle + stretch * (np.quantile(others, (1 + sign * levels) / 2) - middle)
            ends[:, mine] = now[mine] + np.abs(now[mine]) * change[:, np.newaxis]
    covered = coverage(lower, upper, actual).mean(axis=1)
    enough = np.flatnonzero(covered >= target_coverage)
    best = int(enough[0]) if enough.size else levels.size - 1
    width = float(relative_width(lower[best], upper[best], actual).mean())
    return Conformal(float(levels[best]), float(stretch[best]), float(covered[best]), width)


def _resample_weights(clusters: ArrayLike, resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each value occurs in each resample of the clusters, shape (resamples, n)."""
    _, cluster_index = np.unique(np.asarray(clusters), return_inverse=True)
    n_clusters = int(cluster_index.max()) + 1
    equal = np.full(n_clusters, 1 / n_clusters)
    counts = np.random.default_rng(seed).multinomial(n_clusters, equal, size=resamples)
    return counts[:, cluster_index.ravel()]


def _statistic(values: FloatArray, weight: NDArray[np.int64], statistic: Statistic) -> FloatArray:
    """Weighted median or mean of values (n,) for each row of weights, shape (resamples,)."""
    if statistic == "mean":
        mean: FloatArray = weight @ values / weight.sum(axis=1)
        return mean
    if statistic != "median":
        raise ConfigurationError(f'statistic is {statistic!r}; it must be "median" or "mean"')
    order = np.argsort(values, kind="stable")
    running, sorted_values = np.cumsum(weight[:, order], axis=1), values[order]
    half = running[:, -1:] / 2
    below, above = np.argmax(running >= half, axis=1), np.argmax(running > half, axis=1)
    middle: FloatArray = (sorted_values[below] + sorted_values[above]) / 2
    return middle


def _central_interval(values: FloatArray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
