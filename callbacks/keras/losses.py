"""`EpochMean`: the losses of single batches from the running mean that Keras logs."""

import math

__all__ = ["EpochMean"]


class EpochMean:
    """Turns the running mean of an epoch into the losses of its batches.

    Keras logs the mean m_n of the first n batches of an epoch, so the mean of the batches i+1..n is
    ``(n m_n - i m_i) / (n - i)``. The last batch of an epoch may be smaller than the others and
    weigh less in m_n, so its loss is left out.

    Args:
        batches: number of batches in an epoch; None if it is unknown.
    """

    def __init__(self, batches: int | None) -> None:
        self._batches = batches
        self._count, self._sum = 0, 0.0

    def loss(self, count: int, mean: float) -> float | None:
        """Return the mean loss of the batches since the last call; None if it is unknown.

        Args:
            count: batches of the epoch so far.
            mean: their mean loss.
        """
        before, self._count = self._count, count
        earlier, self._sum = self._sum, count * mean
        if count <= before or (self._batches is not None and 1 < self._batches <= count):
            return None
        change = self._sum - earlier
        return change / (count - before) if math.isfinite(change) else math.nan
