"""Tables without a header: losses alone, or steps and losses, in a file named after the loss."""

import re
from collections.abc import Sequence
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

from lossforecast.errors import ConfigurationError
from lossforecast.readers.cells import number_in
from lossforecast.readers.columns import is_loss
from lossforecast.readers.counters import TOTAL
from lossforecast.readers.rows import Rows, points_of_rows
from lossforecast.readers.source import FileStart, LogFormat, Source
from lossforecast.readers.text import open_text, whole_lines

__all__ = ["NumberTable", "tag_of"]

_MAX_COLUMNS = 3
_MAX_LOSSES = 16  # columns of a file that is named after a loss
_MIN_IN_LINE = 10  # numbers in the only line of a file
_SAMPLE_LINES = 20  # by which the format and the columns that count are recognised
_MIN_RISING = 3  # lines, from which on numbers that rise in each of them count
_MIN_TIME = 1e9  # seconds since 1970; no step is as large
_DELIMITERS = re.compile(r"[\s,;]+|[:/](?=\s)")
_TOTAL = re.compile(r"\s*\d+/\s*\d")  # 100/ 2000: 2.5
_BRACKETS = str.maketrans("[]()", "    ")
_COUNTER = re.compile(r"\s*(epoch|iteration|iter|step|batch)[ \t:_-]*(?=\d)", re.IGNORECASE)
_WRAPPED = re.compile(r"[A-Za-z_][\w.]*\(([-+\d.e]+)[^()]*\)")  # tensor(2.5, device='cuda:0')

Lines = Sequence[Sequence[str]]


class NumberTable(LogFormat):
    """Lines of one number, of a step and one or two values, or of these and a time (Neptune).

    The step may have its name before it, as in `epoch1 2.5`, and a line may be in brackets. Of a
    file that is named after a loss, lines may have more values. All numbers may stand on one line.
    """

    description = "numbers alone, or steps and numbers"

    def matches(self, start: FileStart) -> bool:
        """True if the first lines hold nothing but numbers, up to three each."""
        texts = start.text.splitlines()
        lines = [cells for text in texts[:_SAMPLE_LINES] if (cells := _cells(text))]
        most = _MAX_LOSSES if is_loss(tag_of(start.path)) else _MAX_COLUMNS
        if not lines or not _all_numbers(lines[0]):
            return False
        if len(texts) == 1 and len(lines[0]) >= _MIN_IN_LINE:
            return True
        if _COUNTER.match(texts[0]) and len(lines[0]) == 1:
            return False
        if texts[0].startswith("[") and len(texts) == 1:
            return False
        whole = lines[:-1] if 1 < len(texts) <= _SAMPLE_LINES else lines
        alike = all(len(cells) == len(lines[0]) <= most for cells in whole)
        return alike and all(map(_all_numbers, whole))

    def open(self, path: Path, step_column: str | None) -> Source:
        """Name the columns by the first lines."""
        with open_text(path) as file:
            texts = list(islice((line for line in file if _cells(line)), _SAMPLE_LINES))
        lines = [_cells(text) for text in texts]
        names = [tag_of(path)]
        if len(lines) == 1 and len(lines[0]) >= _MIN_IN_LINE:
            rows = partial(_rows_of_line, name=tag_of(path))
        else:
            names = _names(texts[0], lines, tag_of(path))
            rows = partial(_rows, names=names)
        source = Source(
            path, "numbers", partial(points_of_rows, rows=rows, step_column=step_column)
        )
        if f"{tag_of(path)} 2" in names:
            source.notes.append(
                f"the columns have no names: the first with losses is named {tag_of(path)!r}, the "
                f"next one {tag_of(path) + ' 2'!r}; --column takes another"
            )
        return source


def tag_of(path: Path) -> str:
    """The name of a loss, from that of its file: also of a download from TensorBoard."""
    return path.name.partition(".")[0].rpartition("tag-")[2].rpartition("tag_")[2]


def _cells(line: str) -> list[str]:
    if "(" in line:
        line = _WRAPPED.sub(r"\1", line)
    if '"' in line:
        line = line.replace('"', "")
    if line[:1] in ("[", "("):
        line = line.translate(_BRACKETS)
    if (word := _COUNTER.match(line)) is not None:
        line = line[word.end() :]
    return [cell for cell in _DELIMITERS.split(line) if cell]


def _all_numbers(cells: Sequence[str]) -> bool:
    return None not in map(number_in, cells)


def _names(text: str, lines: Lines, tag: str) -> list[str]:
    """The names of the columns: those that count come first, then come the losses.

    Args:
        text: the first line.
        lines: the cells of the first lines.
        tag: the name of the loss.
    """
    n = len(lines[0])
    if _TOTAL.match(text) is not None and n == _MAX_COLUMNS:
        return ["step", "step" + TOTAL, tag]
    columns = [
        [number for line in lines if i < len(line) and (number := number_in(line[i])) is not None]
        for i in range(n)
    ]
    word = _COUNTER.match(text)
    names: list[str] = []
    n_losses = 0
    for column in columns[:-1]:
        if column[0] >= _MIN_TIME:
            names.append("time")
        elif not n_losses and all(number % 1 == 0 for number in column):
            names.append(word[1].lower() if word else "step")
        elif not names and _rises(column):
            names.append("epoch")
        else:
            n_losses += 1
            names.append(tag if n_losses == 1 else f"{tag} {n_losses}")
    return [*names, tag if n_losses == 0 else f"{tag} {n_losses + 1}"]


def _rises(numbers: Sequence[float]) -> bool:
    return len(numbers) >= _MIN_RISING and all(a < b for a, b in pairwise(numbers))


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


def _rows_of_line(source: Source, *, name: str) -> Rows:
    """The numbers of the only line, each a row."""
    with open_text(source.path, errors="replace") as file:
        for line in file:
            for number, cell in enumerate(_cells(line), 1):
                yield f"{source.path}, number {number}", {name: cell}
