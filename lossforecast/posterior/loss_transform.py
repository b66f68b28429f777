"""`LossTransform`: how losses become the z that the laws are fitted to."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from lossforecast.arrays import FloatArray

__all__ = ["MAX_LOG_RATIO", "LossTransform"]


MAX_LOG_RATIO = 5.0
"""Largest logarithm of the ratio of two losses of one run."""
_MIN_LOSS_FOR_LOG = 1e-100
_MAX_STD_OF_LOG = 3.0


@dataclass(frozen=True)
class LossTransform:
    """``z = log(loss / level)``, or ``z = (loss - level) / unit`` where some loss is not positive.

    Attributes:
        logarithmic: True for the logarithm.
        level: the loss at which z is 0.
        unit: change of the loss that changes z by about 1 there.
    """

    logarithmic: bool
    level: float
    unit: float

    @classmethod
    def of_losses(cls, loss: FloatArray) -> Self:
        """The transform for losses (n,): level is the median of the last quarter."""
        level = float(np.median(loss[-max(1, loss.size // 4) :]))
        if loss.min() > _MIN_LOSS_FOR_LOG:
            return cls(logarithmic=True, level=level, unit=level)
        low, high = np.quantile(loss, [0.05, 0.95])
        unit = max(abs(level), float(high - low), 1e-12)
        return cls(logarithmic=False, level=level, unit=unit)

    def to_z(self, loss: FloatArray, variance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Z and its variance, (n,) each, from losses and their variance, (n,) each."""
        if self.logarithmic:
            relative_std = np.minimum(np.sqrt(variance) / loss, _MAX_STD_OF_LOG)
            ratio = np.maximum(loss / self.level, np.finfo(float).tiny)
            return np.log(ratio), relative_std**2
        return (loss - self.level) / self.unit, variance / self.unit**2

    def to_loss(self, z: FloatArray | float) -> FloatArray:
        """The loss at z."""
        if self.logarithmic:
            return self.level * np.exp(z)
        return self.level + self.unit * np.asarray(z)
