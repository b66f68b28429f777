"""`target_miss`: stop a run that will very likely end above its target."""

from functools import partial

from lossforecast.checks import probability, whole
from lossforecast.display import chance
from lossforecast.errors import ConfigurationError
from lossforecast.policies.openness import is_open
from lossforecast.policies.recommendation import (
    MAX_EARLIER_CHECKS,
    Policy,
    Reason,
    Recommendation,
    Situation,
    stopped,
)
from lossforecast.runs import RunKind

__all__ = ["target_miss"]

_DEFAULT_RISK = 0.05
# of the risk of a whole run, the share that keeps its 48 checks below that risk: measured on
# recorded runs; forecasts of runs other than large language models are more often off by factors
_RISK_SHARE_PER_CHECK, _RISK_SHARE_OF_LANGUAGE_MODELS = 0.1, 0.4


def target_miss(risk: float = _DEFAULT_RISK, checks: int = 2) -> Policy:
    """STOP when the target is very likely out of reach at several checks in a row.

    Out of reach means that the probability of ending below the target is under 0.4 `risk` for a
    large language model, and under 0.1 `risk` for any other run. With these shares, `risk` is meant
    for a whole run however often it is checked. Measured on recorded runs with 48 checks each and a
    target 1% above the loss they ended with, every family of runs counted once: the defaults stop
    none of the large language models, 2.9% of the small models and 1.4% of the others
    (``tests/benchmarks/policy_risk.py``).

    Args:
        risk: probability of stopping a run that would have reached the target.
        checks: how many checks in a row, 1 to 10.

    Raises:
        ConfigurationError: `risk` is outside 0..1, or `checks` outside 1..10.
    """
    risk_of_run = probability("risk", risk, ConfigurationError, example=0.05)
    needed = whole("checks", checks, ConfigurationError, least=1)
    if needed > MAX_EARLIER_CHECKS + 1:
        raise ConfigurationError(f"checks is {checks}; at most {MAX_EARLIER_CHECKS + 1} are kept")

    return partial(_policy, needed=needed, risk=risk_of_run)


def _policy(situation: Situation, needed: int, risk: float) -> Recommendation | None:
    forecast, target = situation.forecast, situation.target
    if target is None or is_open(forecast):
        return None
    large = situation.run.kind is RunKind.LARGE_LANGUAGE_MODEL
    limit = risk * (_RISK_SHARE_OF_LANGUAGE_MODELS if large else _RISK_SHARE_PER_CHECK)
    prob = forecast.prob_below(target)
    earlier = (outlook.prob_below(target) for outlook in situation.earlier)
    missed = [value < limit for value in (*earlier, prob)][-needed:]
    if len(missed) < needed or not all(missed):
        return None
    return stopped(
        situation,
        Reason.TARGET_MISS,
        f"only {chance(prob, places=1)} to end below the target {target:g}: the loss is "
        f"heading for {forecast.median:.4g} at step {forecast.step}",
        confidence=1 - prob,
    )
