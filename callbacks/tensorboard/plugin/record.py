"""The record of a run in a summary of the panel: its present state and all of its forecasts.

TensorBoard keeps only some of the tensors of a tag, but always the latest, so each record is
complete. A record is compressed JSON. `write` creates it; `read` checks it, because a log may come
from anyone.
"""

import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from lossforecast.callbacks.monitor import FAN, Update, fan, short
from lossforecast.errors import StateError
from lossforecast.estimate import Minimum
from lossforecast.forecast import QUANTILE_LEVELS

__all__ = ["FAN_STEPS", "PLUGIN", "TAG", "read", "write"]

PLUGIN = "lossforecast"
"""Name of the plugin in TensorBoard."""
TAG = "forecast/panel"
"""Tag of the summary that holds the record."""
FAN_STEPS = 33
"""Number of steps at which the latest forecast is drawn."""

_VERSION = 1  # rises only when an older release would misread a record
_MAX_BYTES = 1 << 24  # of a decompressed record
_MAX_WHOLE = 2**53  # JavaScript cannot represent all whole numbers above

T = TypeVar("T")


def write(update: Update) -> bytes:
    """The record of a run after a forecast."""
    forecast, advice = update.forecast, update.recommendation
    prob = None if update.target is None else short(forecast.prob_below(update.target))
    record = {
        "version": _VERSION,
        "step": update.step,
        "total_steps": forecast.schedule.total_steps,
        "target": update.target,
        "forecast": {
            **forecast.to_dict(),
            "levels": [short(x) for x in forecast.at_levels],
            "parameters": forecast.parameters,
            "prob_target": prob,
            "minimum": _minimum_to_dict(forecast.minimum),
        },
        "fan": fan(forecast, FAN_STEPS),
        "decision": advice.to_dict(),
        "trail": update.trail,
        "state": update.forecaster.state_dict(),
    }
    return zlib.compress(json.dumps(record, separators=(",", ":")).encode(), level=3)


def read(packed: bytes) -> dict[str, Any]:
    """Decompress and check a record; one of an earlier release gets the parts that it lacks.

    Raises:
        StateError: it is not a record, is damaged or comes from a newer release.
    """
    try:
        decompressor = zlib.decompressobj()
        text = decompressor.decompress(packed, _MAX_BYTES)
        if not decompressor.eof:
            raise StateError("it is truncated or too large for a forecast")
        record = json.loads(text, parse_constant=_refuse_constant)
    except (zlib.error, ValueError, RecursionError) as error:
        raise StateError(f"it is not a forecast: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("version"), int):
        raise StateError("it is not a forecast")
    if record["version"] > _VERSION:
        raise StateError(
            f"it has version {record['version']}, this release reads up to {_VERSION}: update "
            "lossforecast where TensorBoard runs"
        )
    _check(record)
    return record


def _minimum_to_dict(minimum: Minimum | None) -> dict[str, Any] | None:
    """The lowest validation loss so far, and how probably it stays the lowest."""
    if minimum is None:
        return None
    numbers = {"so_far": minimum.so_far, "prob_passed": minimum.prob_passed}
    return {"step": minimum.step, **{name: short(x) for name, x in numbers.items()}}


def _check(record: Mapping[str, Any]) -> None:
    """Raise StateError if a part that is read later is missing or has the wrong type."""
    step, total = (_whole(record, name) for name in ("step", "total_steps"))
    if not step >= 0 or total < 1:
        raise StateError(f"step {step} of {total} is impossible")
    _number(record, "target")
    _check_forecast(_object(record, "forecast"))
    _check_fan(_object(record, "fan"))
    for name in ("action", "reason", "message"):
        _text(_object(record, "decision"), name)
    _check_trail(_list(record, "trail"))
    _object(record, "state")


def _check_forecast(forecast: dict[str, Any]) -> None:
    """Check the present forecast.

    Without a median it gets that of its quantiles, without a lowest loss None.
    """
    levels = _numbers(forecast, "levels")
    if len(levels) != len(QUANTILE_LEVELS):
        raise StateError(f"levels are not {len(QUANTILE_LEVELS)} numbers")
    forecast.setdefault("median", levels[QUANTILE_LEVELS.index(0.5)])
    for name in ("median", "mean", "std", "lower80", "upper80", "lower95", "upper95"):
        _number(forecast, name)
    for name in ("prob_target", "gain_mean", "gain_std"):
        _number(forecast, name)
    if forecast.setdefault("minimum", None) is not None:
        minimum = _object(forecast, "minimum")
        _whole(minimum, "step")
        for name in ("so_far", "prob_passed"):
            _number(minimum, name)
    for name in ("status", "gain_source"):
        _text(forecast, name)
    if not all(isinstance(caveat, str) for caveat in _list(forecast, "caveats")):
        raise StateError("caveats are not text")
    parameters = _object(forecast, "parameters")
    for law in parameters:
        values = _object(parameters, law)
        for name in values:
            _number(values, name)


def _check_trail(trail: Sequence[Any]) -> None:
    before = -1
    for row in trail:
        if not isinstance(row, dict):
            raise StateError("a row of the trail is not an object")
        if _whole(row, "step") <= before:
            raise StateError("the steps of the trail do not increase")
        before = row["step"]
        _check_fan(row)
        for name in ("status", "action", "reason"):
            _text(row, name)
        for name in ("message", "done"):
            if name in row:
                _text(row, name)
        mean, std, source = (*_list(row, "gain"), None, None, None)[:3]
        _number({"gain": mean}, "gain")
        _number({"gain": std}, "gain")
        _text({"gain": source}, "gain")


def _check_fan(row: dict[str, Any]) -> None:
    """Check a fan; without medians it gets its means in their place."""
    row.setdefault("median", row.get("mean"))
    steps = _list(row, "steps")
    if not steps or not all(type(x) is int and 0 <= x <= _MAX_WHOLE for x in steps):
        raise StateError("the steps of a fan are not whole numbers")
    for name in FAN:
        if len(_numbers(row, name)) != len(steps):
            raise StateError(f"{name} of a fan is not as long as its steps")


def _object(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    return _typed(dict, record, name)


def _list(record: Mapping[str, Any], name: str) -> list[Any]:
    return _typed(list, record, name)


def _text(record: Mapping[str, Any], name: str) -> str:
    return _typed(str, record, name)


def _whole(record: Mapping[str, Any], name: str) -> int:
    value = _typed(int, record, name)
    if type(value) is not int or abs(value) > _MAX_WHOLE:
        raise StateError(f"{name} is not a possible whole number: {value!r:.40}")
    return value


def _typed(kind: type[T], record: Mapping[str, Any], name: str) -> T:
    value = record.get(name)
    if not isinstance(value, kind):
        raise StateError(f"{name} is {value!r:.40}, not {kind.__name__}")
    return value


def _number(record: Mapping[str, Any], name: str) -> None:
    """Raise StateError unless there is a value, a finite number or None."""
    if name not in record:
        raise StateError(f"{name} is missing")
    value = record[name]
    # not math.isfinite, which raises for whole numbers too large for a float
    finite = type(value) in (int, float) and abs(value) <= sys.float_info.max
    if value is not None and not finite:
        raise StateError(f"{name} is not a number: {value!r:.40}")


def _numbers(record: Mapping[str, Any], name: str) -> list[Any]:
    values = _list(record, name)
    for value in values:
        _number({name: value}, name)
    return values


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")
