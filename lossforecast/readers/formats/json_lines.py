"""JSON lines: one object of names and numbers on each line."""

from functools import partial
from pathlib import Path
from typing import Any

from lossforecast.errors import ConfigurationError
from lossforecast.readers.cells import number_in
from lossforecast.readers.columns import is_loss
from lossforecast.readers.counters import count_and_total
from lossforecast.readers.formats.long_table import pivoted
from lossforecast.readers.phrases import is_message
from lossforecast.readers.rows import Rows, points_of_rows
from lossforecast.readers.source import FileStart, LogFormat, Source
from lossforecast.readers.text import is_json_object, open_text, parse_json, whole_lines

__all__ = ["JsonLines", "flat"]

_MAX_DEPTH = 6  # of objects in objects whose names become columns


class JsonLines(LogFormat):
    """One object on each line; its columns may differ from line to line."""

    description = "JSON lines"
    file_names = ("trainer_log.jsonl", "scalars.json")

    def matches(self, start: FileStart) -> bool:
        """True if the first line is an object, unless it is the only one and holds columns."""
        line = start.text.lstrip().partition("\n")[0]
        if not line.startswith("{") or start.name == "trainer_state.json":
            return False
        if not is_json_object(line):
            return False
        values = parse_json(line)
        several = start.text.lstrip().partition("\n")[2].strip() != ""
        columns = any(isinstance(value, list | dict) for value in values.values())
        loss = any(is_loss(name) and number_in(values[name]) is not None for name in values)
        if holds_text(values):
            return False
        return "log_history" not in values and (several or loss or not columns)

    def open(self, path: Path, step_column: str | None) -> Source:
        """Open the file; its columns become known only while it is read."""
        reader = partial(points_of_rows, rows=_rows, step_column=step_column)
        return Source(path, "JSON lines", reader)


def holds_text(row: dict[str, Any]) -> bool:
    """True if an object holds a line of a text log, as those of Docker: `{"log": "step 1 ..."}`."""
    cells = flat(row)
    return not any(map(is_loss, cells)) and any(
        isinstance(cell, str) and is_message(cell) for cell in cells.values()
    )


def flat(row: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """The cells of an object; those of objects in it as `outer/inner`."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict) and depth < _MAX_DEPTH:
            cells |= flat(value, f"{prefix}{name}/", depth + 1)
        else:
            cells[prefix + name] = value
            if isinstance(value, str):
                cells |= count_and_total(name, value)
                if value[:1] == "{" and is_json_object(value) and depth < _MAX_DEPTH:
                    cells |= flat(parse_json(value), f"{prefix}{name}/", depth + 1)
    return cells


def _rows(source: Source) -> Rows:
    """Each object, after its place for error messages.

    Raises:
        ConfigurationError: a line is not an object, or not in UTF-8.
    """
    path, number = source.path, 0
    with open_text(path) as file:
        try:
            for number, line in enumerate(whole_lines(source, file), 1):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    row = parse_json(line)
                except ValueError as error:
                    raise ConfigurationError(f"{where} is not valid JSON: {error}") from error
                if not isinstance(row, dict):
                    raise ConfigurationError(
                        f"{where} is not an object of names and numbers: {line:.60}"
                    )
                yield where, pivoted(flat(row))
        except UnicodeError as error:
            raise ConfigurationError(f"{path}, after line {number}: {error}") from error
