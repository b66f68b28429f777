"""Forecasts as TensorBoard scalars and a Margin chart, for any writer with `add_scalar`."""

from typing import Any

from lossforecast.callbacks.monitor import Update

__all__ = ["LAYOUT", "TensorBoardSink", "scalars"]

_DETAILS = "Loss forecast in detail"
_TARGET = "Probability of reaching the target"

LAYOUT: dict[str, Any] = {
    "Loss forecast": {
        "Final loss, 80% interval": [
            "Margin",
            ["forecast/final_loss", "forecast/lower", "forecast/upper"],
        ],
    },
    # apart, as TensorBoard would draw them in front of the margin
    _DETAILS: {
        "Drop still to come from annealing": ["Multiline", ["^forecast/anneal_gain$"]],
        _TARGET: ["Multiline", ["^forecast/prob_target$"]],
    },
}
"""Layout of the custom-scalars tab; written once a run, as only the last one counts."""


def scalars(update: Update) -> dict[str, float]:
    """The numbers of a forecast under their tags; empty if there was nothing to forecast from.

    `forecast/final_loss` with the 80% interval `forecast/lower` and `forecast/upper`,
    `forecast/anneal_gain`, and `forecast/prob_target` if there is a target.
    """
    forecast = update.forecast
    lower, upper = forecast.interval(0.8)
    if lower != lower:
        return {}
    values = {
        "forecast/final_loss": forecast.mean,
        "forecast/lower": lower,
        "forecast/upper": upper,
        "forecast/anneal_gain": forecast.anneal_gain.mean,
    }
    if update.target is not None:
        values["forecast/prob_target"] = forecast.prob_below(update.target)
    return values


class TensorBoardSink:
    """Writes every forecast to a ``SummaryWriter`` (of torch, or of a Lightning logger)."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._laid_out = False

    def __call__(self, update: Update) -> None:
        """Write one forecast at its optimizer step."""
        values = scalars(update)
        if values and not self._laid_out:
            self._laid_out = True
            details = dict(LAYOUT[_DETAILS])
            if update.target is None:
                del details[_TARGET]
            self._writer.add_custom_scalars({**LAYOUT, _DETAILS: details})
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, update.step)
