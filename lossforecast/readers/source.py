"""`LogFormat`, the interface of a log format, and `Source`, an opened log."""

import codecs
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lossforecast.errors import ConfigurationError

__all__ = ["FileStart", "LogFormat", "Points", "Source", "Wanted", "encoding_of"]

Points = Iterator[tuple[str, int, float]]
"""Logged values: the name of a column, an optimizer step and a value."""
Wanted = Callable[[str], bool]
"""True for the names of the columns to read."""


@dataclass
class Source:
    """A log that was opened, not yet read.

    Attributes:
        path: the file, or the folder of a log of several files.
        format: name of the format, for people.
        reader: yields the points of the columns that are wanted; also fills `columns`.
        columns: names of the columns seen so far, each with the last step that has a value, or -1.
        steps_taken: optimizer steps of the run so far, if the log has them.
        total_steps: planned length of the run, if the log has it.
        total_epochs: planned epochs of the run, if the log has them.
        steps_per_epoch: optimizer steps of an epoch, if the log has them other than in a column.
        notes: remarks for people about what was read or left out.
        counts: what its steps count: "steps", or "epochs" where no optimizer steps are logged. The
            first epoch is number 0, and its training loss is the mean over it.
        losses_are_means: True if a training loss is the mean over the steps since the last one.
        maybe_lightning: True if Lightning may have written the log, which numbers steps its own way
            (`lossforecast.readers.steps`).
        asked: names of the columns that were asked for, or that are taken where none is a loss.
        lines: the lines of a text log, if they are not those of its file.
        runs_have_names: True if the names of its columns begin with those of runs.
        run: number, from 1, of the run to read where several were appended; None for the last.
        n_runs: number of appended runs so far.
        longest: last step of the longest of these runs, also of those that are not read.
        purged_from: step from which on the writer has just withdrawn all values, if it has.
        on_read: is told, now and then, how many more bytes were read.
    """

    path: Path
    format: str
    reader: Callable[["Source", Wanted], Points] = field(repr=False)
    columns: dict[str, int] = field(default_factory=dict)
    steps_taken: int | None = None
    total_steps: int | None = None
    total_epochs: float | None = None
    steps_per_epoch: float | None = None
    notes: list[str] = field(default_factory=list)
    counts: str = "steps"
    losses_are_means: bool = False
    maybe_lightning: bool = False
    asked: frozenset[str] = frozenset()
    lines: Sequence[str] | None = field(default=None, repr=False)
    runs_have_names: bool = False
    run: int | None = None
    n_runs: int = 1
    longest: int = -1
    purged_from: int | None = None
    on_read: Callable[[int], None] | None = field(default=None, repr=False)

    def points(self, wanted: Wanted) -> Points:
        """The points of the wanted columns, in the order of the log."""
        self.n_runs = 1
        return self.reader(self, wanted)

    def begin_run(self) -> None:
        """Note that another run begins in the log."""
        if not self.skips and self.n_runs != self.run:
            self.columns = dict.fromkeys(self.columns, -1)
        self.n_runs += 1

    @property
    def skips(self) -> bool:
        """True before and after the run to read."""
        return self.run is not None and self.n_runs != self.run

    def check_run(self) -> None:
        """Check that a log that has been read holds the run to read.

        Raises:
            ConfigurationError: it does not.
        """
        if self.run is not None and self.n_runs < self.run:
            has = "one run" if self.n_runs == 1 else f"{self.n_runs} runs"
            raise ConfigurationError(f"{self.path} has no run {self.run}: it holds {has}")


@dataclass(frozen=True)
class FileStart:
    """The beginning of a file, by which its format is recognised.

    Attributes:
        path: the file.
        data: its first 4096 bytes, and the rest of its first line if that is longer.
    """

    path: Path
    data: bytes

    @property
    def text(self) -> str:
        """The beginning as text, without a byte-order mark and what is no text."""
        return self.data.decode(encoding_of(self.data), errors="ignore")

    @property
    def name(self) -> str:
        """The name of the file, without the ending of a compressed one."""
        return self.path.name.lower().removesuffix(".gz")

    @property
    def first_line(self) -> str:
        """The first line of the text, its end included."""
        return io.StringIO(self.text, newline="").readline()


def encoding_of(data: bytes) -> str:
    """The encoding of a text that begins with these bytes: UTF-8, unless marked as UTF-16."""
    utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if utf_16 else "utf-8-sig"


class LogFormat(ABC):
    """A format of training logs.

    To add one, implement this class in a module of `lossforecast.readers.formats` and list an
    instance in `FORMATS` there.

    Attributes:
        description: the format in a few words, for the list of known formats in an error.
        file_names: glob patterns of the names by which a log is found in a folder.
        is_text: False for a binary format, which is tried before the file is checked to be text.
        is_strict: False for a text format that replaces bytes which are not in UTF-8.
    """

    description: ClassVar[str]
    file_names: ClassVar[tuple[str, ...]] = ()
    is_text: ClassVar[bool] = True
    is_strict: ClassVar[bool] = True

    @abstractmethod
    def matches(self, start: FileStart) -> bool:
        """True if a file is in this format, judged by its name and its beginning."""

    @abstractmethod
    def open(self, path: Path, step_column: str | None) -> Source:
        """Open a file, or a folder that `find_in` returned.

        Args:
            path: the file or folder.
            step_column: name of the column of optimizer steps, if it was given.

        Raises:
            ConfigurationError: the log is damaged, or a library that reads it is missing.
        """

    def find_in(self, folder: Path) -> Path | None:
        """The log in a folder of one run: a file, or the folder itself for a log of many files."""
        files = (file for name in self.file_names for file in sorted(folder.glob(name)))
        return next((file for file in files if file.is_file()), None)

    def find_below(self, folder: Path) -> list[str]:
        """Paths relative to a folder of all logs in it and in the folders below."""
        files = (file for name in self.file_names for file in folder.rglob(name))
        return sorted(str(file.relative_to(folder)) for file in files if file.is_file())
