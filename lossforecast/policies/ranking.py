"""`Outlook` and `prob_among_best`: the probability that a run ends among the best of a sweep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.checks import non_negative, number, whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import LEVEL_SCORES, QUANTILE_LEVELS, Forecast
from lossforecast.numerics import ndtr, ndtri
from lossforecast.policies.draws import N_DRAWS, JointDraws
from lossforecast.policies.openness import is_open
from lossforecast.prior import Prior
from lossforecast.status import Status

__all__ = ["Outlook", "prob_among_best", "prob_among_best_of_rivals"]

_DRAWS_AT_ONCE = (0, 256, 1024, N_DRAWS)  # the first ones decide about most runs
_ROUNDING = 1e-9  # of a loss
_N_OF_MEAN = 1_000  # equally likely losses whose mean is taken


@dataclass(frozen=True)
class Outlook:
    """Distribution of the final loss of one run of a sweep: plain numbers that a store can keep.

    Attributes:
        quantiles: the final loss at `lossforecast.forecast.QUANTILE_LEVELS`, (29,), not decreasing;
            all equal for a run that has ended, all nan for one without a forecast.
        kind: group of runs whose forecasts have correlated errors: the optimizer, by convention, or
            any other label that groups the runs of a sweep.
        described: False if no law describes the run (`Status.MISFIT`) or its end `is_open`. Such a
            forecast is too unreliable to stop other runs.

    Raises:
        ConfigurationError: the quantiles are not 29 numbers that do not decrease.

    Example:
        >>> outlook = Outlook.ended(2.5, kind="adamw")
        >>> outlook.prob_below(2.4), outlook.prob_below(2.6)
        (0.0, 1.0)
    """

    quantiles: tuple[float, ...]
    kind: str = ""
    described: bool = True

    def __post_init__(self) -> None:
        values = tuple(number("quantile", value, ConfigurationError) for value in self.quantiles)
        rising = all(not above < below for below, above in pairwise(values))
        if len(values) != len(QUANTILE_LEVELS) or not rising:
            raise ConfigurationError(
                f"quantiles must be {len(QUANTILE_LEVELS)} numbers that do not decrease, the final "
                "loss at lossforecast.forecast.QUANTILE_LEVELS; "
                f"these are {len(values)}: {values!r:.80}"
            )
        object.__setattr__(self, "quantiles", values)

    @classmethod
    def of(cls, forecast: Forecast, kind: str = "") -> Self:
        """Outlook of a run in progress; its quantiles are nan if the forecast has no data."""
        described = forecast.status is not Status.MISFIT and not is_open(forecast)
        return cls(forecast.at_levels, kind, described)

    @classmethod
    def ended(cls, loss: float, kind: str = "") -> Self:
        """Outlook of a run that has ended at `loss`; nan, a broken run, ranks behind all others."""
        return cls((math.inf if math.isnan(loss) else float(loss),) * len(QUANTILE_LEVELS), kind)

    def prob_below(self, target: float) -> float:
        """Probability of ending below `target`; 0 or 1 beyond the outermost quantiles."""
        score = np.interp(target, self.quantiles, LEVEL_SCORES, left=-np.inf, right=np.inf)
        return float(ndtr(score))

    def expected_gain(self, best: float) -> float:
        """Expected reduction of the loss `best` by this run: ``E[max(0, best - L)] / |best|``.

        Infinite if `best` is 0 or infinite, nan for a run without a forecast.
        """
        if not self.known:
            return math.nan
        if best == 0 or math.isinf(best):
            return math.inf
        losses = np.interp(_scores_of_mean(), LEVEL_SCORES, self.quantiles)
        return float(np.maximum(best - losses, 0).mean()) / abs(best)

    @cached_property
    def has_ended(self) -> bool:
        """True if the final loss is known: all quantiles are equal."""
        return self.quantiles[0] == self.quantiles[-1]

    @property
    def median(self) -> float:
        """Median of the final loss; nan for a run without a forecast."""
        return self.quantiles[len(QUANTILE_LEVELS) // 2]

    @cached_property
    def known(self) -> bool:
        """True if there is a forecast: no quantile is nan."""
        return not any(map(math.isnan, self.quantiles))


def prob_among_best(
    outlooks: Sequence[Outlook], best: int = 1, alike: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Probability that each run ends no higher than the `best`-th lowest run, shape (n,).

    Final losses are drawn jointly, with correlated errors: the normal score of run i with kind k is
    z_i = sqrt(a) u + sqrt(b) v_k + sqrt(1 - a - b) w_i, with (a, b) = `alike` and u, v_k, w_i
    independent standard normals. Only runs that a law describes set the limit; with fewer than
    `best` of these every probability is 1. The probability of a run without a forecast is nan.

    Args:
        outlooks: runs of a sweep, in progress or ended, (n,).
        best: how many runs count as the best; runs level with the last of them count too.
        alike: shares of the error variance common to the whole sweep, and to the runs of one kind;
            by default those of the packaged prior.

    Raises:
        ConfigurationError: `best` is not a whole number above 0, or `alike` is not two shares
            that add up to at most 1.

    Example:
        >>> prob_among_best([Outlook.ended(2.5), Outlook.ended(2.7)]).tolist()
        [1.0, 0.0]
    """
    n_best = whole("best", best, ConfigurationError, least=1)
    shares = _shares(alike)
    probs = np.full(len(outlooks), np.nan)
    known = [i for i, outlook in enumerate(outlooks) if outlook.known]
    probs[known] = 0.0
    highest = sorted(outlooks[i].quantiles[-1] for i in known if outlooks[i].described)
    if len(highest) < n_best:
        probs[known] = 1.0
        return probs
    # runs that lie above the limit in every draw are not drawn
    top = _above(highest[n_best - 1])
    going = [i for i in known if not outlooks[i].has_ended]
    draws = _joint_draws([outlooks[i] for i in going], shares)
    contenders = [i for i in known if not outlooks[i].quantiles[0] > top]
    losses = np.empty((len(contenders), N_DRAWS))
    place = {i: place for place, i in enumerate(going)}
    for row, i in zip(losses, contenders, strict=True):
        row[:] = draws.losses(place[i]) if i in place else outlooks[i].quantiles[0]
    described = losses[[outlooks[i].described for i in contenders]]
    if n_best == 1:  # faster
        limit = described.min(axis=0)
    else:
        limit = np.partition(described, n_best - 1, axis=0)[n_best - 1]
    probs[contenders] = (losses <= limit).mean(axis=1)
    return probs


def prob_among_best_of_rivals(
    own: Outlook,
    rivals: Sequence[Outlook],
    best: int = 1,
    alike: tuple[float, float] | None = None,
    enough: float = 1.0,
) -> float:
    """Probability that one run ends no higher than the `best`-th lowest, itself included.

    The same as ``prob_among_best([own, *rivals], best, alike)[0]``, but rivals are drawn only as
    far as they can still change the answer: those with the lowest medians first, and in each draw
    only until `best` of them are lower.

    Args:
        own: the run.
        rivals: the other runs of the sweep.
        best: as in `prob_among_best`.
        alike: as in `prob_among_best`.
        enough: once the probability is known to be at least this, a lower bound is returned.

    Raises:
        ConfigurationError: as in `prob_among_best`.
    """
    n_best = whole("best", best, ConfigurationError, least=1)
    shares = _shares(alike)
    if not own.known:
        return math.nan
    known = [rival for rival in rivals if rival.known]
    going = [run for run in (own, *known) if not run.has_ended]
    draws = _joint_draws(going, shares)
    losses = np.full(N_DRAWS, own.quantiles[0]) if own.has_ended else draws.losses(0)
    ended = sorted(run.quantiles[0] for run in known if run.has_ended and run.described)
    lower = np.searchsorted(ended, losses)  # number of rivals below this run in each draw
    top = _above(float(losses.max()))
    nearest = sorted(
        (run.median, i)
        for i, run in enumerate(going)
        if run is not own and run.described and not run.quantiles[0] > top
    )
    hits = 0
    for start, stop in pairwise(_DRAWS_AT_ONCE):
        left = start + np.flatnonzero(lower[start:stop] < n_best)
        for _, i in nearest:
            if not left.size:
                break
            lower[left] += draws.losses(i, left) < losses[left]
            left = left[lower[left] < n_best]
        hits += left.size
        if hits >= enough * N_DRAWS:
            break
    return hits / N_DRAWS


def _joint_draws(going: Sequence[Outlook], shares: Sequence[float]) -> JointDraws:
    return JointDraws([run.kind for run in going], [run.quantiles for run in going], *shares)


def _shares(alike: tuple[float, float] | None) -> list[float]:
    shares = [non_negative("alike", share, ConfigurationError) for share in alike or _alike()]
    if len(shares) != 2 or sum(shares) > 1:
        raise ConfigurationError(f"alike is {alike}; give two shares that add up to at most 1")
    return shares


@cache
def _alike() -> tuple[float, float]:
    return Prior().alike


def _above(loss: float) -> float:
    """A little more than a loss, by the rounding of the losses drawn."""
    return loss + _ROUNDING * abs(loss)


@cache
def _scores_of_mean() -> FloatArray:
    """Standard normal quantiles of equally likely losses."""
    scores: FloatArray = ndtri((np.arange(_N_OF_MEAN) + 0.5) / _N_OF_MEAN)
    return scores
