"""Log files that are text, and may still be written to."""

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from lossforecast.errors import ConfigurationError
from lossforecast.readers.source import FileStart, Source, encoding_of

__all__ = [
    "MAX_LINE",
    "check_pointer",
    "check_text",
    "check_utf_8",
    "is_json_object",
    "open_bytes",
    "open_text",
    "parse_json",
    "whole_lines",
]

MAX_LINE = 16_000_000
"""Characters of a line; a longer one is no line of a log."""
_ODD_SHARE = 0.1  # characters that are none in UTF-8, as in a text in another encoding
_MAX_ODD_SHARE = 0.8  # of these in such a text; with more a file is no text
_MAX_CONTROL_SHARE = 0.01  # control characters beside these, likewise
_CONTROLS = re.compile(r"[\x01-\x06\x0e-\x1a\x1c-\x1f\x7f]")
_LINES_PER_REPORT = 4096  # of the progress of reading
_PART_BYTES = 1 << 16
_GZIP = b"\x1f\x8b"
_BAR = re.compile(r"\d/\d+\s*\[[^\[\]]*\]\s*$")  # of tqdm
_CUT_OFF = "lossforecast.cut_off"
_CUT_OFF_REASONS = ("unexpected end of data", "truncated data")  # of Python's codecs
_POINTER = b"version https://git-lfs"


class _GzipFile(gzip.GzipFile):
    """A compressed log, which ends early if it is cut off."""

    def read1(self, size: int = -1) -> bytes:
        """Up to `size` bytes; none at the end.

        Raises:
            ConfigurationError: the file is damaged.
        """
        return self._checked(super().read1, size)

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, or all of them."""
        parts, wanted = [], -1 if size is None or size < 0 else size
        while wanted and (part := self.read1(wanted if wanted > 0 else _PART_BYTES)):
            parts.append(part)
            wanted -= len(part) if wanted > 0 else 0
        return b"".join(parts)

    def readline(self, size: int | None = -1) -> bytes:
        """The next line, or its first `size` bytes."""
        return self._checked(super().readline, -1 if size is None else size)

    def _checked(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except EOFError:
            return b""
        except (OSError, zlib.error) as error:
            raise ConfigurationError(f"{self.name} is damaged: {error}") from error


def open_bytes(path: Path) -> BinaryIO:
    """Open a file, which may be compressed by gzip."""
    file = path.open("rb")
    is_gzip = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    if not is_gzip:
        return file
    file.close()
    return cast(BinaryIO, _GzipFile(path))


def _cut_off(error: UnicodeError) -> tuple[str, int]:
    """Replace a last character that is cut off, as in a file that is being written."""
    if isinstance(error, UnicodeDecodeError) and error.reason in _CUT_OFF_REASONS:
        return "\ufffd", error.end
    raise error


codecs.register_error(_CUT_OFF, _cut_off)


def open_text(path: Path, *, errors: str = _CUT_OFF) -> TextIO:
    """Open a file in UTF-8 or UTF-16, with or without a byte-order mark; line ends are kept.

    It may be compressed by gzip.

    Args:
        path: the file.
        errors: what to do about bytes that are in another encoding; by default a UnicodeDecodeError
            is raised, unless the last character is only cut off.
    """
    with open_bytes(path) as start:
        encoding = encoding_of(start.read(len(codecs.BOM_UTF8)))
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, errors=errors, newline="")


def _place(file: TextIO) -> int:
    """The number of bytes of the file itself that were read."""
    place: int = getattr(file.buffer, "fileobj", file.buffer).tell()
    return place


def whole_lines(source: Source, file: TextIO) -> Iterator[str]:
    """The complete lines: the last one may still be being written, or may be cut off.

    A last line without a line end is complete only if it is a JSON object or a progress bar.

    Raises:
        ConfigurationError: a line is longer than `MAX_LINE`.
    """
    number, place = 0, 0
    while line := file.readline(MAX_LINE):
        number += 1
        if source.on_read is not None and number % _LINES_PER_REPORT == 0:
            source.on_read(_place(file) - place)
            place = _place(file)
        if not line.endswith(("\n", "\r")):
            if len(line) == MAX_LINE:
                raise ConfigurationError(
                    f"{source.path}, line {number} has more than {MAX_LINE:,} characters: this is "
                    "no log"
                )
            if "\b" in line:  # up to the last bar that is whole
                line = line[: line.rindex("\b")].rstrip("\b")
            elif not (is_json_object(line) or _BAR.search(line)):
                source.notes.append(f"the last line is cut off and not read: {line[:40]!r}")
                return
        yield line


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not valid, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def is_json_object(line: str) -> bool:
    """True if a line is one whole JSON object."""
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def check_pointer(path: Path, data: bytes) -> None:
    """Check that a file is not one of the pointers that Git LFS leaves in place of large files.

    Raises:
        ConfigurationError: it is.
    """
    if data.startswith(_POINTER):
        raise ConfigurationError(
            f"{path} is a Git LFS pointer, not the log itself: get it with git lfs pull"
        )


def check_text(start: FileStart) -> None:
    """Check that a file begins as text.

    Raises:
        ConfigurationError: it is binary.
    """
    text = start.data.decode(encoding_of(start.data), errors="replace")
    odd, controls = text.count("\ufffd"), len(_CONTROLS.findall(text))
    other = odd > _ODD_SHARE * len(text) + 1 and controls <= _MAX_CONTROL_SHARE * len(text)
    if "\0" in text or odd > (_MAX_ODD_SHARE if other else _ODD_SHARE) * len(text) + 1:
        raise ConfigurationError(
            f"{start.path} is binary, and no event file: give a log in UTF-8 or UTF-16"
        )


def check_utf_8(start: FileStart) -> None:
    """Check that the first lines of a file are in UTF-8, or marked as UTF-16.

    Raises:
        ConfigurationError: they are in another encoding.
    """
    data = start.data
    if encoding_of(data) == "utf-16":
        return
    try:
        data[: data.rfind(b"\n") + 1 or None].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.reason in _CUT_OFF_REASONS:  # the start ends within a character
            return
        raise ConfigurationError(
            f"{start.path} is not in UTF-8 (byte {error.start}): save it as UTF-8"
        ) from error
