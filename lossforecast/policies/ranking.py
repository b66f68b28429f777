"""Where a run will stand among the runs of its sweep, from how all of them are expected to end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from lossforecast.checks import non_negative, number, whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import LEVELS, Forecast
from lossforecast.prior import Prior
from lossforecast.status import Status

__all__ = ["LEVELS", "Outlook", "prob_among_best"]

_SCORES = ndtri(LEVELS)

_DRAWS = 4096


@dataclass(frozen=True)
class Outlook:
    """How one run of a sweep will end, or has ended: plain numbers that a store can keep.

    Attributes:
        quantiles: of the final loss at `LEVELS`, (29,), not decreasing.
        kind: forecasts of one kind err alike; the optimizer, or whatever else sets runs apart.
        described: whether some law describes the run. The forecast of one that none does
            (`Status.MISFIT`) is no reason to stop others.
    """

    quantiles: tuple[float, ...]
    kind: str = ""
    described: bool = True

    def __post_init__(self) -> None:
        values = tuple(number("quantile", each, ConfigurationError) for each in self.quantiles)
        rising = all(not above < below for below, above in pairwise(values))
        if len(values) != len(LEVELS) or not rising:
            raise ConfigurationError(
                f"quantiles must be {len(LEVELS)} numbers that do not decrease, the final loss at "
                f"standing.LEVELS; these are {len(values)}: {values!r:.80}"
            )
        object.__setattr__(self, "quantiles", values)

    @classmethod
    def of(cls, forecast: Forecast, kind: str = "") -> Self:
        """The outlook of a run that goes on; unknown where the forecast has seen nothing."""
        described = forecast.status is not Status.MISFIT
        return cls(forecast.at_levels, kind, described)

    @classmethod
    def ended(cls, loss: float, kind: str = "") -> Self:
        """The outlook of a run that has ended; one that broke (nan) is behind all others."""
        return cls((math.inf if math.isnan(loss) else float(loss),) * len(LEVELS), kind)

    def prob_below(self, target: float) -> float:
        """Probability of ending below a loss; beyond the outermost quantiles 0 or 1."""
        score = np.interp(target, self.quantiles, _SCORES, left=-np.inf, right=np.inf)
        return float(ndtr(score))

    @property
    def known(self) -> bool:
        """Whether it says anything."""
        return not any(map(math.isnan, self.quantiles))


def prob_among_best(
    outlooks: Sequence[Outlook], best: int = 1, alike: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Probability of each run to end no higher than the best (lowest) `best`, shape (n,).

    The best are those of the runs that a law describes; without enough of these everything is
    possible. The errors of the forecasts are drawn together. Runs without a forecast are left out,
    and get nan.

    Args:
        outlooks: of the runs of a sweep, going on or ended.
        best: how many runs count as the best; runs level with the last of them do too.
        alike: shares of the variance of errors that are common to the sweep, and to the runs of one
            kind; by default those of the packaged prior.

    Raises:
        ConfigurationError: `best` is no whole number above 0, or the shares are none.
    """
    places = whole("best", best, ConfigurationError, least=1)
    shares = [non_negative("alike", share, ConfigurationError) for share in alike or Prior().alike]
    if len(shares) != 2 or sum(shares) > 1:
        raise ConfigurationError(f"alike is {alike}; give two shares that add up to at most 1")
    found = np.full(len(outlooks), np.nan)
    known = [i for i, outlook in enumerate(outlooks) if outlook.known]
    sure = [i for i in known if outlooks[i].quantiles[0] == outlooks[i].quantiles[-1]]
    open_ = [i for i in known if outlooks[i].quantiles[0] != outlooks[i].quantiles[-1]]
    if not known:
        return found
    losses = np.empty((len(known), _DRAWS))
    losses[: len(open_)] = _drawn([outlooks[i] for i in open_], *shares)
    losses[len(open_) :] = np.array([outlooks[i].quantiles[0] for i in sure])[:, np.newaxis]
    known = [*open_, *sure]
    described = losses[[outlooks[i].described for i in known]]
    if len(described) < places:
        found[known] = 1.0
        return found
    limit = np.partition(described, places - 1, axis=0)[places - 1]
    found[known] = (losses <= limit).mean(axis=1)
    return found


def _drawn(outlooks: Sequence[Outlook], of_sweep: float, of_kind: float) -> NDArray[np.float64]:
    """Final losses drawn together, (n, draws): the same draws every time."""
    random = np.random.default_rng(0)
    shared = random.standard_normal(_DRAWS)
    kinds = sorted({outlook.kind for outlook in outlooks})
    alike = dict(zip(kinds, random.standard_normal((len(kinds), _DRAWS)), strict=True))
    losses = np.empty((len(outlooks), _DRAWS))
    for row, outlook in zip(losses, outlooks, strict=True):
        own = random.standard_normal(_DRAWS)
        common = math.sqrt(of_sweep) * shared + math.sqrt(of_kind) * alike[outlook.kind]
        score = common + math.sqrt(1 - of_sweep - of_kind) * own
        row[:] = np.interp(score, _SCORES, outlook.quantiles)
    return losses
