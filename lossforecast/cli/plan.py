"""The command `plan`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lossforecast.cli.options import JSON_HELP, SCHEDULE_EXAMPLE, LogOptions, with_options
from lossforecast.cli.output import (
    EXIT_CODES,
    STANDARD_OUTPUT,
    check_outputs,
    check_plot,
    console,
    draw,
    errors_in_one_line,
    print_note,
    write_json,
)
from lossforecast.cli.tables import empty_table, number, percent
from lossforecast.errors import ConfigurationError
from lossforecast.estimate import Estimate
from lossforecast.ladder import Optimum
from lossforecast.schedule import schedule_from_text
from lossforecast.store import RunPlan, RunStore, plot_plan

if TYPE_CHECKING:
    import typer
    from rich.table import Table

__all__ = ["add_plan"]

_OPTIONS = (
    "store",
    "project",
    "dataset",
    "n_params",
    "batch_size",
    "schedule",
    "total_steps",
    "metric",
    "column",
    "optimizer",
    "task",
    "model",
)
_CURVE_ROWS = 11


def add_plan(app: "typer.Typer") -> None:
    """Add `plan`."""
    import typer

    @app.command("plan", epilog=EXIT_CODES)
    @with_options(*_OPTIONS)
    def command(
        options: LogOptions,
        json_: Annotated[Path | None, typer.Option("--json", help=JSON_HELP)] = None,
        plot: Annotated[
            Path | None,
            typer.Option(
                "--plot",
                help="Draw the run above those it is forecast from, and the isoFLOP curve.",
            ),
        ] = None,
    ) -> None:
        """Forecast a planned run, and other splits of its compute, from past and smaller runs."""
        with errors_in_one_line():
            check_outputs({"--json": json_, "--plot": plot})
            check_plot(plot)
            plan = _plan(options)
            write_json("plan", _to_json(plan), json_)
            if plot is not None:
                draw(plot_plan(plan), plot)
            out = console(to_stderr=STANDARD_OUTPUT in (json_, plot))
            made = plan.n_smaller_runs
            out.print(f"from {made} smaller runs: {plan.forecast.estimate!r} at the end of the run")
            out.print(_course(plan))
            if plan.splits:
                out.print(_splits(plan))
            if plan.best_peak or plan.best_batch:
                out.print(_optima(plan, options))
            for name, optimum in (("rate", plan.best_peak), ("batch", plan.best_batch)):
                if optimum is not None and not optimum.n_bracketed:
                    print_note(
                        f"in every sweep the lowest or highest {name} is the best: the optimum "
                        "lies beyond the values tried, and is a guess"
                    )


def _plan(options: LogOptions) -> RunPlan:
    if options.store is None or not (options.project or options.dataset):
        raise ConfigurationError(
            "--store and --project or --dataset are needed: they name the runs to learn from"
        )
    if options.schedule is None or options.total_steps is None:
        raise ConfigurationError(f"--schedule and --total-steps are needed, {SCHEDULE_EXAMPLE}")
    run = options.planned_run(options.metric or "val", options.column)
    schedule = schedule_from_text(options.schedule, options.total_steps)
    return RunStore(options.store, make=False).plan(run, schedule)


def _to_json(plan: RunPlan) -> dict[str, Any]:
    curve = plan.forecast.curve()
    return {
        **plan.forecast.summary(),
        "n_smaller_runs": plan.n_smaller_runs,
        "course": [
            {"step": int(step), "median": median, "lower80": lower, "upper80": upper}
            for step, median, lower, upper in zip(
                curve.steps,
                curve.median.tolist(),
                curve.lower.tolist(),
                curve.upper.tolist(),
                strict=True,
            )
        ],
        "splits": [
            {
                "n_params": split.n_params,
                "total_steps": split.total_steps,
                "median": float(split.final_loss),
                "lower80": split.final_loss.lower,
                "upper80": split.final_loss.upper,
            }
            for split in plan.splits
        ],
        "best_peak": _optimum(plan.best_peak),
        "best_batch": _optimum(plan.best_batch),
    }


def _optimum(optimum: Optimum | None) -> dict[str, Any] | None:
    if optimum is None:
        return None
    cost = optimum.cost_of_factor_2
    return {
        **_estimate(optimum.best),
        "exponents": [
            {"condition": name, **_estimate(value)} for name, value in optimum.exponents.items()
        ],
        "cost_of_factor_2": _estimate(cost),
        "n_sweeps": optimum.n_sweeps,
        "n_bracketed": optimum.n_bracketed,
        "n_runs": optimum.n_runs,
    }


def _estimate(value: Estimate) -> dict[str, float]:
    return {"median": float(value), "lower80": value.lower, "upper80": value.upper}


def _course(plan: RunPlan) -> "Table":
    table = empty_table("course", "step", ["loss", "80% interval"])
    end = plan.forecast.step
    steps = [max(round(end * i / (_CURVE_ROWS - 1)), 1) for i in range(1, _CURVE_ROWS)]
    curve = plan.forecast.curve(steps)
    for step, median, lower, upper in zip(
        curve.steps, curve.median, curve.lower, curve.upper, strict=True
    ):
        table.add_row(f"{step:,}", number(median), f"{number(lower)} to {number(upper)}")
    return table


def _splits(plan: RunPlan) -> "Table":
    table = empty_table("the same compute", "parameters", ["steps", "final loss", "80% interval"])
    best = plan.best_split
    for split in plan.splits:
        loss = split.final_loss
        table.add_row(
            f"{split.n_params:.3g}{' (lowest)' if split is best else ''}",
            f"{split.total_steps:,}",
            number(float(loss)),
            f"{number(loss.lower)} to {number(loss.upper)}",
        )
    return table


def _optima(plan: RunPlan, options: LogOptions) -> "Table":
    """Best peak rate and batch size; parameters are N, tokens or samples D."""
    found = {
        "peak rate": (plan.best_peak, plan.forecast.schedule.peak),
        "batch size": (plan.best_batch, options.batch_size),
    }
    columns = [
        [
            _with_interval(optimum.best, number),
            number(planned),
            f"{_with_interval(optimum.cost_of_factor_2, percent)}%",
            *(_with_interval(optimum.exponents[name], number) for name in ("n_params", "tokens")),
            f"{optimum.n_sweeps} ({optimum.n_runs} runs)",
        ]
        for optimum, planned in found.values()
        if optimum is not None
    ]
    names = ["best", "planned", "costs if 2x off", "exponent of N", "exponent of D", "sweeps"]
    table = empty_table("from sweeps", "", [name for name, (one, _) in found.items() if one])
    for row in zip(names, *columns, strict=True):
        table.add_row(*row)
    return table


def _with_interval(value: Estimate, text: Callable[[float], str]) -> str:
    return f"{text(value)} ({text(value.lower)} to {text(value.upper)})"
