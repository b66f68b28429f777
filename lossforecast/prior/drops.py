"""Prior distributions of the annealing drop, before the losses of a run have shown it.

The drop D of a run is that of a decay of the learning rate from its peak to 0, on the scale z of
the fit: about a share of the loss.
"""

import math
from dataclasses import dataclass

import numpy as np

from lossforecast.arrays import FloatArray

__all__ = ["DropComponent", "DropPrior", "DropRule", "drop_prior"]


# rows of (probability, factor of the measurement's error, factor of the prior's spread): either of
# the two may be less accurate than it claims
_RELIABILITY_CASES = ((0.8, 1.0, 1.0), (0.1, 3.0, 1.0), (0.1, 1.0, 5.0))
_MAX_MEAN_DROP = 1.2  # a loss that still falls off a plateau would predict more than was ever seen
_MIN_DROP_STD = 0.005
_REFERENCE_NOISE = 0.01  # of the loss
_NOISE_EXPONENT = 0.6
_MIN_NOISE = 1e-6  # of the loss: keeps the logarithm finite
_REFERENCE_PEAK = 1e-3  # learning rate


@dataclass(frozen=True)
class DropComponent:
    """One Gaussian component of the prior of the drop D.

    With slope ``-d log(loss) / d log(S1)`` at present, noise the standard deviation of one
    observation as a share of the loss, and fall the logarithm of the first loss over the present,

        mean = size + slopes * slope + jitters * (noise / 0.01)^0.6 + falls * fall,    at most 1.2
        std  = spread * mean,                                                    at least 0.005

    Attributes:
        weight: weight of the component in the mixture.
        size: mean of D for a flat loss without noise, as a share of the loss.
        spread: relative standard deviation of D.
        slopes: increase of the mean with the slope.
        jitters: increase of the mean with the noise.
        falls: increase of the mean with the fall.
        noises: median noise of runs of this component, and standard deviation of its logarithm;
            None if the noise is no evidence for or against the component.
    """

    weight: float
    size: float
    spread: float
    slopes: float = 0.0
    jitters: float = 0.0
    falls: float = 0.0
    noises: tuple[float, float] | None = None

    def log_likelihood(self, noise: float) -> float:
        """Log density of log(noise) under this component, up to a constant; 0 without `noises`."""
        if self.noises is None:
            return 0.0
        median, spread = self.noises
        away = math.log(max(noise, _MIN_NOISE) / median) / spread
        return -(away**2) / 2 - math.log(spread)

    def moments(self, slope: float, noise: float, fall: float) -> tuple[float, float]:
        """Mean and standard deviation of D given slope, noise and fall of the run."""
        mean = self.size + self.slopes * slope + self.falls * fall
        mean += self.jitters * (noise / _REFERENCE_NOISE) ** _NOISE_EXPONENT
        mean = min(mean, _MAX_MEAN_DROP)
        return mean, max(self.spread * mean, _MIN_DROP_STD)


@dataclass(frozen=True)
class DropRule:
    """Prior of the drop D given the schedule: ``D = size * (peak / 1e-3)^p * share^d``.

    The share is that of the run after its rate first leaves the peak.

    Attributes:
        size: D at a peak of 1e-3 and a decay over the whole run, as a share of the loss.
        peak_exponent: p.
        decay_exponent: d.
        spread: relative standard deviation of D.
    """

    size: float
    peak_exponent: float
    decay_exponent: float
    spread: float

    def component(self, peak: float, share: float) -> DropComponent:
        """The prior of D for one schedule, as a single component of weight 1."""
        size = self.size * (peak / _REFERENCE_PEAK) ** self.peak_exponent
        return DropComponent(1.0, size * share**self.decay_exponent, self.spread)


@dataclass(frozen=True)
class DropPrior:
    """Prior of the drop of one run: a mixture of c Gaussians, given its noise and a measurement.

    Attributes:
        log_noise_likelihood: log density of the noise under the whole mixture, up to a constant.
        log_weight: log weights of the components, (c,); without a measurement their sum is 1, with
            one they include its likelihood.
        mean: means of D, (c,).
        std: standard deviations of D, (c,).
        measured_share: share of the precision that comes from the measurement, 0 to 1, (c,).
    """

    log_noise_likelihood: float
    log_weight: FloatArray
    mean: FloatArray
    std: FloatArray
    measured_share: FloatArray


def drop_prior(
    components: tuple[DropComponent, ...],
    slope: float,
    noise: float,
    fall: float,
    measured: tuple[float, float] | None,
) -> DropPrior:
    """The prior of the drop of a full anneal, given what a run has shown and a measurement.

    With a measurement ``m ~ N(D, (f e)^2)`` and a component ``D ~ N(mu, (g s)^2)``, the product of
    the two is again a Gaussian, and the weight of the component is multiplied by
    ``N(m; mu, (f e)^2 + (g s)^2)``. The factors (f, g) of error and spread are 1, or larger with a
    small probability, so both values remain possible if they contradict each other.

    Args:
        components: prior components of the regime.
        slope: ``-d log(loss) / d log(S1)`` at present.
        noise: standard deviation of one observation, as a share of the loss.
        fall: logarithm of the first loss over the present one, at least 0.
        measured: the measured drop and its standard error; None without a measurement.
    """
    total = sum(component.weight for component in components)
    log_weight = np.array([np.log(c.weight / total) + c.log_likelihood(noise) for c in components])
    log_noise_likelihood = np.logaddexp.reduce(log_weight)
    log_weight -= log_noise_likelihood
    mean, std = np.array([component.moments(slope, noise, fall) for component in components]).T
    if measured is None:
        return DropPrior(
            log_noise_likelihood=log_noise_likelihood,
            log_weight=log_weight,
            mean=mean,
            std=std,
            measured_share=np.zeros(mean.size),
        )
    value, error = measured
    cases = []
    for probability, error_factor, std_factor in _RELIABILITY_CASES:
        case_error, case_std = error_factor * error, std_factor * std
        misfit = (value - mean) ** 2 / (case_error**2 + case_std**2) / 2
        misfit += np.log(np.hypot(case_error, case_std))
        precision = case_std**-2 + case_error**-2
        centre = (mean * case_std**-2 + value * case_error**-2) / precision
        measured_share = case_error**-2 / precision
        weight = log_weight + np.log(probability) - misfit
        cases.append([weight, centre, precision**-0.5, measured_share])
    weights, means, stds, shares = np.hstack(cases)
    return DropPrior(
        log_noise_likelihood=log_noise_likelihood,
        log_weight=weights,
        mean=means,
        std=stds,
        measured_share=shares,
    )
