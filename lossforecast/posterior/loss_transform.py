"""`Scale`: how losses become the z that the laws are fitted to."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from lossforecast.arrays import FloatArray

__all__ = ["FARTHEST", "Scale"]


FARTHEST = 5.0  # logarithm of a ratio of two losses of one run
_LEAST_LOSS = 1e-100  # smaller ones are no losses to take a logarithm of


@dataclass(frozen=True)
class Scale:
    """How losses become the z of the model: logarithms, or shares of a unit."""

    logarithmic: bool
    level: float
    unit: float

    def of(self, loss: FloatArray, variance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Z and its variance of losses (n,) with variance (n,)."""
        if self.logarithmic:
            return np.log(loss / self.level), np.minimum(np.sqrt(variance) / loss, 3.0) ** 2
        return (loss - self.level) / self.unit, variance / self.unit**2

    def loss(self, z: FloatArray | float) -> FloatArray:
        """The loss at z."""
        if self.logarithmic:
            return self.level * np.exp(z)
        return self.level + self.unit * np.asarray(z)

    @classmethod
    def of_losses(cls, loss: FloatArray) -> Self:
        """The logarithm, or where some loss is not positive, shares of the level."""
        level = float(np.median(loss[-max(1, loss.size // 4) :]))
        if loss.min() > _LEAST_LOSS:
            return cls(True, level, level)
        low, high = np.quantile(loss, [0.05, 0.95])
        return cls(False, level, max(abs(level), float(high - low), 1e-12))
