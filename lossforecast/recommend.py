"""What to do about a forecast: `Recommendation`, from pure policies over the evidence."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from lossforecast.checks import number, whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.history import History
from lossforecast.schedule import LRSchedule
from lossforecast.standing import Outlook
from lossforecast.status import Status

__all__ = [
    "REMEMBERED",
    "Action",
    "Policy",
    "Reason",
    "Recommendation",
    "Situation",
    "aimed",
    "listed",
    "recommend",
    "stopped",
    "target_miss",
]


class Action(StrEnum):
    """What is recommended."""

    CONTINUE = "continue"
    STOP = "stop"
    CHANGE_SCHEDULE = "change_schedule"
    ABSTAIN = "abstain"


class Reason(StrEnum):
    """Why."""

    NON_FINITE = "non_finite"
    """The latest losses are all nan or infinite."""
    DIVERGED = "diverged"
    """The loss has risen far above its best and stays there."""
    TARGET_MISS = "target_miss"
    """The target will very likely be missed."""
    DOMINATED = "dominated"
    """Other runs of the sweep will very likely end lower."""
    ON_TRACK = "on_track"
    """Nothing speaks against going on."""
    THIN_EVIDENCE = "thin_evidence"
    """Too little is known to advise anything."""


@dataclass(frozen=True)
class Recommendation:
    """Advice, and why.

    Attributes:
        action: what to do.
        reason: why, for programs.
        message: why, in one line, for people.
        schedule: the schedule to change to, with `Action.CHANGE_SCHEDULE`.
        expected: the forecast mean of the final loss if the run goes on as planned.
        confidence: probability that the reason holds, 0..1.
        steps_saved: optimizer steps that stopping now would save; 0 unless `Action.STOP`.
    """

    action: Action
    reason: Reason
    message: str
    schedule: LRSchedule | None = None
    expected: float | None = None
    confidence: float = 1.0
    steps_saved: int = 0


@dataclass(frozen=True)
class Situation:
    """What a policy may look at.

    Attributes:
        history: the losses seen.
        forecast: of the final loss.
        target: the final loss hoped for.
        rivals: the other runs of the sweep that go on or have ended; not those that were stopped.
        kind: of this run, as in `Outlook`.
        earlier: what was forecast at up to nine checks before, oldest first; none that was
            `Status.TOO_SHORT`.
    """

    history: History
    forecast: Forecast
    target: float | None = None
    rivals: Sequence[Outlook] = ()
    kind: str = ""
    earlier: Sequence[Outlook] = ()


Policy = Callable[[Situation], Recommendation | None]
"""A policy looks at the situation and answers, or leaves it to the next one (None).

There is a forecast when it is asked; whether `Status.TOO_SHORT` is enough for it, it decides.
"""

_BROKEN_RUN = 10  # non-finite losses in a row: a loss scaler recovers from fewer
_DIVERGED_RUN = 10  # bins in a row above every sensible level
_RISK = 0.05  # of stopping a run that would have reached the target
_SHARE = 0.4  # of it for one check
REMEMBERED = 9
"""Checks before the present one that a situation shows."""


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
    low, high = forecast.interval(0.8)
    return Recommendation(
        Action.CONTINUE,
        Reason.ON_TRACK,
        f"go on: the loss is heading for {forecast.mean:.4g} (80%: {low:.4g} to {high:.4g}) "
        f"at step {forecast.step}{chance}",
        expected=forecast.mean,
        confidence=1.0 if target is None else forecast.prob_below(target),
    )


def listed(policy: Policy | Iterable[Policy] | None) -> list[Policy] | None:
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


def aimed(target: float | None) -> float | None:
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


def target_miss(risk: float = _RISK, checks: int = 2) -> Policy:
    """STOP when the target is out of reach at several checks in a row.

    Out of reach is a probability of ending below the target under two fifths of `risk`. So `risk`
    holds for the whole run, however often it is looked at: of 462 recorded runs looked at 49 times
    each, 2.9% of the language models and 1.4% of the others were stopped with the defaults when the
    target was just where they ended (8.8 and 11.3% when every check had the whole 5%).

    Args:
        risk: probability of stopping a run that would have reached the target.
        checks: how many checks in a row, 1 to 10.

    Raises:
        ConfigurationError: `risk` is outside 0..1, or `checks` outside 1..10.
    """
    budget = number("risk", risk, ConfigurationError)
    if not 0 < budget < 1:
        raise ConfigurationError(f"risk is {risk}; it must be between 0 and 1, say 0.05")
    needed = whole("checks", checks, ConfigurationError, least=1)
    if needed > REMEMBERED + 1:
        raise ConfigurationError(f"checks is {checks}; at most {REMEMBERED + 1} are remembered")
    limit = _SHARE * budget

    def policy(situation: Situation) -> Recommendation | None:
        forecast, target = situation.forecast, situation.target
        if target is None or forecast.status is Status.TOO_SHORT:
            return None
        chance = forecast.prob_below(target)
        before = (look.prob_below(target) for look in situation.earlier)
        missed = [each < limit for each in (*before, chance)][-needed:]
        if len(missed) < needed or not all(missed):
            return None
        return stopped(
            situation,
            Reason.TARGET_MISS,
            f"only {chance:.1%} to end below the target {target:g}: the loss is heading for "
            f"{forecast.mean:.4g} at step {forecast.step}",
            confidence=1 - chance,
        )

    return policy


def non_finite(situation: Situation) -> Recommendation | None:
    """STOP when the last ten losses (all of them, on a sparse metric: three) are not finite."""
    run = situation.history.non_finite_run
    sparse = len(situation.history) < 3 * _BROKEN_RUN
    if run < (3 if sparse and situation.history.n_observed else _BROKEN_RUN):
        return None
    message = f"the last {run} losses are nan or infinite: the run is broken"
    return stopped(situation, Reason.NON_FINITE, message, confidence=1.0)


def diverged(situation: Situation) -> Recommendation | None:
    """STOP when the latest losses all lie far above the best and above where the run began."""
    bins = situation.history.bins()
    mean = bins.mean[np.isfinite(bins.mean)]
    run = min(_DIVERGED_RUN, mean.size // 4)
    if run < 3:
        return None
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(mean, 3), axis=-1)
    best, start, recent = float(smooth.min()), float(smooth[0]), float(mean[-run:].min())
    usual = float(np.median(np.abs(np.diff(mean))))
    # above the start by half of all that was gained, and by far more than neighbours differ
    if recent <= start + max(0.5 * (start - best), 10 * usual):
        return None
    message = f"diverged: the loss is at {recent:.4g} or more, from a best of {best:.4g}"
    return stopped(situation, Reason.DIVERGED, message, confidence=1.0)


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
        expected=None if math.isnan(situation.forecast.mean) else situation.forecast.mean,
        confidence=0.0,
    )


def stopped(
    situation: Situation, reason: Reason, message: str, *, confidence: float
) -> Recommendation:
    """STOP, with what the situation says of it."""
    left = max(situation.forecast.step - max(situation.history.last_step, 0), 0)
    mean = situation.forecast.mean
    return Recommendation(
        Action.STOP,
        reason,
        f"stop: {message}",
        expected=None if math.isnan(mean) else mean,
        confidence=confidence,
        steps_saved=left,
    )
