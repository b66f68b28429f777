"""Policies that recommend one thing from a step on."""

from collections.abc import Callable

from lossforecast.policies import Action, Reason, Recommendation, Situation
from lossforecast.schedule.lr_schedule import Decay


def stop_from(step: int) -> Callable[[Situation], Recommendation | None]:
    """Recommend a stop once `step` optimizer steps have been seen."""

    def policy(situation: Situation) -> Recommendation | None:
        if situation.history.last_step < step - 1:
            return None
        return Recommendation(Action.STOP, Reason.TARGET_MISS, "stop: scripted")

    return policy


def decay_from(step: int) -> Callable[[Situation], Recommendation | None]:
    """Recommend one decay, of steps 50 to 110, once `step` optimizer steps have been seen."""

    def policy(situation: Situation) -> Recommendation | None:
        if situation.history.last_step < step - 1:
            return None
        return Recommendation(
            Action.CHANGE_SCHEDULE,
            Reason.BETTER_SCHEDULE,
            "change the schedule: scripted",
            decay=Decay(50, 60, "linear"),
        )

    return policy
