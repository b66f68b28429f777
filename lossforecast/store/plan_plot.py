"""`plot_plan`: a planned run above those it is forecast from, and its isoFLOP curve."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.display import size_text
from lossforecast.errors import ConfigurationError
from lossforecast.prior import PastRun
from lossforecast.runs import RunInfo
from lossforecast.store.plan import RunPlan, Split

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_plan"]

_PLAN_COLOR, _BEST_COLOR = "#1f6fb4", "#c8553d"
_LIGHTEST, _DARKEST = 0.25, 0.85  # shades of the smallest and the largest size
_PLAN_POINTS = 100  # of the course of the plan
_START_SHARE = 0.02  # of the plan, before which its course is not drawn
_ROOM = 0.08  # of the range of the losses, above and below


def plot_plan(plan: RunPlan) -> "Figure":
    """Draw the course of a planned run with those it is forecast from, and its `RunPlan.splits`.

    The courses are drawn over the compute, ``6 N D`` floating-point operations for N parameters
    and D tokens or samples, or over optimizer steps where the sizes or batches are not known. The
    bands hold the loss of the planned run with 80% and 95%.

    Returns:
        The figure; ``figure.savefig("plan.png")`` writes it.

    Raises:
        ConfigurationError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            'plots need matplotlib: pip install "lossforecast[plot]"'
        ) from error
    n_panels = 2 if plan.splits else 1
    figure = Figure(figsize=(6.2 * n_panels, 4.8), layout="constrained")
    panels = figure.subplots(1, n_panels, squeeze=False)[0]
    _draw_courses(panels[0], plan)
    if plan.splits:
        _draw_splits(panels[1], plan.splits)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.2)
    return figure


def _draw_courses(axes: "Axes", plan: RunPlan) -> None:
    """Draw the past runs and the bands of the plan, over the compute if all of it is known."""
    runs = [plan.run, *(past.run for past in plan.past)]
    batches_alike = len({run.batch_size is None for run in runs}) == 1
    by_compute = batches_alike and all(run.n_params for run in runs)
    position = _compute if by_compute else _steps
    lowest, highest = _draw_past(axes, plan.past, position)
    first, last = _draw_planned(axes, plan, position)
    room = _ROOM * (max(highest, first) - min(lowest, last))
    axes.set_ylim(min(lowest, last) - room, max(highest, first) + room)
    axes.set_xscale("log")
    axes.set_xlabel("compute: 6 x parameters x data" if by_compute else "optimizer step")
    axes.set_ylabel("loss")
    axes.set_title(f"heading for {plan.forecast.estimate!r}", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=9)


def _draw_past(
    axes: "Axes", past: Sequence[PastRun], position: Callable[[RunInfo, IntArray], FloatArray]
) -> tuple[float, float]:
    """Draw past runs, the darker the larger; return their lowest and highest loss."""
    from matplotlib import colormaps

    sizes = sorted({each.run.n_params or 0.0 for each in past})
    shades = colormaps["Greys"](np.linspace(_LIGHTEST, _DARKEST, len(sizes)))
    for size, color in zip(sizes, shades, strict=True):
        name = size_text(size) if size else None
        for each in past:
            if (each.run.n_params or 0.0) == size:
                x = position(each.run, each.evidence.step)
                axes.plot(x, each.evidence.loss, color=color, lw=1.3, label=name)
                name = None
    losses = np.concatenate([each.evidence.loss for each in past])
    return float(losses.min()), float(losses.max())


def _draw_planned(
    axes: "Axes", plan: RunPlan, position: Callable[[RunInfo, IntArray], FloatArray]
) -> tuple[float, float]:
    """Draw the bands of the plan; return its first median and the last lower end."""
    end = plan.forecast.step
    steps = np.geomspace(max(_START_SHARE * end, 1), end, _PLAN_POINTS).astype(np.int64)
    narrow, wide = plan.forecast.curves(np.unique(steps), (0.8, 0.95))
    x = position(plan.run, narrow.steps)
    size = plan.run.n_params
    name = f"planned: {size_text(size)}" if size else "planned"
    axes.fill_between(x, wide.lower, wide.upper, color=_PLAN_COLOR, alpha=0.14, lw=0)
    axes.fill_between(x, narrow.lower, narrow.upper, color=_PLAN_COLOR, alpha=0.28, lw=0)
    axes.plot(x, narrow.median, color=_PLAN_COLOR, lw=1.8, label=name)
    return float(narrow.median[0]), float(narrow.lower[-1])


def _draw_splits(axes: "Axes", splits: Sequence[Split]) -> None:
    """Draw the final loss of each split over its number of parameters."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    sizes = np.array([split.n_params for split in splits])
    losses = np.array([float(split.final_loss) for split in splits])
    ends = np.array([[split.final_loss.lower, split.final_loss.upper] for split in splits])
    axes.fill_between(sizes, ends[:, 0], ends[:, 1], color=_PLAN_COLOR, alpha=0.2, lw=0)
    axes.plot(sizes, losses, "o-", color=_PLAN_COLOR, lw=1.5, ms=4)
    best = int(losses.argmin())
    axes.plot(sizes[best], losses[best], "o", color=_BEST_COLOR, ms=8)
    axes.annotate(
        f"lowest: {size_text(sizes[best])}, {splits[best].total_steps:,} steps",
        (sizes[best], losses[best]),
        xytext=(0, -14),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=9,
        color=_BEST_COLOR,
    )
    axes.set_xscale("log")
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: size_text(size)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("parameters")
    axes.set_ylabel("final loss")
    axes.set_title("the same compute, split otherwise (80% interval)", loc="left", fontsize=10)


def _compute(run: RunInfo, steps: IntArray) -> FloatArray:
    """Floating-point operations until each step, (n,)."""
    flops: FloatArray = 6 * (run.n_params or 1.0) * (run.batch_size or 1.0) * steps.astype(float)
    return flops


def _steps(_: RunInfo, steps: IntArray) -> FloatArray:
    return steps.astype(np.float64)
