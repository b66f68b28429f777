"""`dominated`: stop a run that will very likely not end among the best of its sweep."""

import numpy as np

from lossforecast.checks import probability, whole
from lossforecast.errors import ConfigurationError
from lossforecast.policies.ranking import Outlook, prob_among_best
from lossforecast.policies.recommendation import Policy, Reason, Recommendation, Situation, stopped
from lossforecast.status import Status

__all__ = ["dominated", "n_best_runs", "stop_threshold"]

_BEST = 0.05  # of a sweep counts as its best
_RISK = 0.01
_TOO_SHORT = 1 / 3  # of the risk, while a forecast has seen too little to be trusted


def dominated(best: int | None = None, risk: float = _RISK) -> Policy:
    """STOP when the chance to end among the best of the sweep falls under `risk`.

    The chance comes from the forecasts of all runs (`ranking`), so runs with other schedules,
    horizons or progress can be compared, and a run that has not annealed yet is not
    behind one that has. As long as the forecasts are calibrated `risk` holds for a whole run,
    however often it is looked at: what is below `risk` at the first time that it falls below is
    the chance given all that was seen until then. While a forecast is `Status.TOO_SHORT` a third
    of `risk` is needed. Rivals that no law describes (`Status.MISFIT`) stop nobody.

    Silent without rivals: no fewer than `best` runs are ever left.

    Args:
        best: how many runs count as the best; by default 5% of the sweep, at least one.
        risk: probability of stopping a run wrongly.

    Raises:
        ConfigurationError: `best` is no whole number above 0, or `risk` is outside 0..1.
    """
    many = None if best is None else whole("best", best, ConfigurationError, least=1)
    budget = probability("risk", risk, ConfigurationError, say=0.01)

    def policy(situation: Situation) -> Recommendation | None:
        forecast = situation.forecast
        runs = [Outlook.of(forecast, situation.kind), *situation.rivals]
        among = n_best_runs(len(runs)) if many is None else many
        chance = float(prob_among_best(runs, among, situation.alike)[0])
        if not chance < stop_threshold(forecast.status, budget):
            return None
        better = np.median(
            [rival.quantiles for rival in situation.rivals if rival.described and rival.known],
            axis=1,
        )
        return stopped(
            situation,
            Reason.DOMINATED,
            f"only {chance:.1%} to end among the best {among} of {len(runs)} runs: the loss is "
            f"heading for {forecast.mean:.4g}, the best of the others for {better.min():.4g}",
            confidence=1 - chance,
        )

    return policy


def n_best_runs(runs: int) -> int:
    """How many of so many runs count as the best: 5%, at least one."""
    return max(1, int(_BEST * runs))


def stop_threshold(status: Status, risk: float = _RISK) -> float:
    """The chance below which a run with a forecast of this status is stopped."""
    return risk * _TOO_SHORT if status is Status.TOO_SHORT else risk
