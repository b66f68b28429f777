"""Log files that are UTF-8 text, and may still be written to."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from lossforecast.errors import ConfigurationError
from lossforecast.readers.source import FileStart, Source

__all__ = ["check_text", "is_json_object", "open_text", "whole_lines"]

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte-order marks


def open_text(path: Path) -> TextIO:
    """Open a UTF-8 file, with or without a byte-order mark; line ends are kept."""
    return path.open(encoding="utf-8-sig", newline="")


def whole_lines(source: Source, file: TextIO) -> Iterator[str]:
    """The complete lines: the last one may still be being written, or may be cut off.

    A last line without a line end is complete only if it is a JSON object.
    """
    for line in file:
        if not line.endswith(("\n", "\r")) and not is_json_object(line):
            source.notes.append(f"the last line is cut off and not read: {line[:40]!r}")
            return
        yield line


def is_json_object(line: str) -> bool:
    """True if a line is one whole JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def check_text(start: FileStart) -> None:
    """Check that a file begins as UTF-8 text.

    Raises:
        ConfigurationError: it is binary or in another encoding.
    """
    data = start.data
    if data.startswith(_UTF_16) or b"\0" in data:
        content = "UTF-16 text" if data.startswith(_UTF_16) else "binary, and no event file"
        raise ConfigurationError(f"{start.path} is {content}: give a log in UTF-8")
    try:
        data[: data.rfind(b"\n") + 1 or None].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{start.path} is not in UTF-8 (byte {error.start}): save it as UTF-8"
        ) from error
