"""`StoredRun` and the rows of the tables of a store."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Self

from lossforecast.checks import number, whole
from lossforecast.errors import StoreError
from lossforecast.policies import Recommendation
from lossforecast.runs import History, RunInfo
from lossforecast.schedule import LRSchedule
from lossforecast.store.schema import NUMBERS, WORDS

__all__ = [
    "STATES",
    "StoredRun",
    "as_json",
    "check_decision",
    "check_forecast",
    "curve_of",
    "decision_row",
    "distinct",
    "storable",
]

STATES = ("running", "finished", "stopped", "failed")
_YEARS = range(1970, 9999)  # of a start or update, in every time zone


@dataclass(frozen=True)
class StoredRun:
    """The record of a run in a store, without its losses.

    Attributes:
        key: its identity, 32 hexadecimal digits.
        name: its name for people.
        run: its description; runs of earlier versions have no `steps_per_epoch`.
        schedule: the learning rate of every step, past and planned.
        state: "running", "finished" (to its planned end), "stopped" (before it) or "failed".
        step: last observed step, -1 before the first.
        outcome: the loss that it ended with; nan while the run goes on, if it stopped before its
            planned end, or if the outcome is unknown.
        excluded: whether it is excluded from the priors of new runs.
        started: time of the start, in UTC.
        updated: time of the last update, in UTC.
    """

    key: str
    name: str
    run: RunInfo
    schedule: LRSchedule = field(repr=False)
    state: str
    step: int
    outcome: float
    excluded: bool
    started: datetime
    updated: datetime

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """The run in a row.

        Raises:
            ValueError, TypeError: the row is damaged.
        """
        info = {name: row[name] for name in ("metric", *WORDS, *NUMBERS)}
        if row["state"] not in STATES:
            raise ValueError(f"its state is {row['state']!r:.40}")
        if row["excluded"] not in (False, True):
            raise ValueError(f"excluded is {row['excluded']!r:.40}")
        return cls(
            key=_text("key", row["key"]),
            name=_text("name", row["name"]),
            run=RunInfo(**info),
            schedule=_schedule(row["schedule"]),
            state=row["state"],
            step=whole("step", row["step"], StoreError, least=-1),
            outcome=_outcome(row["outcome"]),
            excluded=bool(row["excluded"]),
            started=_time("started", row["started"]),
            updated=_time("updated", row["updated"]),
        )


def check_forecast(row: Mapping[str, Any]) -> None:
    """Check the row of a forecast.

    Raises:
        ValueError, TypeError: the row is damaged.
    """
    for name, value in row.items():
        if name in ("made_at", "step"):
            whole(name, value, StoreError, least=0)
        elif name in ("status", "gain_source"):
            _text(name, value)
        elif value is not None:
            number(name, value, StoreError)


def check_decision(row: Mapping[str, Any]) -> None:
    """Check the row of a recommendation or action.

    Raises:
        ValueError, TypeError: the row is damaged.
    """
    for name, value in row.items():
        if name == "step":
            whole(name, value, StoreError, least=0)
        else:
            _text(name, value)


@lru_cache(maxsize=64)  # many runs of a project have the same one
def _schedule(text: str) -> LRSchedule:
    return LRSchedule.from_dict(json.loads(text))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r:.40}, not text")
    return value


def _outcome(value: Any) -> float:
    outcome = math.nan if value is None else number("outcome", value, StoreError)
    if math.isinf(outcome):
        raise ValueError("outcome is infinite")
    return outcome


def _time(name: str, value: Any) -> datetime:
    time = datetime.fromisoformat(_text(name, value))
    if time.tzinfo is None or time.year not in _YEARS:
        raise ValueError(f"{name} is {value!r:.40}, not a time in UTC")
    return time.astimezone(UTC)


def storable(text: str) -> str:
    """Text without characters that databases reject: lone surrogates (from file names) and nul."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def decision_row(key: str, step: int, advice: Recommendation) -> dict[str, Any]:
    """The row of a recommendation or action."""
    return {
        "run": key,
        "step": step,
        "action": str(advice.action),
        "reason": str(advice.reason),
        "message": storable(advice.message),
    }


def distinct(rows: Sequence[dict[str, Any]], at: str) -> list[dict[str, Any]]:
    """The rows without those that a later row of the same step replaces; `at` names the step."""
    return list({row[at]: row for row in rows}.values())


def curve_of(text: str | None) -> History:
    """The history saved in a row; empty if none has been saved."""
    return History() if text is None else History.from_state_dict(json.loads(text))


def as_json(value: Any) -> str:
    """Plain values as compact JSON."""
    return json.dumps(value, separators=(",", ":"))
