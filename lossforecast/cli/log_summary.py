"""A log in one line for people, and as plain values for programs."""

from typing import Any

from lossforecast.readers import Log
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["log_headline", "log_to_dict"]

_MAX_OTHERS = 4  # further loss columns that the headline names


def log_headline(log: Log, plan: LRSchedule) -> str:
    """The run, its format, and the columns that are used."""
    taken, total_steps = log.steps_taken, plan.total_steps
    given = "unknown" if Caveat.LR_UNKNOWN in plan.caveats else "as given"
    others = f"; other losses: {', '.join(log.others[:_MAX_OTHERS])}" if log.others else ""
    if (n_more := len(log.others) - _MAX_OTHERS) > 0:
        others += f" and {n_more} more"
    return (
        f"{log.name} ({log.format}): {log.history.n_observed:,} losses {log.column!r} "
        f"({log.metric}) up to step {taken:,} of {total_steps:,} ({min(taken / total_steps, 1):.0%}"
        f"), learning rate {log.rate_column or given}{others}"
    )


def log_to_dict(log: Log, total_steps: int) -> dict[str, Any]:
    """The same as plain values, with the notes of the reader."""
    return {
        "log": str(log.path),
        "format": log.format,
        "run": log.run,
        "runs": list(log.runs),
        "column": log.column,
        "metric": log.metric,
        "lr_column": log.rate_column,
        "losses": log.history.n_observed,
        "last_step": log.history.last_step,
        "total_steps": total_steps,
        "steps_per_epoch": log.steps_per_epoch,
        "notes": list(log.notes),
    }
