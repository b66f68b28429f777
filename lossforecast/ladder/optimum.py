"""`Optimum`: the best peak rate or batch size of a planned run, from the sweeps of its family.

In each sweep s, the log loss is a bowl over the logarithm x of the setting,

    log L = level_s + h (x - x_s)^2 + noise,
    x_s = x* + sum_j exponent_j log(condition_sj / planned condition_j) + deviation_s,

so the optimum is a power law of the conditions (parameters, tokens, ...) and x* is that of the
planned run. Given h, the slope of ``log L - h x^2`` over x in sweep s is Gaussian around
``-2 h x_s``, so x* and the exponents, with Gaussian priors, have a Gaussian posterior in closed
form. It is averaged over a grid of h, weighted by a wide prior and the likelihood.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.estimate import Estimate
from lossforecast.numerics import Mixture

__all__ = ["Optimum", "Sweep"]

_USUAL_BEND, _BEND_LOG_STD = 0.01, 1.0  # prior of h: a factor of 2 off costs 0.5% of the loss
_BENDS = _USUAL_BEND * np.exp(_BEND_LOG_STD * np.linspace(-2.5, 2.5, 41))
_NOISE = 0.001  # of a log loss
_NOISE_PER_EXCESS = 0.3  # of the log loss above the best of the sweep: not quite a parabola
_DEVIATION = 0.15  # of the log optimum of a sweep from the law
_CENTRE_STD = 3.0  # of x* around the settings tried
_LOG_2_SQUARED = float(np.log(2.0)) ** 2


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in one setting.

    Attributes:
        settings: values of the setting, at least three, (k,).
        losses: final losses, above 0, (k,).
        conditions: what the runs share, in units of the planned run, by name.
    """

    settings: FloatArray
    losses: FloatArray
    conditions: Mapping[str, float]


@dataclass(frozen=True)
class Optimum:
    """The best value of a setting for a planned run.

    Attributes:
        best: the value, with its 80% interval.
        exponents: of the power law, by condition, with 80% intervals.
        cost_of_factor_2: how much higher the loss ends, as a share of it, where the setting is
            twice or half the best one.
        n_sweeps: number of sweeps.
        n_bracketed: number of them whose best setting is neither the lowest nor the highest. Where
            it is 0, the optimum lies beyond the settings tried, and `best` is a guess.
        n_runs: number of their runs.
    """

    best: Estimate
    exponents: Mapping[str, Estimate]
    cost_of_factor_2: Estimate
    n_sweeps: int
    n_bracketed: int
    n_runs: int

    @classmethod
    def of(cls, sweeps: Sequence[Sweep], priors: Mapping[str, tuple[float, float]]) -> Self:
        """Fit the law.

        Args:
            sweeps: at least one.
            priors: mean and standard deviation of the exponent of each condition.

        Example:
            >>> rates = np.array([2.5e-4, 5e-4, 1e-3, 2e-3])
            >>> losses = 2.5 * np.exp(0.01 * np.log(rates / 6e-4) ** 2)
            >>> optimum = Optimum.of([Sweep(rates, losses, {"tokens": 1.0})], {"tokens": (0, 0.3)})
            >>> optimum.best.lower < 6e-4 < optimum.best.upper
            True
        """
        names = list(priors)
        design = np.array([[1.0, *(np.log(s.conditions[name]) for name in names)] for s in sweeps])
        tried = np.log(np.concatenate([sweep.settings for sweep in sweeps]))
        mean = np.array([tried.mean(), *(priors[name][0] for name in names)])
        covariance = np.diag([_CENTRE_STD, *(priors[name][1] for name in names)]) ** 2
        nodes = [_given(bend, sweeps, design, mean, covariance) for bend in _BENDS]
        log_weight = np.array([node[0] for node in nodes])
        log_weight -= np.linspace(-2.5, 2.5, _BENDS.size) ** 2 / 2
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        means = np.array([node[1] for node in nodes])
        stds = np.array([node[2] for node in nodes])
        posterior = [
            Mixture(weight, means[:, [i]], stds[:, [i]], logarithmic=i == 0)
            for i in range(mean.size)
        ]
        costs = _BENDS * _LOG_2_SQUARED
        return cls(
            best=Estimate.of(posterior[0]),
            exponents={
                name: Estimate.of(each) for name, each in zip(names, posterior[1:], strict=True)
            },
            cost_of_factor_2=_weighted(np.expm1(costs), weight),
            n_sweeps=len(sweeps),
            n_bracketed=sum(map(_is_bracketed, sweeps)),
            n_runs=tried.size,
        )


def _given(
    bend: float,
    sweeps: Sequence[Sweep],
    design: FloatArray,
    mean: FloatArray,
    covariance: FloatArray,
) -> tuple[float, FloatArray, FloatArray]:
    """Log likelihood of h, and posterior mean and standard deviations of x* and the exponents."""
    slopes, variances, misfit = np.array([_slope(bend, sweep) for sweep in sweeps]).T
    matrix = -2 * bend * design
    noise = np.diag(variances + (2 * bend * _DEVIATION) ** 2)
    total = matrix @ covariance @ matrix.T + noise
    away = slopes - matrix @ mean
    gain = np.linalg.solve(total, matrix @ covariance).T
    left = covariance - gain @ matrix @ covariance
    log_likelihood = -0.5 * (
        float(away @ np.linalg.solve(total, away))
        + float(np.linalg.slogdet(total)[1])
        + float(misfit.sum())
    )
    stds = np.sqrt(np.diag(left))
    stds[0] = np.hypot(stds[0], _DEVIATION)  # the planned run deviates from the law as well
    return log_likelihood, mean + gain @ away, stds


def _slope(bend: float, sweep: Sweep) -> tuple[float, float, float]:
    """Slope of ``log L - h x^2`` over x in a sweep, its variance, and the misfit (chi-squared)."""
    x, y = np.log(sweep.settings), np.log(sweep.losses)
    precision = 1 / (_NOISE**2 + (_NOISE_PER_EXCESS * (y - y.min())) ** 2)
    bent = y - bend * x**2
    x = x - np.average(x, weights=precision)
    bent = bent - np.average(bent, weights=precision)
    spread = float(precision @ x**2)
    slope = float(precision @ (x * bent)) / spread
    return slope, 1 / spread, float(precision @ (bent - slope * x) ** 2)


def _is_bracketed(sweep: Sweep) -> bool:
    best = sweep.settings[np.argmin(sweep.losses)]
    return bool(sweep.settings.min() < best < sweep.settings.max())


def _weighted(values: FloatArray, weight: FloatArray) -> Estimate:
    """Median and 80% interval of increasing values with weights."""
    below = np.cumsum(weight) - weight / 2
    lower, median, upper = np.interp([0.1, 0.5, 0.9], below, values)
    return Estimate(median, lower, upper)
