"""Tables with a header: any CSV, one exported from W&B, and Lightning's metrics.csv."""

import csv
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from lossforecast.errors import ConfigurationError
from lossforecast.readers.cells import number_in
from lossforecast.readers.columns import is_loss, run_of
from lossforecast.readers.counters import count_and_total
from lossforecast.readers.formats.number_table import tag_of
from lossforecast.readers.phrases import is_message
from lossforecast.readers.rows import Rows, points_of_rows
from lossforecast.readers.source import FileStart, LogFormat, Source
from lossforecast.readers.text import open_text, whole_lines

__all__ = ["Table", "header_of", "rows_of"]

_DELIMITERS = ",;\t"
_SUFFIXES = (".csv", ".tsv")
_WANDB_COLUMNS = {"_runtime", "_timestamp"}
_WANDB_EXTREMES = ("__MIN", "__MAX")  # beside each column of an exported panel
_TENSORBOARD_COLUMNS = ["wall time", "step", "value"]  # of a download, named after its run and tag
_COMMENT = "#"
_SEP = "sep="
_TEXT_LINES = 5  # among which one that is a message shows that a file is no table


class Table(LogFormat):
    """Comma, semicolon or tab separated values under a header line."""

    description = "CSV with a header line (Lightning's metrics.csv, exports of W&B, any other)"
    file_names = ("metrics.csv", "results.csv")

    def matches(self, start: FileStart) -> bool:
        """True if the first line names two columns or more, and the next ones hold numbers.

        In a file that is named as a table, the names alone will do.
        """
        lines = list(_headers(start.text.splitlines()))
        if start.text.lstrip().startswith(("{", "[")) or not lines:
            return False
        header, delimiter = header_of(lines[0])
        if any(number_in(name) is not None for name in header):
            return False
        single = len(header) == 1 and is_loss(header[0])
        if len(header) < 2 and not (single and all(len(row.split()) == 1 for row in lines[1:])):
            return False
        named = any(map(is_loss, header))
        if any(map(is_message, lines[: 1 if named else _TEXT_LINES])):
            return False
        rows = [_cells(line, delimiter) for line in lines[1:-1] or lines[1:]]
        alike = [cells for cells in rows if len(cells) == len(header)]
        numbers = any(number_in(cell) is not None for cells in alike for cell in cells)
        return start.name.endswith(_SUFFIXES) or (numbers and 2 * len(alike) > len(rows))

    def open(self, path: Path, step_column: str | None) -> Source:
        """Read the header."""
        try:
            with open_text(path) as file:
                lines = _headers(file)
                line, first = next(lines, ""), next(lines, "")
        except UnicodeError as error:
            raise ConfigurationError(f"{path}, in its first line: {error}") from error
        header, delimiter = header_of(line)
        of_tensorboard = [name.lower() for name in header] == _TENSORBOARD_COLUMNS
        if of_tensorboard:
            header[-1] = path.stem.rpartition("tag-")[2]
        elif not any(map(is_loss, header)) and is_loss(tag_of(path)):
            header = [tag_of(path) if name.lower() == "value" else name for name in header]
        rows: Callable[[Source], Rows] = partial(rows_of, header=header, delimiter=delimiter)
        cells = zip(header, _cells(first, delimiter), strict=False)
        if any(count_and_total(name, cell) for name, cell in cells):
            rows = partial(_with_totals, rows=rows)
        reader = partial(points_of_rows, rows=rows, step_column=step_column)
        source = Source(path, "CSV", reader)
        if _WANDB_COLUMNS & set(header) or any(name.endswith("__MIN") for name in header):
            source.format = "W&B CSV"
            word = next((n for n in header if n.lower() in ("_step", "step")), None)
            if step_column is None and word is not None and not _counts_updates(header):
                source.notes.append(
                    f"using {word!r} as the optimizer step; if it counts calls of wandb.log, name "
                    "another column with --step-column"
                )
        elif path.name == "metrics.csv" and {"epoch", "step"} <= set(header):
            source.format, source.maybe_lightning = "Lightning metrics.csv", True
        elif of_tensorboard:
            source.format = "TensorBoard CSV"
        source.columns = dict.fromkeys(_values(header), -1)
        source.runs_have_names = len({run_of(name) for name in header if is_loss(name)} - {""}) > 1
        return source


def _with_totals(source: Source, *, rows: Callable[[Source], Rows]) -> Rows:
    """The rows, with cells such as `3/30` as a count and its total."""
    for where, row in rows(source):
        totals = [count_and_total(name, cell) for name, cell in row.items()]
        yield where, {name: cell for cells in (row, *totals) for name, cell in cells.items()}


def _headers(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a table from its header on, without comments and the `sep=;` of Excel."""
    return (line for line in lines if line.strip() and not line.startswith((_COMMENT, _SEP)))


def _is_header(cells: list[str]) -> bool:
    """True if a row under a header names other columns: what is logged has changed."""
    return all(cell and number_in(cell) is None for cell in cells) and any(map(is_loss, cells))


def _kept(header: list[str]) -> list[tuple[int, str]]:
    return [(i, name) for i, name in enumerate(header) if not name.endswith(_WANDB_EXTREMES)]


def _counts_updates(header: list[str]) -> bool:
    return any(name.lower().endswith("global_step") for name in header)


def _values(header: list[str]) -> list[str]:
    return [name for name in header if not name.endswith(_WANDB_EXTREMES)]


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a cell of more than 131,072 characters
        return []


def header_of(line: str) -> tuple[list[str], str]:
    """The names of the columns, and the delimiter: the commonest of the candidates."""
    delimiter = max(_DELIMITERS, key=line.count)
    return [name.strip() for name in _cells(line, delimiter)], delimiter


def rows_of(source: Source, *, header: list[str], delimiter: str) -> Rows:
    """The rows under a header, without those that repeat it.

    Raises:
        ConfigurationError: a row has another number of cells, or is not in UTF-8.
    """
    path = source.path
    kept, begun = _kept(header), False
    with open_text(path) as file:
        rows = csv.reader(whole_lines(source, file), delimiter=delimiter)
        try:
            for row in rows:
                if not any(cell.strip() for cell in row):
                    continue
                if delimiter == ";":  # where numbers have a decimal comma
                    row = [cell.replace(",", ".") for cell in row]
                first = row[0].strip()
                if not begun or not first[:1].isdecimal():
                    if first.startswith((_COMMENT, _SEP)):
                        continue
                    cells = [cell.strip() for cell in row]
                    if not begun or cells == header:
                        begun = True
                        continue  # the header, perhaps of another run that was appended
                    if _is_header(cells):
                        header, kept = cells, _kept(cells)
                        continue
                where = f"{path}, line {rows.line_num}"
                while len(row) > len(header) and not row[-1].strip():
                    row.pop()
                if len(row) != len(header):
                    raise ConfigurationError(
                        f"{where} has {len(row)} cells, the header {len(header)}: is it cut off, "
                        "or another log?"
                    )
                yield where, {name: row[i] for i, name in kept}
        except (csv.Error, UnicodeError) as error:
            raise ConfigurationError(f"{path}, after line {rows.line_num}: {error}") from error
