"""Tables of backtest scores: in Markdown, and for terminals (needs rich)."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lossforecast.backtest import Cell
from lossforecast.cli.tables import empty_table, escaped, markdown_row, percent
from lossforecast.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["difference_table", "markdown", "score_table"]

_SHORT_NAMES = {
    "last value": "last",
    "power law in steps": "power",
    "annealing law": "annealing",
    "multi-power law": "multi-power",
}


def markdown(cells: Sequence[Cell]) -> str:
    """One row per cell: our median and mean error, coverage, width and the baselines' medians.

    All in % of the outcome; the smallest median of a row is bold.
    """
    rivals = list(cells[0].baselines) if cells else []
    headings = ["", "seen", "n", "median", "mean", "bias", "in 80%", "in 95%", "80% width"]
    lines = [
        markdown_row([*headings, *rivals]),
        markdown_row(["---"] + ["---:"] * (8 + len(rivals))),
    ]
    for cell in cells:
        ours, *others = _medians(cell, best="**{}**", other="{}")
        scores = [percent(cell.score.mean), percent(cell.score.bias)]
        covered = [f"{100 * share:.0f}" for share in (cell.coverage80, cell.coverage95)]
        start = [printable(cell.name), f"{100 * cell.fraction:g}%", str(cell.n), ours]
        lines.append(markdown_row([*start, *scores, *covered, percent(cell.width80), *others]))
    return "\n".join(lines) + "\n"


def _medians(cell: Cell, *, best: str, other: str) -> list[str]:
    """Our median error and those of the baselines; the smallest is marked."""
    medians = [cell.score.median, *(score.median for score in cell.baselines.values())]
    return [(best if value == min(medians) else other).format(percent(value)) for value in medians]


def score_table(view: str, cells: Sequence[Cell]) -> "Table":
    """Our scores and the median errors of the baselines, for a terminal."""
    rivals = [_SHORT_NAMES.get(name, name) for name in cells[0].baselines]
    headings = ["seen", "n", "median", "", "mean", "bias", "in 80%", "in 95%", "wide 80%"]
    headings += ["wide 95%", "CRPS", *rivals, *(["sharper"] if rivals else [])]
    table = empty_table(f"scores by {view}", view, headings)
    for last, cell in _with_last(cells):
        ours, *others = _medians(cell, best="[bold]{}*[/bold]", other="{} ")
        sharper = "-" if np.isnan(cell.sharpness) else f"{cell.sharpness:.1f}x"
        shares = (
            (cell.coverage80, cell.coverage80_interval),
            (cell.coverage95, cell.coverage95_interval),
        )
        sizes = (cell.width80, cell.width95, cell.crps)
        table.add_row(
            escaped(cell.name),
            f"{100 * cell.fraction:g}%",
            str(cell.n),
            ours,
            _interval(cell.median_interval),
            *(percent(value) for value in (cell.score.mean, cell.score.bias)),
            *(f"{100 * share:.0f} {_interval(ends, 0)}" for share, ends in shares),
            *(percent(size) for size in sizes),
            *others,
            *([sharper] if rivals else []),
            end_section=last,
        )
    return table


def difference_table(view: str, cells: Sequence[Cell]) -> "Table":
    """Our median and mean error minus those of the best baseline of each cell, for a terminal."""
    headings = [
        "seen",
        "best median",
        "of",
        "ours - best",
        "",
        "best mean",
        "of",
        "ours - best",
        "",
    ]
    table = empty_table(f"against the best baseline, by {view}", view, headings)
    for last, cell in _with_last(cells):
        shown: list[str] = []
        for difference, statistic in (
            (cell.median_difference, "median"),
            (cell.mean_difference, "mean"),
        ):
            if difference is None:
                continue
            best = getattr(cell.baselines[difference.baseline], statistic)
            low, high = difference.interval
            verdict = "better" if high < 0 else "worse" if low > 0 else ""
            shown += [
                percent(best),
                _SHORT_NAMES.get(difference.baseline, difference.baseline),
                f"{percent(difference.value)} {_interval(difference.interval)}",
                verdict,
            ]
        table.add_row(escaped(cell.name), f"{100 * cell.fraction:g}%", *shown, end_section=last)
    return table


def _with_last(cells: Sequence[Cell]) -> Iterator[tuple[bool, Cell]]:
    """Pairs of (True for the last cell of its name, cell)."""
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        yield after is None or after.name != cell.name, cell


def _interval(interval: tuple[float, float], decimals: int | None = None) -> str:
    low, high = (percent(end, decimals) for end in interval)
    return f"\\[{low} {high}]"
