"""Where a run will stand among the runs of its sweep, from how all of them are expected to end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from lossforecast.checks import number, whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast

__all__ = ["LEVELS", "Outlook", "chances"]

_SCORES = np.linspace(-3.5, 3.5, 29)
LEVELS: tuple[float, ...] = tuple(ndtr(_SCORES).tolist())
"""Probabilities of the quantiles that an `Outlook` holds: those of 29 equidistant normal scores."""

_DRAWS = 4096
# Shares of the variance of forecast errors, in normal scores, over four sweeps of AlgoPerf and four
# of a 124M language model: 0.45 is common to the runs of a sweep (0.38 to 0.51 without any one of
# them; 0.24 on AlgoPerf, 0.74 on the language model) and 0.18 to those of one optimizer in it (0.12
# to 0.21; 0.31 and none).
_SHARED = 0.5
_ALIKE = 0.2


@dataclass(frozen=True)
class Outlook:
    """How one run of a sweep will end, or has ended: plain numbers that a store can keep.

    Attributes:
        quantiles: of the final loss at `LEVELS`, (29,), not decreasing.
        kind: forecasts of one kind err alike; the optimizer, or whatever else sets runs apart.
    """

    quantiles: tuple[float, ...]
    kind: str = ""

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
        return cls(tuple(forecast.quantiles(LEVELS).tolist()), kind)

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


def chances(outlooks: Sequence[Outlook], best: int = 1) -> NDArray[np.float64]:
    """Probability of each run to end among the best (lowest) `best`, shape (n,).

    The errors of the forecasts are drawn together: half of their variance is common to the sweep,
    a fifth to the runs of one kind. Runs without a forecast are left out, and get nan.

    Args:
        outlooks: of the runs of a sweep, going on or ended.
        best: how many runs count as the best; runs level with the last of them do too.

    Raises:
        ConfigurationError: `best` is no whole number above 0.
    """
    places = whole("best", best, ConfigurationError, least=1)
    found = np.full(len(outlooks), np.nan)
    known = [i for i, outlook in enumerate(outlooks) if outlook.known]
    sure = [i for i in known if outlooks[i].quantiles[0] == outlooks[i].quantiles[-1]]
    open_ = [i for i in known if outlooks[i].quantiles[0] != outlooks[i].quantiles[-1]]
    if not known:
        return found
    losses = np.empty((len(known), _DRAWS))
    losses[: len(open_)] = _drawn([outlooks[i] for i in open_])
    losses[len(open_) :] = np.array([outlooks[i].quantiles[0] for i in sure])[:, np.newaxis]
    last = min(places, len(known)) - 1
    limit = np.partition(losses, last, axis=0)[last]
    found[[*open_, *sure]] = (losses <= limit).mean(axis=1)
    return found


def _drawn(outlooks: Sequence[Outlook]) -> NDArray[np.float64]:
    """Final losses drawn together, (n, draws): the same draws every time."""
    random = np.random.default_rng(0)
    shared = random.standard_normal(_DRAWS)
    kinds = sorted({outlook.kind for outlook in outlooks})
    alike = dict(zip(kinds, random.standard_normal((len(kinds), _DRAWS)), strict=True))
    losses = np.empty((len(outlooks), _DRAWS))
    for row, outlook in zip(losses, outlooks, strict=True):
        own = random.standard_normal(_DRAWS)
        common = math.sqrt(_SHARED) * shared + math.sqrt(_ALIKE) * alike[outlook.kind]
        score = common + math.sqrt(1 - _SHARED - _ALIKE) * own
        row[:] = np.interp(score, _SCORES, outlook.quantiles)
    return losses
