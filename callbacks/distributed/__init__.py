"""Several processes that train one model: exchange of losses and agreement on a stop."""

from lossforecast.callbacks.distributed.processes import processes
from lossforecast.callbacks.distributed.protocol import (
    Block,
    Change,
    Logged,
    Looks,
    Message,
    Wish,
    no_looks,
)
from lossforecast.callbacks.distributed.team import Team

__all__ = ["Block", "Change", "Logged", "Looks", "Message", "Team", "Wish", "no_looks", "processes"]
