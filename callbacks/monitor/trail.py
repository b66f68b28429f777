"""`Trail`: the forecasts and recommendations of a run so far, each as a few plain values.

The panel compares early forecasts with the outcome, so the trail covers the whole run.
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

FAN = ("median", "mean", "lower80", "upper80", "lower95", "upper95")
"""The lines of a fan: median, mean and bounds of the 80% and 95% intervals."""
_MAX_ROWS = 256
_FAN_STEPS = 9  # steps at which the fan of each forecast is kept, if a sink may draw it


class Trail:
    """The forecasts of a run so far, at most 256.

    Beyond that, the forecast whose neighbours are closest is dropped, if possible one without a new
    recommendation and without an action. A forecast is a row of plain values:

    * ``step``: optimizer steps taken when it was made;
    * ``steps``, ``median``, ``mean``, ``lower80``, ``upper80``, ``lower95``, ``upper95``: the fan,
      lists of up to 9 values from that step to the end, or of the last one alone if no sink draws
      them; rows of earlier versions have no median;
    * ``status``, ``gain``: as in `Forecast`, the gain as mean, standard deviation and source;
    * ``action``, ``reason``, ``message``: the recommendation; no message if it is the previous one;
    * ``done``: action taken at or after that forecast, if any: "stop" or "change_schedule".
    """

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self.rows = list(rows)

    def add(
        self, step: int, forecast: Forecast, advice: Recommendation, *, drawn: bool = True
    ) -> None:
        """Append a forecast; drop rows of the same or later steps, from before a rewind.

        Args:
            step: optimizer steps taken when the forecast was made.
            forecast: forecast of the final loss.
            advice: the recommendation.
            drawn: whether a sink may draw the fan; computing its end alone is faster.
        """
        done = None
        while self.rows and self.rows[-1]["step"] >= step:
            dropped = self.rows.pop()
            done = dropped.get("done") if dropped["step"] == step else None
        gain = forecast.anneal_gain
        row = {
            "step": step,
            **(fan(forecast, _FAN_STEPS) if drawn else _end_of_fan(forecast)),
            "status": str(forecast.status),
            "gain": [short(gain.mean), short(gain.std), gain.source],
            **advice.to_dict(),
        }
        if not self._is_news(row):
            del row["message"]
        if done is not None:
            row["done"] = done
        self.rows.append(row)
        if len(self.rows) > _MAX_ROWS:
            self._thin()

    def note(self, action: Action) -> None:
        """Record an action with the latest forecast."""
        if self.rows:
            self.rows[-1]["done"] = str(action)

    def state_dict(self) -> list[Row]:
        """Return the rows as JSON-able values."""
        return [dict(row) for row in self.rows]

    @classmethod
    def from_state_dict(cls, state: Any) -> "Trail":
        """Return the trail that `state_dict` described.

        Raises:
            StateError: the state is not that of a trail.
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


def fan(forecast: Forecast, n_steps: int) -> dict[str, list[Any]]:
    """Return the forecast loss and its intervals at up to `n_steps` steps from now to the end."""
    start = max(min(forecast.made_at, forecast.step - 1), 0)
    steps = np.unique(np.rint(np.linspace(start, forecast.step, n_steps)).astype(np.int64))
    inner, outer = forecast.curves(steps, (0.8, 0.95))
    lines = (inner.median, inner.mean, inner.lower, inner.upper, outer.lower, outer.upper)
    rounded = ([short(x) for x in line.tolist()] for line in lines)
    return {"steps": steps.tolist(), **dict(zip(FAN, rounded, strict=True))}


def _end_of_fan(forecast: Forecast) -> dict[str, list[Any]]:
    values = (forecast.median, forecast.mean, *forecast.interval(0.8), *forecast.interval(0.95))
    lines = {name: [short(value)] for name, value in zip(FAN, values, strict=True)}
    return {"steps": [forecast.step], **lines}


def short(x: float) -> float | None:
    """Round a number to six digits; None if it is not finite."""
    return float(f"{x:.6g}") if math.isfinite(x) else None
