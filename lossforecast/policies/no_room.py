"""`no_room`: stop a run that has next to nothing left to gain."""

from functools import partial

from lossforecast.checks import non_negative, probability
from lossforecast.display import chance
from lossforecast.errors import ConfigurationError
from lossforecast.policies.openness import is_open
from lossforecast.policies.recommendation import Policy, Reason, Recommendation, Situation, stopped

__all__ = ["no_room"]

_DEFAULT_RISK = 0.05


def no_room(min_gain: float, risk: float = _DEFAULT_RISK) -> Policy:
    """STOP when the loss will very likely fall by less than `min_gain` until the end.

    The gain is the expected loss at present minus the final loss of the plan, annealing included:
    a run on a plateau that has still to anneal has room. If forecasts are calibrated, `risk` holds
    for a whole run however often it is checked, because the probability of a larger gain at the
    first check where it is below `risk` is conditional on everything seen until then.

    Args:
        min_gain: in units of the loss.
        risk: probability of stopping a run that would have gained more.

    Raises:
        ConfigurationError: `min_gain` is negative, or `risk` is outside 0..1.
    """
    threshold = non_negative("min_gain", min_gain, ConfigurationError)
    risk_of_run = probability("risk", risk, ConfigurationError, example=0.05)

    return partial(_policy, threshold=threshold, risk_of_run=risk_of_run)


def _policy(situation: Situation, threshold: float, risk_of_run: float) -> Recommendation | None:
    forecast = situation.forecast
    if is_open(forecast) or forecast.step <= forecast.made_at:
        return None
    prob = forecast.prob_gain_above(threshold)
    if not prob < risk_of_run:
        return None
    gain, steps_left = forecast.gain_to_come, forecast.step - forecast.made_at
    return stopped(
        situation,
        Reason.NO_ROOM,
        f"only {chance(prob, places=1)} to gain more than {threshold:g} in the {steps_left} steps "
        f"left: {float(gain):.3g} is expected (80%: {gain.lower:.3g} to {gain.upper:.3g}), "
        "annealing included",
        confidence=1 - prob,
    )
