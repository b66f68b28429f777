"""`plot_sweeps`: regret of stopping rules against the compute they use (needs matplotlib)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lossforecast.backtest.rules import OUR_RULES
from lossforecast.backtest.sweeps import LARGE_SWEEP_RUNS, SweepScore
from lossforecast.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

__all__ = ["plot_sweeps"]

_OUR_COLOR, _OTHER_COLOR = "#1f6fb4", "#8a939c"
_ARRIVALS = {"parallel": "all runs at once", "sequential": "one run after the other"}
_LINEAR_BELOW = 0.1  # % of regret, below which the axis is linear, so that it has a 0
_LABEL_OFFSET = 6  # points
_LABEL_ANGLE = 60  # degrees, above a bar, or below a dot of ours
_LABEL_ROOM = 15  # times the worst regret, to the top of the panel
_LABEL_LEFT_FROM = 70  # % of the compute; beyond, a label would leave the panel


def plot_sweeps(scores: Sequence[SweepScore]) -> "Figure":
    """Draw mean regret against mean compute used, a point per rule and a panel per arrival.

    A line leads up to the rule's worst regret of any sweep. Only sweeps of `LARGE_SWEEP_RUNS` runs
    or more count, unless none is that large. Rules that left some sweep without a survivor have no
    regret and are named below the panel.

    Args:
        scores: scores of rules on sweeps.

    Returns:
        The figure; ``figure.savefig("sweeps.png")`` writes it.

    Raises:
        ConfigurationError: matplotlib is missing, or there is no score.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            'plots need matplotlib: pip install "lossforecast[plot]"'
        ) from error
    if not scores:
        raise ConfigurationError("there are no scores to draw: give those of replay_sweeps")
    large = [score for score in scores if score.runs >= LARGE_SWEEP_RUNS] or list(scores)
    arrivals = list(dict.fromkeys(score.arrival for score in large))
    figure = Figure(figsize=(5.6 * len(arrivals), 5.2), layout="constrained")
    panels = figure.subplots(1, len(arrivals), squeeze=False)[0]
    for panel, arrival in zip(panels, arrivals, strict=True):
        _draw_panel(panel, arrival, [score for score in large if score.arrival == arrival])
    return figure


def _draw_panel(axes: "Axes", arrival: str, scores: Sequence[SweepScore]) -> None:
    from matplotlib.ticker import FuncFormatter

    without_survivor, worst = [], 0.0
    labels: dict[tuple[float, float], Annotation] = {}
    for policy in dict.fromkeys(score.policy for score in scores):
        sweeps = [score for score in scores if score.policy == policy]
        compute = 100 * float(np.mean([score.compute_used for score in sweeps]))
        regrets = [100 * score.regret for score in sweeps]
        if any(map(math.isnan, regrets)):
            without_survivor.append(policy)
            continue
        worst, ours = max(worst, *regrets), policy in OUR_RULES
        color, mean = _OUR_COLOR if ours else _OTHER_COLOR, float(np.mean(regrets))
        axes.plot([compute] * 2, [mean, max(regrets)], color=color, lw=1.2, alpha=0.6)
        axes.plot(compute, max(regrets), color=color, marker="_", ms=8)
        axes.plot(compute, mean, color=color, marker="o", ms=8 if ours else 6, zorder=5)
        left = compute > _LABEL_LEFT_FROM
        below = ours and not left and mean > 0
        point = round(compute, 1), round(mean, 2)
        if point in labels:  # the dots cover each other
            labels[point].set_text(f"{labels[point].get_text()}, {policy}")
            continue
        labels[point] = axes.annotate(
            policy,
            (compute, mean if ours else max(regrets)),
            xytext=(-_LABEL_OFFSET if left else 0, -_LABEL_OFFSET if below else _LABEL_OFFSET),
            textcoords="offset points",
            rotation=0 if left else _LABEL_ANGLE,
            rotation_mode="anchor",
            ha="right" if left or below else "left",
            va="top" if below else "bottom",
            fontsize=9,
            color=color,
            fontweight="bold" if ours else "normal",
        )
    axes.set_yscale("symlog", linthresh=_LINEAR_BELOW)
    axes.set_ylim(bottom=-0.01, top=_LABEL_ROOM * max(worst, _LINEAR_BELOW))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.set_xlim(0, 105)
    left_out = f" (no survivor in some sweep: {', '.join(without_survivor)})"
    axes.set_xlabel("compute used" + (left_out if without_survivor else ""))
    axes.set_ylabel("regret: mean (dot) and worst (bar) over sweeps")
    axes.set_title(_ARRIVALS[arrival], loc="left", fontsize=11)
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)
