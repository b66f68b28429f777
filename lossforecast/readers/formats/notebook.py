"""Notebooks of Jupyter: what their cells printed, and the tables that they show."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lossforecast.errors import ConfigurationError
from lossforecast.readers.formats.json_document import load_json
from lossforecast.readers.formats.text_log import source_of_lines
from lossforecast.readers.source import FileStart, LogFormat, Source

__all__ = ["Notebook"]

_ROW = re.compile(r"<tr\b.*?</tr>", re.DOTALL)
_CELL = re.compile(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", re.DOTALL)
_LINE = re.compile(r"[^\r\n]*[\r\n]+|[^\r\n]+")


class Notebook(LogFormat):
    """A notebook, whose outputs are read as a text log."""

    description = "notebooks (.ipynb)"
    is_strict = False

    def matches(self, start: FileStart) -> bool:
        """True if the file is named as one."""
        return start.name.endswith(".ipynb")

    def open(self, path: Path, step_column: str | None) -> Source:
        """Load the file."""
        document = load_json(path)
        cells = document.get("cells") if isinstance(document, dict) else None
        if not isinstance(cells, list):
            raise ConfigurationError(f"{path} is no notebook: it has no cells")
        lines = list(_lines(cells))
        return source_of_lines(path, "notebook", lines, step_column)


def _lines(cells: list[Any]) -> Iterator[str]:
    """The lines of the outputs; the rows of tables in HTML have tabs between their cells."""
    for cell in cells:
        for output in cell.get("outputs", ()) if isinstance(cell, dict) else ():
            data = output.get("data", {}) if isinstance(output, dict) else {}
            table = _text(data.get("text/html"))
            rows = [_CELL.findall(row) for row in _ROW.findall(table)]
            if rows:
                yield from ("\t".join(map(_plain, cells)) + "\n" for cells in rows)
            else:
                text = _text(output.get("text")) or _text(data.get("text/plain"))
                yield from _LINE.findall(text)


def _plain(cell: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", cell)).strip()


def _text(value: Any) -> str:
    """A text that is stored whole or by its lines."""
    return "".join(map(str, value)) if isinstance(value, list) else str(value or "")
