"""`Rung`: the finished runs of one size of a family, and what they say about any plan."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.posterior import PastRunTransfer, Posterior, fit
from lossforecast.prior import STD_OF_EQUAL_SETUPS, Beliefs, PastRun, is_smaller
from lossforecast.runs import Evidence, RunInfo
from lossforecast.schedule import LRSchedule, relative_rates

__all__ = ["Rung", "RungCurve", "rungs_of", "stretched"]

_BeliefsOf = Callable[[RunInfo, LRSchedule], Beliefs]

_MAX_RUNS = 4  # of one size
_PRESENT_SHARE = 0.1  # of a run without losses: its laws are anchored there
_SHAPE_WEIGHT = 3.0  # of a difference between schedules against one of log(length)
_SAME_PLAN = 0.05  # distance below which two plans count as one
_EXCESS_WEIGHT = 0.25  # of an excess of tokens per parameter, relative to a length that no run has
# growth of the differences between two runs of one size with the distance of their plans
_STD_GROWTH = 3.0
_SAMPLES = 401  # of a schedule that is stretched
_SHARES = np.linspace(0.02, 1.0, 50)  # of a run, at which two schedules are compared


class RungCurve(NamedTuple):
    """The course of a plan at one size.

    Attributes:
        log_loss: logarithm of the loss at each fraction, (m,).
        excess: logarithm of its tokens per parameter over those of the planned run.
        distance: distance to the plan of the nearest run: 0 if one had this very plan.
    """

    log_loss: FloatArray
    excess: float
    distance: float


class _RungPlan(NamedTuple):
    """The plan of a larger run, stretched for one size.

    Attributes:
        excess: as in `RungCurve`.
        plan: the stretched plan.
        distances: distances to it of the plans of the runs of this size, (n,).
    """

    excess: float
    plan: LRSchedule
    distances: FloatArray


@dataclass(frozen=True)
class Rung:
    """The runs of one size.

    Attributes:
        n_params: number of parameters.
        runs: the finished runs of that size, at least one.
        beliefs_of: the general prior of a run under a schedule.
    """

    n_params: float
    runs: tuple[PastRun, ...]
    beliefs_of: _BeliefsOf = field(repr=False)
    _posteriors: dict[str, Posterior] = field(default_factory=dict, repr=False, compare=False)

    def curve(self, run: RunInfo, schedule: LRSchedule, fractions: FloatArray) -> RungCurve:
        """The course that the plan of a larger run would take at this size.

        The plan is stretched to equal tokens per parameter or to equal tokens, whichever needs
        less extrapolation from the runs of this size. `PastRunTransfer` then predicts it from the
        nearest of them.

        Args:
            run: description of the larger run, with its number of parameters.
            schedule: its plan.
            fractions: shares of the run, increasing, (m,).
        """
        excess, plan, distances = min(
            self._plans(run, schedule),
            key=lambda plan: float(plan.distances.min()) + _EXCESS_WEIGHT * plan.excess,
        )
        log_loss = self._predicted(plan, distances, fractions)
        nearest = float(distances.min())
        return RungCurve(log_loss, excess, 0.0 if nearest < _SAME_PLAN else nearest)

    def nearest(self, run: RunInfo, schedule: LRSchedule) -> list[PastRun]:
        """The runs of this size that its `curve` may use."""
        orders = [np.argsort(plan.distances, kind="stable") for plan in self._plans(run, schedule)]
        return [self.runs[i] for i in dict.fromkeys(i for o in orders for i in o[:_MAX_RUNS])]

    def _plans(self, run: RunInfo, schedule: LRSchedule) -> list[_RungPlan]:
        """The plan stretched to equal tokens per parameter, and to equal tokens."""
        size = math.log((run.n_params or self.n_params) / self.n_params)
        own = [each.run.batch_size for each in self.runs if each.run.batch_size]
        batches = run.batch_size / own[0] if own and run.batch_size else 1.0
        peak = float(np.median([each.schedule.peak for each in self.runs]))
        plans = []
        for excess in (0.0, size):
            steps = max(round(schedule.total_steps * batches * math.exp(excess - size)), 2)
            plan = stretched(schedule, steps, peak)
            distances = np.array([_distance(each.schedule, plan) for each in self.runs])
            plans.append(_RungPlan(excess, plan, distances))
        return plans

    def _predicted(
        self, plan: LRSchedule, distances: FloatArray, fractions: FloatArray
    ) -> FloatArray:
        """Logarithm of the median loss under a plan of this size, (m,)."""
        nearest = np.argsort(distances, kind="stable")[:_MAX_RUNS]
        if distances[nearest[0]] < _SAME_PLAN:
            nearest = nearest[distances[nearest] < _SAME_PLAN]
        transfer = PastRunTransfer.of(
            [
                (
                    self._posterior(self.runs[i]),
                    np.array(STD_OF_EQUAL_SETUPS) * math.hypot(1.0, _STD_GROWTH * distances[i]),
                )
                for i in nearest
            ]
        )
        assert transfer is not None  # the runs have positive losses
        now = max(round(_PRESENT_SHARE * plan.total_steps), 1)
        nothing = Evidence.placeholder(now, transfer.level, np.empty(0, np.int64))
        beliefs = self.beliefs_of(self.runs[nearest[0]].run, plan)
        posterior = fit(nothing, plan, now, beliefs, past_runs=transfer)
        steps = np.maximum(np.rint(fractions * plan.total_steps), 1).astype(np.int64)
        at, places = np.unique(steps, return_inverse=True)
        medians: FloatArray = posterior.predict(plan, at).quantiles(np.array([0.5]))[0]
        return np.log(medians)[places]

    def _posterior(self, past: PastRun) -> Posterior:
        if past.name not in self._posteriors:
            end, beliefs = past.schedule.total_steps, self.beliefs_of(past.run, past.schedule)
            self._posteriors[past.name] = fit(past.evidence, past.schedule, end, beliefs)
        return self._posteriors[past.name]


def stretched(schedule: LRSchedule, total_steps: int, peak: float) -> LRSchedule:
    """A schedule of the same shape with another length and peak."""
    knots, _ = schedule.knots
    shares = np.union1d(np.linspace(0, 1, _SAMPLES), knots / schedule.total_steps)
    steps = np.unique(np.clip(np.rint(shares * total_steps), 1, total_steps)).astype(np.int64)
    shape = relative_rates(schedule, steps / total_steps)
    return LRSchedule.from_points(steps, peak * shape, total_steps=total_steps)


def _distance(one: LRSchedule, other: LRSchedule) -> float:
    """How far two plans differ in length and in shape."""
    shape = float(np.abs(relative_rates(one, _SHARES) - relative_rates(other, _SHARES)).mean())
    return abs(math.log(one.total_steps / other.total_steps)) + _SHAPE_WEIGHT * shape


def rungs_of(runs: Sequence[PastRun], beliefs_of: _BeliefsOf) -> tuple[Rung, ...]:
    """The sizes among some runs, smallest first; sizes within 20% of each other are one."""
    groups: list[list[PastRun]] = []
    for each in sorted(runs, key=lambda past: past.run.n_params or 0.0):
        if groups and not is_smaller(groups[-1][0].run, each.run):
            groups[-1].append(each)
        else:
            groups.append([each])
    return tuple(
        Rung(float(group[0].run.n_params or 0.0), tuple(group), beliefs_of) for group in groups
    )
