"""A whole file of JSON: lists of equal length, as Keras' history, or a list of objects."""

import ast
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import Any

from lossforecast.errors import ConfigurationError, NothingLoggedError
from lossforecast.readers.cells import number_in
from lossforecast.readers.columns import is_epoch, is_likely_loss, is_loss, listed
from lossforecast.readers.counters import is_counter_name
from lossforecast.readers.formats.json_lines import flat
from lossforecast.readers.formats.long_table import pivoted
from lossforecast.readers.formats.number_table import tag_of
from lossforecast.readers.formats.text_log import source_of_lines
from lossforecast.readers.phrases import is_message
from lossforecast.readers.rows import Rows, points_of_rows
from lossforecast.readers.source import FileStart, LogFormat, Source
from lossforecast.readers.text import is_json_object, open_text, parse_json

__all__ = ["MAX_CHARACTERS", "JsonDocument", "load_json"]

_JSON = re.compile(
    r'\s*(\{\s*["}]|\{\s*\'[^\']*\'\s*:\s*\[\s*-?[\d.]|\[\s*[\[{\]]|\[(\s*-?\d[\d.eE+-]*\s*,){3})'
)
_NUMBERS = re.compile(r"\[[-+\d.eE, ]+\]")
_PRINTED = re.compile(r"\s*\[?\s*\{\s*'")  # by Python
_BEGIN_OF_TYPE = re.compile(r"\s*\w*[dD]ict\([^\[\]{}]*\{\s*'\w+':\s*\[")
_TYPE = re.compile(r"\s*\w*[dD]ict\((?:<class '\w+'>,\s*)?(\{.*\})\)\s*", re.DOTALL)
_LIST = re.compile(
    r"^[ \t]*(\w+)[ \t]*[:=][ \t]*\[([-+.\w \t]+(?:,[-+.\w \t]+){2,})\][ \t\r]*$", re.MULTILINE
)
"""Numbers after their name, as in `losses = [2.5, 2.4, 2.3]`."""
MAX_CHARACTERS = 200_000_000
"""Largest size of a file that is loaded at once, in characters."""
_NEXT_OBJECT = re.compile(r"^\}\s*\{", re.MULTILINE)
_KEY = re.compile(r"(\D{,20}?)[ _-]?(\d{1,15})")
_COUNTERS = {"epoch": "epoch", "ep": "epoch", "step": "step", "iter": "step", "iteration": "step"}
_MAX_MESSAGES = 512  # texts, among which one that is a message shows that they are a log
_MIN_COUNTED = 3  # rows of a list without losses
_MAX_DEPTH = 3  # at which the columns are looked for


class JsonDocument(LogFormat):
    """One JSON value; it is loaded at once."""

    description = "JSON of columns (as of Keras) or rows"

    def matches(self, start: FileStart) -> bool:
        """True if the file begins as an object or a list of objects; tried after other JSON."""
        first, _, rest = start.text.lstrip().partition("\n")
        of_lines = rest.strip() != "" and (is_json_object(first) or _is_line_of_numbers(first))
        return _begins_as_values(start.text) and not of_lines

    def open(self, path: Path, step_column: str | None) -> Source:
        """Load the file."""
        document = load_json(path)
        if document in ({}, []):
            raise NothingLoggedError(f"{path} holds no values: nothing was logged yet")
        rows = list(_rows(document, _MAX_DEPTH, tag_of(path)))
        if not any(is_loss(name) for row in rows for name in row):
            messages = list(_texts(document))
            if any(map(is_message, messages[:_MAX_MESSAGES])):
                return source_of_lines(path, "messages in JSON", messages, step_column)
        if not rows:
            raise ConfigurationError(
                f"{path} is JSON, but has no log_history, as the trainer_state.json of the Hugging "
                "Face Trainer has, no columns, as lists of equal length, and no list of objects; "
                "other JSON must have one object on each line"
            )
        reader = partial(points_of_rows, rows=partial(_numbered, rows), step_column=step_column)
        source = Source(path, "JSON", reader)
        if others := _left_out(document, rows[0].keys()):
            source.notes.append(
                f"lists of another length than those read are left out: {listed(others)}"
            )
        return source


def load_json(path: Path) -> Any:
    """The value of a file of JSON.

    Raises:
        ConfigurationError: it is too large, not valid, or not in UTF-8.
    """
    try:
        with open_text(path) as file:
            text = file.read(MAX_CHARACTERS + 1)
        if len(text) <= MAX_CHARACTERS:
            return _values_in(text)
    except (ValueError, SyntaxError, RecursionError) as error:  # or not in UTF-8
        raise ConfigurationError(
            f"{path} is not valid JSON, or cut off: {error}. Is it still being written?"
        ) from error
    raise ConfigurationError(
        f"{path} has more than {MAX_CHARACTERS // 1_000_000} MB in one JSON value: give a log "
        "with one object on each line"
    )


def _is_line_of_numbers(line: str) -> bool:
    """True for a whole list such as `[2.5, 0.1]`: other lines after it are others."""
    return _NUMBERS.fullmatch(line.rstrip()) is not None


def _begins_as_values(text: str) -> bool:
    begins = (_JSON, _BEGIN_OF_TYPE, _LIST)
    return any(pattern.match(text.lstrip()) is not None for pattern in begins)


def _values_in(text: str) -> Any:
    """The value of a text of JSON or Python; a list of them if there are several objects.

    Raises:
        ValueError: it is neither, and holds no lists with names.
    """
    if match := _TYPE.fullmatch(text):
        text = match[1]
    if _LIST.match(text.lstrip()):
        return {
            name: [float(number) for number in numbers.split(",")]
            for name, numbers in _LIST.findall(text)
        }
    if _PRINTED.match(text):
        return ast.literal_eval(text.strip())
    try:
        return parse_json(text)
    except ValueError:
        if not _NEXT_OBJECT.search(text):
            raise
        return parse_json("[" + _NEXT_OBJECT.sub("},{", text) + "]")


def _texts(value: Any) -> Iterator[str]:
    """The lines of the texts in a JSON value, as in `[{"message": "step 1, loss 2.5"}, ...]`."""
    if isinstance(value, str):
        yield from (f"{line}\n" for line in value.splitlines())
    elif isinstance(value, list | dict):
        for member in value.values() if isinstance(value, dict) else value:
            yield from _texts(member)


def _numbered(rows: list[dict[str, Any]], source: Source) -> Rows:
    return ((f"{source.path}, row {number}", row) for number, row in enumerate(rows, 1))


def _rows(value: Any, depth: int, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a JSON value; if it has neither rows nor columns, those of an inner value.

    Args:
        value: a list of objects or of numbers, or an object of columns or of rows.
        depth: how deep to look for inner values.
        name: the column of numbers without a name.
    """
    if isinstance(value, list) and value:
        yield from _rows_of_list(value, name)
    elif isinstance(value, dict) and (columns := _columns(value)):
        indices = {key: None for column in columns.values() for key in column}
        for index in indices:
            row = {key: column[index] for key, column in columns.items() if index in column}
            yield {"index": index, **row}
    elif isinstance(value, dict) and (rows := _by_number(value)):
        yield from rows
    elif isinstance(value, dict) and (charts := list(_charts(value, depth))):
        yield from _rows_of_list(charts, name)
    elif isinstance(value, dict) and len(columns := _of_splits(value)) > 1:
        yield from _rows(columns, 0, name)
    elif isinstance(value, dict) and depth > 0:
        inner = [list(_rows(member, depth - 1, str(key))) for key, member in value.items()]
        counted = [rows for rows in inner if len(rows) >= _MIN_COUNTED and _is_counted(rows[0])]
        of_losses = [rows for rows in inner if any(is_loss(name) for row in rows for name in row)]
        yield from next(iter(of_losses + counted), [])


def _rows_of_list(values: list[Any], name: str) -> Iterator[dict[str, Any]]:
    """The rows in a list of objects, of numbers, or of numbers after a step (and a time)."""
    if all(isinstance(row, dict) and _is_chart(row) for row in values):
        for row in values:
            for step, value in zip(row["x"], row["y"], strict=False):
                yield {"step": step, row["name"]: value}
    elif all(isinstance(row, dict) for row in values):
        yield from (dict(pivoted(flat(_alone(row)))) for row in values)
    elif all(number_in(value) is not None for value in values):
        yield from ({"index": index, name: value} for index, value in enumerate(values))
    elif all(isinstance(row, list) for row in values) and all(map(_is_name, values[0])):
        yield from (dict(zip(values[0], row, strict=False)) for row in values[1:])
    elif all(isinstance(row, list) and len(row) in (2, 3) for row in values):
        yield from ({"step": row[-2], name: row[-1]} for row in values)


def _is_name(cell: Any) -> bool:
    return isinstance(cell, str) and number_in(cell) is None


def _alone(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the numbers of lists of one: `{"iteration": 0, "learn": [0.5]}` of CatBoost."""
    return {
        name: cell[0] if isinstance(cell, list) and len(cell) == 1 else cell
        for name, cell in row.items()
    }


def _charts(value: Mapping[str, Any], depth: int) -> Iterator[dict[str, Any]]:
    """The charts in objects, named after these, as ClearML reports them."""
    for name, member in value.items():
        if isinstance(member, dict) and _is_chart(member):
            yield {**member, "name": name}
        elif isinstance(member, dict) and depth > 0:
            for chart in _charts(member, depth - 1):
                yield {**chart, "name": f"{name}/{chart['name']}"}


def _of_splits(value: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of several objects, as in `{"train": {"rmse": [...]}, "eval": {"rmse": [...]}}`.

    {} unless all of them have the same names.
    """
    names = {frozenset(member) if isinstance(member, dict) else None for member in value.values()}
    if len(names) != 1 or None in names:
        return {}
    return {f"{key}/{name}": value[key][name] for key in value for name in value[key]}


def _is_counted(row: Mapping[str, Any]) -> bool:
    return any(is_counter_name(name) or is_epoch(name) for name in row)


def _is_chart(row: Mapping[str, Any]) -> bool:
    """True for the line of a chart with its name and coordinates, as ClearML downloads it."""
    lists = isinstance(row.get("x"), list) and isinstance(row.get("y"), list)
    return lists and isinstance(row.get("name"), str)


def _by_number(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows under keys that count, as in `{"epoch_1": {"loss": 2.3}, ...}`."""
    numbers = [_KEY.fullmatch(key) for key in value]
    if not all(numbers) or not all(isinstance(row, dict) for row in value.values()):
        return []
    return [
        {_COUNTERS.get(key[1].lower(), "index"): int(key[2]), **flat(row)}
        for key, row in zip(numbers, value.values(), strict=True)
        if key is not None
    ]


def _columns(value: Mapping[str, Any]) -> dict[str, dict[int, Any]]:
    """The columns among the members: lists of equal length, or objects by index (pandas)."""
    value = _split_by_pandas(value) or value
    columns: dict[str, dict[int, Any]] = {}
    for name, member in value.items():
        if isinstance(member, list):
            columns[name] = dict(enumerate(member))
        elif isinstance(member, dict) and member and all(key.isdecimal() for key in member):
            columns[name] = {int(key): cell for key, cell in member.items()}
    losses = [column for name, column in columns.items() if is_loss(name)]
    losses = losses or [column for name, column in columns.items() if is_likely_loss(name)]
    length = len(losses[0]) if losses else 0
    same = {name: column for name, column in columns.items() if len(column) == length}
    numbers = any(number_in(cell) is not None for column in losses for cell in column.values())
    return same if numbers else {}


def _split_by_pandas(value: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The columns of `DataFrame.to_json(orient="split")`; {} for another value."""
    names, rows = value.get("columns"), value.get("data")
    if not isinstance(names, list) or not isinstance(rows, list):
        return {}
    if not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        return {}
    return {str(name): [row[i] for row in rows] for i, name in enumerate(names)}


def _left_out(value: Any, taken: AbstractSet[str]) -> list[str]:
    """The lists of losses of another length than those that were taken."""
    lists = (
        [name for name in value if isinstance(value[name], list)] if isinstance(value, dict) else []
    )
    return [name for name in lists if is_loss(name) and name not in taken]
