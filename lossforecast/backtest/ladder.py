"""`replay_ladder`: recorded runs, forecast from the smaller runs of their source.

    from lossforecast.backtest import replay_ladder

    for record in replay_ladder("curves"):
        print(record.run_id, record.fraction, record.truth, record.median)

Every run above the smallest size is forecast from all completed runs of smaller sizes with the same
source, metric and evaluation set (`val_set` in the description), as if they were in a store: before
its first step, and at fractions of it by which it has 10 finite losses. The numbers of parameters
are read from `n_params`, the tokens per step from `batch_tokens`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lossforecast.backtest.backtest import FRACTIONS, prior_without_fold
from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.backtest.parallel import mapped
from lossforecast.backtest.replay import Told, described, naming, outcome
from lossforecast.backtest.scaling_laws import ScalingLaw, ScalingPoint, fit_scaling_law
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.prior import PastRun, Prior, smaller
from lossforecast.runs import History, Outcome, RunInfo
from lossforecast.schedule import relative_rates

__all__ = ["LADDER_BASELINES", "LadderRecord", "replay_ladder"]

LADDER_BASELINES = (
    "chinchilla",
    "chinchilla_with_rate",
    "last_value",
    "next_smaller_shape",
    "without_ladder",
)
"""Names of the baselines: the two laws of `scaling_laws`, the last value, the shape of the run of
the next smaller size with the nearest tokens per parameter and schedule, and the forecaster without
the smaller runs."""
_Laws = dict[str, ScalingLaw | None]
_ALONG_RUN = np.linspace(0.3, 1.0, 15)  # shares of a run at which the law with the rate is fitted
_SHARES = np.linspace(0.02, 1.0, 50)  # of a run, at which two schedules are compared


@dataclass(frozen=True)
class LadderRecord:
    """One forecast of one run from smaller ones, with the outcome.

    Attributes:
        source: name of the files that hold the run.
        run_id: its name in these files.
        metric: "train" or "val".
        val_set: the evaluation set, if it was recorded.
        n_params: its number of parameters.
        from_params: the smaller sizes, increasing.
        from_runs: number of smaller runs.
        fraction: share of the planned steps seen; 0 is before the first step.
        truth: the loss the run ended with.
        median: median of the forecast.
        lower80: lower end of its 80% interval.
        upper80: upper end of its 80% interval.
        baselines: prediction of each of `LADDER_BASELINES`; nan where it has none.
    """

    source: str
    run_id: str
    metric: str
    val_set: str | None
    n_params: float
    from_params: tuple[float, ...]
    from_runs: int
    fraction: float
    truth: float
    median: float
    lower80: float
    upper80: float
    baselines: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-able values, the baselines by name; a number that is not finite is None."""
        plain = {**vars(self), **self.baselines, "from_params": list(self.from_params)}
        del plain["baselines"]
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in plain.items()
        }


@dataclass(frozen=True)
class _Smaller:
    """A smaller run of the family."""

    recorded: RecordedRun
    past: PastRun
    end: Outcome

    @property
    def n_params(self) -> float:
        return float(self.past.run.n_params or math.nan)

    @property
    def tokens(self) -> float:
        """Tokens of the whole run, or steps where the tokens per step are unknown."""
        return self.recorded.total_steps * (self.past.run.batch_size or 1.0)


def replay_ladder(
    curves: str | Path | Sequence[RecordedRun],
    *,
    fractions: Sequence[float] = (0.0, *FRACTIONS),
    jobs: int = 1,
    baselines: bool = True,
    prior_for: Callable[[RecordedRun], Prior] = prior_without_fold,
    progress: Callable[[int, int], None] | None = None,
) -> list[LadderRecord]:
    """Forecast every run that has smaller ones in its source.

    Args:
        curves: a folder (`load_curves`) or runs.
        fractions: shares of the planned steps, from 0 to below 1.
        jobs: number of processes.
        baselines: whether to run the baselines as well.
        prior_for: returns the prior for a run, which must not have been learned from it.
        progress: called after each run with the number of runs done and the number of all.

    Raises:
        ConfigurationError: an argument is invalid, or the folder is damaged.
        LossForecastError: a curve cannot be observed; the message names the run.
    """
    jobs = whole("jobs", jobs, ConfigurationError, least=1)
    runs = load_curves(curves) if isinstance(curves, str | Path) else list(curves)
    known = [run for run in runs if run.metadata.get("n_params")]
    candidates = [each for run in known if (each := _as_smaller(run)) is not None]
    laws: dict[tuple[str, ...], _Laws] = {}
    tasks = []
    for run in known:
        family = _smaller_runs(run, candidates)
        if family and outcome(run) is not None:
            names = tuple(each.past.name for each in family)
            if baselines and names not in laws:
                laws[names] = _fitted_laws(family)
            tasks.append((run, family, prior_for(run), laws.get(names, {})))
    replay_one = partial(_replay, fractions=tuple(fractions), baselines=baselines)
    records: list[LadderRecord] = []
    for done, of_run in enumerate(mapped(replay_one, tasks, jobs), start=1):
        records += of_run
        if progress is not None:
            progress(done, len(tasks))
    return records


def _described(run: RecordedRun) -> RunInfo:
    """The description of a run as a store would have it: the source is the project."""
    return replace(
        described(run, Told.FOUND),
        project=run.source,
        batch_size=run.metadata.get("batch_tokens"),
        monitor=run.metadata.get("val_set"),
    )


def _as_smaller(run: RecordedRun) -> _Smaller | None:
    end = outcome(run)
    if end is None or end.loss <= 0:
        return None
    with naming(run):
        history = History()
        history.observe_many(run.step, run.loss)
        name = f"{run.source}:{run.run_id}"
        past = PastRun.of(name, _described(run), run.plan, history)
    return None if past is None else _Smaller(run, past, end)


def _smaller_runs(run: RecordedRun, candidates: Sequence[_Smaller]) -> list[_Smaller]:
    kept = {past.name for past in smaller([each.past for each in candidates], _described(run))}
    return [each for each in candidates if each.past.name in kept]


def _replay(
    task: tuple[RecordedRun, list[_Smaller], Prior, _Laws],
    fractions: Sequence[float],
    baselines: bool,
) -> list[LadderRecord]:
    run, family, prior, laws = task
    end = outcome(run)
    assert end is not None
    info = _described(run)
    informed = replace(prior, past=tuple(each.past for each in family))
    val_set = run.metadata.get("val_set")
    records = []
    for fraction in fractions:
        if fraction and not run.enough_seen(fraction):
            continue
        seen = int(np.searchsorted(run.step, fraction * run.total_steps, side="right"))
        n = seen if fraction else 0
        forecast = partial(_forecast, run, n, end)
        with naming(run):
            ours = forecast(informed)
            rivals = _by_laws(run, laws, end)
            if baselines:
                rivals |= {
                    "last_value": _last_value(run, n),
                    "next_smaller_shape": _shape_forecast(run, family, end, n),
                    "without_ladder": forecast(prior).median,
                }
        lower, upper = ours.interval(0.8)
        records.append(
            LadderRecord(
                source=run.source,
                run_id=run.run_id,
                metric=run.metric,
                val_set=None if val_set is None else str(val_set),
                n_params=float(info.n_params or math.nan),
                from_params=tuple(sorted({each.n_params for each in family})),
                from_runs=len(family),
                fraction=float(fraction),
                truth=end.loss,
                median=ours.median,
                lower80=lower,
                upper80=upper,
                baselines=rivals,
            )
        )
    return records


def _forecast(run: RecordedRun, n: int, end: Outcome, prior: Prior) -> Forecast:
    """The forecast of the outcome from the first n losses."""
    forecaster = Forecaster(run.plan, _described(run), prior=prior)
    forecaster.observe_many(run.step[:n], run.loss[:n])
    return forecaster.forecast(step=end.step)


def _last_value(run: RecordedRun, n: int) -> float:
    finite = run.loss[:n][np.isfinite(run.loss[:n])]
    return float(finite[-1]) if finite.size else math.nan


def _fitted_laws(family: Sequence[_Smaller]) -> _Laws:
    """The two scaling laws, fitted to the smaller runs."""
    finals, along = [], []
    for each in family:
        rate = float(relative_rates(each.recorded.plan, np.ones(1))[0])
        finals.append(ScalingPoint(each.n_params, each.tokens, rate, each.end.loss))
        rates = relative_rates(each.recorded.plan, _ALONG_RUN)
        for share, rate in zip(_ALONG_RUN, rates, strict=True):
            loss = _loss_at(each.recorded, share)
            if loss > 0:
                along.append(ScalingPoint(each.n_params, share * each.tokens, float(rate), loss))
    return {
        "chinchilla": fit_scaling_law(finals, with_rate=False),
        "chinchilla_with_rate": fit_scaling_law(along, with_rate=True),
    }


def _by_laws(run: RecordedRun, laws: _Laws, end: Outcome) -> dict[str, float]:
    """The outcome that each law predicts before the first step."""
    tokens = run.total_steps * (run.metadata.get("batch_tokens") or 1.0)
    size, share = float(run.metadata["n_params"]), end.step / run.total_steps
    rate = float(relative_rates(run.plan, np.array([share]))[0])
    return {
        name: math.nan if law is None else law.loss(size, tokens, rate)
        for name, law in laws.items()
    }


def _shape_forecast(run: RecordedRun, family: Sequence[_Smaller], end: Outcome, n: int) -> float:
    """``L(f T) / r(f)``, where r(f) is ``L(f T) / L(T)`` of a run of the next smaller size."""
    if n == 0:
        return math.nan
    largest = max(each.n_params for each in family)
    size, tokens = float(run.metadata["n_params"]), run.metadata.get("batch_tokens") or 1.0
    per_param = run.total_steps * tokens / size
    rates = relative_rates(run.plan, _SHARES)

    def distance(each: _Smaller) -> float:
        its_rates = relative_rates(each.recorded.plan, _SHARES)
        shapes = np.abs(rates - its_rates).mean()
        return float(abs(math.log(each.tokens / each.n_params / per_param)) + 3 * shapes)

    alike = min((each for each in family if each.n_params == largest), key=distance).recorded
    now, then = run.step[n - 1] / run.total_steps, end.step / run.total_steps
    return float(run.loss[n - 1]) * _loss_at(alike, then) / _loss_at(alike, now)


def _loss_at(run: RecordedRun, share: float) -> float:
    """The loss at a share of a run, interpolated; nan before its first loss."""
    finite = np.isfinite(run.loss)
    return float(
        np.interp(share * run.total_steps, run.step[finite], run.loss[finite], left=math.nan)
    )
