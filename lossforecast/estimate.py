"""Parts of a forecast: an uncertain number, the drop that a decay will bring, a curve of losses."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.numerics import Mixture

__all__ = ["AnnealGain", "Curve", "Estimate"]


class Estimate(float):
    """An uncertain number: the float is its median, with the 80% interval as attributes.

    Attributes:
        lower: the 10% quantile.
        upper: the 90% quantile.
    """

    lower: float
    upper: float

    def __new__(cls, centre: float, lower: float, upper: float) -> Self:
        """Make a number with the ends of its interval."""
        self = super().__new__(cls, centre)
        self.lower, self.upper = float(lower), float(upper)
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[float, float, float]]:
        """Keep the interval when copied or pickled."""
        return type(self), (float(self), self.lower, self.upper)

    @classmethod
    def of(cls, mixture: Mixture | None) -> Self:
        """Median and 10% and 90% quantiles of a mixture at one place; nan for None."""
        if mixture is None:
            return cls(math.nan, math.nan, math.nan)
        lower, median, upper = mixture.quantiles(np.array([0.1, 0.5, 0.9]))[:, 0]
        return cls(median, lower, upper)

    def __repr__(self) -> str:
        return f"{float(self):.4g} ({self.lower:.4g} to {self.upper:.4g})"


@dataclass(frozen=True)
class AnnealGain:
    """The drop still to come from the decay of the learning rate, from now to the step forecast.

    Attributes:
        mean: expected drop, in units of the loss.
        std: its standard deviation.
        source: "data" (learned from this run), "probe" (measured on its weights), "prior" (assumed)
            or "none" (the learning rate changes nothing from here on).
    """

    mean: float
    std: float
    source: str


@dataclass(frozen=True)
class Curve:
    """The forecast at many steps: median, mean and interval of the loss; every array is (n,)."""

    steps: NDArray[np.int64]
    median: FloatArray
    mean: FloatArray
    lower: FloatArray
    upper: FloatArray
