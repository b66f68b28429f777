"""`Spread`: how far apart the outcomes of repeats of one recipe are.

The logarithms of the outcomes of one recipe are taken as normal, with a standard deviation sigma
that recipes share. The belief about it is a scaled inverse chi-squared distribution,

    sigma^2 ~ dof scale^2 / chi^2(dof),

and n repeats with the sum S of squared distances from their mean turn it into the one with

    dof' = dof + n - 1,    dof' scale'^2 = dof scale^2 + S.

Source: A. Gelman et al., Bayesian Data Analysis, 3rd edition, section 3.2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from lossforecast.arrays import FloatArray
from lossforecast.numerics import gammaincinv, stdtrit
from lossforecast.runs import RunInfo, RunKind

__all__ = ["Spread"]

_N_NODES = 200
# (scale, dof) from recorded repeats: `tests/benchmarks/seed_spread.py`
_LANGUAGE_MODELS = (0.0013, 1.8)
_OTHERS = {"val": (0.0014, 0.8), "train": (0.0050, 1.3)}
_MIN_SCALE = 1e-6
_LEVEL, _POWER = 0.95, 0.8  # of `Spread.seeds_to_tell`


@dataclass(frozen=True)
class Spread:
    """The belief about the spread of repeats, relative to the loss.

    Attributes:
        scale: typical standard deviation of outcomes of one recipe, of their logarithm.
        dof: degrees of freedom: how well it is known. At 1 it may just as well be ten times as
            large, at 30 it is known to a quarter.
        n_runs: number of repeats that it was learned from; 0 for the packaged one.
        n_recipes: number of recipes of these repeats.
    """

    scale: float
    dof: float
    n_runs: int = 0
    n_recipes: int = 0

    @classmethod
    def packaged(cls, run: RunInfo, noise: float = 0.0) -> Self:
        """The spread where no repeats are known, learned from recorded ones.

        Args:
            run: description of a run.
            noise: standard error of the outcome of a training loss as read off its curve, relative
                to it: losses on different batches scatter between seeds as they do within a run.
        """
        is_large = run.kind is RunKind.LARGE_LANGUAGE_MODEL
        scale, dof = _LANGUAGE_MODELS if is_large else _OTHERS[run.metric]
        return cls(max(math.hypot(scale, noise), _MIN_SCALE), dof)

    def learned(self, repeats: Sequence[ArrayLike]) -> Self:
        """The spread after the outcomes of repeats, all above 0, were seen, one row a recipe.

        Example:
            >>> Spread(0.002, 2.0).learned([[2.0, 2.002, 1.999], [3.01, 3.013]])
            Spread(scale=0.00139..., dof=5.0, n_runs=5, n_recipes=2)
        """
        rows = [row for row in map(np.log, repeats) if row.size > 1]
        squares = sum(float(((row - row.mean()) ** 2).sum()) for row in rows)
        n_runs = sum(row.size for row in rows)
        dof = self.dof + n_runs - len(rows)
        scale = math.sqrt((self.dof * self.scale**2 + squares) / dof)
        return type(self)(scale, dof, self.n_runs + n_runs, self.n_recipes + len(rows))

    @property
    def nodes(self) -> FloatArray:
        """Equally likely values of sigma, increasing, (200,)."""
        shares = 1 - (np.arange(_N_NODES) + 0.5) / _N_NODES
        chi_squared = 2 * gammaincinv(self.dof / 2, shares)
        nodes: FloatArray = self.scale * np.sqrt(self.dof / chi_squared)
        return nodes

    def seeds_to_tell(self, difference: float, most: int) -> int | None:
        """Runs of each of two recipes needed to detect a difference at 95%, with a power of 80%.

        The smallest n for which ``(t_0.975 + t_0.8) scale sqrt(2 / n)`` is at most the difference,
        with the quantiles of Student's t at ``dof + 2 (n - 1)`` degrees of freedom.

        Args:
            difference: of the logarithms of the losses.
            most: the largest answer; None is returned if even that many do not suffice.
        """
        seeds = np.arange(1, most + 1)
        dof = self.dof + 2 * (seeds - 1)
        quantiles = stdtrit(dof, (1 + _LEVEL) / 2) + stdtrit(dof, _POWER)
        enough = quantiles * self.scale * np.sqrt(2 / seeds) <= abs(difference)
        return int(seeds[np.argmax(enough)]) if enough.any() else None
