"""`Comparison`: whether two runs differ by more than the noise of seeds and evaluation.

The log outcome of run i of a recipe is ``m + sigma e_i``, with the mean m of the recipe, the
`Spread` sigma and standard normal e_i; for a run that has not ended, the error f_i of its forecast
is added. At a given sigma the mean of a recipe is thus that of its runs, weighted by ``1 / (sigma^2
+ f_i^2)``, and the difference of two recipes is normal. Averaged over sigma, with a flat prior of
the difference, it is Student's t where all runs have ended.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.comparison.compared_run import ComparedRun, PriorOf, grouped
from lossforecast.comparison.spread import Spread
from lossforecast.errors import ConfigurationError
from lossforecast.estimate import Estimate
from lossforecast.numerics import Mixture
from lossforecast.prior import in_same_units

__all__ = ["MAX_SEEDS", "Comparison", "Contender"]

MAX_SEEDS = 1_000
"""The largest number of seeds that `Comparison.seeds_to_tell` gives."""

_STDS_IN_95 = 3.92  # standard deviations in the 95% interval of a normal distribution
_MAX_LOG_STD = 5.0


@dataclass(frozen=True)
class Contender:
    """One side of a comparison: a run, with the finished repeats of its recipe.

    Attributes:
        name: name of the run.
        loss: its outcome, or the forecast of it with its 80% interval.
        error: standard deviation of the logarithm of a forecast; 0 for a run that has ended.
        repeats: outcomes of other runs of the same recipe.
    """

    name: str
    loss: Estimate
    error: float
    repeats: tuple[float, ...] = ()

    @classmethod
    def of(cls, run: ComparedRun, repeats: tuple[float, ...], prior_of: PriorOf) -> Self:
        """The contender of a run; one that has not ended is forecast."""
        if run.finished:
            return cls(run.name, Estimate(run.outcome, run.outcome, run.outcome), 0.0, repeats)
        forecast = run.forecast(prior_of)
        lower, upper = forecast.interval(0.95)
        if not (math.isfinite(forecast.median) and lower > 0):
            raise ConfigurationError(f"the final loss of {run.name:.60} cannot be forecast yet")
        return cls(run.name, forecast.estimate, math.log(upper / lower) / _STDS_IN_95, repeats)

    @property
    def finished(self) -> bool:
        """True if the run has ended."""
        return self.error == 0

    def mean(self, sigma: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of the log loss of the recipe at values of the spread, (k,) each."""
        logs = np.log([float(self.loss), *self.repeats])
        errors = np.array([self.error, *[0.0] * len(self.repeats)])
        precision = 1 / (sigma[:, np.newaxis] ** 2 + errors**2)
        total = precision.sum(axis=1)
        return (precision * logs).sum(axis=1) / total, 1 / total


@dataclass(frozen=True)
class Comparison:
    """How the recipe of one run compares with that of another.

    Attributes:
        first: one run.
        second: the other run.
        spread: how far repeats lie apart.
        same_recipe: True if nothing recorded distinguishes the two runs. Then no other run counts
            as a repeat of either.
    """

    first: Contender
    second: Contender
    spread: Spread
    same_recipe: bool = False
    _ratio: Mixture = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sigma = self.spread.nodes
        mean, variance = self.first.mean(sigma)
        other_mean, other_variance = self.second.mean(sigma)
        std = np.minimum(np.sqrt(variance + other_variance), _MAX_LOG_STD)
        ratio = Mixture(
            weight=np.full(sigma.size, 1 / sigma.size),
            mean=(mean - other_mean)[:, np.newaxis],
            std=std[:, np.newaxis],
            logarithmic=True,
        )
        object.__setattr__(self, "_ratio", ratio)

    @classmethod
    def of(
        cls,
        first: ComparedRun,
        second: ComparedRun,
        others: Iterable[ComparedRun] = (),
        prior_of: PriorOf = lambda run, schedule: None,
    ) -> Self:
        """Compare two runs.

        Args:
            first: one run.
            second: the other run.
            others: further runs, whose repeats show the spread. The two may be among them.
            prior_of: the prior of a run that has not ended, under its schedule.

        Raises:
            ConfigurationError: the two are one run, their losses are of different kinds, tasks or
                data, or one has none or broke.
        """
        for run in (first, second):
            run.check()
        if not in_same_units(first.run, second.run):
            raise ConfigurationError(
                f"{first.name:.60} and {second.name:.60} cannot be compared: their losses differ "
                "in the metric, the name of the loss, the task or the dataset"
            )
        if first.duplicates(second):
            raise ConfigurationError(
                f"{first.name:.60} and {second.name:.60} have the same losses: they are one and "
                "the same run"
            )
        pair, same = (first, second), first.repeats(second)
        groups = grouped([*pair, *(run for run in others if in_same_units(first.run, run.run))])
        if same:  # they may differ in something not recorded: no evidence of the noise
            groups = [[run for run in group if run not in pair] for group in groups]
        noise = max(run.evaluation_noise for run in pair)
        spread = Spread.packaged(first.run, noise).learned(
            [[run.outcome for run in group] for group in groups]
        )

        def side(run: ComparedRun) -> Contender:
            alike = [] if same else [one for group in groups for one in group if one.repeats(run)]
            repeats = tuple(one.outcome for one in alike if one is not run)
            return Contender.of(run, repeats, prior_of)

        return cls(side(first), side(second), spread, same)

    @property
    def difference(self) -> Estimate:
        """Loss of the first recipe over that of the second, less 1, with its 80% interval."""
        lower, middle, upper = self._ratio.quantiles(np.array([0.1, 0.5, 0.9]))[:, 0] - 1
        return Estimate(middle, lower, upper)

    @property
    def interval95(self) -> tuple[float, float]:
        """The 95% interval of the difference."""
        lower, upper = self._ratio.quantiles(np.array([0.025, 0.975]))[:, 0] - 1
        return float(lower), float(upper)

    @property
    def prob_first_better(self) -> float:
        """Probability that the mean final loss of the first recipe is the lower one."""
        return float(self._ratio.cdf(np.array([[1.0]]))[0, 0])

    @property
    def differ(self) -> bool:
        """True if the 95% interval of the difference excludes 0."""
        lower, upper = self.interval95
        return lower > 0 or upper < 0

    @property
    def seeds_to_tell(self) -> int | None:
        """Finished runs of each recipe needed to detect a difference of this size at 95%.

        With a power of 80%, existing runs included. None if `MAX_SEEDS` do not suffice.
        """
        return self.spread.seeds_to_tell(math.log1p(float(self.difference)), MAX_SEEDS)
