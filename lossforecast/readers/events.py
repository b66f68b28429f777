"""TensorBoard's event files, as a stream of points."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from lossforecast.errors import ConfigurationError, NothingLoggedError
from lossforecast.readers.source import Points, Source, Wanted

__all__ = ["event_source"]

_EVENTS = "TensorBoard events"
_FRAME = 16  # bytes of a record besides its content: the length, and two checksums
_SMALL = 512  # bytes


def event_source(place: Path, files: list[Path]) -> Source:
    """A folder of event files, or one.

    Raises:
        ConfigurationError: TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigurationError(
            'event files need TensorBoard: pip install "lossforecast[tensorboard]"'
        )
    source = Source(place, _EVENTS, lambda wanted: _events(source, files, wanted))
    if len(files) > 1:
        source.notes.append(f"{len(files)} event files, read in the order of their names")
    return source


def _events(source: Source, files: Sequence[Path], wanted: Wanted) -> Points:
    """Those of every file that can be read.

    Raises:
        ConfigurationError: none of them can be.
    """
    errors: list[ConfigurationError] = []
    for path in files:
        try:
            yield from _events_of(source, path, wanted)
        except ConfigurationError as error:
            errors.append(error)
        except OSError as error:
            errors.append(ConfigurationError(f"cannot read {path}: {error.strerror or error}"))
    if len(errors) == len(files):
        raise errors[0]
    source.notes.extend(f"left out: {error}" for error in errors)


def _events_of(source: Source, path: Path, wanted: Wanted) -> Points:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
    from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]

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
                continue
            tensor = make_ndarray(value.tensor)
            if tensor.size == 1 and tensor.dtype.kind in "iuf":  # and no text
                yield value.tag, event.step, float(tensor.item())
    size = path.stat().st_size
    if size == 0:
        raise NothingLoggedError(f"{path} is empty: nothing was logged, or not flushed yet")
    if read == 0:
        raise ConfigurationError(f"{path} is no event file, or damaged at its beginning")
    if (left := size - read) > 0:
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
