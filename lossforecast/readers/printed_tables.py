"""`PrintedTables`: tables in a text log, whose rows hold numbers alone or one name each."""

import re
from functools import lru_cache

from lossforecast.readers.cells import number_in
from lossforecast.readers.columns import is_epoch, is_loss, words
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
_PARTS = {"box", "obj", "cls", "total"}  # of the loss of YOLO
_CELL = re.compile(r"\S+(?: \S+)*")
_NUMBER = re.compile(r"(?<![\w-])[-+]?\.?\d")
_STEP = re.compile(r"(\d+)(?:/(\d+))?")
_BAR = re.compile(r":?\s*\d+%\|")  # of tqdm, behind the cells

Cells = dict[str, str]


class PrintedTables:
    """Reads the rows of two kinds of tables from lines of text, one line at a time.

    Rows of numbers under a header that names a counter and a loss, aligned by spaces, tabs or bars
    (YOLO, fastai, spaCy, Markdown); and boxes with a name and its number in each line, between
    rules (Stable-Baselines3). The names of a header may stand on two lines between bars, and cells
    may be empty, where bars or places tell them apart (MATLAB).

    Args:
        of_any: True if the names need not be those of losses.
    """

    def __init__(self, of_any: bool = False) -> None:
        self._of_any = of_any
        self._header: list[str] = []
        self._places: tuple[tuple[int, int], ...] = ()  # of the names
        self._commas = False  # between the names
        self._above = ""  # the last line without numbers
        self._gap = 0  # lines since the last row
        self._box: Cells | None = None  # inside a box
        self._section = ""  # of the box

    @property
    def is_open(self) -> bool:
        """True if the next lines may be rows."""
        return bool(self._header) or self._box is not None

    def row(self, line: str) -> Cells | None:
        """The cells of a row that ends with this line; {} inside a table; None for other lines."""
        whole = (without_colours(line) if "\x1b" in line else line).rstrip()
        line = whole.strip()
        if line.startswith(_BOX):
            line = line.translate(_BOX_LINES)
        if len(line) > 2 and _RULE.fullmatch(line):
            box, self._box, self._section = self._box, {}, ""
            return box if box and _is_row(box, self._of_any) else {}
        if not _NUMBER.search(line):
            above, self._above = self._above, line
            header = _header(_joined(above, line), self._of_any) or _header(line, self._of_any)
            commas = not header and "," in line
            if commas:
                header = _header(line.replace(",", "|"), self._of_any)
            if header:
                self._commas = commas
                self._header, self._gap = list(header), 0
                self._places = _places(whole)
                return {}
        if self._header:
            whole = whole.replace(",", "|") if self._commas else whole
            cells = _row(whole, self._header, self._places, self._of_any)
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


def _is_row(cells: Cells, of_any: bool) -> bool:
    counters = [name for name in cells if is_counter_name(name) or is_epoch(name)]
    return bool(counters) and (of_any or any(map(is_loss, cells)))


def _joined(above: str, line: str) -> str:
    """A header on two lines between bars as one; "" if the lines have not as many cells."""
    if min(above.count("|"), line.count("|")) < 2:
        return ""
    first, second = _split(above), _split(line)
    if len(first) != len(second):
        return ""
    return " | ".join(f"{a} {b}".strip() for a, b in zip(first, second, strict=True))


def _places(line: str) -> tuple[tuple[int, int], ...]:
    """The beginning and end of each cell in a line without bars, divided by wide gaps."""
    if "|" in line or len(_GAP.split(line.strip())) < 2 or "\t" in line:
        return ()
    return tuple(match.span() for match in _CELL.finditer(line))


@lru_cache(_MAX_CACHED)
def _header(line: str, of_any: bool) -> tuple[str, ...]:
    """The names in a line without numbers, if one is of a counter and one of a loss; else ().

    If it is `of_any`, none has to be of a loss.
    """
    names = [_named(name) for name in _split(line.lstrip("#% \t"))]
    counts = any(is_counter_name(name) or is_epoch(name) for name in names)
    if not 2 <= len(names) <= _MAX_COLUMNS or not counts or len(set(names)) < len(names):
        return ()
    if not any(map(is_loss, names)) and not _PARTS.isdisjoint(names):
        names = [f"{name}_loss" if name in _PARTS else name for name in names]
    apart = "|" in line or _GAP.search(line.strip()) is not None
    return tuple(names) if (of_any and apart) or any(map(is_loss, names)) else ()


def _split(line: str) -> list[str]:
    """The cells between bars, wide gaps or, if there are none, spaces."""
    if "|" in line:
        return [cell.strip() for cell in line.strip("|").split("|")]
    cells = _GAP.split(line)
    return cells if len(cells) > 1 else line.split()


def _named(name: str) -> str:
    name = "_".join(words(name.strip("\"'")).split())
    return _SHORT_NAMES.get(name, name)


def _row(
    whole: str, header: list[str], places: tuple[tuple[int, int], ...], of_any: bool
) -> Cells | None:
    """The cells of a row under a header; {} before the end of a progress bar behind them."""
    n, line = len(header), whole.strip().translate(_BOX_LINES)
    bar = _BAR.search(line)
    cells = line[: bar.start()].split() if bar else _split(line)
    if len(cells) != n:
        cells = line.split() if bar is None else cells
    if len(cells) == n + 1 and cells[0].strip('"').isdecimal():
        cells = cells[1:]  # the name of a row, as in R and pandas
    if len(cells) < n == len(places):
        cells = _at_places(whole, places) or cells
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
        elif (value := _sum_in(cell)) is not None:
            any_loss |= of_any or is_loss(name)
            row[name] = value
    any_count |= any(is_epoch(name) for name in row)
    if not (any_count and any_loss):
        return None
    if bar is not None:
        count = BAR_COUNT.search(line, bar.start())
        if count is not None and count[1] != count[2]:
            return {}
    return row


def _sum_in(cell: str) -> str | None:
    """The cell if it is a number, or the sum of the parts of a loss: `[0.5, 0.25]` of DeepXDE."""
    if not cell.startswith("["):
        return cell if number_in(cell) is not None else None
    parts = [number_in(part) for part in cell.strip("[]").replace(",", " ").split()]
    return str(sum(part for part in parts if part is not None)) if parts else None


def _at_places(line: str, places: tuple[tuple[int, int], ...]) -> list[str]:
    """The cells below names at some places, some of them empty; [] if one is below none or two."""
    cells = [""] * len(places)
    for match in _CELL.finditer(line):
        below = [i for i, (a, b) in enumerate(places) if match.start() < b and a < match.end()]
        if len(below) != 1 or cells[below[0]]:
            return []
        cells[below[0]] = match[0]
    return cells
