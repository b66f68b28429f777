"""What one summary of the panel holds: a run as it is now, and every forecast there was of it.

TensorBoard keeps few of the tensors of a tag, but always the latest: so each is whole. It is JSON,
compressed; `write` makes it and `read` checks it, as anybody may have written what is in a log.
"""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any, TypeVar

from lossforecast.callbacks.monitor import FAN, Update, fan, short
from lossforecast.errors import StateError
from lossforecast.forecast import QUANTILE_LEVELS

__all__ = ["PLUGIN", "TAG", "read", "write"]

PLUGIN = "lossforecast"
TAG = "forecast/panel"
_VERSION = 1
T = TypeVar("T")

_STOPS = 33  # steps of the fan
_LARGEST = 1 << 24  # bytes of a summary, unpacked


def write(update: Update) -> bytes:
    """The summary of a run at a forecast."""
    forecast, advice = update.forecast, update.recommendation
    chance = None if update.target is None else short(forecast.prob_below(update.target))
    known = {
        "version": _VERSION,
        "step": update.step,
        "total_steps": forecast.schedule.total_steps,
        "target": update.target,
        "forecast": {
            **forecast.to_dict(),
            "levels": [short(x) for x in forecast.at_levels],
            "parameters": forecast.parameters,
            "prob_target": chance,
        },
        "fan": fan(forecast, _STOPS),
        "decision": advice.to_dict(),
        "trail": update.trail,
        "state": update.forecaster.state_dict(),
    }
    return zlib.compress(json.dumps(known, separators=(",", ":")).encode(), level=3)


def read(packed: bytes) -> dict[str, Any]:
    """The record that `write` made.

    Raises:
        StateError: it is none, is damaged or comes from a newer release.
    """
    try:
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(packed, _LARGEST)
        if not unpacking.eof:
            raise StateError("it is cut off, or larger than any forecast is")
        record = json.loads(text, parse_constant=_refused)
    except (zlib.error, ValueError, RecursionError) as error:
        raise StateError(f"it is no forecast: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("version"), int):
        raise StateError("it is no forecast")
    if record["version"] > _VERSION:
        raise StateError(
            f"it has version {record['version']}, this release reads up to {_VERSION}: update "
            "lossforecast where TensorBoard runs"
        )
    _check(record)
    return record


def _check(record: Mapping[str, Any]) -> None:
    """Whether everything that is read later is there, and is what it should be."""
    step, total = (_whole(record, name) for name in ("step", "total_steps"))
    if not step >= 0 or total < 1:
        raise StateError(f"step {step} of {total} makes no sense")
    _number(record, "target")
    forecast = _object(record, "forecast")
    for name in ("mean", "std", "lower80", "upper80", "lower95", "upper95", "prob_target"):
        _number(forecast, name)
    for name in ("gain_mean", "gain_std"):
        _number(forecast, name)
    for name in ("status", "gain_source"):
        _word(forecast, name)
    if len(_numbers(forecast, "levels")) != len(QUANTILE_LEVELS):
        raise StateError(f"levels are not {len(QUANTILE_LEVELS)} numbers")
    if not all(isinstance(each, str) for each in _list(forecast, "caveats")):
        raise StateError("caveats are no words")
    for law, values in _object(forecast, "parameters").items():
        for name in values if isinstance(values, dict) else (law,):
            _number(values if isinstance(values, dict) else {}, name)
    _fan(_object(record, "fan"))
    for name in ("action", "reason", "message"):
        _word(_object(record, "decision"), name)
    before = -1
    for row in _list(record, "trail"):
        if not isinstance(row, dict):
            raise StateError("the trail is none")
        if _whole(row, "step") <= before:
            raise StateError("the trail is not in the order of steps")
        before = row["step"]
        _fan(row)
        for name in ("status", "action", "reason"):
            _word(row, name)
        for name in ("message", "done"):
            if name in row:
                _word(row, name)
        mean, std, source = (*_list(row, "gain"), None, None, None)[:3]
        _number({"gain": mean}, "gain")
        _number({"gain": std}, "gain")
        _word({"gain": source}, "gain")
    _object(record, "state")


def _fan(found: Mapping[str, Any]) -> None:
    steps = _list(found, "steps")
    if not steps or not all(type(x) is int and x >= 0 for x in steps):
        raise StateError("the steps of a fan are no whole numbers")
    for name in FAN:
        if len(_numbers(found, name)) != len(steps):
            raise StateError(f"{name} of a fan is not as long as its steps")


def _object(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    return _of(dict, record, name)


def _list(record: Mapping[str, Any], name: str) -> list[Any]:
    return _of(list, record, name)


def _word(record: Mapping[str, Any], name: str) -> str:
    return _of(str, record, name)


def _whole(record: Mapping[str, Any], name: str) -> int:
    found = _of(int, record, name)
    if type(found) is not int or abs(found) > 2**53:
        raise StateError(f"{name} is no whole number that makes sense: {found!r:.40}")
    return found


def _of(kind: type[T], record: Mapping[str, Any], name: str) -> T:
    found = record.get(name)
    if not isinstance(found, kind):
        raise StateError(f"{name} is {found!r:.40}, not {kind.__name__}")
    return found


def _number(record: Mapping[str, Any], name: str) -> None:
    """A finite number, or None where it is not known."""
    found = record.get(name)
    if found is not None and (type(found) not in (int, float) or not math.isfinite(found)):
        raise StateError(f"{name} is no number: {found!r:.40}")


def _numbers(record: Mapping[str, Any], name: str) -> list[Any]:
    found = _list(record, name)
    for each in found:
        _number({name: each}, name)
    return found


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number")
