"""The sweeps of a family: finished runs that differ in their peak rate, or in their batch size."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossforecast.ladder.optimum import Optimum, Sweep
from lossforecast.prior import comparable
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule, shape_difference
from lossforecast.status import Caveat

__all__ = ["FinalLoss", "best_batch", "best_peak"]

_MIN_SETTINGS = 3  # of a sweep: two show no optimum
_SAME_SHAPE = 0.02  # of the peak
_SAME_TOKENS = 0.01  # relative
_MAX_EXCESS = 1.2  # times the lowest loss of the sweep: beyond, runs have diverged
# mean and standard deviation of the exponents, wide enough for published rules: of the rate N^-1/3
# (OLMo's ladder) and N^-0.71 D^0.31, of the batch D^0.57 (Li et al. 2025, arXiv:2503.04715); with
# the batch, the rate grows as its square root or not at all; one that decays early may peak higher
_PEAK_EXPONENTS = {
    "n_params": (-0.3, 0.3),
    "tokens": (0.0, 0.3),
    "batch_size": (0.5, 0.3),
    "mean_rate": (-1.0, 0.5),
}
_BATCH_EXPONENTS = {"n_params": (0.0, 0.3), "tokens": (0.5, 0.3)}


@dataclass(frozen=True)
class FinalLoss:
    """A finished run: description, schedule and the loss that it ended with."""

    run: RunInfo
    schedule: LRSchedule
    loss: float

    @property
    def tokens(self) -> float:
        """Tokens or samples seen; optimizer steps where the batch is not known."""
        return self.schedule.total_steps * (self.run.batch_size or 1.0)

    def is_kin(self, run: RunInfo) -> bool:
        """Return whether two runs belong to the same family."""
        return bool(
            comparable(self.run, run)
            and self.run.optimizer_word == run.optimizer_word
            and self.loss > 0
            and self.schedule.peak > 0
            and Caveat.LR_UNKNOWN not in self.schedule.caveats
        )

    def agrees(self, other: "FinalLoss") -> bool:
        """Return whether size, data seen and shape of the schedule are equal, and the model."""
        return (
            (self.run.n_params, self.run.model) == (other.run.n_params, other.run.model)
            and abs(math.log(self.tokens / other.tokens)) < _SAME_TOKENS
            and shape_difference(self.schedule, other.schedule) < _SAME_SHAPE
        )


def best_peak(finals: Sequence[FinalLoss], run: RunInfo, plan: LRSchedule) -> Optimum | None:
    """The best peak rate of a planned run; None without a sweep of at least three rates."""

    def together(one: FinalLoss, other: FinalLoss) -> bool:
        return one.run.batch_size == other.run.batch_size and one.agrees(other)

    planned = FinalLoss(run, plan, math.nan)
    kin = [final for final in finals if final.is_kin(run)]
    groups = _groups(kin, together)
    sweeps = [_sweep(group, lambda one: one.schedule.peak, np.mean, planned) for group in groups]
    found = [sweep for sweep in sweeps if sweep is not None]
    return Optimum.of(found, _PEAK_EXPONENTS) if found else None


def best_batch(finals: Sequence[FinalLoss], run: RunInfo, plan: LRSchedule) -> Optimum | None:
    """The best batch size of a planned run; None without a sweep of at least three of them.

    Runs of a sweep see equal amounts of data. Of several with one batch size, as with different
    peak rates, the best one counts.
    """
    planned = FinalLoss(run, plan, math.nan)
    kin = [final for final in finals if final.is_kin(run) and final.run.batch_size]
    groups = _groups(kin, FinalLoss.agrees) if run.batch_size else []
    sweeps = [_sweep(group, lambda one: one.run.batch_size, np.min, planned) for group in groups]
    found = [sweep for sweep in sweeps if sweep is not None]
    return Optimum.of(found, _BATCH_EXPONENTS) if found else None


def _groups(
    finals: Sequence[FinalLoss], together: Callable[[FinalLoss, FinalLoss], bool]
) -> list[list[FinalLoss]]:
    groups: list[list[FinalLoss]] = []
    for final in finals:
        group = next((group for group in groups if together(final, group[0])), None)
        if group is None:
            groups.append([final])
        else:
            group.append(final)
    return groups


def _sweep(
    group: Sequence[FinalLoss],
    setting_of: Callable[[FinalLoss], Any],
    reduce: Callable[[list[float]], Any],
    planned: FinalLoss,
) -> Sweep | None:
    """The sweep of a group, whose runs of one setting are reduced to one; None if it is small."""
    limit = _MAX_EXCESS * min(final.loss for final in group)
    losses: dict[float, list[float]] = {}
    for final in group:
        if final.loss <= limit:
            losses.setdefault(float(f"{setting_of(final):.3g}"), []).append(final.loss)
    if len(losses) < _MIN_SETTINGS:
        return None
    one = group[0]
    return Sweep(
        settings=np.array(list(losses)),
        losses=np.array([float(reduce(each)) for each in losses.values()]),
        conditions={
            "n_params": _ratio(one.run.n_params, planned.run.n_params),
            "batch_size": _ratio(one.run.batch_size, planned.run.batch_size),
            "tokens": one.tokens / planned.tokens
            if bool(one.run.batch_size) == bool(planned.run.batch_size)
            else one.schedule.total_steps / planned.schedule.total_steps,
            "mean_rate": _mean_rate(one.schedule) / _mean_rate(planned.schedule),
        },
    )


def _ratio(one: float | None, other: float | None) -> float:
    return one / other if one and other else 1.0


def _mean_rate(schedule: LRSchedule) -> float:
    """Mean of the rate over the run, in units of the peak."""
    total = schedule.total_steps
    return float(schedule.s1(total)) / (total * schedule.peak)
