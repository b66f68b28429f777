"""What is believed of a run before it is observed."""

from lossforecast.prior.drops import BelievedDrops, DropComponent, DropRule, believed_drops
from lossforecast.prior.past_runs import STD_OF_EQUAL_SETUPS, PastRun, fits_budget, most_similar
from lossforecast.prior.prior import Beliefs, Prior, Regime
from lossforecast.prior.probe_gaps import Gap, MeasuredDrop

__all__ = [
    "STD_OF_EQUAL_SETUPS",
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
    "fits_budget",
    "most_similar",
]
