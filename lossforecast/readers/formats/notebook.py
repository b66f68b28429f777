"""Notebooks of Jupyter and pages in HTML: what cells printed, and the tables that they show."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lossforecast.errors import ConfigurationError
from lossforecast.readers.formats.json_document import MAX_CHARACTERS, load_json
from lossforecast.readers.formats.text_log import source_of_lines
from lossforecast.readers.source import FileStart, LogFormat, Source
from lossforecast.readers.text import open_text

__all__ = ["Notebook", "WebPage"]

_ROW = re.compile(r"<tr\b.*?</tr>", re.DOTALL)
_CELL = re.compile(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_HIDDEN = re.compile(r"<(script|style)\b.*?</\1>", re.DOTALL)
_PAGE = re.compile(r"<(?:!doctype html|html|table)\b", re.IGNORECASE)
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


class WebPage(LogFormat):
    """A page in HTML, such as an exported notebook or a report, which is read as a text log."""

    description = "pages in HTML"
    is_strict = False

    def matches(self, start: FileStart) -> bool:
        """True if the file begins as a page, or with a tag above a table."""
        text = start.text.lstrip()
        return _PAGE.match(text) is not None or (text.startswith("<") and "<tr" in text)

    def open(self, path: Path, step_column: str | None) -> Source:
        """Load the file."""
        with open_text(path, errors="replace") as file:
            lines = _LINE.findall(_text_of_page(file.read(MAX_CHARACTERS)))
        return source_of_lines(path, "HTML", lines, step_column)


def _lines(cells: list[Any]) -> Iterator[str]:
    """The lines of the outputs; the rows of tables in HTML have tabs between their cells."""
    for cell in cells:
        for output in cell.get("outputs", ()) if isinstance(cell, dict) else ():
            data = output.get("data", {}) if isinstance(output, dict) else {}
            page = _text(data.get("text/html"))
            text = _text(output.get("text")) or _text(data.get("text/plain"))
            yield from _LINE.findall(_text_of_page(page) if _ROW.search(page) else text)


def _text_of_page(page: str) -> str:
    """The text of a page in HTML, a line for each row of a table, with tabs between its cells."""
    page = _ROW.sub(lambda row: "\n" + "\t".join(map(_plain, _CELL.findall(row[0]))) + "\n", page)
    return html.unescape(_TAG.sub("", _HIDDEN.sub("", page)))


def _plain(cell: str) -> str:
    return _TAG.sub("", cell).strip()


def _text(value: Any) -> str:
    """A text that is stored whole or by its lines."""
    return "".join(map(str, value)) if isinstance(value, list) else str(value or "")
