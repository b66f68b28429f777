"""Finds the state of a callback in a checkpoint of the Hugging Face ``Trainer``."""

from pathlib import Path
from typing import Any

from lossforecast.callbacks.pipeline import Place
from lossforecast.store import RunStore, full_address

__all__ = ["callback_index", "checkpoint_folder", "checkpoint_state", "store_address"]


def checkpoint_folder(args: Any, state: Any) -> Path:
    """Return the folder of the Trainer's checkpoint of the present step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def store_address(place: Place | None) -> str | None:
    """Return the address of a store for a checkpoint; None if it contains a password."""
    if place is None:
        return None
    return place.full_url if isinstance(place, RunStore) else full_address(place)


def callback_index(state: Any, name: str, monitor: str | None) -> int:
    """Return the index of a callback among those of the same class and monitor, in order of calls.

    The Trainer keeps the states of all callbacks of a class in one list without identifiers.

    Args:
        state: state of the Trainer.
        name: name of the callback's class.
        monitor: the metric it monitors.
    """
    asked = vars(state).setdefault("_lossforecast_asked", [])  # never saved
    asked.append((name, monitor))
    return int(asked.count((name, monitor))) - 1


def checkpoint_state(
    state: Any, name: str, monitor: str | None, index: int
) -> dict[str, Any] | None:
    """Return the state of a callback in the resumed checkpoint; None if there is none.

    Args:
        state: state of the Trainer.
        name: name of the callback's class.
        monitor: the metric it monitors.
        index: index of the callback, as `callback_index` returned it.
    """
    entries = (state.stateful_callbacks or {}).get(name, [])
    for entry in reversed(entries if isinstance(entries, list) else [entries]):  # latest first
        attributes = entry.get("attributes", {})
        same_index = attributes.get("_place", index) == index
        if same_index and entry.get("args", {}).get("monitor") == monitor:
            saved: dict[str, Any] | None = attributes.get("_saved")
            return saved
    return None
