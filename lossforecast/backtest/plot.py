"""A picture of a backtest: error against the share of the run seen (needs matplotlib)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lossforecast.backtest.backtest import Backtest
from lossforecast.backtest.scorecard import LEAST, Cell
from lossforecast.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_errors"]

_OURS = "#1f6fb4"
_RIVALS = {
    "last value": ("#8a939c", "s"),
    "power law in steps": ("#b07d2b", "^"),
    "annealing law": ("#3a8f5c", "D"),
    "multi-power law": ("#c8553d", "v"),
}
_NAME = "lossforecast"


def plot_errors(
    backtest: Backtest,
    axes: "Sequence[Axes] | None" = None,
    *,
    by: str = "group",
    least: int = LEAST,
) -> "Figure":
    """Median error against the share of the run seen, one panel per group, ours and the baselines.

    The band is the 95% interval of our median over resampled families of runs. Cells too small to
    quote are left out.

    Args:
        backtest: what was scored.
        axes: a panel for each group, to draw into; by default those of a new figure.
        by: "group", "source" or "schedule".
        least: forecasts that a cell must have.

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
    for cell in backtest.table(by, least=least):
        panels.setdefault(cell.name, []).append(cell)
    if axes is None:
        columns = min(max(len(panels), 1), 2)
        rows = max(-(-len(panels) // columns), 1)
        figure = Figure(figsize=(4.8 * columns, 3.5 * rows + 0.7), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    elif len(axes) < len(panels):
        raise ConfigurationError(f"{len(panels)} panels are needed, {len(axes)} axes were given")
    for where, (name, cells) in zip(axes, panels.items(), strict=False):
        _panel(where, name, cells)
    for where in axes[len(panels) :]:
        where.set_axis_off()
    if not panels:
        axes[0].text(0.5, 0.5, f"no cell has {least} forecasts", ha="center", va="center")
    owner = axes[0].get_figure(root=True)
    assert owner is not None
    handles, _ = axes[0].get_legend_handles_labels()
    if handles:
        handles = [handles[-1], *handles[:-1]]  # ours first
        owner.legend(
            handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9
        )
    return owner


def _panel(axes: "Axes", name: str, cells: Sequence[Cell]) -> None:
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    seen = np.array([100 * cell.fraction for cell in cells])
    for rival in cells[0].baselines:
        color, marker = _RIVALS.get(rival, ("#6b4f9e", "o"))
        medians = [100 * cell.baselines[rival].median for cell in cells]
        axes.plot(seen, medians, color=color, marker=marker, ms=4, lw=1.2, label=rival)
    low, high = (np.array([100 * cell.median_interval[end] for cell in cells]) for end in (0, 1))
    axes.fill_between(seen, low, high, color=_OURS, alpha=0.18, lw=0)
    medians = [100 * cell.score.median for cell in cells]
    axes.plot(seen, medians, color=_OURS, marker="o", ms=6, lw=2.4, label=_NAME, zorder=5)
    for x, y in zip(seen, medians, strict=True):
        axes.annotate(
            f"{y:.2g}",
            (x, y),
            xytext=(0, -14),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=_OURS,
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
