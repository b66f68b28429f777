"""Scores in which every family of runs counts once, however many curves were recorded of it.

A *family* is the runs of one fold with one metric (train or val); runs of different kinds are
different families. The scores of a kind are medians and means over its families.

The *ratio* compares the 80% intervals with what is known after all runs of a family have ended. The
change of a run is y = log(outcome / last value), and its 80% interval is [l, u] with l, u = log(end
of the interval / last value). The ratio is the mean interval score of these (`interval_score`) over
the mean score of the best constant interval of y, found in hindsight for that family at that
fraction. Below 1, the forecasts are better than knowing the family. Forecasts whose outcome, last
value or lower end is not positive have no logarithm: they are left out of the ratio and counted.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.backtest.curves import RecordedRun
from lossforecast.backtest.replay import Record, column, outcome
from lossforecast.backtest.scores import (
    best_constant_interval,
    cluster_mean,
    coverage,
    interval_score,
    relative_error,
)
from lossforecast.runs import RunKind

__all__ = [
    "MIN_FORECASTS_FOR_RATIO",
    "WORSE_FACTOR",
    "FamilyScore",
    "KindScore",
    "family_scores",
    "kind_scores",
    "select_per_family",
]

MIN_FORECASTS_FOR_RATIO = 5
"""Number of forecasts of a family below which its ratio is not quoted: with few runs, an interval
found in hindsight is hardly wider than the runs' own differences."""
WORSE_FACTOR = 1.5
"""A family is listed as worse above this multiple of the last value's median error."""

_LEVEL = 0.8  # probability of the interval in the ratio
_METRICS = ("val", "train")  # in the order of the table


@dataclass(frozen=True)
class FamilyScore:
    """The scores of one family at one fraction of its runs; errors are shares of the outcome.

    Attributes:
        kind: kind of its runs.
        fold: fold of its runs.
        metric: "train" or "val".
        fraction: share of the run seen.
        n: number of forecasts.
        clusters: number of independent clusters of runs among them.
        median_error: median absolute error of the point forecasts.
        last_value_error: the same of the last value.
        coverage80: share of outcomes inside the 80% interval, each cluster counted once.
        coverage95: the same for the 95% interval.
        ratio: interval score over that of the best constant interval; nan if fewer than
            `MIN_FORECASTS_FOR_RATIO` forecasts have one, or if that interval has no width.
        left_out: number of forecasts left out of the ratio, as they have no logarithm.
    """

    kind: RunKind
    fold: str
    metric: str
    fraction: float
    n: int
    clusters: int
    median_error: float
    last_value_error: float
    coverage80: float
    coverage95: float
    ratio: float
    left_out: int

    @property
    def name(self) -> str:
        """The fold and the metric."""
        return f"{self.fold} {self.metric}"

    @property
    def is_worse(self) -> bool:
        """True if the median error exceeds `WORSE_FACTOR` times the last value's."""
        return self.median_error > WORSE_FACTOR * self.last_value_error


@dataclass(frozen=True)
class KindScore:
    """The scores of the families of one kind at one fraction; every family counts once.

    Attributes:
        kind: the kind of runs.
        metric: "train" or "val"; None for both together.
        fraction: share of the run seen.
        families: number of families.
        n: number of forecasts in all of them.
        median_error: median over families of their median errors, as a share of the outcome.
        last_value_error: the same of the last value.
        coverage80: mean over families of their coverages by the 80% interval.
        coverage95: the same for the 95% interval.
        ratio: median over families of their ratios; nan if none has one.
        ratio_families: number of families with a ratio.
        left_out: number of forecasts left out of the ratios, as they have no logarithm.
    """

    kind: RunKind
    metric: str | None
    fraction: float
    families: int
    n: int
    median_error: float
    last_value_error: float
    coverage80: float
    coverage95: float
    ratio: float
    ratio_families: int
    left_out: int

    @property
    def name(self) -> str:
        """The kind and the metric, if it is one."""
        return f"{self.kind} {self.metric}" if self.metric else str(self.kind)


def family_scores(records: Iterable[Record]) -> list[FamilyScore]:
    """Score forecasts by family and fraction, sorted by kind, fold, metric and fraction.

    Forecasts of losses that were seen already (runs that ended before their plan) are left out.
    """
    cells: defaultdict[tuple[RunKind, str, str, float], list[Record]] = defaultdict(list)
    for record in records:
        if not record.seen:
            cells[record.kind, record.fold, record.metric, record.fraction].append(record)
    scores = [_family_score(mine) for mine in cells.values()]
    kinds = list(RunKind)
    return sorted(scores, key=lambda s: (kinds.index(s.kind), s.fold, s.metric, s.fraction))


def kind_scores(families: Iterable[FamilyScore]) -> list[KindScore]:
    """Average families by kind: of both metrics together, then of val and of train.

    Sorted by kind in the order of `RunKind`, metric, and fraction; kinds without runs are absent.
    """
    cells: defaultdict[tuple[RunKind, str | None, float], list[FamilyScore]] = defaultdict(list)
    for family in families:
        cells[family.kind, None, family.fraction].append(family)
        cells[family.kind, family.metric, family.fraction].append(family)
    fractions = sorted({fraction for _, _, fraction in cells})
    return [
        _kind_score(kind, metric, cells[kind, metric, fraction])
        for kind in RunKind
        for metric in (None, *_METRICS)
        for fraction in fractions
        if (kind, metric, fraction) in cells
    ]


def select_per_family(runs: Sequence[RecordedRun], most: int) -> list[RecordedRun]:
    """At most so many runs of each family, spread over its clusters, in the order given.

    One run of each cluster comes first, then a second one of each, and so on. The order within and
    between clusters follows a hash of the runs' names: it is always the same, and does not depend
    on their losses or on other runs in the folder. Runs without a known outcome are not scored, so
    they are not selected.

    Args:
        runs: recorded runs.
        most: number of runs of a family, at least 1.
    """
    families: defaultdict[tuple[RunKind, str, str], list[int]] = defaultdict(list)
    for i, run in enumerate(runs):
        if outcome(run) is not None:
            families[run.family].append(i)
    chosen: list[int] = []
    for members in families.values():
        taken: defaultdict[str, int] = defaultdict(int)
        ranked: list[tuple[int, int]] = []  # (runs of its cluster before it, index)
        for i in sorted(members, key=lambda i: _shuffling_key(runs[i])):
            ranked.append((taken[runs[i].cluster], i))
            taken[runs[i].cluster] += 1
        ranked.sort(key=lambda entry: entry[0])  # stable: the hash decides within a rank
        chosen += [i for _, i in ranked[:most]]
    return [runs[i] for i in sorted(chosen)]


def _shuffling_key(run: RecordedRun) -> bytes:
    return hashlib.sha256(f"{run.source}\n{run.run_id}".encode()).digest()


def _family_score(records: Sequence[Record]) -> FamilyScore:
    truth = column(records, "truth")
    clusters = [record.cluster for record in records]
    inside80 = coverage(column(records, "lower80"), column(records, "upper80"), truth)
    inside95 = coverage(column(records, "lower95"), column(records, "upper95"), truth)
    ratio, left_out = _ratio(records)
    first = records[0]
    return FamilyScore(
        kind=first.kind,
        fold=first.fold,
        metric=first.metric,
        fraction=first.fraction,
        n=len(records),
        clusters=len(set(clusters)),
        median_error=_median_error(column(records, "point"), truth),
        last_value_error=_median_error(column(records, "last_value"), truth),
        coverage80=cluster_mean(inside80, clusters),
        coverage95=cluster_mean(inside95, clusters),
        ratio=ratio,
        left_out=left_out,
    )


def _ratio(records: Sequence[Record]) -> tuple[float, int]:
    """The ratio of interval scores, nan if it is not quoted, and the number of runs left out."""
    names = ("truth", "last_value", "lower80", "upper80")
    values = np.array([column(records, name) for name in names])
    truth, last, lower, upper = values[:, (values[:3] > 0).all(axis=0)]
    left_out = len(records) - truth.size
    if truth.size < MIN_FORECASTS_FOR_RATIO:
        return math.nan, left_out
    change = np.log(truth / last)
    ours = interval_score(np.log(lower / last), np.log(upper / last), change, _LEVEL).mean()
    best = interval_score(*best_constant_interval(change, _LEVEL), change, _LEVEL).mean()
    return (float(ours / best) if best > 0 else math.nan), left_out


def _kind_score(kind: RunKind, metric: str | None, families: Sequence[FamilyScore]) -> KindScore:
    ratios = [family.ratio for family in families if not math.isnan(family.ratio)]
    return KindScore(
        kind=kind,
        metric=metric,
        fraction=families[0].fraction,
        families=len(families),
        n=sum(family.n for family in families),
        median_error=float(np.median([family.median_error for family in families])),
        last_value_error=float(np.median([family.last_value_error for family in families])),
        coverage80=float(np.mean([family.coverage80 for family in families])),
        coverage95=float(np.mean([family.coverage95 for family in families])),
        ratio=float(np.median(ratios)) if ratios else math.nan,
        ratio_families=len(ratios),
        left_out=sum(family.left_out for family in families),
    )


def _median_error(forecast: FloatArray, truth: FloatArray) -> float:
    return float(np.median(np.abs(relative_error(forecast, truth))))
