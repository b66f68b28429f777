"""Scores of many forecasts, cell by cell: one cell per group (or source, or schedule) and fraction.

Forecasts of what had been seen already (runs that ended before their plan did) are left out, and
so are cells of fewer than 15 forecasts: too few to quote.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.backtest.replay import Record
from lossforecast.backtest.scores import (
    Conformal,
    PointScore,
    bootstrap,
    bootstrap_difference,
    conformal_last_value,
    coverage,
    point_score,
    relative_error,
    relative_width,
)
from lossforecast.errors import ConfigurationError

__all__ = ["LEAST", "VIEWS", "Cell", "Difference", "scorecard"]

Interval = tuple[float, float]

LEAST = 15
"""Forecasts a cell must have to be quoted."""

_LAST_VALUE = "last value"

VIEWS: dict[str, Callable[[Record], str]] = {
    "group": lambda record: record.group,
    "source": lambda record: f"{record.source} {record.metric}",
    "schedule": lambda record: f"{record.group}, {record.schedule_type}",
}
"""What forecasts may be scored together by."""


@dataclass(frozen=True)
class Difference:
    """Our error minus that of a baseline, on the same runs; below 0 where ours is smaller.

    Attributes:
        baseline: the one with the smallest error in the cell.
        value: difference of the medians or means of the absolute relative errors.
        interval: its 95% interval over resampled clusters.
    """

    baseline: str
    value: float
    interval: Interval


@dataclass(frozen=True)
class Cell:
    """The scores of one cell; all errors and widths are shares of the truth.

    Attributes:
        name: the group, source or schedule.
        fraction: share of the run seen.
        n: number of forecasts.
        clusters: number of independent families among them.
        score: of our means.
        median_interval: 95% interval of the median error.
        coverage80: share of truths inside the 80% interval.
        coverage80_interval: 95% interval of that share.
        coverage95: share of truths inside the 95% interval.
        coverage95_interval: 95% interval of that share.
        width80: mean width of the 80% interval.
        width95: mean width of the 95% interval.
        crps: mean continuous ranked probability score.
        baselines: scores of each baseline.
        median_difference: against the baseline with the smallest median error.
        mean_difference: against the baseline with the smallest mean error.
        conformal: the last-value interval that covers as much as our 80% interval, learnt on the
            other folds of the group; None without baselines.
    """

    name: str
    fraction: float
    n: int
    clusters: int
    score: PointScore
    median_interval: Interval
    coverage80: float
    coverage80_interval: Interval
    coverage95: float
    coverage95_interval: Interval
    width80: float
    width95: float
    crps: float
    baselines: Mapping[str, PointScore]
    median_difference: Difference | None
    mean_difference: Difference | None
    conformal: Conformal | None

    @property
    def sharpness(self) -> float:
        """How many times narrower our 80% interval is than the conformal one; nan if unknown."""
        return self.conformal.width / self.width80 if self.conformal else float("nan")


def scorecard(records: Iterable[Record], by: str = "group", *, least: int = LEAST) -> list[Cell]:
    """The cells of some forecasts, in the order of their names and fractions.

    Args:
        records: forecasts with their outcomes.
        by: "group", "source" or "schedule".
        least: forecasts that a cell must have.

    Raises:
        ConfigurationError: `by` is none of these.
    """
    if by not in VIEWS:
        raise ConfigurationError(f"by is {by!r}; it must be one of {', '.join(VIEWS)}")
    cells: defaultdict[tuple[str, float], list[Record]] = defaultdict(list)
    groups: defaultdict[tuple[str, float], list[Record]] = defaultdict(list)
    for record in records:
        if not record.seen:
            cells[VIEWS[by](record), record.fraction].append(record)
            groups[record.group, record.fraction].append(record)
    return [
        _cell(name, fraction, mine, groups[mine[0].group, fraction])
        for (name, fraction), mine in sorted(cells.items(), key=lambda item: item[0])
        if len(mine) >= least
    ]


def _cell(name: str, fraction: float, mine: Sequence[Record], group: Sequence[Record]) -> Cell:
    truth = _column(mine, "truth")
    clusters = np.array([record.cluster for record in mine])
    error = relative_error(_column(mine, "mean"), truth)
    ends = {key: _column(mine, key) for key in ("lower80", "upper80", "lower95", "upper95")}
    inside80 = coverage(ends["lower80"], ends["upper80"], truth)
    inside95 = coverage(ends["lower95"], ends["upper95"], truth)
    rivals = {
        rival: relative_error([record.baselines[rival] for record in mine], truth)
        for rival in mine[0].baselines
    }
    scores = {rival: point_score(errors) for rival, errors in rivals.items()}
    ours = point_score(error)
    return Cell(
        name=name,
        fraction=fraction,
        n=len(mine),
        clusters=np.unique(clusters).size,
        score=ours,
        median_interval=bootstrap(np.abs(error), clusters),
        coverage80=float(inside80.mean()),
        coverage80_interval=bootstrap(inside80, clusters, "mean"),
        coverage95=float(inside95.mean()),
        coverage95_interval=bootstrap(inside95, clusters, "mean"),
        width80=float(relative_width(ends["lower80"], ends["upper80"], truth).mean()),
        width95=float(relative_width(ends["lower95"], ends["upper95"], truth).mean()),
        crps=float((_column(mine, "crps") / np.abs(truth)).mean()),
        baselines=scores,
        median_difference=_difference(error, rivals, clusters, "median"),
        mean_difference=_difference(error, rivals, clusters, "mean"),
        conformal=_conformal(mine, group, float(inside80.mean())),
    )


def _difference(
    error: FloatArray,
    rivals: Mapping[str, FloatArray],
    clusters: NDArray[np.str_],
    statistic: Literal["median", "mean"],
) -> Difference | None:
    if not rivals:
        return None
    of = np.median if statistic == "median" else np.mean
    each = {rival: float(of(np.abs(errors))) for rival, errors in rivals.items()}
    best = min(each, key=lambda rival: each[rival])
    pair = np.abs(error), np.abs(rivals[best])
    value = float(of(pair[0])) - each[best]
    return Difference(best, value, bootstrap_difference(*pair, clusters, statistic))


def _conformal(mine: Sequence[Record], group: Sequence[Record], wanted: float) -> Conformal | None:
    if any(_LAST_VALUE not in record.baselines for record in (*mine, *group)):
        return None
    last, pool = (
        np.array([record.baselines[_LAST_VALUE] for record in records]) for records in (mine, group)
    )
    folds, pool_folds = ([record.fold for record in records] for records in (mine, group))
    change = relative_error(_column(group, "truth"), pool)
    return conformal_last_value(last, _column(mine, "truth"), folds, wanted, change, pool_folds)


def _column(records: Sequence[Record], name: str) -> FloatArray:
    return np.array([getattr(record, name) for record in records], dtype=np.float64)
