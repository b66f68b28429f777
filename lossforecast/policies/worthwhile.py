"""`worthwhile`: stop a run whose expected gain over the best ended run is not worth its steps."""

from functools import partial

from lossforecast.checks import number
from lossforecast.errors import ConfigurationError
from lossforecast.policies.openness import is_open
from lossforecast.policies.recommendation import Policy, Reason, Recommendation, Situation, stopped

__all__ = ["GAIN_PER_RUN", "worthwhile"]

GAIN_PER_RUN = 0.004
"""Default gain, as a share of the loss, for which a whole run is worth training."""


def worthwhile(gain_per_run: float = GAIN_PER_RUN) -> Policy:
    """STOP when the expected gain over the best ended run is not worth the steps left.

    With the final loss L of the run, the best loss b of those that have ended, and the share of the
    run that is left, it stops when

        E[max(0, b - L)] / |b| < gain_per_run * share left

    It weighs regret against compute and promises no risk: of many runs with the same small chance,
    all are stopped. It never stops a run while its end `is_open`, or before another has ended.
    Runs in progress are not compared with one another, since all of them might be stopped.

    Args:
        gain_per_run: gain, as a share of the loss, for which a whole run is worth training.

    Raises:
        ConfigurationError: `gain_per_run` is not a number above 0.
    """
    price = number("gain_per_run", gain_per_run, ConfigurationError)
    if not price > 0:
        raise ConfigurationError(f"gain_per_run is {price}; it must be above 0, such as 0.004")
    return partial(_policy, gain_per_run=price)


def _policy(situation: Situation, gain_per_run: float) -> Recommendation | None:
    ended = [rival.median for rival in situation.rivals if rival.has_ended]
    if is_open(situation.forecast) or not ended:
        return None
    outlook, left, best = situation.outlook, situation.share_left, min(ended)
    gain = outlook.expected_gain(best)
    if not gain < gain_per_run * left:
        return None
    return stopped(
        situation,
        Reason.DOMINATED,
        f"expected to end {gain:.2%} below {best:.4g}, the best so far, and {left:.0%} of the run "
        f"is worth {gain_per_run * left:.2%}: the loss is heading for {outlook.median:.4g}",
        confidence=1 - outlook.prob_below(best),
    )
