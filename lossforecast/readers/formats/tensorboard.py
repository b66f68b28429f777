"""TensorBoard's event files, read as a stream (needs tensorboard)."""

import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lossforecast.errors import ConfigurationError, NothingLoggedError
from lossforecast.readers.source import FileStart, LogFormat, Points, Source, Wanted
from lossforecast.readers.text import check_pointer

__all__ = ["TensorBoardEvents"]

_FILES = "*tfevents*"
_FIRST_EVENT = b"brain.Event:"  # in the first bytes: the version of the format
_FRAME_BYTES = 16  # of a record, in addition to its content: the length and two checksums
_BYTES_PER_REPORT = 1_000_000  # of the progress of reading
_MAX_CHECKED_BYTES = 512  # largest content of a record whose checksum is compared


class TensorBoardEvents(LogFormat):
    """One event file, or a folder of them: each restart of a run adds a file."""

    description = "TensorBoard event files"
    file_names = (_FILES,)
    is_text = False

    def matches(self, start: FileStart) -> bool:
        """True if the name or the first event is that of an event file."""
        return "tfevents" in start.path.name or _FIRST_EVENT in start.data[:64]

    def open(self, path: Path, step_column: str | None) -> Source:
        """Open a file or all files of a folder; every value has its step."""
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigurationError(
                'event files need TensorBoard: pip install "lossforecast[tensorboard]"'
            )
        files = sorted(path.glob(_FILES), key=_age) if path.is_dir() else [path]
        reader = partial(_points, files=files)
        source = Source(path, "TensorBoard events", reader, maybe_lightning=True)
        if len(files) > 1:
            source.notes.append(f"{len(files)} event files, read in the order of their names")
        return source

    def find_in(self, folder: Path) -> Path | None:
        """The folder itself if it holds event files."""
        return folder if any(folder.glob(_FILES)) else None

    def find_below(self, folder: Path) -> list[str]:
        """The folders below that hold event files."""
        folders = {path.parent.relative_to(folder) for path in folder.rglob(_FILES)}
        return sorted(str(path) for path in folders if path.parts)


def _age(path: Path) -> list[tuple[int, str]]:
    """A key that sorts files by the numbers in their names: the time, the process, a count."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in path.name.split(".")]


def _points(source: Source, wanted: Wanted, *, files: Sequence[Path]) -> Points:
    """The points of every file that can be read.

    Raises:
        ConfigurationError: no file can be read.
    """
    errors: list[ConfigurationError] = []
    first, last = -1, dict[str, int]()  # step of the first value of a run, of the last by its tag
    for path in files:
        begun = False  # another run, in this file
        try:
            for tag, step, value in _values(source, path):
                if not begun and step < last.get(tag, -1) and step <= first:
                    source.begin_run()
                    last.clear()
                    begun = True
                first = first if last else step
                last[tag] = step
                source.longest = max(source.longest, step)
                if source.skips:
                    continue
                source.columns[tag] = step
                if wanted(tag) and (number := _number(value)) is not None:
                    yield tag, step, number
        except ConfigurationError as error:
            errors.append(error)
        except OSError as error:
            errors.append(ConfigurationError(f"cannot read {path}: {error.strerror or error}"))
    if len(errors) == len(files):
        raise errors[0]
    source.notes.extend(f"left out: {error}" for error in errors)


def _values(source: Source, path: Path) -> Iterator[tuple[str, int, Any]]:
    """The tags, steps and values of a file.

    Raises:
        ConfigurationError: the file is damaged, or none of events.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

    bytes_read, n_events, reported = 0, 0, 0
    for record in _records(path):
        bytes_read += len(record) + _FRAME_BYTES
        n_events += 1
        if source.on_read is not None and bytes_read - reported > _BYTES_PER_REPORT:
            source.on_read(bytes_read - reported)
            reported = bytes_read
        try:
            event = Event.FromString(record)
        except DecodeError as error:
            raise ConfigurationError(f"{path} is damaged at event {n_events}: {error}") from error
        if event.session_log.status == event.session_log.START and event.step > 0:
            source.purged_from = event.step  # as after SummaryWriter(purge_step=...)
        for value in event.summary.value:
            if value.WhichOneof("value") in ("simple_value", "tensor"):
                yield value.tag, event.step, value
    size = path.stat().st_size
    if size == 0:
        raise NothingLoggedError(f"{path} is empty: nothing was logged, or not flushed yet")
    if bytes_read == 0:
        with path.open("rb") as file:
            check_pointer(path, file.read(100))
        raise ConfigurationError(f"{path} is not an event file, or damaged at its beginning")
    if (left := size - bytes_read) > 0:
        source.notes.append(
            f"{path.name} is cut off or damaged after {n_events} events: the last {left} bytes "
            "are not read"
        )


def _number(value: Any) -> float | None:
    """The number in a value; None if it holds text or an array."""
    from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]

    if value.WhichOneof("value") == "simple_value":
        return float(value.simple_value)
    tensor = make_ndarray(value.tensor)
    return float(tensor.item()) if tensor.size == 1 and tensor.dtype.kind in "iuf" else None


def _records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, up to the first that is cut off or damaged.

    TensorBoard's own reader computes the checksum of every picture in pure Python, 4 MB a second.
    Here the checksum of a large record's content is not compared; a loss is in a small record.
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
            if len(checksum) < 4 or (size <= _MAX_CHECKED_BYTES and not intact(content, checksum)):
                return
            yield content
