"""Recorded training curves in files: `load_curves`, and one of them, `RecordedRun`.

A folder holds pairs ``NAME.npz`` and ``NAME.json``. The first has `step`, `lr` and `loss` of all
runs, one after the other, and `offsets` (n_runs + 1) that separate them; the second is a list with
one object per run, in the same order. Each object needs `run_id` and `metric` ("train" or "val";
also read from `what`). These keys are optional:

* `total_steps`: planned length, default the last step; `optimizer`; `schedule`, its type or an
  object with `type`; `completion`, which begins with "reached" if the run was not stopped early;
* `fold`: runs that are left out together when something is learned, default the source NAME;
* `cluster`: runs that are not independent of each other, default the run alone;
* `sweep_of`: the sweep that the run belongs to, default none;
* `kind`: a word for runs whose scores are reported together, default the source NAME;
* `n_params`: number of parameters of the model; `batch_tokens`: tokens per optimizer step;
* `val_set`: the data that the loss is evaluated on, where there are several;
* `steps_per_epoch`: optimizer steps in one pass over the data; null if no data is seen twice;
* `language_model`: "causal" or "masked" if a language model of any size is trained.
"""

import json
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
from lossforecast.runs import RunKind
from lossforecast.schedule import LRSchedule

__all__ = ["RecordedRun", "load_curves"]

_ARRAYS = ("step", "lr", "loss", "offsets")
_READ_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
_MIN_FINITE_LOSSES = 10  # before a run is forecast


@dataclass(frozen=True)
class RecordedRun:
    """One recorded curve.

    Attributes:
        source: name of the files that hold it.
        run_id: its name in these files.
        metric: "train" or "val".
        step: strictly increasing optimizer steps, shape (n,).
        lr: absolute learning rates, shape (n,).
        loss: losses, shape (n,); may contain nan and inf.
        total_steps: planned length of the run, in optimizer steps.
        optimizer: the recorded name, if there is one.
        metadata: everything recorded about the run.
        gaps: measurements of an annealing probe during the run.
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
        """The whole planned schedule, through the logged learning rates."""
        total = max(self.total_steps, int(self.step[-1]))
        return LRSchedule.from_points(self.step, self.lr, total_steps=total)

    def enough_seen(self, fraction: float) -> bool:
        """Return whether the first `fraction` of the run has at least 10 finite losses."""
        seen = self.loss[self.step <= fraction * self.total_steps]
        return bool(np.isfinite(seen).sum() >= _MIN_FINITE_LOSSES)

    @property
    def schedule_type(self) -> str:
        """The type of learning-rate schedule, "unknown" if it was not recorded."""
        schedule = self.metadata.get("schedule")
        kind = schedule.get("type") if isinstance(schedule, Mapping) else schedule
        return str(kind) if kind else "unknown"

    @property
    def fold(self) -> str:
        """Runs of one fold are left out together when something is learned."""
        return str(self.metadata.get("fold") or self.source)

    @property
    def peak_fold(self) -> str:
        """The fold, split by peak learning rate where the run belongs to a sweep."""
        if self.sweep is None:
            return self.fold
        return f"{self.fold}, peak {self.lr.max(initial=0.0):.1g}"

    @property
    def cluster(self) -> str:
        """Runs of one cluster are not independent; resampling draws whole clusters."""
        return str(self.metadata.get("cluster") or f"{self.source}:{self.run_id}")

    @property
    def sweep(self) -> str | None:
        """The sweep from which one would choose the best run; None if the run is in no sweep."""
        sweep = self.metadata.get("sweep_of")
        return str(sweep) if sweep else None

    @property
    def group(self) -> str:
        """Scores are reported by group: the kind of run (else its source) and the metric."""
        return f"{self.metadata.get('kind') or self.source} {self.metric}"

    @property
    def kind(self) -> RunKind:
        """The recorded kind of run; OTHER unless a member of `RunKind` was recorded."""
        recorded = str(self.metadata.get("kind"))
        return RunKind(recorded) if recorded in set(RunKind) else RunKind.OTHER

    @property
    def family(self) -> tuple[RunKind, str, str]:
        """Kind, fold and metric: runs of one family count once among others."""
        return self.kind, self.fold, self.metric

    @property
    def completed(self) -> bool:
        """False if the run is recorded as stopped early."""
        completion = self.metadata.get("completion")
        return completion is None or str(completion).startswith("reached")


def load_curves(folder: str | Path) -> list[RecordedRun]:
    """Read all runs of a folder, sorted by file name, in the order stored.

    Raises:
        ConfigurationError: the folder is missing or has no curves, or a file is damaged; the
            message names the file and the damage.
    """
    home = Path(folder)
    if not home.is_dir():
        raise ConfigurationError(
            f"{home} is not a folder; give one with NAME.npz and NAME.json files"
        )
    files = sorted(home.glob("*.npz"))
    if not files:
        raise ConfigurationError(f"{home} has no curves: no file there is named NAME.npz")
    return [run for file in files for run in _load_pair(file)]


def _load_pair(file: Path) -> list[RecordedRun]:
    description = file.with_suffix(".json")
    entries, arrays = _read_entries(description), _read_arrays(file)
    offsets = arrays["offsets"]
    if offsets.size != len(entries) + 1:
        raise ConfigurationError(
            f"{file} has {offsets.size - 1} runs by its offsets, {description.name} has "
            f"{len(entries)}: one of the two files is out of date"
        )
    size = arrays["step"].size
    ordered = offsets[0] >= 0 and offsets[-1] <= size and (np.diff(offsets) >= 0).all()
    if not ordered or any(arrays[name].size != size for name in ("lr", "loss")):
        raise ConfigurationError(
            f"{file} is damaged: step, lr and loss must have the same length, and offsets must "
            "increase up to it"
        )
    bounds = zip(entries, offsets[:-1], offsets[1:], strict=True)
    return [
        _recorded_run(
            file,
            description,
            entry,
            step=arrays["step"][a:b],
            lr=arrays["lr"][a:b],
            loss=arrays["loss"][a:b],
        )
        for entry, a, b in bounds
    ]


def _read_entries(file: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{file} is missing: it describes the runs of the .npz") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigurationError(f"{file} must hold a list with one object per run")
    return entries


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with file.open("rb") as raw, np.load(raw, allow_pickle=False) as stored:
            missing = [name for name in _ARRAYS if name not in stored]
            arrays = {name: stored[name] for name in _ARRAYS if name in stored}
    except (*_READ_ERRORS, TypeError) as error:  # TypeError: a single array
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


def _recorded_run(
    file: Path,
    description: Path,
    entry: dict[str, Any],
    *,
    step: NDArray[Any],
    lr: NDArray[Any],
    loss: NDArray[Any],
) -> RecordedRun:
    run_id = entry.get("run_id")
    metric = entry.get("what", entry.get("metric"))
    if not isinstance(run_id, str) or not run_id:
        raise ConfigurationError(f"{description}: a run has no run_id ({entry!r:.80})")
    if metric not in ("train", "val"):
        raise ConfigurationError(
            f"{description}: `metric` (or `what`) of {run_id} is {metric!r}; "
            'it must be "train" or "val"'
        )
    total = entry.get("total_steps")
    if total is None and step.size:
        total = int(step[-1])
    if not isinstance(total, int) or isinstance(total, bool) or total < 1:
        raise ConfigurationError(
            f"{description}: total_steps of {run_id} is {total!r}; "
            "it must be a whole number above 0"
        )
    steps, lrs = step.astype(np.int64), lr.astype(np.float64)
    if steps.size and (steps[0] < 0 or (np.diff(steps) <= 0).any()):
        raise ConfigurationError(
            f"{file}: the steps of {run_id} must be 0 or more and strictly increasing"
        )
    if not (np.isfinite(lrs) & (lrs >= 0)).all():
        raise ConfigurationError(
            f"{file}: a learning rate of {run_id} is negative or not finite; use the planned one"
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
