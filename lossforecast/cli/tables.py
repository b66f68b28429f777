"""Empty tables and numbers in percent."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


__all__ = ["empty_table", "percent"]


def empty_table(title: str, view: str, headings: Sequence[str]) -> "Table":
    """A table of numbers without rows yet, named after its view."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column(view, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def percent(share: float, decimals: int | None = None) -> str:
    """In percent, by default with as many decimals as matter."""
    value = 100 * share
    if decimals is None:
        decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{decimals}f}"
