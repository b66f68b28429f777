"""`Trail`: every forecast of a run and what was advised, each in a few plain numbers.

What was said early is what a run is judged by later, so it is kept as long as the run.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lossforecast.errors import StateError
from lossforecast.forecast import Forecast
from lossforecast.policies import Action, Recommendation

__all__ = ["FAN", "Trail", "fan", "short"]

Row = dict[str, Any]

FAN = ("mean", "lower80", "upper80", "lower95", "upper95")
"""The lines of a fan."""
_MOST = 256  # forecasts that are kept
_STOPS = 9  # steps of the fan of each


class Trail:
    """The forecasts of a run so far, 256 at most.

    Of more, those that leave the smallest gaps are dropped, but none with new advice or deeds while
    there are others. Each is a row of plain values:

    * ``step``: optimizer steps taken when it was made;
    * ``steps``, ``mean``, ``lower80``, ``upper80``, ``lower95``, ``upper95``: the fan, lists of up
      to 9 from that step to the end;
    * ``status``, ``gain``: as in `Forecast`, the gain as mean, deviation and source;
    * ``action``, ``reason``, ``message``: the advice; no message where it is the one before;
    * ``done``: what was done at or after that forecast, if anything: "stop" or "change_schedule".
    """

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self.rows = list(rows)

    def add(self, step: int, forecast: Forecast, advice: Recommendation) -> None:
        """Take in a forecast; those of a future that was rewound are dropped.

        Args:
            step: optimizer steps taken when it was made.
            forecast: of the final loss.
            advice: given then.
        """
        done = None
        while self.rows and self.rows[-1]["step"] >= step:
            again = self.rows.pop()
            done = again.get("done") if again["step"] == step else None
        gain = forecast.anneal_gain
        row = {
            "step": step,
            **fan(forecast, _STOPS),
            "status": str(forecast.status),
            "gain": [short(gain.mean), short(gain.std), gain.source],
            **advice.to_dict(),
        }
        if not self._is_news(row):
            del row["message"]
        if done is not None:
            row["done"] = done
        self.rows.append(row)
        if len(self.rows) > _MOST:
            self._thin()

    def note(self, action: Action) -> None:
        """Remember with the latest forecast that this was done."""
        if self.rows:
            self.rows[-1]["done"] = str(action)

    def state_dict(self) -> list[Row]:
        """Plain JSON-able values."""
        return [dict(row) for row in self.rows]

    @classmethod
    def from_state_dict(cls, state: Any) -> "Trail":
        """The trail that `state_dict` described.

        Raises:
            StateError: it is none.
        """
        if not isinstance(state, list) or not all(
            isinstance(row, Mapping) and isinstance(row.get("step"), int) for row in state
        ):
            raise StateError(f"not a saved trail of forecasts: {state!r:.80}")
        return cls([dict(row) for row in state])

    def _is_news(self, row: Row) -> bool:
        if not self.rows:
            return True
        return any(row[name] != self.rows[-1][name] for name in ("action", "reason"))

    def _thin(self) -> None:
        inside = range(1, len(self.rows) - 1)
        plain = [i for i in inside if not {"message", "done"} & set(self.rows[i])] or inside
        del self.rows[min(plain, key=lambda i: self.rows[i + 1]["step"] - self.rows[i - 1]["step"])]


def fan(forecast: Forecast, stops: int) -> dict[str, list[Any]]:
    """The forecast loss from now to the end at up to some steps, with its 80 and 95% intervals."""
    start = max(min(forecast.made_at, forecast.step - 1), 0)
    steps = np.unique(np.rint(np.linspace(start, forecast.step, stops)).astype(np.int64))
    inner, outer = forecast.curves(steps, (0.8, 0.95))
    lines = (inner.mean, inner.lower, inner.upper, outer.lower, outer.upper)
    found = {name: [short(x) for x in line.tolist()] for name, line in zip(FAN, lines, strict=True)}
    return {"steps": steps.tolist(), **found}


def short(x: float) -> float | None:
    """Six digits of a number; None if it is not finite."""
    return float(f"{x:.6g}") if math.isfinite(x) else None
