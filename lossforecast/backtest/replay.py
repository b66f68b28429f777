"""`replay`: the forecasts of one recorded run at some fractions of it, with the outcome.

The truth is the outcome of the run (`lossforecast.runs.outcome_of`): the mean of the losses of the
last 2% of the planned steps or, if there are fewer than three, the last one. The forecast is of the
loss at the mean step of these losses. The forecaster is given the losses up to a fraction of the
planned steps, the whole planned schedule, and the part of the run's description that `Told` names.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.backtest.baselines import BASELINES, last_value
from lossforecast.backtest.curves import RecordedRun
from lossforecast.backtest.scores import CRPS_LEVELS, crps
from lossforecast.errors import LossForecastError
from lossforecast.forecaster import Forecaster
from lossforecast.prior import Prior
from lossforecast.runs import Outcome, RunInfo, RunKind, outcome_of_curve
from lossforecast.schedule import LRSchedule

__all__ = ["Record", "Told", "column", "described", "naming", "outcome", "replay"]

_LANGUAGE_TASK, _MASKED_TASK = "language modelling", "masked language modelling"


class Told(StrEnum):
    """How much of a run's description the forecaster gets, besides losses and schedule."""

    FOUND = "found"
    """Metric, optimizer, number of parameters, steps per epoch, and the task of a language model:
    the facts that a callback finds by itself."""
    OPTIMIZER = "optimizer"
    """Metric and optimizer."""
    NOTHING = "nothing"
    """The metric."""


@dataclass(frozen=True)
class Record:
    """One forecast of one run, with the outcome.

    Attributes:
        source: name of the files that hold the run.
        run_id: its name in these files.
        metric: "train" or "val".
        fraction: share of the planned steps seen.
        truth: the loss the run ended with.
        median: median of the forecast.
        mean: mean of the forecast.
        lower80: lower end of its 80% interval.
        upper80: upper end of its 80% interval.
        lower95: lower end of its 95% interval.
        upper95: upper end of its 95% interval.
        status: status of the forecast.
        seconds: duration of the fit and the forecast; the only entry that is not deterministic.
        crps: continuous ranked probability score from 19 quantiles, in units of the loss.
        group: scores are reported by group.
        fold: runs of one fold are left out together when something is learned.
        cluster: runs of one cluster are resampled together.
        schedule_type: type of the learning-rate schedule.
        kind: the recorded kind of run.
        told: how much of the run's description the forecaster got.
        last_value: the latest finite loss seen.
        seen: whether some of the losses behind `truth` had been seen (the run ended early).
        baselines: prediction of each baseline, by name.
    """

    source: str
    run_id: str
    metric: str
    fraction: float
    truth: float
    median: float
    mean: float
    lower80: float
    upper80: float
    lower95: float
    upper95: float
    status: str
    seconds: float
    crps: float
    group: str
    fold: str
    cluster: str
    schedule_type: str
    kind: RunKind
    told: Told
    last_value: float
    seen: bool
    baselines: Mapping[str, float] = field(default_factory=dict)

    @property
    def point(self) -> float:
        """The point forecast, which is scored: the median."""
        return self.median


def described(run: RecordedRun, told: Told) -> RunInfo:
    """The description of a recorded run that the forecaster gets.

    Raises:
        ConfigurationError: the recorded number of parameters or steps per epoch is invalid.
    """
    if told is Told.NOTHING:
        return RunInfo(metric=run.metric)
    if told is Told.OPTIMIZER:
        return RunInfo(metric=run.metric, optimizer=run.optimizer)
    task = {"masked": _MASKED_TASK, "causal": _LANGUAGE_TASK}.get(
        str(run.metadata.get("language_model"))
    )
    if run.kind is RunKind.LARGE_LANGUAGE_MODEL:
        task = _LANGUAGE_TASK
    return RunInfo(
        metric=run.metric,
        optimizer=run.optimizer,
        n_params=run.metadata.get("n_params"),
        task=task,
        steps_per_epoch=run.metadata.get("steps_per_epoch"),
    )


def column(records: Sequence[Record], name: str) -> FloatArray:
    """One attribute of n records, (n,)."""
    return np.array([getattr(record, name) for record in records], dtype=np.float64)


def outcome(run: RecordedRun) -> Outcome | None:
    """The end of a run; None if its outcome is unknown, or 0, which has no relative error."""
    end = outcome_of_curve(run.step, run.loss, run.total_steps) if run.completed else None
    return None if end is None or end.loss == 0 else end


def replay(
    run: RecordedRun,
    fractions: Sequence[float],
    *,
    baselines: bool = True,
    prior: Prior | None = None,
    told: Told = Told.FOUND,
) -> list[Record]:
    """Forecast a run at each fraction by which it has at least 10 finite losses.

    Args:
        run: the recorded run; one without a known outcome has no forecasts.
        fractions: shares of the planned steps, each above 0 and below 1.
        baselines: whether to run the baselines as well.
        prior: beliefs before the first loss; None is the packaged prior.
        told: how much of the run's description the forecaster gets.

    Raises:
        LossForecastError: the curve cannot be observed; the message names the run.
    """
    end = outcome(run)
    if end is None:
        return []
    with naming(run):
        plan = run.plan
        return [
            _forecast_at(
                float(fraction), run, plan, end, baselines=baselines, prior=prior, told=told
            )
            for fraction in fractions
            if run.enough_seen(fraction)
        ]


@contextmanager
def naming(run: RecordedRun) -> Iterator[None]:
    """Put the name of the run in front of every `LossForecastError` raised inside."""
    try:
        yield
    except LossForecastError as error:
        raise type(error)(f"{run.source}, run {run.run_id}: {error}") from error


def _forecast_at(
    fraction: float,
    run: RecordedRun,
    plan: LRSchedule,
    end: Outcome,
    *,
    baselines: bool,
    prior: Prior | None,
    told: Told,
) -> Record:
    last_step = fraction * run.total_steps
    n = int(np.searchsorted(run.step, last_step, side="right"))
    steps, losses = run.step[:n], run.loss[:n]
    forecaster = Forecaster(plan, described(run, told), prior=prior)
    forecaster.observe_many(steps, losses)
    start = time.perf_counter()
    forecast = forecaster.forecast(step=end.step)
    seconds = time.perf_counter() - start
    lower80, upper80 = forecast.interval(0.8)
    lower95, upper95 = forecast.interval(0.95)
    quantiles = [forecast.quantile(float(q)) for q in CRPS_LEVELS]
    to_run: dict[str, Any] = BASELINES if baselines else {}
    return Record(
        source=run.source,
        run_id=run.run_id,
        metric=run.metric,
        fraction=fraction,
        truth=end.loss,
        median=forecast.median,
        mean=forecast.mean,
        lower80=lower80,
        upper80=upper80,
        lower95=lower95,
        upper95=upper95,
        status=str(forecast.status),
        seconds=seconds,
        crps=float(crps([quantiles], [end.loss])[0]),
        group=run.group,
        fold=run.fold,
        cluster=run.cluster,
        schedule_type=run.schedule_type,
        kind=run.kind,
        told=told,
        last_value=float(last_value(steps, losses, plan)([end.step])[0]),
        seen=end.first_step <= last_step,
        baselines={
            name: float(baseline(steps, losses, plan)([end.step])[0])
            for name, baseline in to_run.items()
        },
    )
