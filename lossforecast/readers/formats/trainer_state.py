"""The trainer_state.json of the Hugging Face Trainer, one in each checkpoint."""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lossforecast.errors import ConfigurationError
from lossforecast.readers.cells import number_in, step_in, value_in
from lossforecast.readers.epochs import steps_by_fractions
from lossforecast.readers.formats.json_document import load_json
from lossforecast.readers.source import FileStart, LogFormat, Points, Source, Wanted

__all__ = ["TrainerState"]

_NAME = "trainer_state.json"
_ROWS = "log_history"


class TrainerState(LogFormat):
    """One JSON object with a `log_history`; it is small, so it is loaded at once."""

    description = "the trainer_state.json of the Hugging Face Trainer"
    file_names = (_NAME,)

    def matches(self, start: FileStart) -> bool:
        """True if the file has the name of the state, or a `log_history` at its beginning."""
        json = start.text.lstrip().startswith(("{", "["))
        return json and (start.name == _NAME or f'"{_ROWS}"' in start.text)

    def open(self, path: Path, step_column: str | None) -> Source:
        """Load the file; its steps have a fixed name."""
        state = load_json(path)
        history = state.get(_ROWS) if isinstance(state, dict) else None
        if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
            raise ConfigurationError(
                f"{path} is JSON, but has no log_history, as the trainer_state.json of the Hugging "
                "Face Trainer has"
            )
        reader = partial(_points, history=history)
        source = Source(path, "Hugging Face trainer_state.json", reader, losses_are_means=True)
        total = state.get("max_steps")
        source.total_steps = total if isinstance(total, int) and total > 0 else None
        taken = state.get("global_step")
        source.steps_taken = taken if isinstance(taken, int) and taken >= 0 else 0
        source.steps_per_epoch = _steps_per_epoch(state)
        return source

    def find_in(self, folder: Path) -> Path | None:
        """The state in the folder, else that of its latest checkpoint."""
        checkpoints = sorted(
            folder.glob(f"checkpoint-*/{_NAME}"),
            key=lambda path: int("0" + re.sub(r"\D", "", path.parent.name)),
        )
        return super().find_in(folder) or (checkpoints[-1] if checkpoints else None)

    def find_below(self, folder: Path) -> list[str]:
        """An empty list, which the checkpoints of one run would fill otherwise."""
        return []


def _steps_per_epoch(state: Mapping[str, Any]) -> float | None:
    """The optimizer steps of an epoch; None for a dataset without a length.

    For such a dataset the Trainer plans endless epochs, and its epoch is the share of the run.
    """
    epochs, total = state.get("num_train_epochs"), state.get("max_steps")
    if isinstance(epochs, int) and isinstance(total, int) and epochs > total > 0:
        return None
    rows = ((number_in(row.get("step")), number_in(row.get("epoch"))) for row in state[_ROWS])
    known = ((step, epoch) for step, epoch in rows if step is not None and epoch is not None)
    return steps_by_fractions(known)


def _points(source: Source, wanted: Wanted, *, history: Iterable[Mapping[str, Any]]) -> Points:
    for number, row in enumerate(history, 1):
        where = f"{source.path}, row {number} of log_history"
        step = step_in(row.get("step"), where, "step")
        if step is None:
            continue
        for name, cell in row.items():
            if name in ("step", "epoch"):
                continue
            source.columns[name] = step
            value = value_in(cell, where, name) if wanted(name) else None
            if value is not None:
                yield name, step, value
