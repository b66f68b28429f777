"""`Recommendation` and its enums; `Situation` and `Policy`, the input and type of a policy."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lossforecast.forecast import Estimate, Forecast
from lossforecast.policies.ranking import Outlook
from lossforecast.runs import History, RunInfo
from lossforecast.schedule import Decay, LRSchedule

__all__ = [
    "MAX_EARLIER_CHECKS",
    "Action",
    "Policy",
    "Reason",
    "Recommendation",
    "Situation",
    "expected",
    "stopped",
]


class Action(StrEnum):
    """The recommended action."""

    CONTINUE = "continue"
    """Go on with the run as planned."""
    STOP = "stop"
    """Stop the run now."""
    CHANGE_SCHEDULE = "change_schedule"
    """Go on with `Recommendation.schedule` instead of the plan."""
    ABSTAIN = "abstain"
    """Go on for now: too little was seen to recommend anything."""


class Reason(StrEnum):
    """The reason for an action."""

    NON_FINITE = "non_finite"
    """The latest losses are all nan or infinite."""
    DIVERGED = "diverged"
    """The loss has risen far above its best and stays there."""
    TARGET_MISS = "target_miss"
    """The target will very likely be missed."""
    DOMINATED = "dominated"
    """Other runs of the sweep will very likely end lower."""
    NO_ROOM = "no_room"
    """Next to nothing is left to gain, annealing included."""
    OVERFITTING = "overfitting"
    """The validation loss rises and has very likely passed its minimum."""
    NO_IMPROVEMENT = "no_improvement"
    """The loss has stopped falling, and annealing will not bring it down."""
    BETTER_SCHEDULE = "better_schedule"
    """Another decay of the learning rate will very likely end lower."""
    ON_TRACK = "on_track"
    """No policy has a reason to stop the run or to change its schedule."""
    THIN_EVIDENCE = "thin_evidence"
    """Too little was seen to recommend anything, or the end of the run is open."""


@dataclass(frozen=True)
class Recommendation:
    """An action to take, and the reason for it.

    Attributes:
        action: the action.
        reason: the reason, for programs.
        message: the reason in one line, for people.
        schedule: the schedule to change to, with `Action.CHANGE_SCHEDULE`.
        expected: final loss if the run goes on as planned; with `Action.CHANGE_SCHEDULE` the
            reduction of it by `schedule`. A number with its 80% interval; None without data.
        confidence: probability that the reason holds, 0..1.
        steps_saved: optimizer steps that stopping now would save; 0 unless `Action.STOP`.
        decay: the decay that `schedule` adds to the plan, if it is a single one.
    """

    action: Action
    reason: Reason
    message: str
    schedule: LRSchedule | None = None
    expected: Estimate | None = None
    confidence: float = 1.0
    steps_saved: int = 0
    decay: Decay | None = None

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"Recommendation({str(self.action)!r}, {str(self.reason)!r}, {self.message!r})"

    def to_dict(self) -> dict[str, str]:
        """Action, reason and message as plain text."""
        return {"action": str(self.action), "reason": str(self.reason), "message": self.message}


@dataclass(frozen=True)
class Situation:
    """The input of a policy: everything known about a run at one check.

    Attributes:
        history: the losses observed.
        forecast: the forecast of the final loss; never `Status.NO_DATA`.
        target: the final loss to reach, if one was given.
        rivals: the other runs of the sweep, in progress or ended; without those that were stopped.
        run: what is known about the run.
        kind: the optimizer of this run, or another label of its group, as in `Outlook.kind`.
        earlier: forecasts of up to nine earlier checks, oldest first, without those at which
            the end of the run was open (`lossforecast.policies.is_open`).
        alike: shares of the error variance common to the sweep and to one kind, as in
            `prob_among_best`.
        corrected: the forecast as corrected by the errors of ended runs of the sweep
            (`lossforecast.policies.SweepErrors`); None if there are none to learn from.
    """

    history: History
    forecast: Forecast
    target: float | None = None
    rivals: Sequence[Outlook] = ()
    run: RunInfo = field(default_factory=RunInfo)
    kind: str = ""
    earlier: Sequence[Outlook] = ()
    alike: tuple[float, float] | None = None
    corrected: Outlook | None = None

    @property
    def outlook(self) -> Outlook:
        """The distribution of the final loss, to compare with `rivals`."""
        return self.corrected or Outlook.of(self.forecast, self.kind)

    @property
    def share_left(self) -> float:
        """Share of the run that is left, 0..1."""
        return min(max(1 - max(self.history.last_step, 0) / self.forecast.step, 0.0), 1.0)


Policy = Callable[[Situation], Recommendation | None]
"""A function that returns a recommendation, or None to leave the decision to the next policy.

It is called only when there is a forecast, and decides for itself what to do while the end of the
run `is_open`. It must not change the situation.
"""

MAX_EARLIER_CHECKS = 9
"""Largest length of `Situation.earlier`; a policy can ask for one more check in a row."""


def stopped(
    situation: Situation, reason: Reason, message: str, *, confidence: float
) -> Recommendation:
    """A STOP for the given reason, with the final loss it avoids and the steps it saves."""
    steps_left = max(situation.forecast.step - max(situation.history.last_step, 0), 0)
    return Recommendation(
        Action.STOP,
        reason,
        f"stop: {message}",
        expected=expected(situation.forecast),
        confidence=confidence,
        steps_saved=steps_left,
    )


def expected(forecast: Forecast) -> Estimate | None:
    """Forecast of the final loss with its interval; None without data."""
    return None if math.isnan(forecast.median) else forecast.estimate
