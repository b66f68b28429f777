"""Tables, and numbers and names as text."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lossforecast.forecast import Forecast
from lossforecast.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


__all__ = [
    "details_table",
    "empty_table",
    "escaped",
    "interval80",
    "markdown_row",
    "number",
    "percent",
    "print_line",
]


_MAX_CELL_CHARACTERS = 1_000


def empty_table(title: str, first: str, headings: Sequence[str]) -> "Table":
    """A table without rows: names under the heading `first`, then numbers under `headings`."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def details_table(title: str, rows: Mapping[str, str]) -> "Table":
    """A table without headings: names and their values, which may wrap."""
    table = empty_table(title, "", [""])
    table.show_header = False
    table.columns[1].justify = "left"
    table.columns[1].no_wrap = False
    for name, value in rows.items():
        table.add_row(escaped(name), escaped(value))
    return table


def escaped(text: str | None) -> str:
    """Text from a log or a store for a cell: at most 1,000 characters, without markup of rich."""
    from rich.markup import escape

    return escape(printable((text or "")[:_MAX_CELL_CHARACTERS]))


def markdown_row(cells: Sequence[str]) -> str:
    """One row of a table in Markdown."""
    return "| " + " | ".join(cells) + " |"


def print_line(out: "Console", line: str) -> None:
    """Print a line that may contain a name from a log or a store."""
    out.print(printable(line), markup=False)


def percent(share: float, decimals: int | None = None) -> str:
    """A share in percent, without the sign; by default in three digits."""
    value = 100 * share
    if decimals is None:
        decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{decimals}f}"


def number(value: float | None) -> str:
    """A number in four digits; "-" for None and nan."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def interval80(forecast: Forecast) -> str:
    """The 80% interval of a forecast."""
    lower, upper = forecast.interval(0.8)
    return f"{number(lower)} to {number(upper)}"
