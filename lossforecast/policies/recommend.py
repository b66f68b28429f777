"""`recommend`: the first answer that the policies give to a situation."""

import math
from collections.abc import Iterable, Sequence

from lossforecast.checks import number
from lossforecast.display import chance, heading
from lossforecast.errors import ConfigurationError
from lossforecast.policies.broken import diverged, non_finite
from lossforecast.policies.openness import is_open, reasons_open
from lossforecast.policies.overfitting import overfitting
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

__all__ = ["DEFAULT_POLICIES", "checked_target", "policy_list", "recommend"]

DEFAULT_POLICIES: tuple[Policy, ...] = (target_miss(), overfitting())
"""The policies asked where none are given."""


def recommend(situation: Situation, policies: Sequence[Policy] | None = None) -> Recommendation:
    """Ask `non_finite`, `diverged` and the policies in turn, and return the first answer.

    Without data the answer is ABSTAIN before any policy is asked. If none of them answers, it is
    ABSTAIN while the end of the run `is_open`, else CONTINUE.

    Args:
        situation: history, forecast, target and rivals of a run.
        policies: by default `DEFAULT_POLICIES`.
    """
    chosen = policies or DEFAULT_POLICIES
    for policy in (non_finite, diverged, _no_data, *chosen, _open):
        answer = policy(situation)
        if answer is not None:
            return answer
    return _on_track(situation)


def policy_list(policy: Policy | Iterable[Policy] | None) -> list[Policy] | None:
    """The policy or policies given, as a list; None for None.

    Raises:
        ConfigurationError: one of them cannot be called.
    """
    if policy is None:
        return None
    policies = list(policy) if isinstance(policy, Iterable) else [policy]
    if not all(map(callable, policies)):
        raise ConfigurationError(f"policy must be one or more policies, not {policy!r:.60}")
    return policies


def checked_target(target: float | None) -> float | None:
    """The target as a float, or None.

    Raises:
        ConfigurationError: it is not a finite number.
    """
    if target is None:
        return None
    value = number("target", target, ConfigurationError)
    if not math.isfinite(value):
        raise ConfigurationError(f"target is {target}; it must be a finite loss or None")
    return value


def _on_track(situation: Situation) -> Recommendation:
    """CONTINUE, with the forecast and the probability of reaching the target."""
    forecast, target = situation.forecast, situation.target
    prob = 1.0 if target is None else forecast.prob_below(target)
    reaches = "" if target is None else f"; {chance(prob)} to end below {target:g}"
    final = forecast.estimate
    return Recommendation(
        Action.CONTINUE,
        Reason.ON_TRACK,
        f"go on: the loss is {heading(final)} at step {forecast.step}{reaches}",
        expected=final,
        confidence=prob,
    )


def _no_data(situation: Situation) -> Recommendation | None:
    """ABSTAIN while there is no forecast, so that policies can rely on one."""
    return _abstain(situation) if situation.forecast.status is Status.NO_DATA else None


def _open(situation: Situation) -> Recommendation | None:
    """ABSTAIN while the end of the run is open."""
    return _abstain(situation) if is_open(situation.forecast) else None


def _abstain(situation: Situation) -> Recommendation:
    history, forecast = situation.history, situation.forecast
    reasons = [] if forecast.status is Status.NO_DATA else reasons_open(forecast)
    little = (
        f"{history.n_observed} losses seen up to step {history.last_step} say too little about the "
        "end of this run"
    )
    return Recommendation(
        Action.ABSTAIN,
        Reason.THIN_EVIDENCE,
        f"no advice yet: {next(iter(reasons), little)}",
        expected=expected(forecast),
        confidence=0.0,
    )
