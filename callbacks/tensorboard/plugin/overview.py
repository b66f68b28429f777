"""The data of the page: a row of the table for each run, and the details of one run."""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from lossforecast.advice import SHAPES
from lossforecast.callbacks.monitor import short
from lossforecast.callbacks.tensorboard.plugin.hindsight import (
    broken_at,
    coverage_counts,
    outcome,
    was_stopped,
)
from lossforecast.callbacks.tensorboard.plugin.reach import steps_below
from lossforecast.callbacks.tensorboard.plugin.what_if import schedule_points
from lossforecast.errors import ScheduleError, StateError
from lossforecast.policies import Outlook, prob_among_best
from lossforecast.runs import History, RunInfo, effective_schedule
from lossforecast.schedule import LRSchedule
from lossforecast.status import Status

__all__ = ["MAX_ROWS", "overview", "ranked", "shown"]

MAX_ROWS = 16_384
"""Number of rows of the table that are kept between two requests, 3 KB each."""

_FORECAST_FIELDS = (
    "median",
    "lower80",
    "upper80",
    "lower95",
    "upper95",
    "status",
    "prob_target",
    "levels",
)
_RUN_FIELDS = (
    "metric",
    "monitor",
    "kind",
    "project",
    "model",
    "optimizer",
    "task",
    "dataset",
    "n_params",
)


def overview(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a run in the table: its progress, its forecast and the advice.

    Raises:
        StateError: the losses of the record are damaged.
    """
    history, info = _history(record), _info(record)
    row = {
        "step": record["step"],
        "total_steps": record["total_steps"],
        "target": record["target"],
        **{name: record["forecast"].get(name) for name in _FORECAST_FIELDS},
        "action": record["decision"]["action"],
        **_end(record, history),
        "metric": info.metric,
        "loss": info.loss_word,
        "optimizer": info.optimizer,
    }
    _outlook(row)  # raises here, not where all rows are ranked
    return _finite(row)


def ranked(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows from best to worst, each with the probability of ending best.

    Only runs with the same loss are compared, and broken runs come last. The probability is None
    without another run to compare with.
    """
    ranking = [dict(row) for row in rows]
    losses = [(row["metric"], row["loss"]) for row in ranking]
    for loss in dict.fromkeys(losses):
        comparable = [
            row
            for row, loss_of_row in zip(ranking, losses, strict=True)
            if loss_of_row == loss and row["broke"] is None
        ]
        if len(comparable) > 1:
            probabilities = prob_among_best([_outlook(row) for row in comparable])
            for row, probability in zip(comparable, probabilities, strict=True):
                row["prob_best"] = short(float(probability))
    for row in ranking:
        row.setdefault("prob_best", None)
        del row["levels"]
    return sorted(ranking, key=_sort_key)


def shown(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details of a run that the page draws.

    Raises:
        StateError: the losses or the schedule of the record are damaged.
    """
    history, info = _history(record), _info(record)
    bins = history.bins()
    finite = np.isfinite(bins.mean)
    try:
        plan = LRSchedule.from_dict(record["state"]["schedule"])
        used = effective_schedule(plan, history)
    except (ScheduleError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"its schedule is damaged: {error}") from error
    copied = ("step", "total_steps", "target", "forecast", "fan", "decision", "trail")
    details = {
        **{name: record[name] for name in copied},
        "run_info": {name: getattr(info, name) for name in _RUN_FIELDS},
        "losses": {
            "steps": [short(x) for x in bins.step[finite].tolist()],
            "mean": [short(x) for x in bins.mean[finite].tolist()],
        },
        "non_finite": history.n_non_finite,
        "last_step": history.last_step,
        "n_losses": history.n_observed,
        "n_past_runs": _n_past_runs(record),
        "below_target": steps_below(record["fan"], record["target"]),
        "events": [{"step": step, "name": name} for step, name in history.events],
        "schedule": schedule_points(used),
        "peak": plan.peak,
        "shapes": SHAPES,
        **_end(record, history),
        "fared": coverage_counts(record["trail"], history, record["step"], record["total_steps"]),
    }
    return _finite(details)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values, or raise StateError where JSON, which has no nan, cannot hold them."""
    try:
        json.dumps(values, allow_nan=False)
    except ValueError as error:
        raise StateError(f"its numbers are not finite: {error}") from error
    return values


def _end(record: Mapping[str, Any], history: History) -> dict[str, Any]:
    """Return how a run has ended, if it has."""
    now = record["step"], record["total_steps"]
    return {
        "over": record["step"] >= record["total_steps"],
        "outcome": outcome(history, *now),
        "broke": broken_at(history, *now),
        "stopped": was_stopped(record["trail"]),
    }


def _history(record: Mapping[str, Any]) -> History:
    saved = record["state"].get("history")
    if not isinstance(saved, Mapping):
        raise StateError("it contains no losses")
    return History.from_state_dict(saved)


def _info(record: Mapping[str, Any]) -> RunInfo:
    try:
        return RunInfo(**record["state"]["run"])
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"its description of the run is damaged: {error}") from error


def _n_past_runs(record: Mapping[str, Any]) -> int:
    """Number of finished runs of the store that the forecast starts from."""
    prior = record["state"].get("prior")
    past = prior.get("past") if isinstance(prior, Mapping) else None
    return len(past) if isinstance(past, list) else 0


def _outlook(row: Mapping[str, Any]) -> Outlook:
    if row["outcome"] is not None:
        return Outlook.ended(row["outcome"], row["optimizer"] or "")
    described = row["status"] != Status.MISFIT
    return _outlook_of(tuple(row["levels"]), row["optimizer"] or "", described)


@lru_cache(maxsize=MAX_ROWS)
def _outlook_of(levels: tuple[float | None, ...], kind: str, described: bool) -> Outlook:
    known = [np.nan if x is None else x for x in levels]
    rising = np.maximum.accumulate(known)  # rounding to six digits may have changed their order
    return Outlook(tuple(rising.tolist()), kind, described)


def _sort_key(row: Mapping[str, Any]) -> tuple[str, bool, bool, float]:
    final = row["median"] if row["outcome"] is None else row["outcome"]
    broken = row["broke"] is not None
    loss = f"{row['metric']} {row['loss']}"
    return loss, broken, final is None, 0.0 if final is None else final
