"""Parts of a forecast: an uncertain number, the drop by a decay, the lowest loss, a curve."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.numerics import Mixture

__all__ = ["AnnealGain", "Curve", "Estimate", "Minimum"]

_NEARLY_CERTAIN = 0.995  # would print as 100%


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
class Minimum:
    """The lowest validation loss of a run, which overfitting may put far before its end.

    Losses are means of three neighbouring validations.

    Attributes:
        step: step of the lowest loss so far.
        so_far: the lowest loss so far.
        loss: the lowest loss up to the step forecast: median, with the 80% interval as attributes.
        prob_passed: probability that the loss ends above `so_far`. In recorded runs this was also
            how often no later loss was lower (``lossforecast/README.md``).
    """

    step: int
    so_far: float
    loss: Estimate
    prob_passed: float

    def __str__(self) -> str:
        """Such as "0.412 at step 1,200 (93% to stay the lowest)".

        Example:
            >>> str(Minimum(1_200, 0.412, Estimate(0.412, 0.40, 0.412), 0.93))
            '0.412 at step 1,200 (93% to stay the lowest)'
        """
        prob = self.prob_passed
        chance = f"{prob:.0%}" if prob < _NEARLY_CERTAIN else "over 99%"
        return f"{self.so_far:.4g} at step {self.step:,} ({chance} to stay the lowest)"


@dataclass(frozen=True)
class Curve:
    """The forecast at many steps: median, mean and interval of the loss; every array is (n,)."""

    steps: NDArray[np.int64]
    median: FloatArray
    mean: FloatArray
    lower: FloatArray
    upper: FloatArray
