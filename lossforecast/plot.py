"""`plot`: losses, forecast and learning rate of a run in one figure (needs matplotlib)."""

from collections.abc import Iterable, Mapping
from functools import partial
from io import BytesIO
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lossforecast.display import after_start, gain_words, heading
from lossforecast.errors import ConfigurationError
from lossforecast.estimate import AnnealGain, Curve, Estimate
from lossforecast.printable import printable
from lossforecast.runs import History
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot"]

_OBSERVED, _OUTCOME, _FAN, _RATE, _TARGET, _NOW, _EVENT = (
    "#4c5a67",
    "#c8553d",
    "#1f6fb4",
    "#b07d2b",
    "#3a8f5c",
    "#99a3ad",
    "#7a4f9c",
)
"""Colours."""
_MAX_POINTS = 400  # of a drawn line of losses
_MAX_NAME = 40  # characters of the name of an event


class Drawn(Protocol):
    """The parts of a `lossforecast.Forecast` that are drawn."""

    @property
    def made_at(self) -> int:
        """The last step observed; -1 before any."""

    @property
    def schedule(self) -> LRSchedule:
        """The learning rates assumed."""

    @property
    def median(self) -> float:
        """The forecast as one number; nan without data."""

    @property
    def estimate(self) -> Estimate:
        """The same with its 80% interval."""

    @property
    def anneal_gain(self) -> AnnealGain:
        """The drop still to come."""

    def interval(self, level: float = 0.8) -> tuple[float, float]:
        """Ends of the interval that holds the outcome with `level`."""

    def curve(self, steps: None = None, level: float = 0.8) -> Curve:
        """The forecast from the present step to the end."""


def plot(
    forecast: Drawn,
    history: History,
    *,
    target: float | None = None,
    outcome: History | None = None,
    title: str | None = None,
    figure: "Figure | None" = None,
) -> "Figure":
    """Draw observed losses and forecast above the learning rate, with a line at the present step.

    Args:
        forecast: the forecast; its intervals are drawn from the step at which it was made.
        history: the losses observed by that step, and the events, drawn as lines with their names.
        target: the final loss to reach, drawn as a line.
        outcome: all losses of the finished run, drawn over the intervals of an earlier forecast.
        title: title of the figure; by default the forecast in one line.
        figure: an empty matplotlib figure to draw into; by default a new one.

    Returns:
        The figure, which shows itself in a notebook; ``figure.savefig("forecast.png")`` writes it.

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
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    loss_axes, rate_axes = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [3.2, 1]}
    )
    _fan(loss_axes, forecast)
    if outcome is not None:
        _observed(loss_axes, outcome, label="observed later", color=_OUTCOME)
    _observed(loss_axes, history, label="observed", color=_OBSERVED)
    if target is not None:
        loss_axes.axhline(target, color=_TARGET, ls="--", lw=1.2, label=f"target {target:g}")
    _limits(loss_axes, forecast, history, outcome, target)
    loss_axes.set_ylabel("loss")
    loss_axes.legend(loc="upper right", frameon=False, fontsize=9)
    loss_axes.set_title(title or headline(forecast), loc="left", fontsize=10)
    _rate(rate_axes, forecast.schedule)
    _events(loss_axes, {*history.events, *(outcome.events if outcome is not None else ())})
    for axes in (loss_axes, rate_axes):
        axes.axvline(max(forecast.made_at, 0), color=_NOW, lw=1, ls=":")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    return figure


def _png(figure: "Figure") -> bytes:
    """The figure as a notebook shows it, also where nobody has imported pyplot."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _rate(axes: "Axes", schedule: LRSchedule) -> None:
    """Draw the learning rate of the whole run."""
    knots, rates = schedule.knots
    axes.plot(knots, rates, color=_RATE, lw=1.5)
    axes.fill_between(knots, rates, color=_RATE, alpha=0.12, lw=0)
    axes.set_ylim(0, schedule.peak * 1.1 or 1)
    unknown = Caveat.LR_UNKNOWN in schedule.caveats
    axes.set_ylabel("learning rate (unknown)" if unknown else "learning rate")
    axes.set_xlabel("optimizer step")
    axes.set_xlim(0, schedule.total_steps)


def headline(forecast: Drawn) -> str:
    """The forecast in one line: final loss, 80% interval and the drop still to come."""
    if np.isnan(forecast.median):
        return heading(forecast.estimate)
    return (
        f"at step {forecast.made_at:,}: {heading(forecast.estimate)}; "
        f"{gain_words(forecast.anneal_gain)}"
    )


def _observed(axes: "Axes", history: History, **style: Any) -> None:
    """Draw the mean losses of at most `_MAX_POINTS` groups of bins."""
    bins = history.bins()
    group = np.arange(len(history)) * min(len(history), _MAX_POINTS) // max(len(history), 1)
    count = np.bincount(group, bins.count)
    step = np.bincount(group, bins.count * bins.step) / count
    finite = np.where(np.isfinite(bins.mean), bins.mean, 0.0)
    mean = np.bincount(group, bins.count * finite) / count
    axes.plot(step, mean, lw=1.1, **style)


def _fan(axes: "Axes", forecast: Drawn) -> None:
    """Draw the median of the loss with its 80% and 95% intervals."""
    if np.isnan(forecast.median):
        return
    wide, narrow = forecast.curve(level=0.95), forecast.curve(level=0.8)
    shared: Mapping[str, Any] = {"color": _FAN, "lw": 0}
    axes.fill_between(wide.steps, wide.lower, wide.upper, alpha=0.14, label="95%", **shared)
    axes.fill_between(narrow.steps, narrow.lower, narrow.upper, alpha=0.28, label="80%", **shared)
    axes.plot(narrow.steps, narrow.median, color=_FAN, lw=1.8, label="forecast")


def _events(axes: "Axes", events: Iterable[tuple[int, str]]) -> None:
    """Draw a line at the step of each event, with its name along it, towards the middle."""
    for step, name in sorted(events):
        left = step < sum(axes.get_xlim()) / 2
        axes.axvline(step, color=_EVENT, lw=0.8)
        axes.annotate(
            shorten(printable(name), _MAX_NAME, placeholder="..."),
            (step, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3 if left else -3, -3),
            textcoords="offset points",
            rotation=90,
            ha="left" if left else "right",
            va="top",
            fontsize=8,
            color=_EVENT,
            parse_math=False,
            annotation_clip=True,
        )


def _limits(
    axes: "Axes",
    forecast: Drawn,
    history: History,
    outcome: History | None,
    target: float | None,
) -> None:
    """Set the limits of the loss axis: target, 95% interval, and losses after the steep start."""
    values = [] if target is None else [target]
    if not np.isnan(forecast.median):
        values += [*forecast.interval(0.95)]
    for losses in (history, outcome):
        mean = losses.bins().mean if losses is not None else np.empty(0)
        mean = mean[np.isfinite(mean)]
        if mean.size:
            values += [
                float(np.quantile(mean, 0.005)),
                float(np.quantile(after_start(mean), 0.95)),
            ]
    if values:
        low, high = min(values), max(values)
        room = 0.08 * (high - low) or 1.0
        axes.set_ylim(low - room, high + room)
