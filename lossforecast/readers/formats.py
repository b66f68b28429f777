"""The formats that logs of training runs come in, each as a stream of points.

A point is the name of a column, an optimizer step and a value. Nothing is loaded whole but JSON of
the Hugging Face Trainer, which is small.
"""

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from lossforecast.errors import ConfigurationError, NothingLoggedError
from lossforecast.readers.events import event_source
from lossforecast.readers.source import Points, Source, Wanted

__all__ = ["events_below", "found_in", "open_log"]

_STEPS = (
    "trainer/global_step",
    "train/global_step",
    "global_step",
    "step",
    "_step",
    "steps",
    "iteration",
    "iter",
)
_ABSENT = ("", "none", "null", "na", "n/a")
_NOTHING = (*_ABSENT, "nan")
_HEAD = 4096  # bytes by which a file is recognised
_LINE = 1_000_000  # bytes of a first line that is longer


def open_log(path: str | os.PathLike[str], step_column: str | None = None) -> Source:
    """Find out what a log is.

    Args:
        path: a file or a folder that holds one run.
        step_column: the column of steps of a table, where its name does not tell.

    Raises:
        ConfigurationError: there is no such log, or it is none that can be read.
    """
    place = Path(path)
    try:
        if place.is_dir():
            place = found_in(place)
            if place.is_dir():
                return event_source(place, sorted(place.glob("*tfevents*")))
        with place.open("rb") as file:
            head = file.read(_HEAD)
            if b"\n" not in head:
                head += file.readline(_LINE)
    except OSError as error:
        kind = NothingLoggedError if isinstance(error, FileNotFoundError) else ConfigurationError
        raise kind(
            f"cannot read {path}: {error.strerror or error}. Give the file of a log, or the folder "
            "of one run"
        ) from error
    if not head.strip(b"\0 \t\r\n"):
        raise NothingLoggedError(f"{place} is empty: nothing was logged, or not flushed yet")
    if "tfevents" in place.name or b"brain.Event:" in head[:64]:
        return event_source(place, [place])
    _check_text(place, head)
    first = head.decode("utf-8-sig", errors="ignore").lstrip()
    if not first.startswith(("{", "[")):
        return _table(place, step_column)
    if place.name != "trainer_state.json" and _is_object(first.splitlines()[0]):
        return _json_lines(place, step_column)
    return _trainer_state(place)


def found_in(folder: Path) -> Path:
    """The log in a folder: itself for event files, else the one file that is a log."""
    if any(folder.glob("*tfevents*")):
        return folder
    states = sorted(
        folder.glob("checkpoint-*/trainer_state.json"),
        key=lambda path: int("0" + re.sub(r"\D", "", path.parent.name)),
    )
    known = [folder / "metrics.csv", folder / "trainer_state.json", *states[-1:]]
    known = [path for path in known if path.exists()]
    if known:
        return known[0]
    below = events_below(folder)
    below += sorted(str(path.relative_to(folder)) for path in folder.rglob("metrics.csv"))
    hint = f"; there are logs below, name one: {', '.join(below[:5])}" if below else ""
    raise (ConfigurationError if below else NothingLoggedError)(
        f"{folder} holds no event files, metrics.csv or trainer_state.json{hint}"
    )


def events_below(folder: Path) -> list[str]:
    """The folders with event files below a folder."""
    found = {path.parent.relative_to(folder) for path in folder.rglob("*tfevents*")}
    return sorted(str(path) for path in found if path.parts)


# ---------------------------------------------------------------------- tables


def _table(path: Path, step_column: str | None) -> Source:
    try:
        with _text(path) as file:
            line = file.readline()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}, in its first line: {error}") from error
    delimiter = max(",;\t", key=line.count)
    header = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
    if len(header) < 2 or any(_number(name) is not None for name in header):
        raise ConfigurationError(
            f"{path} is no log that is known: its first line names no columns ({line[:60]!r}). "
            "Known are TensorBoard event files, CSV with a header, JSON lines, and the "
            "trainer_state.json of the Hugging Face Trainer"
        )
    kind = "CSV"
    if {"_runtime", "_timestamp"} & set(header) or any(n.endswith("__MIN") for n in header):
        kind = "W&B CSV"
    elif path.name == "metrics.csv" and "epoch" in header:
        kind = "Lightning metrics.csv"
    step = _step_of(path, header, step_column)
    source = Source(path, kind, lambda wanted: _cells(source, header, delimiter, step, wanted))
    if kind == "W&B CSV" and step_column is None and step.lower() in ("_step", "step"):
        source.notes.append(
            f"{step!r} is taken for optimizer steps; where it counts calls of wandb.log, name "
            "another with --step-column"
        )
    names = [name for name in header if name != step and not name.endswith(("__MIN", "__MAX"))]
    source.columns = dict.fromkeys(names, -1)
    return source


def _cells(
    source: Source, header: list[str], delimiter: str, step_column: str, wanted: Wanted
) -> Points:
    path, at = source.path, header.index(step_column)
    named = [(i, name) for i, name in enumerate(header) if name in source.columns]
    columns = [(i, name) for i, name in named if wanted(name)]
    with _text(path) as file:
        rows = csv.reader(_whole_lines(source, file), delimiter=delimiter)
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
                step = _step(row[at], where, step_column)
                if step is None:
                    continue
                for i, name in named:
                    if row[i].strip().lower() not in _NOTHING:
                        source.columns[name] = step
                for i, name in columns:
                    value = _value(row[i], where, name)
                    if value is not None:
                        yield name, step, value
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path}, after line {rows.line_num}: {error}") from error


def _json_lines(path: Path, step_column: str | None) -> Source:
    source = Source(path, "JSON lines", lambda wanted: _objects(source, step_column, wanted))
    return source


def _objects(source: Source, step_column: str | None, wanted: Wanted) -> Points:
    path, column = source.path, step_column
    with _text(path) as file:
        number, any_step = 0, False
        try:
            for number, line in enumerate(_whole_lines(source, file), 1):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ConfigurationError(f"{where} is no JSON: {error}") from error
                if not isinstance(row, dict):
                    raise ConfigurationError(
                        f"{where} is no object of names and numbers: {line:.60}"
                    )
                for name in row:
                    source.columns.setdefault(name, -1)
                if column is None:
                    column = _known_step(list(row))
                step = None if column is None else _step(row.get(column), where, column)
                if step is None:
                    continue
                any_step = True
                source.columns.pop(str(column), None)
                for name, cell in row.items():
                    if name != column and cell is not None:
                        source.columns[name] = step
                    value = _value(cell, where, name) if name != column and wanted(name) else None
                    if value is not None:
                        yield name, step, value
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path}, after line {number}: {error}") from error
    if column is None or not any_step:
        _step_of(path, list(source.columns), step_column)  # which says what there is


def _trainer_state(path: Path) -> Source:
    try:
        state = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # no JSON, or not in UTF-8
        raise ConfigurationError(
            f"{path} is no JSON, or cut off: {error}. Is it still being written?"
        ) from error
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise ConfigurationError(
            f"{path} is JSON, but has no log_history, as the trainer_state.json of the Hugging "
            "Face Trainer has; other JSON must have one object on each line"
        )
    source = Source(
        path, "Hugging Face trainer_state.json", lambda wanted: _history(source, history, wanted)
    )
    total = state.get("max_steps")
    source.total_steps = total if isinstance(total, int) and total > 0 else None
    taken = state.get("global_step")
    source.steps_taken = taken if isinstance(taken, int) and taken >= 0 else 0
    return source


def _history(source: Source, history: Iterable[Mapping[str, Any]], wanted: Wanted) -> Points:
    for number, row in enumerate(history, 1):
        where = f"{source.path}, row {number} of log_history"
        step = _step(row.get("step"), where, "step")
        if step is None:
            continue
        for name, cell in row.items():
            if name in ("step", "epoch"):
                continue
            source.columns[name] = step
            value = _value(cell, where, name) if wanted(name) else None
            if value is not None:
                yield name, step, value


# ---------------------------------------------------------------------- cells


def _step_of(path: Path, header: list[str], given: str | None) -> str:
    """The column of optimizer steps.

    Raises:
        ConfigurationError: there is none that is known, or not the one that was given.
    """
    known = ", ".join(header[:12])
    if given is not None:
        if given not in header:
            raise ConfigurationError(f"{path} has no column {given!r}: it has {known}")
        return given
    found = _known_step(header)
    if found is None:
        raise ConfigurationError(
            f"{path} has no column of optimizer steps: it has {known}. Name one with --step-column"
        )
    return found


def _known_step(header: list[str]) -> str | None:
    by_word = {name.lower(): name for name in reversed(header)}
    return next((by_word[word] for word in _STEPS if word in by_word), None)


def _step(cell: Any, where: str, column: str) -> int | None:
    value = _value(cell, where, column)
    if value is None:
        return None
    if not math.isfinite(value) or value < 0 or value != int(value):
        raise ConfigurationError(f"{where}: {column} is {cell!r}, no whole number from 0 on")
    return int(value)


def _value(cell: Any, where: str, column: str) -> float | None:
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in _ABSENT):
        return None
    value = _number(cell)
    if value is None:
        raise ConfigurationError(f"{where}: {column} is {cell!r:.60}, no number")
    return value


def _number(cell: Any) -> float | None:
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None


# ---------------------------------------------------------------------- text


def _text(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


def _whole_lines(source: Source, file: TextIO) -> Iterator[str]:
    """The lines but a last one without an end: it is still being written, or cut off."""
    for line in file:
        if not line.endswith(("\n", "\r")) and not _complete(line):
            source.notes.append(f"the last line is cut off and not read: {line[:40]!r}")
            return
        yield line


def _complete(line: str) -> bool:
    """Whether a line without an end is sure to be whole: only an object tells."""
    return _is_object(line)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _check_text(path: Path, head: bytes) -> None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        kind = "UTF-16 text" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "binary"
        raise ConfigurationError(
            f"{path} is {kind}, and no event file of TensorBoard: give a log in UTF-8"
        )
    try:
        head[: head.rfind(b"\n") + 1 or None].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} is not in UTF-8 (byte {error.start}): save it as UTF-8"
        ) from error
