"""The policies: give one or more to `Forecaster.recommend` or to a callback.

Broken and diverged runs are stopped whatever the policies. Of the others the first that answers
counts, so the order is that of their importance.
"""

from lossforecast.dominated import dominated
from lossforecast.no_room import no_room
from lossforecast.patience import patience
from lossforecast.reschedule import reschedule
from lossforecast.target_miss import target_miss

__all__ = ["dominated", "no_room", "patience", "reschedule", "target_miss"]
