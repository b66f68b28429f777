"""Tables without a header: losses alone, or steps and losses, in a file named after the loss."""

import re
from functools import partial
from pathlib import Path

from lossforecast.errors import ConfigurationError
from lossforecast.readers.cells import number_in
from lossforecast.readers.counters import TOTAL
from lossforecast.readers.rows import Rows, points_of_rows
from lossforecast.readers.source import FileStart, LogFormat, Source
from lossforecast.readers.text import open_text, whole_lines

__all__ = ["NumberTable", "tag_of"]

_MAX_COLUMNS = 3
_MIN_TIME = 1e9  # seconds since 1970; no step is as large
_DELIMITERS = re.compile(r"[\s,;]+|[:/](?=\s)")
_TOTAL = re.compile(r"\s*\d+/\s*\d")  # 100/ 2000: 2.5
_WRAPPED = re.compile(r"[A-Za-z_][\w.]*\(([-+\d.e]+)[^()]*\)")  # tensor(2.5, device='cuda:0')


class NumberTable(LogFormat):
    """Lines of one number, of a step and a value, or of these and a time (Neptune)."""

    description = "numbers alone, or steps and numbers"

    def matches(self, start: FileStart) -> bool:
        """True if the first lines hold nothing but up to three numbers each."""
        lines = [cells for line in start.text.splitlines()[:3] if (cells := _cells(line))]
        return bool(lines) and all(
            len(cells) == len(lines[0]) <= _MAX_COLUMNS and None not in map(number_in, cells)
            for cells in lines
        )

    def open(self, path: Path, step_column: str | None) -> Source:
        """Name the columns by the first line."""
        with open_text(path) as file:
            line = next((line for line in file if _cells(line)), "")
            cells = _cells(line)
            counts_to = _TOTAL.match(line) is not None and len(cells) == _MAX_COLUMNS
        times = [i for i, cell in enumerate(cells) if (number_in(cell) or 0) >= _MIN_TIME]
        names = ["step", "step" + TOTAL, ""] if counts_to else ["step"] * len(cells)
        names[-1] = tag_of(path)
        for i in times[: len(cells) - 1]:
            names[i] = "time"
        rows = partial(_rows, names=names)
        return Source(path, "numbers", partial(points_of_rows, rows=rows, step_column=step_column))


def tag_of(path: Path) -> str:
    """The name of a loss, from that of its file: also of a download from TensorBoard."""
    return path.name.partition(".")[0].rpartition("tag-")[2].rpartition("tag_")[2]


def _cells(line: str) -> list[str]:
    if "(" in line:
        line = _WRAPPED.sub(r"\1", line)
    return [cell for cell in _DELIMITERS.split(line) if cell]


def _rows(source: Source, *, names: list[str]) -> Rows:
    """The rows.

    Raises:
        ConfigurationError: one has another number of cells.
    """
    with open_text(source.path, errors="replace") as file:
        for number, line in enumerate(whole_lines(source, file), 1):
            if not (cells := _cells(line)):
                continue
            where = f"{source.path}, line {number}"
            if len(cells) != len(names):
                raise ConfigurationError(f"{where} has {len(cells)} numbers, not {len(names)}")
            yield where, dict(zip(names, cells, strict=True))
