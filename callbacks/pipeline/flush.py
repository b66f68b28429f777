"""`Flush`: the data that a recorder writes into a store in one transaction."""

import sys
from dataclasses import dataclass, field, replace
from typing import Any

from lossforecast.policies import Recommendation
from lossforecast.runs import History
from lossforecast.schedule import LRSchedule

__all__ = ["Flush"]

_MAX_WAITING_FORECASTS = 1_000  # kept in memory while the store is unreachable


@dataclass
class Flush:
    """The data to be written next."""

    history: History
    schedule: LRSchedule
    step: int = sys.maxsize
    """Optimizer steps taken when this was enqueued; all losses come from earlier steps."""
    forecasts: list[dict[str, Any]] = field(default_factory=list)
    decisions: list[tuple[int, Recommendation]] = field(default_factory=list)
    end: str | None = None

    def after(self, earlier: "Flush | None") -> "Flush":
        """Merge with an earlier flush that was not written.

        Earlier forecasts of the same or later steps, from before a rewind, are dropped. Beyond
        1,000 forecasts every other one is dropped.
        """
        if earlier is None:
            return self
        now = min((forecast["made_at"] for forecast in self.forecasts), default=sys.maxsize)
        waiting = [forecast for forecast in earlier.forecasts if forecast["made_at"] < now]
        waiting += self.forecasts
        return replace(
            self,
            forecasts=waiting if len(waiting) <= _MAX_WAITING_FORECASTS else waiting[::-2][::-1],
            decisions=[d for d in earlier.decisions if d[0] < self.step] + self.decisions,
            end=self.end or earlier.end,
        )
