"""`JointDraws`: final losses of the runs of a sweep, drawn jointly from a fixed seed.

The normal score of run i with kind k is z_i = sqrt(a) u + sqrt(b) v_k + sqrt(1 - a - b) w_i, with
independent standard normals u, v_k and w_i. All of them are rows of one stream of normals, which
is the same every time: u, then v_k by kind, then w_i by run.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.forecast import LEVEL_SCORES

__all__ = ["N_DRAWS", "JointDraws"]

N_DRAWS = 4096
"""Draws of a sweep; the standard error of a probability is 0.008 at most."""
_ROWS_PER_BLOCK = 64  # 2 MB
_EVERY_DRAW = slice(None)


class JointDraws:
    """Final losses of some runs, none of which has ended.

    The normals are kept from call to call, 32 KB for each run of the largest sweep so far.

    Args:
        kinds: their kinds, n.
        quantiles: quantiles of their final losses at `lossforecast.forecast.QUANTILE_LEVELS`, each
            (29,), n.
        sweep_share: share of the error variance common to the whole sweep, a.
        kind_share: share common to the runs of one kind, b.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        quantiles: Sequence[tuple[float, ...]],
        sweep_share: float,
        kind_share: float,
    ) -> None:
        self._kinds, self._quantiles = kinds, quantiles
        distinct = sorted(set(kinds))
        self._first_row = 1 + len(distinct)
        self._common = {
            kind: math.sqrt(sweep_share) * _normals(0) + math.sqrt(kind_share) * _normals(1 + i)
            for i, kind in enumerate(distinct)
        }
        self._own_share = math.sqrt(1 - sweep_share - kind_share)

    def losses(self, run: int, draws: IntArray | slice = _EVERY_DRAW) -> FloatArray:
        """The final losses of one run in some of the draws, by default in all of them, (4096,)."""
        own = self._own_share * _normals(self._first_row + run)[draws]
        scores = self._common[self._kinds[run]][draws] + own
        losses: FloatArray = np.interp(scores, LEVEL_SCORES, self._quantiles[run])
        return losses


def _normals(row: int) -> FloatArray:
    """A row of the stream of standard normals, (4096,)."""
    for block in range(row // _ROWS_PER_BLOCK):
        _block(block)  # in order, because each one continues the one before
    normals: FloatArray = _block(row // _ROWS_PER_BLOCK)[0][row % _ROWS_PER_BLOCK]
    return normals


@cache
def _block(number: int) -> tuple[FloatArray, Any]:
    """Some rows of the stream, and the state of its generator after them."""
    random = np.random.default_rng(0)
    if number:
        random.bit_generator.state = _block(number - 1)[1]
    return random.standard_normal((_ROWS_PER_BLOCK, N_DRAWS)), random.bit_generator.state
