"""`Course`: the course predicted from smaller runs, and how the losses of the run correct it.

With f the share of the run, q(f) the share by which the learning rate is below its peak, and m(f)
the logarithm of the loss predicted from the smaller runs,

    log L(f) = m(f) + c + a (f^-0.42 - 1) + d (q(1) - q(f)) + walk(-log f) + noise

c is the error of the level at the end, a that of the reducible loss, d that of the annealing drop,
and the walk, which is 0 at the end, the rest. All are Gaussian with mean 0 and standard deviations
measured on recorded families, times a scale that differs between losses and families. With a small
probability the recipe of the run is another one: then c may have any size, and the rest is larger.
The values of the scale, with and without another recipe, are weighted by a prior and by the
likelihood of the losses. So the ladder says little about a run that leaves it.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.numerics import Mixture
from lossforecast.runs import Evidence
from lossforecast.schedule import LRSchedule

__all__ = ["SCALES", "Course"]

SCALES = (0.5, 1.0, 2.0, 4.0)
"""Values of the scale."""
_LOG_PRIOR = np.log([0.15, 0.4, 0.3, 0.15])
# standard deviations of a, d and of the walk after one unit of its time, for a factor of 2 in size
_START_STD, _DROP_STD, _WALK_STD = 0.006, 0.002, 0.002
# where the recipe is another one: standard deviation of c, two equally likely factors on the scale
# of the rest, and the probability before any loss
_OTHER_RECIPE_STD, _OTHER_RECIPE_SCALES, _PROB_OTHER_RECIPE = 0.5, (12.0, 50.0), 0.05
_START_POWER = 0.42  # of the reducible loss
# the start follows no ladder: standard deviation of the log loss at 5% of a run, falling as f^-2
_EARLY_STD, _EARLY_SHARE, _EARLY_POWER = 0.02, 0.05, 2.0
_TIMING_STD = 0.004  # of a run: how far the course may be ahead, which counts where it is steep
_NOISE_STD = 0.0005  # of a log loss, beside its own noise
_WARMUPS = 1.5  # lengths of the warm-up that are left out
_MIN_SHARE = 0.03  # of a run, before which losses are left out


@dataclass(frozen=True)
class Course:
    """The distribution of the log loss along a run, over s cases.

    A case is one of `SCALES`, for the recipe of the ladder or for another one.

    Attributes:
        schedule: the plan.
        fractions: shares of the run, increasing, (m,).
        shape: m(f) less its value at the end, (m,).
        end: m(1), (s,).
        end_std: standard deviation of c, (s,).
        start_std: standard deviation of a, (s,).
        drop_std: standard deviation of d, (s,).
        walk_std: standard deviation of the walk after one unit of time, (s,).
        log_weight: log weight of each case, (s,).
        steps: steps of the losses that correct it, (n,).
        away: their logarithm above the course, (n,).
        variance: variance of that by their noise, (n,).
    """

    schedule: LRSchedule
    fractions: FloatArray
    shape: FloatArray
    end: FloatArray
    end_std: FloatArray
    start_std: FloatArray
    drop_std: FloatArray
    walk_std: FloatArray
    log_weight: FloatArray
    steps: IntArray
    away: FloatArray
    variance: FloatArray

    @classmethod
    def of(
        cls,
        schedule: LRSchedule,
        *,
        fractions: FloatArray,
        shape: FloatArray,
        end: FloatArray,
        end_std: FloatArray,
        start: float,
        start_std: float,
        growth: float,
        log_weight: FloatArray,
    ) -> Self:
        """The course before any loss.

        Args:
            schedule: the plan.
            fractions: shares of the run, (m,).
            shape: log loss of the nearest size at these, above its end, (m,).
            end: log loss at the end, at each scale, (s,).
            end_std: its standard deviation, (s,).
            start: expected a.
            start_std: standard deviation of a, beside the usual one.
            growth: by how much a, d and the walk are larger than for a factor of 2 in size.
            log_weight: log evidence for each scale, (s,).
        """
        factors = np.array([1.0, *_OTHER_RECIPE_SCALES])
        scale = np.outer(factors, SCALES).ravel()
        others = len(_OTHER_RECIPE_SCALES)
        weight = _normalised(_LOG_PRIOR + log_weight)
        return cls(
            schedule=schedule,
            fractions=fractions,
            shape=shape + start * _reducible(fractions),
            end=np.tile(end, factors.size),
            end_std=np.concatenate([end_std, np.full(others * end.size, _OTHER_RECIPE_STD)]),
            start_std=scale * np.hypot(growth * _START_STD, start_std),
            drop_std=scale * np.hypot(growth * _DROP_STD, start_std),
            walk_std=scale * growth * _WALK_STD,
            log_weight=np.add.outer(
                np.log([1 - _PROB_OTHER_RECIPE, *[_PROB_OTHER_RECIPE / others] * others]), weight
            ).ravel(),
            steps=np.empty(0, np.int64),
            away=np.empty(0),
            variance=np.empty(0),
        )

    def given(self, evidence: Evidence) -> Self:
        """The course corrected by the losses of the run."""
        plan = self.schedule
        share = evidence.step / plan.total_steps
        used = (share >= _MIN_SHARE) & (evidence.step >= _WARMUPS * plan.warmup_steps)
        used &= (evidence.step <= plan.total_steps) & (evidence.loss > 0)
        if evidence.is_empty or not used.any():
            return self
        steps, loss, share = evidence.step[used], evidence.loss[used], share[used]
        early = _EARLY_STD * (_EARLY_SHARE / share) ** _EARLY_POWER
        shift = max(round(_TIMING_STD * plan.total_steps), 1)
        timing = (self._shape_at(steps - shift) - self._shape_at(steps + shift)) / 2
        variance = evidence.variance[used] / loss**2 + early**2 + timing**2 + _NOISE_STD**2
        away = np.log(loss) - self._shape_at(steps)
        log_likelihood = []
        for i in range(self.end.size):
            covariance = self._covariance(i, steps, steps) + np.diag(variance)
            error = away - self.end[i]
            _, log_det = np.linalg.slogdet(covariance)
            log_likelihood.append(-(error @ np.linalg.solve(covariance, error) + log_det) / 2)
        return replace(
            self,
            log_weight=_normalised(self.log_weight + np.array(log_likelihood)),
            steps=steps,
            away=away,
            variance=variance,
        )

    @property
    def prob_other_recipe(self) -> float:
        """Probability that the recipe of the run is not that of the ladder."""
        return float(np.exp(self.log_weight[len(SCALES) :]).sum())

    def at(self, steps: IntArray) -> Mixture:
        """Distribution of the loss at steps (k,), on the log scale: a component for each scale."""
        means, stds = [], []
        shape = self._shape_at(steps)
        for i in range(self.end.size):
            mean = shape + self.end[i]
            variance = np.diag(self._covariance(i, steps, steps)).copy()
            if self.steps.size:
                covariance = self._covariance(i, self.steps, self.steps) + np.diag(self.variance)
                shared = self._covariance(i, self.steps, steps)
                gain = np.linalg.solve(covariance, shared)
                mean = mean + gain.T @ (self.away - self.end[i])
                variance -= (gain * shared).sum(axis=0)
            means.append(mean)
            stds.append(np.sqrt(np.maximum(variance, 1e-12)))
        return Mixture(np.exp(self.log_weight), np.array(means), np.array(stds), logarithmic=True)

    def _shape_at(self, steps: IntArray) -> FloatArray:
        at = np.log(np.maximum(steps, 1) / self.schedule.total_steps)
        shape: FloatArray = np.interp(at, np.log(self.fractions), self.shape)
        return shape

    def _covariance(self, i: int, steps: IntArray, others: IntArray) -> FloatArray:
        """Covariance of c, a, d and the walk between steps (n,) and (k,), at scale i, (n, k)."""
        one, other = self._terms(steps), self._terms(others)
        covariance = self.end_std[i] ** 2 + self.start_std[i] ** 2 * np.outer(one[0], other[0])
        covariance += self.drop_std[i] ** 2 * np.outer(one[1], other[1])
        covariance += self.walk_std[i] ** 2 * np.minimum.outer(one[2], other[2])
        result: FloatArray = covariance
        return result

    def _terms(self, steps: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The factors of a and d, and the time of the walk, at steps (n,), (n,) each."""
        plan = self.schedule
        share = np.maximum(steps, 1) / plan.total_steps
        below = 1 - plan.lr(np.append(np.maximum(steps, 1), plan.total_steps)) / (plan.peak or 1)
        return _reducible(share), below[-1] - below[:-1], -np.log(share)


def _reducible(fractions: FloatArray) -> FloatArray:
    shape: FloatArray = fractions**-_START_POWER - 1
    return shape


def _normalised(log_weight: FloatArray) -> FloatArray:
    normalised: FloatArray = log_weight - np.logaddexp.reduce(log_weight)
    return normalised
