"""`Recommendation`: advice, and what a policy that gives it may look at."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lossforecast.forecast import Estimate, Forecast
from lossforecast.policies.ranking import Outlook
from lossforecast.runs import History
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
    NO_ROOM = "no_room"
    """Next to nothing is left to gain, annealing included."""
    NO_IMPROVEMENT = "no_improvement"
    """The loss has stopped falling, and annealing will not bring it down."""
    BETTER_SCHEDULE = "better_schedule"
    """Another decay of the learning rate will very likely end lower."""
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
        expected: the final loss if the run goes on as planned; with `Action.CHANGE_SCHEDULE` how
            much lower it will be under `schedule`. A number with its 80% interval beside it.
        confidence: probability that the reason holds, 0..1.
        steps_saved: optimizer steps that stopping now would save; 0 unless `Action.STOP`.
        decay: what sets `schedule` apart from the plan, if that is one decay.
    """

    action: Action
    reason: Reason
    message: str
    schedule: LRSchedule | None = None
    expected: Estimate | None = None
    confidence: float = 1.0
    steps_saved: int = 0
    decay: Decay | None = None


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
        alike: how far the forecasts of rivals err alike, as in `Prior`.
    """

    history: History
    forecast: Forecast
    target: float | None = None
    rivals: Sequence[Outlook] = ()
    kind: str = ""
    earlier: Sequence[Outlook] = ()
    alike: tuple[float, float] | None = None


Policy = Callable[[Situation], Recommendation | None]
"""A policy looks at the situation and answers, or leaves it to the next one (None).

There is a forecast when it is asked; whether `Status.TOO_SHORT` is enough for it, it decides.
"""

MAX_EARLIER_CHECKS = 9
"""Checks before the present one that a situation shows."""


def stopped(
    situation: Situation, reason: Reason, message: str, *, confidence: float
) -> Recommendation:
    """STOP, with what the situation says of it."""
    left = max(situation.forecast.step - max(situation.history.last_step, 0), 0)
    return Recommendation(
        Action.STOP,
        reason,
        f"stop: {message}",
        expected=expected(situation.forecast),
        confidence=confidence,
        steps_saved=left,
    )


def expected(forecast: Forecast) -> Estimate | None:
    """The final loss, if anything is known of it."""
    return None if math.isnan(forecast.mean) else forecast.estimate
