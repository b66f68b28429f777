"""A folder with a file for each metric: MLflow's file store, and DVCLive."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lossforecast.errors import ConfigurationError
from lossforecast.readers.cells import step_in, value_in
from lossforecast.readers.source import FileStart, LogFormat, Points, Source, Wanted
from lossforecast.readers.text import open_text, whole_lines

__all__ = ["MetricFiles"]

_MLFLOW_LINE = re.compile(r"\d{9,} \S+ \d+\s*$")  # milliseconds, a value, a step
_PLACES = (".", "metrics", "plots/metrics", "dvclive/plots/metrics")  # in the folder of a run


class MetricFiles(LogFormat):
    """Files `NAME` with lines `time value step` (MLflow), or `NAME.tsv` with a header (DVCLive)."""

    description = "the metrics of MLflow and DVCLive (a folder)"

    def matches(self, start: FileStart) -> bool:
        """True if the first line of a file is one of MLflow's."""
        return _MLFLOW_LINE.match(start.first_line) is not None

    def open(self, path: Path, step_column: str | None) -> Source:
        """Open a folder of metrics, or one file of MLflow."""
        files = dict(_metrics(path)) if path.is_dir() else {path.name: path}
        source = Source(path, "MLflow", partial(_points, files=files))
        if any(file.suffix == ".tsv" for file in files.values()):
            source.format = "DVCLive"
        source.columns = dict.fromkeys(files, -1)
        return source

    def find_in(self, folder: Path) -> Path | None:
        """The folder of the metrics in the folder of a run."""
        places = (folder / place for place in _PLACES)
        return next((place for place in places if any(_metrics(place))), None)

    def find_below(self, folder: Path) -> list[str]:
        """The folders of runs below."""
        runs = {
            metrics.parent.parent if metrics.parent.name == "plots" else metrics.parent
            for metrics in folder.rglob("metrics")
            if any(_metrics(metrics))
        }
        return sorted(str(run.relative_to(folder)) for run in runs if run != folder)


def _metrics(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of the metrics in a folder, after the names of the metrics."""
    if folder.resolve().name != "metrics" or not folder.is_dir():
        return
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if not file.is_file():
            continue
        if file.suffix == ".tsv":
            yield str(name.with_suffix("")), file
            continue
        with file.open("rb") as start:
            line = start.readline(200).decode(errors="replace")
        if _MLFLOW_LINE.match(line):
            yield str(name), file


def _points(source: Source, wanted: Wanted, *, files: dict[str, Path]) -> Points:
    for name, file in files.items():
        last = -1
        for step, value in _values(source, name, file):
            last = step
            if wanted(name) and value is not None:
                yield name, step, value
        source.columns[name] = last


def _values(source: Source, name: str, path: Path) -> Iterator[tuple[int, float | None]]:
    """Steps and values in a file.

    Raises:
        ConfigurationError: a line holds something else.
    """
    tsv = path.suffix == ".tsv"
    header: list[str] = []
    with open_text(path, errors="replace") as file:
        for number, line in enumerate(whole_lines(source, file), 1):
            cells = line.rstrip("\r\n").split("\t" if tsv else " ")
            if tsv and number == 1:
                header = cells
                continue
            where = f"{path}, line {number}"
            names = header if tsv else ["timestamp", "value", "step"]
            if len(cells) != len(names) or "step" not in names:
                raise ConfigurationError(f"{where} has no step and value: {line[:60]!r}")
            step = step_in(cells[names.index("step")], where, "step")
            value = cells[1] if not tsv else cells[-1]
            if step is not None:
                yield step, value_in(value, where, name)
