"""Processes that train one model: they average losses and agree on stops and decays."""

from lossforecast.callbacks.distributed.header import Request
from lossforecast.callbacks.distributed.processes import processes
from lossforecast.callbacks.distributed.protocol import (
    Block,
    Change,
    Event,
    GapBatch,
    Logged,
    Message,
)
from lossforecast.callbacks.distributed.team import Team

__all__ = [
    "Block",
    "Change",
    "Event",
    "GapBatch",
    "Logged",
    "Message",
    "Request",
    "Team",
    "processes",
]
