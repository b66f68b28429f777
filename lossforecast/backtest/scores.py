"""How good forecasts were: pure functions over arrays, one entry per forecast.

Errors are relative to the truth and signed, ``(forecast - truth) / |truth|``; 0.01 is 1%. Runs of
one family are not independent, so what is uncertain about a score comes from resampling clusters
of runs, never single runs; two forecasters are compared on the same resamples (a paired cluster
bootstrap). Everything is deterministic: the seed is an argument with a default.
"""

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
    "bootstrap",
    "bootstrap_difference",
    "conformal_last_value",
    "coverage",
    "crps",
    "point_score",
    "relative_error",
    "relative_width",
]

Statistic = Literal["median", "mean"]

CRPS_LEVELS = np.arange(1, 20) / 20
"""The 19 probabilities whose quantiles stand for a whole forecast in `crps`."""
_RESAMPLES = 2_000
_STRETCHES = np.geomspace(1, 1e3, 150)


@dataclass(frozen=True)
class PointScore:
    """Scores of point forecasts, as shares of the truth.

    Attributes:
        n: how many were scored.
        median: median of the absolute error.
        mean: mean of the absolute error.
        bias: median of the signed error; above 0 where forecasts are too high.
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
        level: share of the other runs' changes between its quantiles.
        stretch: by how much their whole range had to be widened to cover enough, 1 if it had not.
        coverage: share of the truths inside.
        width: mean width as a share of the truth.
    """

    level: float
    stretch: float
    coverage: float
    width: float


def relative_error(forecast: ArrayLike, truth: ArrayLike) -> FloatArray:
    """``(forecast - truth) / |truth|``, any shape.

    Example:
        >>> relative_error([1.1, 1.8], [1.0, 2.0]).round(3).tolist()
        [0.1, -0.1]
    """
    actual = np.asarray(truth, dtype=np.float64)
    error: FloatArray = (np.asarray(forecast, dtype=np.float64) - actual) / np.abs(actual)
    return error


def point_score(error: ArrayLike) -> PointScore:
    """The scores of signed relative errors, shape (n,); nan where there are none."""
    signed = np.asarray(error, dtype=np.float64)
    if signed.size == 0:
        return PointScore(0, *(float("nan"),) * 4)
    size = np.abs(signed)
    return PointScore(
        signed.size,
        float(np.median(size)),
        float(size.mean()),
        float(np.median(signed)),
        float(signed.mean()),
    )


def coverage(lower: ArrayLike, upper: ArrayLike, truth: ArrayLike) -> NDArray[np.bool_]:
    """Which truths lie in their interval, ends included, shape (n,); its mean is the coverage."""
    actual = np.asarray(truth, dtype=np.float64)
    inside: NDArray[np.bool_] = (np.asarray(lower) <= actual) & (actual <= np.asarray(upper))
    return inside


def relative_width(lower: ArrayLike, upper: ArrayLike, truth: ArrayLike) -> FloatArray:
    """Widths of intervals as shares of the truth, shape (n,)."""
    actual = np.abs(np.asarray(truth, dtype=np.float64))
    width: FloatArray = (np.asarray(upper, dtype=np.float64) - np.asarray(lower)) / actual
    return width


def crps(quantiles: ArrayLike, truth: ArrayLike, levels: ArrayLike = CRPS_LEVELS) -> FloatArray:
    """Continuous ranked probability score from quantiles, in units of the loss, shape (n,).

    ``CRPS = 2 * integral over q of (1{truth < Q(q)} - q) (Q(q) - truth)``, twice the pinball loss;
    here its average over the given levels. With the default 19 levels the tails beyond 5% and 95%
    are left out, which is within 2% for a normal forecast unless it misses by many deviations.

    Args:
        quantiles: shape (n, m).
        truth: shape (n,).
        levels: probabilities of the quantiles, shape (m,), evenly spaced.
    """
    q, actual = np.asarray(levels, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    above = np.asarray(quantiles, dtype=np.float64) - actual[..., np.newaxis]
    pinball = np.where(above > 0, 1 - q, -q) * above
    score: FloatArray = 2 * pinball.mean(axis=-1)
    return score


def bootstrap(
    values: ArrayLike,
    clusters: ArrayLike,
    statistic: Statistic = "median",
    *,
    level: float = 0.95,
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the median or mean of values over resampled clusters.

    Args:
        values: shape (n,).
        clusters: what each value belongs to, of any kind, shape (n,).
        statistic: "median" or "mean".
        level: of the interval, between its quantiles.
        resamples: how many.
        seed: of the resampling.

    Returns:
        Lower and upper end; of no width with one cluster, nan without a value.
    """
    given = np.asarray(values, dtype=np.float64)
    if given.size == 0:
        return float("nan"), float("nan")
    weight = _weights(clusters, resamples, seed)
    return _ends(_statistic(given, weight, statistic), level)


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
    """Interval of ``statistic(first) - statistic(second)``, both over the same resamples.

    Below 0 throughout: the first is significantly smaller. Args as `bootstrap`; first and second
    have shape (n,) and belong together entry by entry.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != two.shape:
        raise ConfigurationError(
            f"paired values of shapes {one.shape} and {two.shape}: give one of each per forecast"
        )
    if one.size == 0:
        return float("nan"), float("nan")
    weight = _weights(clusters, resamples, seed)
    return _ends(_statistic(one, weight, statistic) - _statistic(two, weight, statistic), level)


def conformal_last_value(
    last: ArrayLike,
    truth: ArrayLike,
    folds: ArrayLike,
    wanted: float,
    changes: ArrayLike | None = None,
    change_folds: ArrayLike | None = None,
) -> Conformal:
    """The narrowest interval around the last value that covers at least a wanted share.

    ``last * (1 + quantiles of (truth - last) / last)``, the quantiles taken over the runs of the
    other folds: a split-conformal forecaster that knows nothing but how losses usually end.

    Args:
        last: the last losses seen, shape (n,).
        truth: shape (n,).
        folds: the fold of each, shape (n,).
        wanted: the coverage to reach; where the whole range of the others does not, it is widened
            around its median.
        changes: the relative changes to learn from, shape (m,); by default those scored.
        change_folds: the fold of each of those, shape (m,).

    Returns:
        All nan where a fold has no others to learn from.
    """
    now, actual = np.asarray(last, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    fold = np.asarray(folds)
    pool = relative_error(actual, now) if changes is None else np.asarray(changes, dtype=float)
    pool_fold = fold if change_folds is None else np.asarray(change_folds)
    levels = np.append(np.arange(0.01, 0.995, 0.005), np.ones(_STRETCHES.size))
    stretch = np.append(np.ones(levels.size - _STRETCHES.size), _STRETCHES)
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
    enough = np.flatnonzero(covered >= wanted)
    which = int(enough[0]) if enough.size else levels.size - 1
    width = float(relative_width(lower[which], upper[which], actual).mean())
    return Conformal(float(levels[which]), float(stretch[which]), float(covered[which]), width)


def _weights(clusters: ArrayLike, resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each value counts in each resample of the clusters, shape (resamples, n)."""
    _, which = np.unique(np.asarray(clusters), return_inverse=True)
    n = int(which.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return drawn[:, which.ravel()]


def _statistic(values: FloatArray, weight: NDArray[np.int64], statistic: Statistic) -> FloatArray:
    """Weighted median or mean of the values (n,) for each row of weights, shape (resamples,)."""
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


def _ends(values: FloatArray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
