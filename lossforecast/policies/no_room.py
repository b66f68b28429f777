"""`no_room`: stop a run that has next to nothing left to gain."""

from lossforecast.checks import non_negative, probability
from lossforecast.errors import ConfigurationError
from lossforecast.policies.recommendation import Policy, Reason, Recommendation, Situation, stopped
from lossforecast.status import Status

__all__ = ["no_room"]

_RISK = 0.05


def no_room(min_gain: float, risk: float = _RISK) -> Policy:
    """STOP when the loss will very likely fall by less than `min_gain` until the end.

    The gain is that from the expected loss at present to the final loss of the plan, annealing
    included: a run on a plateau that has still to anneal has room. As long as forecasts are
    calibrated `risk` holds for a whole run, however often it is looked at: at the first time that
    the chance of a larger gain is below `risk`, it is just that.

    Args:
        min_gain: in units of the loss.
        risk: probability of stopping a run that would have gained more.

    Raises:
        ConfigurationError: `min_gain` is negative, or `risk` outside 0..1.
    """
    least = non_negative("min_gain", min_gain, ConfigurationError)
    budget = probability("risk", risk, ConfigurationError, say=0.05)

    def policy(situation: Situation) -> Recommendation | None:
        forecast = situation.forecast
        if forecast.status is Status.TOO_SHORT or forecast.step <= forecast.made_at:
            return None
        chance = forecast.prob_gain_above(least)
        if not chance < budget:
            return None
        gain, left = forecast.gain_to_come, forecast.step - forecast.made_at
        return stopped(
            situation,
            Reason.NO_ROOM,
            f"only {chance:.1%} to gain more than {least:g} in the {left} steps left: "
            f"{float(gain):.3g} is expected (80%: {gain.lower:.3g} to {gain.upper:.3g}), "
            "annealing included",
            confidence=1 - chance,
        )

    return policy
