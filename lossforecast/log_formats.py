"""The formats that logs of training runs come in, each as a stream of points.

A point is the name of a column, an optimizer step and a value. Nothing is loaded whole but JSON of
the Hugging Face Trainer, which is small.
"""

import csv
import importlib.util
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from lossforecast.errors import ConfigurationError

__all__ = [
    "Points",
    "Source",
    "found_in",
    "is_loss",
    "is_rate",
    "metric_of",
    "open_log",
    "run_of",
    "words",
]

Points = Iterator[tuple[str, int, float]]
Wanted = Callable[[str], bool]

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
_LOSS = re.compile(r"(^|[^a-z])(loss|nll|cross_entropy|xent)($|[^a-z])")
_RATE = re.compile(r"(^|[^a-z])(lr|learning[ _-]?rate)($|[^a-z])")
_VALIDATION = re.compile(
    r"(^|[^a-z])(val|valid|validate|validation|eval|evaluation|test|testing|dev|heldout|held_out)"
    r"($|[^a-z]|loss)"
)
_NO_RATE = re.compile(
    r"(^|[^a-z])(momentum|weight[ _-]?decay|wd|mult|multiplier|scale|factor|beta|betas|beta\d)"
    r"($|[^a-z])"
)
_EVENTS = "TensorBoard events"
_HEAD = 4096  # bytes by which a file is recognised
_FRAME = 16  # bytes of a record besides its content: the length, and two checksums
_SMALL = 512  # bytes


@dataclass
class Source:
    """A log that was recognised.

    Attributes:
        path: the file, or the folder of event files.
        kind: the format, for people.
        read: the points of the columns that are wanted; also fills `columns`.
        columns: the names seen so far, each with the last step it has a value at, or -1.
        steps_taken: of the run, where the log has it.
        total_steps: length of the run, where the log has it.
        notes: what people should know of what was read.
    """

    path: Path
    kind: str
    read: Callable[[Wanted], Points] = field(repr=False)
    columns: dict[str, int] = field(default_factory=dict)
    steps_taken: int | None = None
    total_steps: int | None = None
    notes: list[str] = field(default_factory=list)


def metric_of(name: str) -> str:
    """Whether a loss is of training or validation, by its name."""
    return "val" if _VALIDATION.search(words(name)) else "train"


def run_of(name: str) -> str:
    """The run that a column of a W&B panel belongs to, as in "run - train/loss"."""
    return name.rpartition(" - ")[0]


def words(name: str) -> str:
    """A name in lower case, its words apart: train_loss for trainLoss."""
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()


def is_loss(name: str) -> bool:
    """Whether a column is called like a loss."""
    word = words(name)
    return _LOSS.search(word) is not None and _RATE.search(word) is None


def is_rate(name: str) -> bool:
    """Whether a column is called like a learning rate, and not like what is logged beside it."""
    word = words(name)
    return _RATE.search(word) is not None and _NO_RATE.search(word) is None


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
                return _event_source(place, sorted(place.glob("*tfevents*")))
        with place.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror or error}. Give the file of a log, or the folder "
            "of one run"
        ) from error
    if not head.strip(b"\0 \t\r\n"):
        raise ConfigurationError(f"{place} is empty: nothing was logged, or not flushed yet")
    if "tfevents" in place.name or b"brain.Event:" in head[:64]:
        return _event_source(place, [place])
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
    below = sorted({str(path.parent.relative_to(folder)) for path in folder.rglob("*tfevents*")})
    below += sorted(str(path.relative_to(folder)) for path in folder.rglob("metrics.csv"))
    hint = f"; there are logs below, name one: {', '.join(below[:5])}" if below else ""
    raise ConfigurationError(
        f"{folder} holds no event files, metrics.csv or trainer_state.json{hint}"
    )


# ---------------------------------------------------------------------- TensorBoard


def _event_source(place: Path, files: list[Path]) -> Source:
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigurationError(
            'event files need TensorBoard: pip install "lossforecast[tensorboard]"'
        )
    source = Source(place, _EVENTS, lambda wanted: _events(source, files, wanted))
    if len(files) > 1:
        source.notes.append(f"{len(files)} event files, read in the order of their names")
    return source


def _events(source: Source, files: Iterable[Path], wanted: Wanted) -> Points:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
    from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]

    for path in files:
        read, events = 0, 0
        for record in _records(path):
            read += len(record) + _FRAME
            events += 1
            try:
                event = Event.FromString(record)
            except DecodeError as error:
                raise ConfigurationError(f"{path} is damaged at event {events}: {error}") from error
            for value in event.summary.value:
                which = value.WhichOneof("value")
                if which not in ("simple_value", "tensor"):
                    continue
                source.columns[value.tag] = event.step
                if not wanted(value.tag):
                    continue
                if which == "simple_value":
                    yield value.tag, event.step, value.simple_value
                elif make_ndarray(value.tensor).size == 1:
                    yield value.tag, event.step, float(make_ndarray(value.tensor).item())
        if read == 0:
            raise ConfigurationError(f"{path} is no event file, or damaged at its beginning")
        if (left := path.stat().st_size - read) > 0:
            source.notes.append(
                f"{path.name} is cut off or damaged after {events} events: the last {left} bytes "
                "are not read"
            )


def _records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, up to the first that is cut off or damaged.

    TensorBoard's own reader computes the checksum of every picture in pure Python, 4 MB a second.
    Here that of a large record's content is passed over; a loss is in a small one.
    """
    from tensorboard.compat.tensorflow_stub import (  # type: ignore[import-untyped]
        pywrap_tensorflow,
    )

    def intact(content: bytes, checksum: bytes) -> bool:
        return bool(pywrap_tensorflow.masked_crc32c(content) == int.from_bytes(checksum, "little"))

    with path.open("rb") as file:
        while True:
            length, checksum = file.read(8), file.read(4)
            if len(checksum) < 4 or not intact(length, checksum):
                return
            size = int.from_bytes(length, "little")
            content, checksum = file.read(size), file.read(4)
            if len(checksum) < 4 or (size <= _SMALL and not intact(content, checksum)):
                return
            yield content


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
