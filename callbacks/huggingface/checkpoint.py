"""What a checkpoint of the Hugging Face ``Trainer`` keeps of a callback, and where it is."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lossforecast.callbacks.pipeline import StoreLike
from lossforecast.store import RunStore

__all__ = ["checkpoint", "kept", "place", "told"]


def checkpoint(args: Any, state: Any) -> Path:
    """Where the Trainer puts the checkpoint of the present step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def told(store: StoreLike) -> str | None:
    """Where a store is, for a checkpoint; None where that would tell a password."""
    if store is None or isinstance(store, bool):
        return None
    place = store.url if isinstance(store, RunStore) else os.fspath(store)
    return None if urlsplit(place).password else place


def place(state: Any, name: str, monitor: str | None) -> int:
    """How many callbacks of this class and monitor were asked for their place before, in a run.

    Callbacks of one class have their states in one list, without anything to tell them apart.
    """
    asked = vars(state).setdefault("_lossforecast_asked", [])  # saved with nothing
    asked.append((name, monitor))
    return int(asked.count((name, monitor))) - 1


def kept(state: Any, name: str, monitor: str | None, place: int) -> dict[str, Any] | None:
    """What a checkpoint that is resumed has of a callback.

    Args:
        state: of the Trainer.
        name: of the class of the callback.
        monitor: the metric that it monitors.
        place: its place among the callbacks of that class and monitor.
    """
    found = (state.stateful_callbacks or {}).get(name, [])
    for each in reversed(found if isinstance(found, list) else [found]):  # the latest of each
        attributes = each.get("attributes", {})
        mine = attributes.get("_place", place) == place
        if mine and each.get("args", {}).get("monitor") == monitor:
            saved: dict[str, Any] | None = attributes.get("_saved")
            return saved
    return None
