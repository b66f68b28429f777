"""Torch learning-rate schedulers: their future, their lint, and one that can be steered."""

from lossforecast.callbacks.lr_schedulers.from_torch import (
    Positions,
    every,
    schedule_from_torch,
    steps_per_call,
    unwrapped,
)
from lossforecast.callbacks.lr_schedulers.lint import (
    LoopLint,
    Otherwise,
    Stepping,
    harmless,
    inspect,
    is_schedule_free,
    per_process,
    warn,
)
from lossforecast.callbacks.lr_schedulers.steerable import SteerableLR
from lossforecast.callbacks.lr_schedulers.steering import Steering

__all__ = [
    "LoopLint",
    "Otherwise",
    "Positions",
    "SteerableLR",
    "Steering",
    "Stepping",
    "every",
    "harmless",
    "inspect",
    "is_schedule_free",
    "per_process",
    "schedule_from_torch",
    "steps_per_call",
    "unwrapped",
    "warn",
]
