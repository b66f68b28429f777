"""Recorded training curves in files: `load_curves` and what of a run they tell, `RecordedRun`.

A folder holds pairs ``NAME.npz`` and ``NAME.json``. The first has `step`, `lr` and `loss` of all
runs, one after the other, and `offsets` (n_runs + 1) that cut them apart; the second a list with
one object per run, in the same order. An object must have `run_id` and `what` ("train" or "val");
`total_steps` (else the last step), `optimizer`, `schedule`, `dataset`, `sweep`, `base_run`,
`completion` and whatever else may be missing.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.errors import ConfigurationError
from lossforecast.prior import Gap
from lossforecast.schedule import LRSchedule

__all__ = ["RecordedRun", "load_curves"]

_ARRAYS = ("step", "lr", "loss", "offsets")
_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
_LANGUAGE_MODELS = ("multipowerlaw", "lr-scheduling-convex", "modded-nanogpt")
_LEAST = 10  # finite observations a forecast is made from
_SEVERAL_PEAKS = ("lr-scheduling-convex",)
_REPEATS = ("modded-nanogpt",)  # sources where the runs of one `sweep` repeat one set-up


@dataclass(frozen=True)
class RecordedRun:
    """One recorded curve.

    Attributes:
        source: name of the files it came from.
        run_id: its name there.
        metric: "train" or "val".
        step: strictly increasing steps, shape (n,).
        lr: absolute learning rates, shape (n,).
        loss: shape (n,); may hold nan and inf.
        total_steps: length of the run as planned, in optimizer steps.
        optimizer: as recorded, if it was.
        metadata: all that was recorded of the run.
        gaps: what an annealing probe measured on the way.
    """

    source: str
    run_id: str
    metric: str
    step: NDArray[np.int64]
    lr: NDArray[np.float64]
    loss: NDArray[np.float64]
    total_steps: int
    optimizer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    gaps: tuple[Gap, ...] = field(default=(), repr=False)

    @property
    def plan(self) -> LRSchedule:
        """The whole planned schedule, as logged."""
        total = max(self.total_steps, int(self.step[-1]))
        return LRSchedule.from_points(self.step, self.lr, total_steps=total)

    def enough_seen(self, fraction: float) -> bool:
        """Whether a forecast can be made after a fraction of the run: from 10 finite losses."""
        seen = self.loss[self.step <= fraction * self.total_steps]
        return bool(np.isfinite(seen).sum() >= _LEAST)

    @property
    def schedule_type(self) -> str:
        """The kind of learning-rate schedule, "unknown" where it was not recorded."""
        schedule = self.metadata.get("schedule")
        kind = schedule.get("type") if isinstance(schedule, Mapping) else schedule
        return str(kind) if kind else "unknown"

    @property
    def fold(self) -> str:
        """What is left out together when something is learnt: the source, or AlgoPerf's task."""
        if self.source.startswith("algoperf") and self.metadata.get("dataset"):
            return str(self.metadata["dataset"])
        return self.source

    @property
    def peak_fold(self) -> str:
        """The fold, and the peak rate where a source trained one set-up at several."""
        if self.source not in _SEVERAL_PEAKS:
            return self.fold
        return f"{self.fold}, peak {self.lr.max(initial=0.0):.1g}"

    @property
    def cluster(self) -> str:
        """What runs are resampled with: a stable phase shared, a set-up repeated, one study."""
        study = re.match(r"(.*_study_\d+)_", self.run_id)
        if self.source.startswith("algoperf") and study:
            return f"{self.source}:{study[1]}"
        shared = self.metadata.get("base_run")
        if not shared and self.source in _REPEATS:
            shared = self.metadata.get("sweep")
        # a stable phase that was logged itself belongs to its family by its path
        return f"{self.source}:{shared or self.metadata.get('path') or self.run_id}"

    @property
    def sweep(self) -> str | None:
        """Which runs people would choose the best of; None where repeats or nothing is recorded."""
        if shared := self.metadata.get("sweep_all_optimizers"):
            return str(shared)
        if self.source in _SEVERAL_PEAKS:
            return f"{self.source}, {self.total_steps} steps"
        shared = self.metadata.get("sweep")
        return None if self.source in _REPEATS or not shared else f"{self.source}, {shared}"

    @property
    def group(self) -> str:
        """What scores are reported for together; of unknown sources, the source."""
        if self.source in _LANGUAGE_MODELS:
            return f"language models {self.metric}"
        if self.source.startswith("algoperf"):
            return f"AlgoPerf {self.metric}"
        return f"{self.source} {self.metric}"

    @property
    def completed(self) -> bool:
        """Whether the run is not known to have stopped early."""
        completion = self.metadata.get("completion")
        return completion is None or str(completion).startswith("reached")


def load_curves(folder: str | Path) -> list[RecordedRun]:
    """Every run of a folder, by name of file and then as stored.

    Raises:
        ConfigurationError: the folder is missing or has no curves, or a file is damaged; the
            message names the file and what is wrong with it.
    """
    home = Path(folder)
    if not home.is_dir():
        raise ConfigurationError(f"{home} is no folder; give one with NAME.npz and NAME.json files")
    files = sorted(home.glob("*.npz"))
    if not files:
        raise ConfigurationError(f"{home} has no curves: no file there is named NAME.npz")
    return [run for file in files for run in _load(file)]


def _load(file: Path) -> list[RecordedRun]:
    described = file.with_suffix(".json")
    entries, arrays = _entries(described), _arrays(file)
    offsets = arrays["offsets"]
    if offsets.size != len(entries) + 1:
        raise ConfigurationError(
            f"{file} has {offsets.size - 1} runs by its offsets, {described.name} has "
            f"{len(entries)}: one of them is out of date"
        )
    size = arrays["step"].size
    ordered = offsets[0] >= 0 and offsets[-1] <= size and (np.diff(offsets) >= 0).all()
    if not ordered or any(arrays[name].size != size for name in ("lr", "loss")):
        raise ConfigurationError(
            f"{file} is damaged: step, lr and loss must have one length and offsets must increase "
            "up to it"
        )
    bounds = zip(entries, offsets[:-1], offsets[1:], strict=True)
    return [
        _run(file, described, entry, *(arrays[name][a:b] for name in _ARRAYS[:3]))
        for entry, a, b in bounds
    ]


def _entries(file: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{file} is missing: it describes the runs of the .npz") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ConfigurationError(f"{file} must hold a list with one object per run")
    return found


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with file.open("rb") as raw, np.load(raw, allow_pickle=False) as stored:
            missing = [name for name in _ARRAYS if name not in stored]
            arrays = {name: stored[name] for name in _ARRAYS if name in stored}
    except (*_UNREADABLE, TypeError) as error:  # TypeError: a single array
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
    if missing:
        raise ConfigurationError(f"{file} has no {', '.join(missing)}")
    for name, array in arrays.items():
        kinds = "iu" if name in ("step", "offsets") else "iuf"
        if array.ndim != 1 or array.dtype.kind not in kinds:
            raise ConfigurationError(
                f"{file}: {name} has dtype {array.dtype} and shape {array.shape}; it must be one "
                f"row of {'whole numbers' if kinds == 'iu' else 'numbers'}"
            )
    if arrays["offsets"].size == 0:
        raise ConfigurationError(f"{file}: offsets is empty; it must have n_runs + 1 entries")
    return arrays


def _run(
    file: Path,
    described: Path,
    entry: dict[str, Any],
    step: NDArray[Any],
    lr: NDArray[Any],
    loss: NDArray[Any],
) -> RecordedRun:
    run_id = entry.get("run_id")
    metric = entry.get("what", entry.get("metric"))
    if not isinstance(run_id, str) or not run_id:
        raise ConfigurationError(f"{described}: a run has no run_id ({entry!r:.80})")
    if metric not in ("train", "val"):
        raise ConfigurationError(
            f"{described}: `metric` (or `what`) of {run_id} is {metric!r}; "
            'it must be "train" or "val"'
        )
    total = entry.get("total_steps")
    if total is None and step.size:
        total = int(step[-1])
    if not isinstance(total, int) or isinstance(total, bool) or total < 1:
        raise ConfigurationError(
            f"{described}: total_steps of {run_id} is {total!r}; it must be a whole number above 0"
        )
    steps, lrs = step.astype(np.int64), lr.astype(np.float64)
    if steps.size and (steps[0] < 0 or (np.diff(steps) <= 0).any()):
        raise ConfigurationError(
            f"{file}: the steps of {run_id} must be 0 or more and strictly increasing"
        )
    if not (np.isfinite(lrs) & (lrs >= 0)).all():
        raise ConfigurationError(
            f"{file}: a learning rate of {run_id} is negative or not finite; put the planned one"
        )
    optimizer = entry.get("optimizer")
    return RecordedRun(
        source=file.stem,
        run_id=run_id,
        metric=metric,
        step=steps,
        lr=lrs,
        loss=loss.astype(np.float64),
        total_steps=total,
        optimizer=None if optimizer is None else str(optimizer),
        metadata=entry,
    )
