"""Schedules written in one line of text, for the command line."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from lossforecast.errors import ScheduleError
from lossforecast.schedule.lr_schedule import LRSchedule

__all__ = ["NAMED_SCHEDULES", "SCHEDULE_EDITS", "edited_by_text", "schedule_from_text"]

NAMED_SCHEDULES = ("constant", "linear", "cosine", "wsd", "step_decay", "inverse_sqrt", "one_cycle")
"""Schedules that a text can name: methods of `LRSchedule`."""
SCHEDULE_EDITS = (
    "decay:start=..,steps=..,shape=..,end=..",
    "extend:to=..",
    "truncate:to=..",
    "scale:from=..,by=..",
)
"""Changes to a plan that a text can name, with all their settings."""
_LIST_SETTINGS = ("milestones",)
_WORD_SETTINGS = ("shape",)


def schedule_from_text(text: str, total_steps: int) -> LRSchedule:
    """Make the schedule that a line describes: a name and its settings.

    Names and settings are those of the class methods of `LRSchedule`. Slashes separate the entries
    of a list.

    Raises:
        ScheduleError: a name or setting is unknown, or a value is impossible.

    Example:
        >>> schedule_from_text("cosine:peak=3e-4,end=3e-5,warmup=100", 1_000).lr([100, 1_000])
        array([3.e-04, 3.e-05])
        >>> schedule_from_text("step-decay:peak=0.1,milestones=300/600", 1_000).lr([1_000])
        array([0.001])
    """
    name, settings = _split(text)
    if name not in NAMED_SCHEDULES:
        known = ", ".join(NAMED_SCHEDULES)
        raise ScheduleError(
            f"{text!r} is not a schedule: begin with one of {known}, such as "
            "cosine:peak=3e-4,warmup=2000"
        )
    schedule: LRSchedule = _called(
        getattr(LRSchedule, name), text, settings, {"total_steps": total_steps}
    )
    return schedule


def edited_by_text(text: str, plan: LRSchedule) -> LRSchedule:
    """Make another schedule for the same run, described in full or as a change to `plan`.

    Changes are ``decay:start=..,steps=..,shape=..,end=..``, ``extend:to=..``, ``truncate:to=..``
    and ``scale:from=..,by=..``.

    Raises:
        ScheduleError: a name or setting is unknown, or a value is impossible.

    Example:
        >>> plan = LRSchedule.constant(1_000, 1e-3)
        >>> edited_by_text("decay:start=800,steps=200", plan).lr([800, 900, 1_000]).tolist()
        [0.001, 0.0005, 0.0]
    """
    name, settings = _split(text)
    edited: LRSchedule
    if name == "decay":
        edited = _called(plan.with_decay, text, settings, {})
        return edited
    if name in ("extend", "truncate"):
        total = _called(_only_to, text, settings, {})
        if not isinstance(total, int):
            raise ScheduleError(f"{text!r}: to is {total}, not a whole number of steps")
        return plan.extended_to(total) if name == "extend" else plan.truncated_to(total)
    if name == "scale":
        edited = _called(plan.scaled_from, text, settings, {}, {"step": "from", "factor": "by"})
        return edited
    return schedule_from_text(text, plan.total_steps)


def _only_to(to: int) -> int:
    return to


def _split(text: str) -> tuple[str, dict[str, Any]]:
    name, _, rest = text.partition(":")
    settings = {}
    for part in filter(None, (setting.strip() for setting in rest.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise ScheduleError(
                f"{text!r}: {part!r} must be a setting and its value, such as peak=1e-3"
            )
        if key.strip().replace("-", "_") in settings:
            raise ScheduleError(f"{text!r}: {key.strip()} is given twice")
        settings[key.strip().replace("-", "_")] = _value(text, key.strip(), value.strip())
    return name.strip().lower().replace("-", "_"), settings


def _value(text: str, key: str, value: str) -> Any:
    if key in _WORD_SETTINGS:
        return value
    if key in _LIST_SETTINGS:
        return [_number(text, key, part) for part in value.split("/")]
    return _number(text, key, value)


def _number(text: str, key: str, value: str) -> int | float:
    try:
        number = float(value)
    except ValueError:
        raise ScheduleError(f"{text!r}: {key} is {value!r}, not a number") from None
    if not math.isfinite(number):
        raise ScheduleError(f"{text!r}: {key} is {value!r}, not a finite number")
    return int(number) if number == int(number) and abs(number) >= 1 else number


def _called(
    make: Callable[..., Any],
    text: str,
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
) -> Any:
    """Call `make` with the settings as arguments.

    A setting has the name of the parameter, or the one that `names` maps it to; the parameters in
    `given` are not settings.
    """
    parameters = inspect.signature(make).parameters
    written = {(names or {}).get(name, name): name for name in parameters if name not in given}
    known = list(written)
    for name in settings:
        if name not in known:
            raise ScheduleError(
                f"{text!r}: unknown setting {name}; its settings are {', '.join(known)}"
            )
    try:
        return make(**given, **{written[name]: value for name, value in settings.items()})
    except TypeError as error:
        missing = [
            name
            for name, parameter in written.items()
            if parameters[parameter].default is inspect.Parameter.empty and name not in settings
        ]
        raise ScheduleError(f"{text!r} needs {', '.join(missing) or error}") from None
