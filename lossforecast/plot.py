"""One picture that tells the story of a run and its forecast (needs matplotlib)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.runs import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot"]

_OBSERVED, _OUTCOME, _FAN, _RATE, _TARGET = "#4c5a67", "#c8553d", "#1f6fb4", "#b07d2b", "#3a8f5c"


def plot(
    forecast: Forecast,
    history: History,
    *,
    target: float | None = None,
    outcome: History | None = None,
    title: str | None = None,
    figure: "Figure | None" = None,
) -> "Figure":
    """Observed loss, forecast fan, learning rate beneath, the moment of the forecast.

    Args:
        forecast: the forecast; its fan is drawn from the step it was made at.
        history: what had been observed by then.
        target: a final loss hoped for, drawn as a line.
        outcome: what was observed in the end, drawn over the fan, for a forecast looked back on.
        title: a headline instead of the default.
        figure: an empty matplotlib figure to draw into; by default a new one.

    Returns:
        The figure; ``figure.savefig("forecast.png")`` writes it.

    Raises:
        ConfigurationError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            'plots need matplotlib: pip install "lossforecast[plot]"'
        ) from error
    figure = figure or Figure(figsize=(9, 6), layout="constrained")
    loss_axes, rate_axes = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [3.2, 1]}
    )
    _fan(loss_axes, forecast)
    if outcome is not None:
        _observed(loss_axes, outcome, label="what came", color=_OUTCOME)
    _observed(loss_axes, history, label="observed", color=_OBSERVED)
    if target is not None:
        loss_axes.axhline(target, color=_TARGET, ls="--", lw=1.2, label=f"target {target:g}")
    _limits(loss_axes, forecast, history, outcome, target)
    loss_axes.set_ylabel("loss")
    loss_axes.legend(loc="upper right", frameon=False, fontsize=9)
    loss_axes.set_title(title or headline(forecast), loc="left", fontsize=10)

    schedule = forecast.schedule
    knots, rates = schedule.knots
    rate_axes.plot(knots, rates, color=_RATE, lw=1.5)
    rate_axes.fill_between(knots, rates, color=_RATE, alpha=0.12, lw=0)
    rate_axes.set_ylim(0, schedule.peak * 1.1 or 1)
    rate_axes.set_ylabel("learning rate")
    rate_axes.set_xlabel("optimizer step")
    rate_axes.set_xlim(0, schedule.total_steps)
    for axes in (loss_axes, rate_axes):
        axes.axvline(max(forecast.made_at, 0), color="#99a3ad", lw=1, ls=":")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    return figure


def headline(forecast: Forecast) -> str:
    """The forecast in one line, for people."""
    if np.isnan(forecast.mean):
        return "nothing observed yet"
    low, high = forecast.interval(0.8)
    gain = forecast.anneal_gain
    known = {
        "data": "learnt from the run",
        "probe": "measured by the probe",
        "prior": "assumed",
        "none": "none",
    }[gain.source]
    drop = f"annealing still to bring {gain.mean:.3g} ({known})" if gain.source != "none" else ""
    parts = [
        f"at step {forecast.made_at:,}: heading for {forecast.mean:.4g} "
        f"(80%: {low:.4g} to {high:.4g})",
        drop or "no annealing to come",
    ]
    return "; ".join(parts)


def _observed(axes: "Axes", history: History, **style: Any) -> None:
    bins = history.bins()
    group = np.arange(len(history)) * min(len(history), 400) // max(len(history), 1)
    count = np.bincount(group, bins.count)
    at = np.bincount(group, bins.count * bins.step) / count
    sound = np.where(np.isfinite(bins.mean), bins.mean, 0.0)
    mean = np.bincount(group, bins.count * sound) / count
    axes.plot(at, mean, lw=1.1, **style)


def _fan(axes: "Axes", forecast: Forecast) -> None:
    if np.isnan(forecast.mean):
        return
    wide, narrow = forecast.curve(level=0.95), forecast.curve(level=0.8)
    shared: Mapping[str, Any] = {"color": _FAN, "lw": 0}
    axes.fill_between(wide.steps, wide.lower, wide.upper, alpha=0.14, label="95%", **shared)
    axes.fill_between(narrow.steps, narrow.lower, narrow.upper, alpha=0.28, label="80%", **shared)
    axes.plot(narrow.steps, narrow.mean, color=_FAN, lw=1.8, label="forecast")


def _limits(
    axes: "Axes",
    forecast: Forecast,
    history: History,
    outcome: History | None,
    target: float | None,
) -> None:
    """Room for what matters: the fan and the loss after its first steep fall."""
    values = [] if target is None else [target]
    if not np.isnan(forecast.mean):
        values += [*forecast.interval(0.95)]
    for seen in (history, outcome):
        mean = seen.bins().mean if seen is not None else np.empty(0)
        mean = mean[np.isfinite(mean)]
        if mean.size:
            values += [
                float(np.quantile(mean, 0.005)),
                float(np.quantile(mean[mean.size // 20 :], 0.95)),
            ]
    if values:
        low, high = min(values), max(values)
        room = 0.08 * (high - low) or 1.0
        axes.set_ylim(low - room, high + room)
