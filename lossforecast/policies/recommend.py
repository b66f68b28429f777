"""`recommend`: what to do about a forecast, from pure policies over the evidence."""

import math
from collections.abc import Iterable, Sequence

from lossforecast.checks import number
from lossforecast.errors import ConfigurationError
from lossforecast.policies.broken import diverged, non_finite
from lossforecast.policies.recommendation import (
    Action,
    Policy,
    Reason,
    Recommendation,
    Situation,
    expected,
)
from lossforecast.policies.target_miss import target_miss
from lossforecast.status import Status

__all__ = [
    "Action",
    "Policy",
    "Reason",
    "Recommendation",
    "Situation",
    "checked_target",
    "policy_list",
    "recommend",
    "target_miss",
]


def recommend(situation: Situation, policies: Sequence[Policy] | None = None) -> Recommendation:
    """The first answer: of non-finite, diverged, the policies (target miss), thin evidence."""
    for policy in (
        non_finite,
        diverged,
        no_evidence,
        *(policies or (target_miss(),)),
        thin_evidence,
    ):
        answer = policy(situation)
        if answer is not None:
            return answer
    forecast, target = situation.forecast, situation.target
    chance = (
        "" if target is None else f"; {forecast.prob_below(target):.0%} to end below {target:g}"
    )
    final = forecast.estimate
    return Recommendation(
        Action.CONTINUE,
        Reason.ON_TRACK,
        f"go on: the loss is heading for {forecast.mean:.4g} (80%: {final.lower:.4g} to "
        f"{final.upper:.4g}) "
        f"at step {forecast.step}{chance}",
        expected=forecast.estimate,
        confidence=1.0 if target is None else forecast.prob_below(target),
    )


def policy_list(policy: Policy | Iterable[Policy] | None) -> list[Policy] | None:
    """One or more policies as a list; None as it is.

    Raises:
        ConfigurationError: something among them cannot be called.
    """
    if policy is None:
        return None
    policies = list(policy) if isinstance(policy, Iterable) else [policy]
    if not all(map(callable, policies)):
        raise ConfigurationError(f"policy must be one or more policies, not {policy!r:.60}")
    return policies


def checked_target(target: float | None) -> float | None:
    """A target, if it is one.

    Raises:
        ConfigurationError: it is no finite loss.
    """
    if target is None:
        return None
    value = number("target", target, ConfigurationError)
    if not math.isfinite(value):
        raise ConfigurationError(f"target is {target}; it must be a finite loss or None")
    return value


def no_evidence(situation: Situation) -> Recommendation | None:
    """ABSTAIN while there is no forecast."""
    return thin_evidence(situation) if situation.forecast.status is Status.NO_DATA else None


def thin_evidence(situation: Situation) -> Recommendation | None:
    """ABSTAIN while the forecast has seen too little."""
    status = situation.forecast.status
    if status not in (Status.NO_DATA, Status.TOO_SHORT):
        return None
    seen = situation.history.n_observed
    return Recommendation(
        Action.ABSTAIN,
        Reason.THIN_EVIDENCE,
        f"no advice yet: {seen} losses seen up to step {situation.history.last_step} say too "
        "little about the end of this run",
        expected=expected(situation.forecast),
        confidence=0.0,
    )
