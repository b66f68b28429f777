"""`PrintedTables`: tables in a text log, whose rows hold numbers alone or one name each."""

import re
from functools import lru_cache

from lossforecast.readers.cells import number_in
from lossforecast.readers.columns import is_epoch, is_loss
from lossforecast.readers.counters import TOTAL, is_counter_name
from lossforecast.readers.phrases import without_colours

__all__ = ["BAR_COUNT", "PrintedTables"]

BAR_COUNT = re.compile(r"\|\s*(\d+)/(\d+)\s*\[")
"""The count and the total in a progress bar of tqdm."""

_MAX_CACHED = 64  # lines without numbers that are remembered
_MAX_COLUMNS = 64
_MAX_GAP = 400  # lines without a row, after which a header no longer counts
_BOX = ("│", "┃")
_BOX_LINES = str.maketrans(dict.fromkeys(_BOX, "|"))
_RULE = re.compile(r"[\s|+:=\-─━┄┅┌┐└┘├┤┬┴┼╇╈┏┓┗┛┡┩╭╮╰╯]*")
_GAP = re.compile(r"\s{2,}|\t")
_SHORT_NAMES = {"e": "epoch", "#": "step"}  # of spaCy
_NUMBER = re.compile(r"(?<![\w-])[-+]?\.?\d")
_STEP = re.compile(r"(\d+)(?:/(\d+))?")
_BAR = re.compile(r":?\s*\d+%\|")  # of tqdm, behind the cells

Cells = dict[str, str]


class PrintedTables:
    """Reads the rows of two kinds of tables from lines of text, one line at a time.

    Rows of numbers under a header that names a counter and a loss, aligned by spaces, tabs or bars
    (YOLO, fastai, spaCy, Markdown); and boxes with a name and its number in each line, between
    rules (Stable-Baselines3).
    """

    def __init__(self) -> None:
        self._header: list[str] = []
        self._gap = 0  # lines since the last row
        self._box: Cells | None = None  # inside a box
        self._section = ""  # of the box

    @property
    def is_open(self) -> bool:
        """True if the next lines may be rows."""
        return bool(self._header) or self._box is not None

    def row(self, line: str) -> Cells | None:
        """The cells of a row that ends with this line; {} inside a table; None for other lines."""
        line = without_colours(line).strip()
        if line.startswith(_BOX):
            line = line.translate(_BOX_LINES)
        if len(line) > 2 and _RULE.fullmatch(line):
            box, self._box, self._section = self._box, {}, ""
            return box if box and _is_row(box) else {}
        if not _NUMBER.search(line) and (header := _header(line)):
            self._header, self._gap = list(header), 0
            return {}
        if self._header:
            cells = _row(line, self._header)
            if cells is not None:
                self._gap = 0
                return cells
            self._gap += 1
            if self._gap > _MAX_GAP:
                self._header = []
        return None if self._box is None else self._line_of_box(line, self._box)

    def _line_of_box(self, line: str, box: Cells) -> Cells | None:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 2 or not line.startswith("|") or len(box) > _MAX_COLUMNS:
            self._box = None
            return None
        name, value = cells
        if not value:
            self._section = name
        elif number_in(value) is not None:
            box[self._section + name] = value
        return {}


def _is_row(cells: Cells) -> bool:
    return any(map(is_loss, cells)) and any(is_counter_name(n) or is_epoch(n) for n in cells)


@lru_cache(_MAX_CACHED)
def _header(line: str) -> tuple[str, ...]:
    """The names in a line without numbers, if one is of a counter and one of a loss; else ()."""
    names = [_named(name) for name in _split(line.lstrip("#% \t"))]
    counts = any(is_counter_name(name) or is_epoch(name) for name in names)
    if not 2 <= len(names) <= _MAX_COLUMNS or not counts or len(set(names)) < len(names):
        return ()
    if "total" in names and not any(map(is_loss, names)):
        names[names.index("total")] = "total_loss"
    return tuple(names) if any(map(is_loss, names)) else ()


def _split(line: str) -> list[str]:
    """The cells between bars, wide gaps or, if there are none, spaces."""
    if "|" in line:
        return [cell.strip() for cell in line.strip("|").split("|")]
    cells = _GAP.split(line)
    return cells if len(cells) > 1 else line.split()


def _named(name: str) -> str:
    name = "_".join(name.lower().split())
    return _SHORT_NAMES.get(name, name)


def _row(line: str, header: list[str]) -> Cells | None:
    """The cells of a row under a header; {} before the end of a progress bar behind them."""
    n = len(header)
    bar = _BAR.search(line)
    cells = line[: bar.start()].split() if bar else _split(line)
    if len(cells) != n:
        cells = line.split() if bar is None else cells
    if len(cells) == n + 1 and cells[0].isdecimal():
        cells = cells[1:]  # printed by pandas
    if len(cells) != n:
        return None
    row: Cells = {}
    any_count = any_loss = False
    for name, cell in zip(header, cells, strict=True):
        if is_counter_name(name) or is_epoch(name):
            step = _STEP.fullmatch(cell)
            if step is not None:
                any_count, row[name] = True, step[1]
                if step[2]:
                    row[name + TOTAL] = step[2]
            elif is_epoch(name) and number_in(cell) is not None:
                row[name] = cell
        elif number_in(cell) is not None:
            any_loss |= is_loss(name)
            row[name] = cell
    any_count |= any(is_epoch(name) for name in row)
    if not (any_count and any_loss):
        return None
    if bar is not None:
        count = BAR_COUNT.search(line, bar.start())
        if count is not None and count[1] != count[2]:
            return {}
    return row
