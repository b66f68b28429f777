"""`scorecard`: scores of many forecasts, one cell per group (or fold, ...) and fraction of the run.

Forecasts of losses that had been seen already (runs that ended before their plan) are left out, and
so are cells of fewer than 15 forecasts, too few to quote.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.backtest.replay import Record, column
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

__all__ = ["MIN_FORECASTS_PER_CELL", "VIEWS", "Cell", "Difference", "scorecard"]

Interval = tuple[float, float]

MIN_FORECASTS_PER_CELL = 15
"""Number of forecasts below which a cell is not quoted."""

_LAST_VALUE = "last value"

VIEWS: dict[str, Callable[[Record], str]] = {
    "group": lambda record: record.group,
    "fold": lambda record: f"{record.fold} {record.metric}",
    "source": lambda record: f"{record.source} {record.metric}",
    "schedule": lambda record: f"{record.group}, {record.schedule_type}",
}
"""Names of the cells by view: the forecasts with one name are scored together."""


@dataclass(frozen=True)
class Difference:
    """Our error minus that of the best baseline, on the same runs; negative where ours is smaller.

    Attributes:
        baseline: name of the baseline with the smallest error in the cell.
        value: difference of the medians or means of the absolute relative errors.
        interval: 95% bootstrap interval of `value`, over resampled clusters.
    """

    baseline: str
    value: float
    interval: Interval


@dataclass(frozen=True)
class Cell:
    """The scores of one cell; all errors and widths are shares of the truth.

    Attributes:
        name: the group, fold, source or schedule.
        fraction: share of the run seen.
        n: number of forecasts.
        clusters: number of independent clusters of runs among them.
        score: errors of our medians.
        median_interval: 95% interval of the median error.
        coverage80: share of truths inside the 80% interval.
        coverage80_interval: 95% interval of that share.
        coverage95: share of truths inside the 95% interval.
        coverage95_interval: 95% interval of that share.
        width80: mean width of the 80% interval.
        width95: mean width of the 95% interval.
        crps: mean continuous ranked probability score.
        baselines: errors of each baseline.
        median_difference: our median error minus the smallest of the baselines.
        mean_difference: our mean error minus the smallest of the baselines.
        conformal: the interval around the last value that covers as much as our 80% interval,
            learned on the other folds of the group; None without baselines.
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


def scorecard(
    records: Iterable[Record], by: str = "group", *, min_forecasts: int = MIN_FORECASTS_PER_CELL
) -> list[Cell]:
    """Score forecasts cell by cell, sorted by name and fraction.

    Args:
        records: forecasts with their outcomes.
        by: one of `VIEWS`: "group", "fold", "source" or "schedule".
        min_forecasts: number of forecasts below which a cell is left out.

    Raises:
        ConfigurationError: `by` is not one of `VIEWS`.
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
        if len(mine) >= min_forecasts
    ]


def _cell(name: str, fraction: float, mine: Sequence[Record], group: Sequence[Record]) -> Cell:
    truth = column(mine, "truth")
    clusters = np.array([record.cluster for record in mine])
    error = relative_error(column(mine, "point"), truth)
    ends = {key: column(mine, key) for key in ("lower80", "upper80", "lower95", "upper95")}
    inside80 = coverage(ends["lower80"], ends["upper80"], truth)
    inside95 = coverage(ends["lower95"], ends["upper95"], truth)
    baseline_errors = {
        name: relative_error([record.baselines[name] for record in mine], truth)
        for name in mine[0].baselines
    }
    return Cell(
        name=name,
        fraction=fraction,
        n=len(mine),
        clusters=np.unique(clusters).size,
        score=point_score(error),
        median_interval=bootstrap(np.abs(error), clusters),
        coverage80=float(inside80.mean()),
        coverage80_interval=bootstrap(inside80, clusters, "mean"),
        coverage95=float(inside95.mean()),
        coverage95_interval=bootstrap(inside95, clusters, "mean"),
        width80=float(relative_width(ends["lower80"], ends["upper80"], truth).mean()),
        width95=float(relative_width(ends["lower95"], ends["upper95"], truth).mean()),
        crps=float((column(mine, "crps") / np.abs(truth)).mean()),
        baselines={name: point_score(errors) for name, errors in baseline_errors.items()},
        median_difference=_difference(error, baseline_errors, clusters, "median"),
        mean_difference=_difference(error, baseline_errors, clusters, "mean"),
        conformal=_conformal(mine, group, float(inside80.mean())),
    )


def _difference(
    error: FloatArray,
    baseline_errors: Mapping[str, FloatArray],
    clusters: NDArray[np.str_],
    statistic: Literal["median", "mean"],
) -> Difference | None:
    """Our error minus that of the baseline with the smallest error; None without baselines."""
    if not baseline_errors:
        return None
    average = np.median if statistic == "median" else np.mean
    sizes = {name: float(average(np.abs(errors))) for name, errors in baseline_errors.items()}
    best = min(sizes, key=lambda name: sizes[name])
    ours, theirs = np.abs(error), np.abs(baseline_errors[best])
    value = float(average(ours)) - sizes[best]
    return Difference(best, value, bootstrap_difference(ours, theirs, clusters, statistic))


def _conformal(
    mine: Sequence[Record], group: Sequence[Record], target_coverage: float
) -> Conformal | None:
    """The interval around the last value of `mine`, learned on all forecasts of the group."""
    if any(_LAST_VALUE not in record.baselines for record in (*mine, *group)):
        return None
    last, group_last = (
        np.array([record.baselines[_LAST_VALUE] for record in records]) for records in (mine, group)
    )
    return conformal_last_value(
        last,
        column(mine, "truth"),
        folds=[record.fold for record in mine],
        target_coverage=target_coverage,
        changes=relative_error(column(group, "truth"), group_last),
        change_folds=[record.fold for record in group],
    )
