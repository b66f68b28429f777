"""`StoredRun` and the rows of the tables of a store."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from lossforecast.policies import Recommendation
from lossforecast.runs import History, RunInfo
from lossforecast.schedule import LRSchedule
from lossforecast.store.database import NUMBERS, WORDS

__all__ = [
    "STATES",
    "StoredRun",
    "as_json",
    "curve_of",
    "decision_row",
    "distinct",
    "storable",
]

STATES = ("running", "finished", "stopped", "failed")


@dataclass(frozen=True)
class StoredRun:
    """The record of a run in a store, without its losses.

    Attributes:
        key: its identity, 32 hexadecimal digits.
        name: its name for people.
        run: its description.
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
        return cls(
            key=row["key"],
            name=row["name"],
            run=RunInfo(**info),
            schedule=LRSchedule.from_dict(json.loads(row["schedule"])),
            state=row["state"],
            step=row["step"],
            outcome=math.nan if row["outcome"] is None else row["outcome"],
            excluded=row["excluded"],
            started=datetime.fromisoformat(row["started"]),
            updated=datetime.fromisoformat(row["updated"]),
        )


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
        "message": advice.message,
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
