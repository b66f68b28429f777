"""Tables with a header: any CSV, one exported from W&B, and Lightning's metrics.csv."""

import csv
from functools import partial
from pathlib import Path

from lossforecast.errors import ConfigurationError
from lossforecast.readers.cells import NO_VALUE, number_in, step_column_of, step_in, value_in
from lossforecast.readers.source import FileStart, LogFormat, Points, Source, Wanted
from lossforecast.readers.text import open_text, whole_lines

__all__ = ["Table"]

_DELIMITERS = ",;\t"
_WANDB_COLUMNS = {"_runtime", "_timestamp"}
_WANDB_EXTREMES = ("__MIN", "__MAX")  # beside each column of an exported panel


class Table(LogFormat):
    """Comma, semicolon or tab separated values under a header line."""

    description = "CSV with a header line (Lightning's metrics.csv, exports of W&B, any other)"
    file_names = ("metrics.csv",)

    def matches(self, start: FileStart) -> bool:
        """True if the first line names two columns or more."""
        if start.text.lstrip().startswith(("{", "[")):
            return False
        header, _ = _header(start.first_line)
        return len(header) >= 2 and all(number_in(name) is None for name in header)

    def open(self, path: Path, step_column: str | None) -> Source:
        """Read the header."""
        try:
            with open_text(path) as file:
                line = file.readline()
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path}, in its first line: {error}") from error
        header, delimiter = _header(line)
        step = step_column_of(path, header, step_column)
        reader = partial(_points, header=header, delimiter=delimiter, step_column=step)
        source = Source(path, "CSV", reader)
        if _WANDB_COLUMNS & set(header) or any(name.endswith("__MIN") for name in header):
            source.format = "W&B CSV"
            if step_column is None and step.lower() in ("_step", "step"):
                source.notes.append(
                    f"using {step!r} as the optimizer step; if it counts calls of wandb.log, name "
                    "another column with --step-column"
                )
        elif path.name == "metrics.csv" and "epoch" in header:
            source.format, source.maybe_lightning = "Lightning metrics.csv", True
        names = [name for name in header if name != step and not name.endswith(_WANDB_EXTREMES)]
        source.columns = dict.fromkeys(names, -1)
        return source


def _header(line: str) -> tuple[list[str], str]:
    """The names of the columns, and the delimiter: the commonest of the candidates."""
    delimiter = max(_DELIMITERS, key=line.count)
    try:
        names = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a cell of more than 131,072 characters
        names = []
    return [name.strip() for name in names], delimiter


def _points(
    source: Source, wanted: Wanted, *, header: list[str], delimiter: str, step_column: str
) -> Points:
    path, step_index = source.path, header.index(step_column)
    columns = [(i, name) for i, name in enumerate(header) if name in source.columns]
    read = [(i, name) for i, name in columns if wanted(name)]
    with open_text(path) as file:
        rows = csv.reader(whole_lines(source, file), delimiter=delimiter)
        next(rows)
        try:
            for row in rows:
                if not row:
                    continue
                where = f"{path}, line {rows.line_num}"
                if len(row) != len(header):
                    raise ConfigurationError(
                        f"{where} has {len(row)} cells, the header {len(header)}: is it cut off, "
                        "or another log?"
                    )
                step = step_in(row[step_index], where, step_column)
                if step is None:
                    continue
                for i, name in columns:
                    if row[i].strip().lower() not in NO_VALUE:
                        source.columns[name] = step
                for i, name in read:
                    value = value_in(row[i], where, name)
                    if value is not None:
                        yield name, step, value
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}, after line {rows.line_num}: {error}") from error
