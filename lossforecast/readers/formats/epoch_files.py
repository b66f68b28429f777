"""A folder with a JSON file for each epoch: AllenNLP."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lossforecast.errors import ConfigurationError
from lossforecast.readers.formats.json_document import load_json
from lossforecast.readers.formats.json_lines import flat
from lossforecast.readers.rows import Rows, points_of_rows
from lossforecast.readers.source import FileStart, LogFormat, Source

__all__ = ["EpochFiles"]

_PATTERN = "metrics_epoch_*.json"


class EpochFiles(LogFormat):
    """Files `metrics_epoch_N.json`, each an object of names and numbers."""

    description = "metrics_epoch_N.json (a folder)"
    file_names = (_PATTERN,)

    def matches(self, start: FileStart) -> bool:
        """False: one of the files is no log."""
        return False

    def open(self, path: Path, step_column: str | None) -> Source:
        """Open the folder; the files are read one by one."""
        return Source(
            path, "JSON of each epoch", partial(points_of_rows, rows=_rows, step_column=step_column)
        )

    def find_in(self, folder: Path) -> Path | None:
        """The folder itself."""
        return folder if any(_files(folder)) else None

    def find_below(self, folder: Path) -> list[str]:
        """The folders below with such files."""
        found = {file.parent for file in folder.rglob(_PATTERN)} - {folder}
        return sorted(str(path.relative_to(folder)) for path in found)


def _files(folder: Path) -> Iterator[tuple[int, Path]]:
    for file in folder.glob(_PATTERN):
        if (number := re.fullmatch(r"\d{1,15}", file.stem.rpartition("_")[2])) is not None:
            yield int(number[0]), file


def _rows(source: Source) -> Rows:
    """An object for each epoch, in their order.

    Raises:
        ConfigurationError: a file holds something else.
    """
    for epoch, file in sorted(_files(source.path)):
        row = load_json(file)
        if not isinstance(row, dict):
            raise ConfigurationError(f"{file} is not an object of names and numbers")
        yield str(file), {"epoch": epoch, **flat(row)}
