"""`GapMeter`: from looks at single batches to measurements with their standard errors."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lossforecast.callbacks.distributed import GapBatch
from lossforecast.forecaster import Forecaster

__all__ = ["GapMeter"]

_TOGETHER = 4  # looks, for their scatter to tell a standard error


class GapMeter:
    """Makes one measurement of so many looks and hands it to forecasters.

    The looks are some way apart, so their scatter has in it how the weights jump about.

    Args:
        horizons: of the averages, in optimizer steps.
    """

    def __init__(self, horizons: tuple[int, ...]) -> None:
        self.horizons = horizons
        self.pending: list[tuple[int, list[float]]] = []
        """Looks that are in no measurement yet: step and gaps."""

    def take_in(self, looks: GapBatch, forecasters: dict[str, Forecaster]) -> None:
        """Add looks, and hand on the measurements that are complete."""
        self.pending += zip(looks.steps.tolist(), looks.gaps.tolist(), strict=True)
        while len(self.pending) >= _TOGETHER:
            steps, gaps = zip(*self.pending[:_TOGETHER], strict=True)
            del self.pending[:_TOGETHER]
            for horizon, found in zip(self.horizons, np.transpose(gaps), strict=True):
                self._hand_on(horizon, np.array(steps), found, forecasters)

    def copy(self) -> Self:
        """Another one that has seen as much."""
        return self.from_state_dict(self.horizons, self.state_dict())

    def state_dict(self) -> list[list[float | None]]:
        """The looks that are in no measurement yet, as JSON has it."""
        return [
            [step, *(gap if np.isfinite(gap) else None for gap in gaps)]
            for step, gaps in self.pending
        ]

    @classmethod
    def from_state_dict(cls, horizons: tuple[int, ...], state: Sequence[Sequence[Any]]) -> Self:
        """The meter that `state_dict` described; looks over other horizons are left out."""
        meter = cls(horizons)
        for step, *gaps in state:
            if len(gaps) == len(horizons):
                known = [float("nan") if gap is None else float(gap) for gap in gaps]
                meter.pending.append((int(step), known))
        return meter

    def _hand_on(
        self,
        horizon: int,
        steps: NDArray[np.int64],
        gaps: NDArray[np.float64],
        forecasters: dict[str, Forecaster],
    ) -> None:
        known = np.isfinite(gaps)
        if known.sum() < _TOGETHER // 2:
            return
        stderr = float(np.std(gaps[known], ddof=1) / np.sqrt(known.sum()))
        for forecaster in forecasters.values():
            forecaster.observe_gap(
                round(float(steps[known].mean())), float(gaps[known].mean()), stderr, horizon
            )
