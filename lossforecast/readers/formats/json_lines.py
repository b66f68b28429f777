"""JSON lines: one object of names and numbers on each line."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lossforecast.errors import ConfigurationError
from lossforecast.readers.cells import known_step_column, step_column_of, step_in, value_in
from lossforecast.readers.source import FileStart, LogFormat, Points, Source, Wanted
from lossforecast.readers.text import is_json_object, open_text, whole_lines

__all__ = ["JsonLines"]


class JsonLines(LogFormat):
    """One object on each line; its columns may differ from line to line."""

    description = "JSON lines"

    def matches(self, start: FileStart) -> bool:
        """True if the first line is an object, and the file is no state of the Trainer."""
        text = start.text.lstrip()
        return (
            text.startswith(("{", "["))
            and start.path.name != "trainer_state.json"
            and is_json_object(text.splitlines()[0])
        )

    def open(self, path: Path, step_column: str | None) -> Source:
        """Open the file; its columns become known only while it is read."""
        return Source(path, "JSON lines", partial(_points, step_column=step_column))


def _points(source: Source, wanted: Wanted, *, step_column: str | None) -> Points:
    column, any_step = step_column, False
    for where, row in _objects(source):
        for name in row:
            source.columns.setdefault(name, -1)
        if column is None:
            column = known_step_column(list(row))
        step = None if column is None else step_in(row.get(column), where, column)
        if step is None:
            continue
        any_step = True
        source.columns.pop(str(column), None)
        for name, cell in row.items():
            if name == column:
                continue
            if cell is not None:
                source.columns[name] = step
            value = value_in(cell, where, name) if wanted(name) else None
            if value is not None:
                yield name, step, value
    if column is None or not any_step:
        step_column_of(source.path, list(source.columns), step_column)  # raises: names the columns


def _objects(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
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
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ConfigurationError(f"{where} is not valid JSON: {error}") from error
                if not isinstance(row, dict):
                    raise ConfigurationError(
                        f"{where} is not an object of names and numbers: {line:.60}"
                    )
                yield where, row
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path}, after line {number}: {error}") from error
