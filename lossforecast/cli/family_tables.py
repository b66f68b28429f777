"""Tables of scores by kind and by family of runs, for terminals (needs rich) and in Markdown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lossforecast.backtest import (
    MIN_FORECASTS_FOR_RATIO,
    WORSE_FACTOR,
    FamilyScore,
    KindScore,
    Told,
)
from lossforecast.cli.tables import empty_table, escaped, markdown_row, percent
from lossforecast.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["FAMILY_LEGEND", "ScoreTable", "family_table", "kind_table", "worse_table"]

FAMILY_LEGEND = (
    "A family is the runs of one fold with one metric. By kind, every family counts once: medians "
    "over families of the median errors and of the ratio, means over families of the coverages. A "
    "coverage counts every cluster of runs once. Errors in % of the outcome. Ratio: the 80% "
    "interval score of log(outcome / last value), over that of the best constant interval found in "
    "hindsight for the family; below 1 is better than knowing the family. It needs "
    f"{MIN_FORECASTS_FOR_RATIO} forecasts; those with a loss or a lower end that is not positive "
    "are left out of it."
)

_SCORE_HEADINGS = ("median", "last value", "in 80%", "in 95%", "ratio")


@dataclass(frozen=True)
class ScoreTable:
    """A table as text.

    Attributes:
        title: what it shows.
        headings: of its columns, the first one that of the names.
        rows: as many cells as headings each; neighbours with one name belong together.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def for_terminal(self) -> "Table":
        """The table of rich."""
        table = empty_table(self.title, self.headings[0], self.headings[1:])
        table.min_width = len(self.title)  # the title must not wrap
        names = [name for name, *_ in self.rows]
        for (name, *cells), after in zip(self.rows, [*names[1:], None], strict=True):
            table.add_row(escaped(name), *cells, end_section=name != after)
        return table

    def markdown(self) -> str:
        """The title as a heading of the second level, and the table."""
        lines = [f"## {self.title[:1].upper()}{self.title[1:]}", "", markdown_row(self.headings)]
        lines.append(markdown_row(["---"] + ["---:"] * (len(self.headings) - 1)))
        lines += [markdown_row([printable(name), *cells]) for name, *cells in self.rows]
        return "\n".join(lines) + "\n"


def kind_table(kinds: Sequence[KindScore], told: Told) -> ScoreTable:
    """The scores by kind of runs, in which every family counts once."""
    rows = [
        (
            score.name,
            _seen(score),
            str(score.families),
            str(score.n),
            *_scores(score),
            str(score.ratio_families),
            str(score.left_out),
        )
        for score in kinds
    ]
    headings = ("kind", "seen", "families", "n", *_SCORE_HEADINGS, "with ratio", "left out")
    return ScoreTable(f"scores by kind, each family once (told: {told})", headings, tuple(rows))


def family_table(families: Sequence[FamilyScore], told: Told) -> ScoreTable:
    """The scores by family of runs."""
    rows = [
        (
            score.name,
            _seen(score),
            str(score.kind),
            str(score.n),
            str(score.clusters),
            *_scores(score),
            str(score.left_out),
        )
        for score in families
    ]
    headings = ("family", "seen", "kind", "n", "clusters", *_SCORE_HEADINGS, "left out")
    return ScoreTable(f"scores by family (told: {told})", headings, tuple(rows))


def worse_table(families: Sequence[FamilyScore]) -> ScoreTable:
    """The families whose median error exceeds `WORSE_FACTOR` times the last value's."""
    rows = [
        (
            score.name,
            _seen(score),
            str(score.n),
            percent(score.median_error),
            percent(score.last_value_error),
        )
        for score in families
        if score.is_worse
    ]
    title = f"median error above {WORSE_FACTOR:g} times the last value's"
    return ScoreTable(title, ("family", "seen", "n", "median", "last value"), tuple(rows))


def _seen(score: FamilyScore | KindScore) -> str:
    return f"{100 * score.fraction:g}%"


def _scores(score: FamilyScore | KindScore) -> tuple[str, ...]:
    """The cells below `_SCORE_HEADINGS`."""
    return (
        percent(score.median_error),
        percent(score.last_value_error),
        percent(score.coverage80, decimals=0),
        percent(score.coverage95, decimals=0),
        "-" if math.isnan(score.ratio) else f"{score.ratio:.2f}",
    )
