"""`backtest`: replays recorded runs through the forecaster and the baselines, and scores them.

    from lossforecast.backtest import backtest

    result = backtest("curves", jobs=2)          # a folder of NAME.npz + NAME.json
    result.table(by="group")                     # cells of scores
    result.to_json()                             # one object per run and fraction

With `jobs` above 1 the runs are shared out over fresh processes: call it from under
``if __name__ == "__main__":`` in a script. The answer does not depend on `jobs`, and but for
`seconds` it is the same every time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.backtest.parallel import mapped
from lossforecast.backtest.replay import Record, replay
from lossforecast.backtest.scorecard import LEAST, Cell, scorecard
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
"""Shares of a run after which it is forecast."""

_JSON = (
    "source", "run_id", "metric", "fraction", "truth", "mean", "lower80", "upper80", "lower95",
    "upper95", "status", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Backtest:
    """What a backtest found.

    Attributes:
        records: one per run and fraction, runs in the order given.
    """

    records: tuple[Record, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """One plain object per run and fraction; a number that is not finite is None.

        Its keys are `source`, `run_id`, `metric`, `fraction`, `truth`, `mean`, `lower80`,
        `upper80`, `lower95`, `upper95`, `status` and `seconds`.
        """
        return [{name: _plain(getattr(record, name)) for name in _JSON} for record in self.records]

    def table(self, by: str = "group", *, least: int = LEAST) -> list[Cell]:
        """Scores per cell, see `lossforecast.backtest.scorecard`.

        Args:
            by: "group", "source" or "schedule".
            least: forecasts that a cell must have to be quoted.
        """
        return scorecard(self.records, by, least=least)


def prior_without_fold(run: RecordedRun) -> Prior:
    """The packaged prior as learnt without the run's fold."""
    return Prior.without(run.fold)


def backtest(
    curves: str | Path | Sequence[RecordedRun],
    *,
    fractions: Sequence[float] = FRACTIONS,
    jobs: int = 1,
    baselines: bool = True,
    prior_for: Callable[[RecordedRun], Prior | None] = prior_without_fold,
    progress: Callable[[int, int], None] | None = None,
) -> Backtest:
    """Replay recorded runs, forecasting each at some fractions of it.

    Runs that stopped early, runs whose end is not finite, and fractions with fewer than 10 finite
    losses are passed over.

    Args:
        curves: a folder (`load_curves`) or runs.
        fractions: shares of the planned steps, each above 0 and below 1.
        jobs: how many processes.
        baselines: whether to ask the baselines as well.
        prior_for: the prior to use for a run, which must not have been learnt from it: by default
            the packaged one as learnt without the run's fold. An answer of None is the packaged
            prior itself.
        progress: called with the number of runs done and of all, after each run.

    Raises:
        ConfigurationError: an argument is impossible, or the folder is damaged.
        LossForecastError: a curve cannot be observed; the message names the run.
    """
    jobs = whole("jobs", jobs, ConfigurationError, least=1)
    shares = [number("fraction", fraction, ConfigurationError) for fraction in fractions]
    if not shares or not all(0 < share < 1 for share in shares):
        raise ConfigurationError(f"fractions are {list(fractions)}; give some between 0 and 1")
    runs = load_curves(curves) if isinstance(curves, str | Path) else list(curves)
    work = partial(_replay, fractions=shares, baselines=baselines)
    asked = [(run, prior_for(run)) for run in runs]
    records: list[Record] = []
    for done, found in enumerate(mapped(work, asked, jobs), start=1):
        records += found
        if progress is not None:
            progress(done, len(runs))
    return Backtest(tuple(records))


def _replay(
    asked: tuple[RecordedRun, Prior | None], fractions: Sequence[float], baselines: bool
) -> list[Record]:
    run, prior = asked
    return replay(run, fractions, baselines=baselines, prior=prior)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
