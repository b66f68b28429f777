"""`dominated`: stop a run that will very likely not end among the best of its sweep."""

from functools import partial

import numpy as np

from lossforecast.checks import probability, whole
from lossforecast.display import chance
from lossforecast.errors import ConfigurationError
from lossforecast.policies.openness import is_open
from lossforecast.policies.ranking import prob_among_best_of_rivals
from lossforecast.policies.recommendation import Policy, Reason, Recommendation, Situation, stopped

__all__ = ["dominated", "n_best_runs", "stop_threshold"]

_BEST_SHARE = 0.05  # share of the runs of a sweep that count as its best
_DEFAULT_RISK = 0.01
# the errors of forecasts in a sweep are more correlated than assumed: on recorded sweeps, where the
# risk allowed 0.2 false kills, stopping at the risk itself made 11, at a third of it 2
_RISK_MARGIN = 1 / 3


def dominated(best: int | None = None, risk: float = _DEFAULT_RISK) -> Policy:
    """STOP when the probability of ending among the best of the sweep is below a third of `risk`.

    The probability comes from the forecasts of all runs (`prob_among_best`), so runs with other
    schedules, horizons or progress can be compared: a run that has not annealed yet is not behind
    one that has. If forecasts are calibrated, `risk` holds for a whole run however often it is
    checked, because the probability at the first check where it is below the threshold is
    conditional on everything seen until then. The margin of a third is for errors that forecasts of
    a sweep have in common beyond what was learned. While the end of the run `is_open` no risk can
    be promised, so the run is not stopped. Rivals that no law describes (`Status.MISFIT`), or whose
    end is open, stop no run.

    Never stops a run without rivals: at least `best` runs are left.

    Args:
        best: how many runs count as the best; by default 5% of the sweep, at least one.
        risk: probability of stopping a run that would have ended among the best.

    Raises:
        ConfigurationError: `best` is not a whole number above 0, or `risk` is outside 0..1.
    """
    fixed = None if best is None else whole("best", best, ConfigurationError, least=1)
    risk_of_run = probability("risk", risk, ConfigurationError, example=0.01)

    return partial(_policy, fixed=fixed, risk_of_run=risk_of_run)


def _policy(situation: Situation, fixed: int | None, risk_of_run: float) -> Recommendation | None:
    forecast = situation.forecast
    if is_open(forecast):
        return None
    own, n_runs = situation.outlook, 1 + len(situation.rivals)
    n_best = n_best_runs(n_runs) if fixed is None else fixed
    threshold = stop_threshold(risk_of_run)
    prob = prob_among_best_of_rivals(own, situation.rivals, n_best, situation.alike, threshold)
    if not prob < threshold:
        return None
    medians = np.median(
        [rival.quantiles for rival in situation.rivals if rival.described and rival.known],
        axis=1,
    )
    return stopped(
        situation,
        Reason.DOMINATED,
        f"only {chance(prob, places=1)} to end among the best {n_best} of {n_runs} runs: "
        f"the loss is heading for {own.median:.4g}, the best of the others for {medians.min():.4g}",
        confidence=1 - prob,
    )


def n_best_runs(n_runs: int) -> int:
    """Number of runs among `n_runs` that count as the best: 5%, at least one."""
    return max(1, int(_BEST_SHARE * n_runs))


def stop_threshold(risk: float = _DEFAULT_RISK) -> float:
    """Probability of ending among the best below which a run is stopped, for a promised risk."""
    return _RISK_MARGIN * risk
