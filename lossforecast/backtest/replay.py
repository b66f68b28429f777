"""One recorded run replayed: what would have been forecast at some fractions of it, and what came.

The truth is the outcome of the run (`lossforecast.runs.ending`): the mean of the losses of the last
2% of the planned steps or, of fewer than three, the last one. The forecast is of the loss at the
mean step of the losses that the truth was read off. A forecaster sees the
losses up to a fraction of the planned steps, the whole planned schedule, and of the run's
description only which loss it is and the optimizer.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lossforecast.backtest.baselines import BASELINES
from lossforecast.backtest.curves import RecordedRun
from lossforecast.backtest.scores import CRPS_LEVELS, crps
from lossforecast.errors import LossForecastError
from lossforecast.forecaster import Forecaster
from lossforecast.prior import Prior
from lossforecast.runs import Ending, RunInfo, ending_of_curve
from lossforecast.schedule import LRSchedule

__all__ = ["Record", "naming", "outcome", "replay"]


@dataclass(frozen=True)
class Record:
    """One forecast of one run, and what came.

    Attributes:
        source: where the run came from.
        run_id: its name there.
        what: "train" or "val".
        fraction: share of the planned steps seen.
        truth: how the run ended.
        mean: the forecast's mean.
        lower80: lower end of its 80% interval.
        upper80: upper end of its 80% interval.
        lower95: lower end of its 95% interval.
        upper95: upper end of its 95% interval.
        status: what the forecast said of itself.
        seconds: time the fit and the forecast took; the one entry that is not deterministic.
        crps: from 19 quantiles, in units of the loss.
        group: what scores are reported for together.
        fold: what is left out together when something is learnt.
        cluster: what the run is resampled with.
        schedule_type: kind of learning-rate schedule.
        seen: whether part of what was to be forecast had been seen (a run that ended early).
        baselines: what each baseline predicted, by name.
    """

    source: str
    run_id: str
    what: str
    fraction: float
    truth: float
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
    seen: bool
    baselines: Mapping[str, float] = field(default_factory=dict)


def outcome(run: RecordedRun) -> Ending | None:
    """The end of a run; None if its outcome is unknown, or 0 so that no error relative to it is."""
    end = ending_of_curve(run.step, run.loss, run.total_steps) if run.completed else None
    return None if end is None or end.loss == 0 else end


def replay(
    run: RecordedRun,
    fractions: Sequence[float],
    *,
    baselines: bool = True,
    prior: Prior | None = None,
) -> list[Record]:
    """The forecasts of a run at each fraction with at least 10 finite losses; none without a truth.

    Args:
        run: the recorded run.
        fractions: shares of the planned steps, each above 0 and below 1.
        baselines: whether to ask the baselines as well.
        prior: what is believed beforehand; None is the packaged prior.

    Raises:
        LossForecastError: the curve is none that can be observed; the message names the run.
    """
    end = outcome(run)
    if end is None:
        return []
    with naming(run):
        plan = run.plan
        return [
            _record(run, plan, end, float(fraction), baselines=baselines, prior=prior)
            for fraction in fractions
            if run.enough_seen(fraction)
        ]


@contextmanager
def naming(run: RecordedRun) -> Iterator[None]:
    """Name the run in every error of ours."""
    try:
        yield
    except LossForecastError as error:
        raise type(error)(f"{run.source}, run {run.run_id}: {error}") from error


def _record(
    run: RecordedRun,
    plan: LRSchedule,
    end: Ending,
    fraction: float,
    *,
    baselines: bool,
    prior: Prior | None,
) -> Record:
    cut = fraction * run.total_steps
    n = int(np.searchsorted(run.step, cut, side="right"))
    steps, losses = run.step[:n], run.loss[:n]
    info = RunInfo(metric=run.what, optimizer=run.optimizer)
    forecaster = Forecaster(plan, info, prior=prior)
    forecaster.observe_many(steps, losses)
    began = time.perf_counter()
    forecast = forecaster.forecast(step=end.step)
    seconds = time.perf_counter() - began
    lower80, upper80 = forecast.interval(0.8)
    lower95, upper95 = forecast.interval(0.95)
    quantiles = [forecast.quantile(float(q)) for q in CRPS_LEVELS]
    rivals: dict[str, Any] = BASELINES if baselines else {}
    return Record(
        source=run.source,
        run_id=run.run_id,
        what=run.what,
        fraction=fraction,
        truth=end.loss,
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
        seen=end.first_step <= cut,
        baselines={
            name: float(baseline(steps, losses, plan)([end.step])[0])
            for name, baseline in rivals.items()
        },
    )
