"""`RunPlan`: the forecast of a run that has not begun, and of other splits of its compute."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from lossforecast.errors import ConfigurationError
from lossforecast.estimate import Estimate
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.ladder import FinalLoss, Optimum, best_batch, best_peak, stretched
from lossforecast.prior import PastRun, Prior
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

__all__ = ["RunPlan", "Split"]

_SIZE_RATIOS = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0, 2.8, 4.0)  # of each split to the plan


@dataclass(frozen=True)
class Split:
    """Another split of the same compute between the size of a model and the length of its run.

    Attributes:
        n_params: number of parameters.
        total_steps: optimizer steps, with the same batch.
        final_loss: the predicted final loss, with its 80% interval.
    """

    n_params: float
    total_steps: int
    final_loss: Estimate


@dataclass(frozen=True)
class RunPlan:
    """The forecast of a planned run.

    Attributes:
        run: description of the planned run.
        forecast: the forecast before the first step: the final loss, and `Forecast.curve`.
        past: the finished runs that it starts from, smaller ones included.
        n_smaller_runs: number of smaller runs that it starts from.
        splits: runs of the same compute, ``6 N D`` floating-point operations for N parameters and D
            tokens, by increasing size (the isoFLOP curve); empty without `n_params`. They keep the
            batch, the shape of the schedule and its peak rate.
        best_peak: the best peak learning rate, from sweeps of its family; None without any.
        best_batch: the same for the batch size, at equal data seen.
    """

    run: RunInfo
    forecast: Forecast
    past: tuple[PastRun, ...]
    n_smaller_runs: int
    splits: tuple[Split, ...]
    best_peak: Optimum | None = None
    best_batch: Optimum | None = None

    @classmethod
    def of(
        cls,
        prior_of: Callable[[RunInfo, LRSchedule], Prior],
        run: RunInfo,
        schedule: LRSchedule,
        finals: Sequence[FinalLoss] = (),
    ) -> Self:
        """Forecast a run and its splits.

        Args:
            prior_of: the prior of a run under a schedule.
            run: description of the planned run.
            schedule: its plan.
            finals: finished runs, among which sweeps are sought.

        Raises:
            ConfigurationError: no finished run is like it.
        """
        prior = prior_of(run, schedule)
        planned = Forecaster(schedule, run, prior=prior)
        forecast = planned.forecast()
        if math.isnan(forecast.median):
            raise ConfigurationError(
                f"nothing to plan from: no finished run has the metric {run.metric!r} and project "
                f"{run.project!r} or dataset {run.dataset!r}"
            )
        splits = []
        for ratio in _SIZE_RATIOS if run.n_params else ():
            size = replace(run, n_params=ratio * (run.n_params or 0.0))
            steps = max(round(schedule.total_steps / ratio), 2)
            plan = schedule if ratio == 1 else stretched(schedule, steps, schedule.peak)
            estimate = Forecaster(plan, size, prior=prior_of(size, plan)).forecast().estimate
            if math.isfinite(estimate):
                splits.append(Split(float(size.n_params or 0.0), steps, estimate))
        return cls(
            run,
            forecast,
            prior.past,
            planned.n_smaller_runs,
            tuple(splits),
            best_peak(finals, run, schedule),
            best_batch(finals, run, schedule),
        )

    @property
    def best_split(self) -> Split | None:
        """The split with the lowest predicted final loss; None without splits."""
        return min(self.splits, key=lambda split: float(split.final_loss), default=None)
