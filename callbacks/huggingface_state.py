"""What a checkpoint of the Hugging Face ``Trainer`` keeps of a callback, and where it is."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lossforecast.callbacks.recorder import StoreLike
from lossforecast.store import RunStore

__all__ = ["checkpoint", "kept", "told"]


def checkpoint(args: Any, state: Any) -> Path:
    """Where the Trainer puts the checkpoint of the present step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def told(store: StoreLike) -> str | None:
    """Where a store is, for a checkpoint; None where that would tell a password."""
    if store is None or isinstance(store, bool):
        return None
    place = store.url if isinstance(store, RunStore) else os.fspath(store)
    return None if urlsplit(place).password else place


def kept(state: Any, name: str, monitor: str | None) -> dict[str, Any] | None:
    """What a checkpoint that is resumed has of a callback.

    Args:
        state: of the Trainer.
        name: of the class of the callback.
        monitor: the metric that it monitors.
    """
    found = (state.stateful_callbacks or {}).get(name, [])
    for each in reversed(found if isinstance(found, list) else [found]):  # the latest of each
        if each.get("args", {}).get("monitor") == monitor:
            saved: dict[str, Any] | None = each.get("attributes", {}).get("_saved")
            return saved
    return None
