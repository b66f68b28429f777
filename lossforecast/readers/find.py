"""`open_log`: find the log of a run and recognise its format."""

import os
from pathlib import Path

from lossforecast.errors import ConfigurationError, NothingLoggedError
from lossforecast.readers.formats import FORMATS
from lossforecast.readers.source import FileStart, LogFormat, Source
from lossforecast.readers.text import check_pointer, check_text, check_utf_8, open_bytes

__all__ = ["MAX_LISTED_LOGS", "find_log", "logs_below", "open_log"]

_START_BYTES = 4096  # of a file, by which its format is recognised
_LOG_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".log", ".txt", ".out")
_PROGRAMS = (".py", ".sh", ".c", ".cc", ".cpp", ".cu", ".h", ".java", ".js", ".ts", ".rs", ".go")
_MAX_FIRST_LINE_BYTES = 1_000_000  # read in addition if the first line is longer
MAX_LISTED_LOGS = 5
"""Number of logs below a folder that an error names."""


def open_log(path: str | os.PathLike[str], step_column: str | None = None) -> Source:
    """Open a log in whichever of the known formats it is.

    Args:
        path: a file, or a folder that holds one run.
        step_column: the column of optimizer steps in a table, if its name is not a usual one.

    Raises:
        ConfigurationError: there is no such log, or its format is unknown.
    """
    place = Path(path)
    try:
        if place.is_dir():
            log_format, place = _find(place)
            if log_format is not None and place.is_dir():
                return log_format.open(place, step_column)
        if place.name.endswith(_PROGRAMS) and place.is_file():
            raise ConfigurationError(f"{place} is a program, not a log: give the file it wrote")
        start = _start_of(place)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise (NothingLoggedError if missing else ConfigurationError)(
            f"cannot read {path}: {error.strerror or error}. Give the file of a log, or the folder "
            "of one run"
        ) from error
    if not start.data.strip(b"\0 \t\r\n"):
        raise NothingLoggedError(f"{place} is empty: nothing was logged, or not flushed yet")
    check_pointer(place, start.data)
    return _recognised(start).open(place, step_column)


def find_log(folder: Path) -> Path:
    """The log in a folder of one run: a file, or the folder itself for a log of many files.

    Raises:
        ConfigurationError: there is none.
    """
    return _find(folder)[1]


def logs_below(folder: Path) -> list[str]:
    """Paths, relative to a folder, of the logs in the folders below."""
    return [path for log_format in FORMATS for path in log_format.find_below(folder)]


def _find(folder: Path) -> tuple[LogFormat | None, Path]:
    """The log in a folder and its format; None for the only file that may be a log by its ending.

    Raises:
        ConfigurationError: there is none.
    """
    for log_format in FORMATS:
        if (path := log_format.find_in(folder)) is not None:
            return log_format, path
    below = logs_below(folder)
    hint = (
        f"; there are logs below, name one: {', '.join(below[:MAX_LISTED_LOGS])}" if below else ""
    )
    files = sorted(
        file.name
        for file in folder.iterdir()
        if file.name.lower().removesuffix(".gz").endswith(_LOG_SUFFIXES)
    )
    if len(files) == 1 and not below and (folder / files[0]).is_file():
        return None, folder / files[0]
    if files and not below:
        more = f" and {len(files) - MAX_LISTED_LOGS} more" if len(files) > MAX_LISTED_LOGS else ""
        hint = f"; give one of its files: {', '.join(files[:MAX_LISTED_LOGS])}{more}"
    *names, last = (name for log_format in FORMATS for name in log_format.file_names)
    raise (ConfigurationError if below else NothingLoggedError)(
        f"{folder} holds no log: no {', '.join(names)} or {last}{hint}"
    )


def _start_of(path: Path) -> FileStart:
    with open_bytes(path) as file:
        data = file.read(_START_BYTES)
        if b"\n" not in data:
            data += file.readline(_MAX_FIRST_LINE_BYTES)
    return FileStart(path, data)


def _recognised(start: FileStart) -> LogFormat:
    """The format of a file.

    Raises:
        ConfigurationError: the format is unknown.
    """
    for log_format in FORMATS:
        if not log_format.is_text and log_format.matches(start):
            return log_format
    check_text(start)
    for log_format in FORMATS:
        if log_format.is_text and log_format.matches(start):
            if log_format.is_strict:
                check_utf_8(start)
            return log_format
    known = ", ".join(log_format.description for log_format in FORMATS)
    raise ConfigurationError(
        f"{start.path} is in no known format: its first line is {start.first_line[:60]!r}. "
        f"Known formats: {known}"
    )
