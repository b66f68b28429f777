"""Learning-rate schedules: plans of a run and edits of them, their text form, and `lint`."""

from lossforecast.schedule.code import code_of, few_points
from lossforecast.schedule.lint import Finding, Flaw, averages, climbs_again, falls_once, lint
from lossforecast.schedule.lr_schedule import (
    DECAY_SHAPES,
    OFF_PLAN_TOLERANCE,
    Decay,
    LRSchedule,
)
from lossforecast.schedule.sampling import sampled
from lossforecast.schedule.shape import relative_rates, shape_difference
from lossforecast.schedule.text import (
    NAMED_SCHEDULES,
    SCHEDULE_EDITS,
    edited_by_text,
    schedule_from_text,
)

__all__ = [
    "DECAY_SHAPES",
    "NAMED_SCHEDULES",
    "OFF_PLAN_TOLERANCE",
    "SCHEDULE_EDITS",
    "Decay",
    "Finding",
    "Flaw",
    "LRSchedule",
    "averages",
    "climbs_again",
    "code_of",
    "edited_by_text",
    "falls_once",
    "few_points",
    "lint",
    "relative_rates",
    "sampled",
    "schedule_from_text",
    "shape_difference",
]
