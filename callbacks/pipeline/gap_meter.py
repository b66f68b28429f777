"""`GapMeter`: averages gaps of single batches into measurements with standard errors."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lossforecast.callbacks.distributed import GapBatch
from lossforecast.forecaster import Forecaster

__all__ = ["GapMeter"]

_BATCHES_PER_MEASUREMENT = 4  # so that their scatter gives a standard error


class GapMeter:
    """Makes one measurement from four gaps and passes it to the forecasters.

    A gap is loss(weights) - loss(averaged weights) on one batch. The batches are several steps
    apart, so the scatter of their gaps includes the fluctuation of the weights.

    Args:
        horizons: horizons of the averaged weights, in optimizer steps.
    """

    def __init__(self, horizons: tuple[int, ...]) -> None:
        self.horizons = horizons
        self.pending: list[tuple[int, list[float]]] = []
        """Step and gaps (one per horizon) of each batch that is in no measurement yet."""

    def add(self, batch: GapBatch, forecasters: dict[str, Forecaster]) -> None:
        """Add gaps, and pass complete measurements to the forecasters."""
        self.pending += zip(batch.steps.tolist(), batch.gaps.tolist(), strict=True)
        while len(self.pending) >= _BATCHES_PER_MEASUREMENT:
            steps, gaps = zip(*self.pending[:_BATCHES_PER_MEASUREMENT], strict=True)
            del self.pending[:_BATCHES_PER_MEASUREMENT]
            for horizon, column in zip(self.horizons, np.transpose(gaps), strict=True):
                self._measure(horizon, np.array(steps), column, forecasters)

    def copy(self) -> Self:
        """Return a meter with the same pending gaps."""
        return self.from_state_dict(self.horizons, self.state_dict())

    def state_dict(self) -> list[list[float | None]]:
        """Return the pending gaps as JSON-able rows; None stands for nan."""
        return [
            [step, *(gap if np.isfinite(gap) else None for gap in gaps)]
            for step, gaps in self.pending
        ]

    @classmethod
    def from_state_dict(cls, horizons: tuple[int, ...], state: Sequence[Sequence[Any]]) -> Self:
        """Return the meter that `state_dict` described; gaps of other horizons are left out."""
        meter = cls(horizons)
        for step, *gaps in state:
            if len(gaps) == len(horizons):
                known = [float("nan") if gap is None else float(gap) for gap in gaps]
                meter.pending.append((int(step), known))
        return meter

    def _measure(
        self,
        horizon: int,
        steps: NDArray[np.int64],
        gaps: NDArray[np.float64],
        forecasters: dict[str, Forecaster],
    ) -> None:
        known = np.isfinite(gaps)
        if known.sum() < _BATCHES_PER_MEASUREMENT // 2:
            return
        stderr = float(np.std(gaps[known], ddof=1) / np.sqrt(known.sum()))
        for forecaster in forecasters.values():
            forecaster.observe_gap(
                round(float(steps[known].mean())), float(gaps[known].mean()), stderr, horizon
            )
