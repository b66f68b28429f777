"""A whole file of JSON: lists of equal length, as Keras' history, or a list of objects."""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lossforecast.errors import ConfigurationError, NothingLoggedError
from lossforecast.readers.cells import number_in
from lossforecast.readers.columns import is_loss
from lossforecast.readers.formats.json_lines import flat
from lossforecast.readers.rows import Rows, points_of_rows
from lossforecast.readers.source import FileStart, LogFormat, Source
from lossforecast.readers.text import open_text, parse_json

__all__ = ["JsonDocument", "load_json"]

_JSON = re.compile(r'\s*(\{\s*["}]|\[\s*[\[{\]])')
_MAX_BYTES = 200_000_000  # of a file that is loaded at once
_MAX_DEPTH = 3  # at which the columns are looked for


class JsonDocument(LogFormat):
    """One JSON value; it is loaded at once."""

    description = "JSON of columns (as of Keras) or rows"

    def matches(self, start: FileStart) -> bool:
        """True if the file begins as an object or a list of objects; tried after other JSON."""
        return _JSON.match(start.text) is not None

    def open(self, path: Path, step_column: str | None) -> Source:
        """Load the file."""
        document = load_json(path)
        if document in ({}, []):
            raise NothingLoggedError(f"{path} holds no values: nothing was logged yet")
        rows = list(_rows(document, _MAX_DEPTH))
        if not rows:
            raise ConfigurationError(
                f"{path} is JSON, but has no log_history, as the trainer_state.json of the Hugging "
                "Face Trainer has, no columns, as lists of equal length, and no list of objects; "
                "other JSON must have one object on each line"
            )
        reader = partial(points_of_rows, rows=partial(_numbered, rows), step_column=step_column)
        return Source(path, "JSON", reader)


def load_json(path: Path) -> Any:
    """The value of a file of JSON.

    Raises:
        ConfigurationError: it is too large, not valid, or not in UTF-8.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigurationError(
            f"{path} has more than {_MAX_BYTES // 1_000_000} MB in one JSON value: give a log with "
            "one object on each line"
        )
    try:
        with open_text(path) as file:
            return parse_json(file.read())
    except ValueError as error:  # not JSON, or not in UTF-8
        raise ConfigurationError(
            f"{path} is not valid JSON, or cut off: {error}. Is it still being written?"
        ) from error


def _numbered(rows: list[dict[str, Any]], source: Source) -> Rows:
    return ((f"{source.path}, row {number}", row) for number, row in enumerate(rows, 1))


def _rows(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """The rows of a list of objects, or of columns; without columns, those of an inner value."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        yield from map(flat, value)
    elif isinstance(value, dict) and (columns := _columns(value)):
        indices = {key: None for column in columns.values() for key in column}
        for index in indices:
            row = {name: column[index] for name, column in columns.items() if index in column}
            yield {"index": index, **row}
    elif isinstance(value, dict) and depth > 0:
        for inner in value.values():
            rows = list(_rows(inner, depth - 1))
            if rows:
                yield from rows
                return


def _columns(value: Mapping[str, Any]) -> dict[str, dict[int, Any]]:
    """The columns among the members: lists of equal length, or objects by index (pandas)."""
    columns: dict[str, dict[int, Any]] = {}
    for name, member in value.items():
        if isinstance(member, list):
            columns[name] = dict(enumerate(member))
        elif isinstance(member, dict) and member and all(key.isdecimal() for key in member):
            columns[name] = {int(key): cell for key, cell in member.items()}
    losses = [column for name, column in columns.items() if is_loss(name)]
    length = len(losses[0]) if losses else 0
    same = {name: column for name, column in columns.items() if len(column) == length}
    numbers = any(number_in(cell) is not None for column in losses for cell in column.values())
    return same if numbers else {}
