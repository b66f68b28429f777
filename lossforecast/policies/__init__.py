"""The policies: give one or more to `Forecaster.recommend` or to a callback.

Broken and diverged runs are stopped whatever the policies. Of the others the first that answers
counts, so the order is that of their importance.
"""

from lossforecast.policies.dominated import dominated, places, tolerated
from lossforecast.policies.no_room import no_room
from lossforecast.policies.patience import patience
from lossforecast.policies.ranking import Outlook, chances
from lossforecast.policies.recommend import aimed, listed, recommend
from lossforecast.policies.recommendation import (
    REMEMBERED,
    Action,
    Policy,
    Reason,
    Recommendation,
    Situation,
)
from lossforecast.policies.reschedule import reschedule
from lossforecast.policies.target_miss import target_miss

__all__ = [
    "REMEMBERED",
    "Action",
    "Outlook",
    "Policy",
    "Reason",
    "Recommendation",
    "Situation",
    "aimed",
    "chances",
    "dominated",
    "listed",
    "no_room",
    "patience",
    "places",
    "recommend",
    "reschedule",
    "target_miss",
    "tolerated",
]
