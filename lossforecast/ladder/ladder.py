"""`Ladder`: the smaller runs of a family, and the course they predict for a larger one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.ladder.course import SCALES, Course
from lossforecast.ladder.departure import Departure, departure_of
from lossforecast.ladder.rung import Rung, rungs_of
from lossforecast.ladder.size_law import SizeLaw
from lossforecast.laws import LAWS
from lossforecast.numerics import Mixture
from lossforecast.prior import PastRun, Prior, smaller
from lossforecast.runs import Evidence, RunInfo
from lossforecast.schedule import LRSchedule

__all__ = ["Ladder", "LadderForecast"]

# the grid of fractions of a run: dense at its start and evenly spaced later
_GRID = np.union1d(np.geomspace(0.02, 1.0, 60), np.linspace(0.04, 1.0, 97))
# a run with e times as many tokens per parameter: how much lower its loss ends, and how much
# further it has to fall at the start; measured on recorded runs of two families
_FALL_PER_LOG_TOKENS = (0.035, 0.012)
_START_PER_LOG_TOKENS = (0.012, 0.008)
_RUNG_STD, _RUNG_STD_PER_DISTANCE = 0.001, 0.005  # of the log loss that a rung predicts
_SUDDEN_CHANGE = 0.02  # of the rate between two knots, in units of its peak
_MAX_RUNGS = 6  # learned from in a store
_MAX_COURSES = 8  # kept, one for each schedule asked for
_USUAL_STEP = 0.7  # logarithm of the ratio of two sizes, a factor of 2


@dataclass(frozen=True)
class Ladder:
    """The rungs below a run, smallest first.

    Attributes:
        run: description of the larger run.
        rungs: the smaller sizes, at least one.
    """

    run: RunInfo
    rungs: tuple[Rung, ...]
    _courses: dict[LRSchedule, Course] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        runs: Sequence[PastRun],
        run: RunInfo,
        prior: Prior | None = None,
        laws: tuple[str, ...] = tuple(LAWS),
    ) -> Self | None:
        """The ladder of the smaller runs among some finished ones; None if there is none.

        Args:
            runs: finished runs, from which `lossforecast.prior.smaller` selects.
            run: description of the larger run.
            prior: the general prior, by which each smaller run is fitted; by default the packaged
                one.
            laws: names of the laws.
        """
        beliefs_of = partial((prior or Prior()).for_run, laws=laws)
        rungs = rungs_of(smaller(runs, run), beliefs_of)
        return cls(run, rungs) if rungs else None

    def nearest(self, schedule: LRSchedule) -> list[PastRun]:
        """The smaller runs that a plan needs: at most 8 of each of the 6 largest sizes."""
        rungs = self.rungs[-_MAX_RUNGS:]
        return [past for rung in rungs for past in rung.nearest(self.run, schedule)]

    @property
    def n_runs(self) -> int:
        """Number of smaller runs."""
        return sum(len(rung.runs) for rung in self.rungs)

    def course(self, schedule: LRSchedule) -> Course:
        """The course of the run under a schedule, before its first loss.

        The largest of the smaller sizes gives the shape of the course. The law over sizes gives its
        end; it is fitted to the loss that each size would reach with equal tokens per parameter.
        """
        if schedule not in self._courses:
            if len(self._courses) >= _MAX_COURSES:
                self._courses.clear()
            self._courses[schedule] = self._predicted(schedule)
        return self._courses[schedule]

    def _predicted(self, schedule: LRSchedule) -> Course:
        fractions = _fractions(schedule)
        curves = [rung.curve(self.run, schedule, fractions) for rung in self.rungs]
        top = curves[-1]
        n_params = np.array([rung.n_params for rung in self.rungs])
        excess = np.array([curve.excess for curve in curves])
        fall, fall_std = _FALL_PER_LOG_TOKENS
        ends = np.array([curve.log_loss[-1] for curve in curves]) + fall * excess
        distances = np.array([curve.distance for curve in curves])
        stds = np.hypot(_RUNG_STD, _RUNG_STD_PER_DISTANCE * distances)
        stds = np.hypot(stds, fall_std * excess)
        size = float(self.run.n_params or n_params[-1])
        laws = [SizeLaw.of(n_params, ends, scale * stds, scale) for scale in SCALES]
        predicted = np.array([law.predict(size) for law in laws])
        growth = math.sqrt(math.log(size / n_params[-1]) / _USUAL_STEP)
        start, start_std = _START_PER_LOG_TOKENS
        return Course.of(
            schedule,
            fractions=fractions,
            shape=top.log_loss - top.log_loss[-1],
            end=predicted[:, 0],
            end_std=predicted[:, 1],
            start=start * top.excess,
            start_std=start_std * top.excess,
            growth=math.hypot(growth, top.distance),
            log_weight=np.array([law.log_evidence for law in laws]),
        )


@dataclass(frozen=True)
class LadderForecast:
    """The course that a ladder predicts for a run given its losses so far: a `CoursePredictor`.

    Attributes:
        ladder: the smaller runs.
        evidence: the losses of the run.
    """

    ladder: Ladder
    evidence: Evidence
    _corrected: dict[LRSchedule, Course] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, schedule: LRSchedule, steps: IntArray) -> Mixture:
        """Distribution of the loss at steps (m,) of a schedule, on the log scale."""
        return self._corrected_course(schedule).at(steps)

    def departure(self, schedule: LRSchedule) -> Departure | None:
        """How far the run is above its ladder; None unless it is, with 99% probability."""
        before = self.ladder.course(schedule)
        return departure_of(before, self._corrected_course(schedule), self.evidence)

    def _corrected_course(self, schedule: LRSchedule) -> Course:
        """The course corrected by the losses of the run, which every query needs."""
        if schedule not in self._corrected:
            self._corrected[schedule] = self.ladder.course(schedule).given(self.evidence)
        return self._corrected[schedule]


def _fractions(schedule: LRSchedule) -> FloatArray:
    """The grid, and the knots between which the rate changes suddenly, increasing, (m,)."""
    knots, rates = schedule.knots
    sudden = np.abs(np.diff(rates)) > _SUDDEN_CHANGE * schedule.peak
    sudden &= np.diff(knots) < schedule.total_steps * np.diff(_GRID).max()
    at = np.union1d(knots[:-1][sudden], knots[1:][sudden]) / schedule.total_steps
    fractions: FloatArray = np.union1d(_GRID, at[at >= _GRID[0]])
    return fractions
