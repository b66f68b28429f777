"""`plot_errors`: error of forecasts against the share of the run seen (needs matplotlib)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lossforecast.backtest.backtest import Backtest
from lossforecast.backtest.scorecard import MIN_FORECASTS_PER_CELL, Cell
from lossforecast.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_errors"]

_OUR_NAME = "lossforecast"
_OUR_COLOR = "#1f6fb4"
_BASELINE_STYLES = {
    "last value": ("#8a939c", "s"),
    "power law in steps": ("#b07d2b", "^"),
    "annealing law": ("#3a8f5c", "D"),
    "multi-power law": ("#c8553d", "v"),
}
_OTHER_STYLE = ("#6b4f9e", "o")


def plot_errors(
    backtest: Backtest,
    axes: "Sequence[Axes] | None" = None,
    *,
    by: str = "group",
    min_forecasts: int = MIN_FORECASTS_PER_CELL,
) -> "Figure":
    """Draw our median error and the baselines' against the share of the run seen, by group.

    The band is the 95% bootstrap interval of our median over clusters of runs. Cells with too few
    forecasts are left out.

    Args:
        backtest: scored forecasts.
        axes: one panel per group to draw into; by default those of a new figure.
        by: one of `VIEWS`: "group", "fold", "source" or "schedule".
        min_forecasts: number of forecasts below which a cell is left out.

    Returns:
        The figure; ``figure.savefig("errors.png")`` writes it.

    Raises:
        ConfigurationError: matplotlib is missing, or there are fewer panels than groups.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            'plots need matplotlib: pip install "lossforecast[plot]"'
        ) from error
    panels: dict[str, list[Cell]] = {}
    for cell in backtest.table(by, min_forecasts=min_forecasts):
        panels.setdefault(cell.name, []).append(cell)
    if axes is None:
        columns = min(max(len(panels), 1), 2)
        rows = max(-(-len(panels) // columns), 1)
        figure = Figure(figsize=(4.8 * columns, 3.5 * rows + 0.7), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    elif len(axes) < len(panels):
        raise ConfigurationError(f"{len(panels)} panels are needed, {len(axes)} axes were given")
    for panel, (name, cells) in zip(axes, panels.items(), strict=False):
        _draw_panel(panel, name, cells)
    for unused in axes[len(panels) :]:
        unused.set_axis_off()
    if not panels:
        axes[0].text(0.5, 0.5, f"no cell has {min_forecasts} forecasts", ha="center", va="center")
    drawn = axes[0].get_figure(root=True)
    assert drawn is not None
    handles, _ = axes[0].get_legend_handles_labels()
    if handles:
        handles = [handles[-1], *handles[:-1]]  # ours first
        drawn.legend(
            handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9
        )
    return drawn


def _draw_panel(axes: "Axes", name: str, cells: Sequence[Cell]) -> None:
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    seen = np.array([100 * cell.fraction for cell in cells])
    for baseline in cells[0].baselines:
        color, marker = _BASELINE_STYLES.get(baseline, _OTHER_STYLE)
        medians = [100 * cell.baselines[baseline].median for cell in cells]
        axes.plot(seen, medians, color=color, marker=marker, ms=4, lw=1.2, label=baseline)
    low, high = (np.array([100 * cell.median_interval[end] for cell in cells]) for end in (0, 1))
    axes.fill_between(seen, low, high, color=_OUR_COLOR, alpha=0.18, lw=0)
    medians = [100 * cell.score.median for cell in cells]
    axes.plot(seen, medians, color=_OUR_COLOR, marker="o", ms=6, lw=2.4, label=_OUR_NAME, zorder=5)
    for x, y in zip(seen, medians, strict=True):
        axes.annotate(
            f"{y:.2g}",
            (x, y),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=_OUR_COLOR,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=6,
        )
    axes.set_yscale("log")
    axes.margins(y=0.14)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(seen, [f"{share:g}%" for share in seen])
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the run seen")
    axes.set_ylabel("median |error| of the final loss")
    sizes = sorted({cell.n for cell in cells})
    count = f"n = {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else "")
    axes.set_title(f"{name}  ({count})", loc="left", fontsize=11)
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)
