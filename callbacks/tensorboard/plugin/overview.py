"""What the page shows of the records: a row of the table for each run, and all of one."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lossforecast.advice import SHAPES
from lossforecast.callbacks.monitor import short
from lossforecast.callbacks.tensorboard.plugin.hindsight import broke, fared, outcome, stopped
from lossforecast.callbacks.tensorboard.plugin.what_if import drawn
from lossforecast.errors import ScheduleError, StateError
from lossforecast.policies import Outlook, prob_among_best
from lossforecast.runs import History, RunInfo, as_used
from lossforecast.schedule import LRSchedule
from lossforecast.status import Status

__all__ = ["overview", "ranked", "shown"]

_TOLD = ("mean", "lower80", "upper80", "lower95", "upper95", "status", "prob_target", "levels")
_OF_RUN = ("metric", "monitor", "project", "model", "optimizer", "task", "dataset", "n_params")


def overview(record: Mapping[str, Any]) -> dict[str, Any]:
    """A run in few words.

    Raises:
        StateError: its losses are damaged.
    """
    history, info = _history(record), _info(record)
    return {
        "step": record["step"],
        "total_steps": record["total_steps"],
        "target": record["target"],
        **{name: record["forecast"].get(name) for name in _TOLD},
        "action": record["decision"]["action"],
        **_end(record, history),
        "metric": info.metric,
        "loss": info.loss_word,
        "optimizer": info.optimizer,
    }


def ranked(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows from the best on, each with the probability of being it.

    Runs of different losses are not compared, and those that broke come last. Where there is
    nothing to compare with the probability is None.
    """
    found = [dict(row) for row in rows]
    kinds = [(row["metric"], row["loss"]) for row in found]
    for kind in dict.fromkeys(kinds):
        alike = [
            row
            for row, its in zip(found, kinds, strict=True)
            if its == kind and row["broke"] is None
        ]
        if len(alike) > 1:
            for row, chance in zip(
                alike, prob_among_best([_outlook(row) for row in alike]), strict=True
            ):
                row["prob_best"] = short(float(chance))
    for row in found:
        row.setdefault("prob_best", None)
        del row["levels"]
    return sorted(found, key=_place)


def shown(record: Mapping[str, Any]) -> dict[str, Any]:
    """All of a run that is drawn.

    Raises:
        StateError: its losses or its schedule are damaged.
    """
    history, info = _history(record), _info(record)
    bins = history.bins()
    sound = np.isfinite(bins.mean)
    try:
        plan = LRSchedule.from_dict(record["state"]["schedule"])
        used = as_used(plan, history)
    except (ScheduleError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"its schedule is damaged: {error}") from error
    told = ("step", "total_steps", "target", "forecast", "fan", "decision", "trail")
    return {
        **{name: record[name] for name in told},
        "run_info": {name: getattr(info, name) for name in _OF_RUN},
        "losses": {
            "steps": [short(x) for x in bins.step[sound].tolist()],
            "mean": [short(x) for x in bins.mean[sound].tolist()],
        },
        "non_finite": history.n_non_finite,
        "last_step": history.last_step,
        "schedule": drawn(used),
        "peak": plan.peak,
        "shapes": SHAPES,
        **_end(record, history),
        "fared": fared(record["trail"], history, record["step"], record["total_steps"]),
    }


def _end(record: Mapping[str, Any], history: History) -> dict[str, Any]:
    """Whether and how a run has ended."""
    now = record["step"], record["total_steps"]
    return {
        "over": record["step"] >= record["total_steps"],
        "outcome": outcome(history, *now),
        "broke": broke(history, *now),
        "stopped": stopped(record["trail"]),
    }


def _history(record: Mapping[str, Any]) -> History:
    saved = record["state"].get("history")
    if not isinstance(saved, Mapping):
        raise StateError("it has no losses")
    return History.from_state_dict(saved)


def _info(record: Mapping[str, Any]) -> RunInfo:
    try:
        return RunInfo(**record["state"]["run"])
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"what it says of the run is damaged: {error}") from error


def _outlook(row: Mapping[str, Any]) -> Outlook:
    if row["outcome"] is not None:
        return Outlook.ended(row["outcome"], row["optimizer"] or "")
    levels = [np.nan if x is None else x for x in row["levels"]]
    rising = np.maximum.accumulate(levels)  # six digits of each may not be
    described = row["status"] != Status.MISFIT
    return Outlook(tuple(rising.tolist()), row["optimizer"] or "", described)


def _place(row: Mapping[str, Any]) -> tuple[str, bool, bool, float]:
    ends = row["mean"] if row["outcome"] is None else row["outcome"]
    broken = row["broke"] is not None
    kind = f"{row['metric']} {row['loss']}"
    return kind, broken, ends is None, 0.0 if ends is None else ends
