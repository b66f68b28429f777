"""What is believed of a run before it is observed."""

from lossforecast.prior.drops import BelievedDrops, DropComponent, DropRule, believed_drops
from lossforecast.prior.past_runs import ALIKE, PastRun, fair, nearest
from lossforecast.prior.prior import Beliefs, Prior, Regime
from lossforecast.prior.probe_gaps import Gap, MeasuredDrop

__all__ = [
    "ALIKE",
    "Beliefs",
    "BelievedDrops",
    "DropComponent",
    "DropRule",
    "Gap",
    "MeasuredDrop",
    "PastRun",
    "Prior",
    "Regime",
    "believed_drops",
    "fair",
    "nearest",
]
