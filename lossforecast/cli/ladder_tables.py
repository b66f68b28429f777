"""Table of forecasts of recorded runs from smaller ones (needs rich)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.backtest import LADDER_BASELINES, LadderRecord
from lossforecast.cli.tables import empty_table, escaped, percent

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["LADDER_LEGEND", "ladder_table"]

LADDER_LEGEND = (
    "Medians of the absolute error and of the width of the 80% interval in % of the outcome; in "
    "80%: how many of 100 outcomes lay in it. Seen: share of the run, 0 before its first step. "
    "Chinchilla and with rate: scaling laws fitted to the smaller runs. Next shape: the loss over "
    "that of the next smaller size at this share of the run. Alone: without the smaller runs."
)
_BASELINE_HEADINGS = ("Chinchilla", "with rate", "last value", "next shape", "alone")
_HEADINGS = ("parameters", "from", "seen", "n", "median", "in 80%", "width", *_BASELINE_HEADINGS)


def ladder_table(records: Sequence[LadderRecord]) -> "Table":
    """One row for each source, evaluation set, size and share seen."""
    table = empty_table("from smaller runs", "runs", _HEADINGS)
    keys = dict.fromkeys(_key(record) for record in records)
    for source, val_set, n_params, from_params in keys:
        of_size = [r for r in records if _key(r) == (source, val_set, n_params, from_params)]
        name = escaped(f"{source} {val_set or ''}".rstrip())
        fractions = sorted({record.fraction for record in of_size})
        for fraction in fractions:
            cell = [record for record in of_size if record.fraction == fraction]
            sizes = ", ".join(f"{size:.3g}" for size in from_params)
            table.add_row(
                name,
                f"{n_params:.3g}",
                sizes,
                f"{fraction:g}",
                str(len(cell)),
                *_scores(cell),
                end_section=fraction == fractions[-1],
            )
    return table


def _key(record: LadderRecord) -> tuple[str, str | None, float, tuple[float, ...]]:
    return record.source, record.val_set, record.n_params, record.from_params


def _scores(cell: Sequence[LadderRecord]) -> list[str]:
    truth = np.array([record.truth for record in cell])
    lower = np.array([record.lower80 for record in cell])
    upper = np.array([record.upper80 for record in cell])
    held = float(((lower <= truth) & (truth <= upper)).mean())
    baselines = [
        np.array([record.baselines.get(name, np.nan) for record in cell])
        for name in LADDER_BASELINES
    ]
    return [
        _error(np.array([record.median for record in cell]), truth),
        percent(held, 0),
        percent(float(np.median((upper - lower) / np.abs(truth)))),
        *(_error(predicted, truth) for predicted in baselines),
    ]


def _error(predicted: FloatArray, truth: FloatArray) -> str:
    known = np.isfinite(predicted)
    if not known.any():
        return "-"
    return percent(float(np.median(np.abs(predicted[known] / truth[known] - 1))))
