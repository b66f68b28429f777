"""What is believed of the annealing drop before a run has shown it."""

import math
from dataclasses import dataclass

import numpy as np

from lossforecast.arrays import FloatArray

__all__ = ["BelievedDrops", "DropComponent", "DropRule", "believed_drops"]


# how often a measurement of the drop and a belief are both as good as they say, or one of them is
# so many times worse: measurement, belief
_TRUST = ((0.8, 1.0, 1.0), (0.1, 3.0, 1.0), (0.1, 1.0, 5.0))
_LARGEST_DROP = 1.2  # a loss still falling off a plateau would promise more than was ever seen


@dataclass(frozen=True)
class DropComponent:
    """One Gaussian of the mixture believed of the drop that the whole decay will bring.

    Its mean is ``size + slopes * slope + jitters * (noise / 0.01)^0.6`` as a share of the loss,
    slope being the present ``-d log(loss) / d log(S1)`` and noise the standard deviation of one
    observation, as a share of the loss too; its standard deviation is `spread` times the mean.
    `noises` are the noise typical of such runs and the spread of its logarithm, if it tells
    anything.
    """

    weight: float
    size: float
    spread: float
    slopes: float = 0.0
    jitters: float = 0.0
    noises: tuple[float, float] | None = None

    def log_likelihood(self, noise: float) -> float:
        """Logarithm of the density of such a noise in such runs, but for a constant."""
        if self.noises is None:
            return 0.0
        typical, spread = self.noises
        away = math.log(max(noise, 1e-6) / typical) / spread
        return -(away**2) / 2 - math.log(spread)

    def belief(self, slope: float, noise: float) -> tuple[float, float]:
        """Mean and standard deviation."""
        mean = self.size + self.slopes * slope + self.jitters * (noise / 0.01) ** 0.6
        mean = min(mean, _LARGEST_DROP)
        return mean, max(self.spread * mean, 0.005)


@dataclass(frozen=True)
class DropRule:
    """Drop believed from the schedule: ``size (peak / 1e-3)^p share^d``, with relative `spread`.

    `share` is the share of the run after its rate first leaves the peak; the drop is that of a
    decay to 0, as a share of the loss.
    """

    size: float
    peak_exponent: float
    decay_exponent: float
    spread: float

    def component(self, peak: float, share: float) -> DropComponent:
        """The belief for one schedule."""
        size = self.size * (peak / 1e-3) ** self.peak_exponent * share**self.decay_exponent
        return DropComponent(1.0, size, self.spread)


@dataclass(frozen=True)
class BelievedDrops:
    """What is believed of the drop before the losses, over c components.

    Attributes:
        of_noise: log evidence of the noise.
        weight: log weights given the noise, and how well a measurement agrees, (c,).
        mean: (c,).
        std: (c,).
        told: how much of that the measurement says, from 0 to 1, (c,).
    """

    of_noise: float
    weight: FloatArray
    mean: FloatArray
    std: FloatArray
    told: FloatArray


def believed_drops(
    drops: tuple[DropComponent, ...],
    slope: float,
    noise: float,
    measured: tuple[float, float] | None,
) -> BelievedDrops:
    """The drop of a full anneal, given slope and noise of a run and a measurement with its error.

    Either may be off. Where they contradict each other, both remain possible.
    """
    total = sum(component.weight for component in drops)
    weight = np.array([np.log(c.weight / total) + c.log_likelihood(noise) for c in drops])
    of_noise = np.logaddexp.reduce(weight)
    weight -= of_noise
    mean, std = np.array([component.belief(slope, noise) for component in drops]).T
    if measured is None:
        return BelievedDrops(of_noise, weight, mean, std, np.zeros(mean.size))
    value, error = measured
    found = []
    for share, worse, loose in _TRUST:
        wide, vague = worse * error, loose * std
        off = (value - mean) ** 2 / (wide**2 + vague**2) / 2 + np.log(np.hypot(wide, vague))
        precision = vague**-2 + wide**-2
        centre = (mean * vague**-2 + value * wide**-2) / precision
        told = wide**-2 / precision
        found.append([weight + np.log(share) - off, centre, precision**-0.5, told])
    return BelievedDrops(of_noise, *np.hstack(found))
