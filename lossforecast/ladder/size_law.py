"""`SizeLaw`: how the final loss falls with the size of the model, at equal tokens per parameter.

Along equal tokens per parameter, the law ``L(N, D) = E + A N^-a + B D^-b`` (Hoffmann et al. 2022,
arXiv:2203.15556) with a = b depends on N alone. With n the largest of the sizes and r the reducible
loss there in units of E,

    log L(N) = level + log(1 + r (N / n)^-a) + deviation

The prior of the level is flat; r and a take the values of a grid, weighted by a wide prior and by
the likelihood of the losses. One size leaves r and a to the prior, two determine the trend, and
more its curvature.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from lossforecast.arrays import FloatArray

__all__ = ["SizeLaw", "usual_reducible"]

# prior of r and a: log-normal. The reducible loss of language models of 25 million parameters is
# about 1.2 times the irreducible one, and falls with the exponent
_USUAL_REDUCIBLE, _REFERENCE_PARAMS = 1.2, 25e6
_USUAL_EXPONENT = 0.21
_REDUCIBLE_LOG_STD, _EXPONENT_LOG_STD = 0.5, 0.3
_GRID = np.linspace(-2.5, 2.5, 61)  # in standard deviations: two losses determine a slope to 2%
_DEVIATION_STD = 0.0012  # of the log loss of one size from the law, at scale 1


@dataclass(frozen=True)
class SizeLaw:
    """The posterior of the law over g nodes, given the losses of k sizes.

    Attributes:
        largest: n, the largest number of parameters.
        reducible: r of each node, (g,).
        exponent: a of each node, (g,).
        weight: posterior weight of each node, (g,), sum 1.
        level: posterior mean of the level at each node, (g,).
        level_variance: its posterior variance.
        deviation_std: standard deviation of the log loss of a size from the law.
        log_evidence: log likelihood of the losses, up to a constant.
    """

    largest: float
    reducible: FloatArray
    exponent: FloatArray
    weight: FloatArray
    level: FloatArray
    level_variance: float
    deviation_std: float
    log_evidence: float

    @classmethod
    def of(
        cls, n_params: FloatArray, log_losses: FloatArray, stds: FloatArray, scale: float = 1.0
    ) -> Self:
        """Fit the law to k >= 1 sizes.

        Args:
            n_params: numbers of parameters, (k,).
            log_losses: logarithms of the losses, at equal tokens per parameter, (k,).
            stds: their standard deviations, (k,).
            scale: factor on the usual deviation of sizes from the law.

        Example:
            >>> sizes = np.array([1e8, 2e8, 4e8])
            >>> law = SizeLaw.of(sizes, np.log(2 + 60 * sizes**-0.2), np.full(3, 1e-4), 0.1)
            >>> mean, std = law.predict(8e8)
            >>> bool(abs(mean - np.log(2 + 60 * 8e8**-0.2)) < 2 * std < 0.005)
            True
        """
        largest = float(n_params.max())
        usual = float(usual_reducible(largest))
        r, a = np.meshgrid(
            usual * np.exp(_REDUCIBLE_LOG_STD * _GRID),
            _USUAL_EXPONENT * np.exp(_EXPONENT_LOG_STD * _GRID),
        )
        log_prior = np.add.outer(-(_GRID**2) / 2, -(_GRID**2) / 2).ravel()
        reducible, exponent = r.ravel(), a.ravel()
        deviation = scale * _DEVIATION_STD
        precision = 1 / (stds**2 + deviation**2)
        above = log_losses - _log_sum(reducible, exponent, n_params / largest)  # (g, k)
        level = above @ precision / precision.sum()
        misfit = (above - level[:, np.newaxis]) ** 2 @ precision
        log_weight = log_prior - misfit / 2
        total = float(np.logaddexp.reduce(log_weight))
        constant = np.log(precision).sum() / 2 - math.log(precision.sum()) / 2
        return cls(
            largest=largest,
            reducible=reducible,
            exponent=exponent,
            weight=np.exp(log_weight - total),
            level=level,
            level_variance=float(1 / precision.sum()),
            deviation_std=deviation,
            log_evidence=total - float(np.logaddexp.reduce(log_prior)) + float(constant),
        )

    def predict(self, n_params: float) -> tuple[float, float]:
        """Mean and standard deviation of the log loss of a size."""
        ratio = np.array([n_params / self.largest])
        mean = self.level + _log_sum(self.reducible, self.exponent, ratio)[:, 0]
        centre = float(self.weight @ mean)
        spread = float(self.weight @ (mean - centre) ** 2)
        return centre, math.sqrt(spread + self.level_variance + self.deviation_std**2)


def usual_reducible(n_params: FloatArray | float) -> FloatArray:
    """The reducible loss that the prior expects of a size, in units of the irreducible one."""
    reducible: FloatArray = _USUAL_REDUCIBLE * (n_params / _REFERENCE_PARAMS) ** -_USUAL_EXPONENT
    return reducible


def _log_sum(reducible: FloatArray, exponent: FloatArray, ratio: FloatArray) -> FloatArray:
    """``log(1 + r ratio^-a)`` at every node and size, (g, k)."""
    logs: FloatArray = np.log1p(
        reducible[:, np.newaxis] * ratio[np.newaxis] ** -exponent[:, np.newaxis]
    )
    return logs
