"""`backtest`: replay recorded runs through the forecaster and the baselines, and score them.

    from lossforecast.backtest import backtest

    result = backtest("curves", jobs=2)          # a folder of NAME.npz + NAME.json
    result.kinds()                               # scores by kind, each family counted once
    result.table(by="group")                     # cells of scores
    result.to_json()                             # one object per run and fraction

With `jobs` above 1 the runs are distributed over new processes; a script must then call it under
``if __name__ == "__main__":``. The result does not depend on `jobs`, and except for `seconds` it is
the same every time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.backtest.families import (
    FamilyScore,
    KindScore,
    family_scores,
    kind_scores,
    select_per_family,
)
from lossforecast.backtest.parallel import mapped
from lossforecast.backtest.replay import Record, Told, replay
from lossforecast.backtest.scorecard import MIN_FORECASTS_PER_CELL, Cell, scorecard
from lossforecast.checks import number, whole
from lossforecast.errors import ConfigurationError
from lossforecast.prior import Prior

__all__ = [
    "FRACTIONS",
    "Backtest",
    "RecordedRun",
    "backtest",
    "load_curves",
    "prior_without_fold",
]

FRACTIONS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Shares of the planned steps after which a run is forecast."""

_JSON_KEYS = (
    "source", "run_id", "metric", "fraction", "truth", "median", "mean", "lower80", "upper80",
    "lower95", "upper95", "status", "seconds", "kind", "fold", "cluster", "told", "last_value",
)  # fmt: skip


@dataclass(frozen=True)
class Backtest:
    """The forecasts of a backtest with their outcomes.

    Attributes:
        records: one per run and fraction, runs in the order given.
    """

    records: tuple[Record, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """One plain object per run and fraction; a number that is not finite is None.

        The keys are `source`, `run_id`, `metric`, `fraction`, `truth`, `median`, `mean`,
        `lower80`, `upper80`, `lower95`, `upper95`, `status`, `seconds`, `kind`, `fold`, `cluster`,
        `told` and `last_value`.
        """
        return [
            {key: _finite_or_none(getattr(record, key)) for key in _JSON_KEYS}
            for record in self.records
        ]

    def families(self) -> list[FamilyScore]:
        """Scores by family of runs (fold and metric) and fraction."""
        return family_scores(self.records)

    def kinds(self) -> list[KindScore]:
        """Scores by kind of runs and fraction, in which every family counts once."""
        return kind_scores(self.families())

    def table(
        self, by: str = "group", *, min_forecasts: int = MIN_FORECASTS_PER_CELL
    ) -> list[Cell]:
        """Scores of the forecasts cell by cell, see `Cell`.

        Args:
            by: one of `VIEWS`: "group", "fold", "source" or "schedule".
            min_forecasts: number of forecasts below which a cell is left out.
        """
        return scorecard(self.records, by, min_forecasts=min_forecasts)


def prior_without_fold(run: RecordedRun) -> Prior:
    """The packaged prior as learned without the run's fold."""
    return Prior.without(run.fold)


def backtest(
    curves: str | Path | Sequence[RecordedRun],
    *,
    fractions: Sequence[float] = FRACTIONS,
    jobs: int = 1,
    baselines: bool = True,
    prior_for: Callable[[RecordedRun], Prior | None] = prior_without_fold,
    told: Told | str = Told.FOUND,
    max_per_family: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Backtest:
    """Replay recorded runs and forecast each at some fractions of its planned steps.

    Runs that stopped early, runs whose last losses are not finite, and fractions with fewer than 10
    finite losses are skipped.

    Args:
        curves: a folder (`load_curves`) or runs.
        fractions: shares of the planned steps, each above 0 and below 1.
        jobs: number of processes.
        baselines: whether to run the baselines as well.
        prior_for: returns the prior for a run, which must not have been learned from it; None is
            the packaged prior. Default: the packaged prior as learned without the run's fold.
        told: how much of a run's description the forecaster gets: "found", the facts that a
            callback finds by itself; "optimizer", metric and optimizer; or "nothing", the metric
            alone.
        max_per_family: largest number of runs of a family to forecast, spread over its clusters
            (`select_per_family`); None is all.
        progress: called after each run with the number of runs done and the number of all.

    Raises:
        ConfigurationError: an argument is invalid, or the folder is damaged.
        LossForecastError: a curve cannot be observed; the message names the run.
    """
    jobs = whole("jobs", jobs, ConfigurationError, least=1)
    shares = [number("fraction", fraction, ConfigurationError) for fraction in fractions]
    if not shares or not all(0 < share < 1 for share in shares):
        raise ConfigurationError(
            f"fractions are {list(fractions)}; give at least one, each above 0 and below 1"
        )
    runs = load_curves(curves) if isinstance(curves, str | Path) else list(curves)
    if max_per_family is not None:
        most = whole("max_per_family", max_per_family, ConfigurationError, least=1)
        runs = select_per_family(runs, most)
    replay_one = partial(_replay, fractions=shares, baselines=baselines, told=_told(told))
    tasks = [(run, prior_for(run)) for run in runs]
    records: list[Record] = []
    for done, of_run in enumerate(mapped(replay_one, tasks, jobs), start=1):
        records += of_run
        if progress is not None:
            progress(done, len(runs))
    return Backtest(tuple(records))


def _replay(
    task: tuple[RecordedRun, Prior | None], fractions: Sequence[float], baselines: bool, told: Told
) -> list[Record]:
    run, prior = task
    return replay(run, fractions, baselines=baselines, prior=prior, told=told)


def _told(value: str) -> Told:
    if value not in set(Told):
        raise ConfigurationError(f"told is {value!r}; it must be one of {', '.join(Told)}")
    return Told(value)


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
