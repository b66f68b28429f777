"""Torch learning-rate schedulers: future rates, lint, and a scheduler that can be steered."""

from lossforecast.callbacks.lr_schedulers.clone import clone_of
from lossforecast.callbacks.lr_schedulers.from_torch import schedule_from_torch
from lossforecast.callbacks.lr_schedulers.groups import parameter_group, widest_group
from lossforecast.callbacks.lr_schedulers.lint import (
    Alternative,
    LoopLint,
    Stepping,
    harmless,
    inspect,
    is_schedule_free,
    per_process,
    warn,
    warn_if_assumed,
)
from lossforecast.callbacks.lr_schedulers.steerable import SteerableLR
from lossforecast.callbacks.lr_schedulers.steering import Steering
from lossforecast.callbacks.lr_schedulers.stepping import (
    PaceMeter,
    Positions,
    every,
    is_near,
    measured_pace,
    steps_per_call,
    unwrapped,
)

__all__ = [
    "Alternative",
    "LoopLint",
    "PaceMeter",
    "Positions",
    "SteerableLR",
    "Steering",
    "Stepping",
    "clone_of",
    "every",
    "harmless",
    "inspect",
    "is_near",
    "is_schedule_free",
    "measured_pace",
    "parameter_group",
    "per_process",
    "schedule_from_torch",
    "steps_per_call",
    "unwrapped",
    "warn",
    "warn_if_assumed",
    "widest_group",
]
