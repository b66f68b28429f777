"""The command `what-if`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lossforecast.cli.live import LiveForecast
from lossforecast.cli.options import (
    EVENT_OPTIONS,
    JSON_HELP,
    LOG_HELP,
    LOG_OPTIONS,
    SCHEDULE_EXAMPLE,
    STORE_OPTIONS,
    LogOptions,
    with_options,
)
from lossforecast.cli.output import (
    EXIT_CODES,
    STANDARD_OUTPUT,
    check_outputs,
    console,
    errors_in_one_line,
    write_json,
)
from lossforecast.cli.tables import empty_table, escaped, interval80, number, percent
from lossforecast.display import chance
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.schedule import SCHEDULE_EDITS, edited_by_text, schedule_from_text
from lossforecast.status import Caveat

if TYPE_CHECKING:
    import typer
    from rich.table import Table

__all__ = ["add_what_if"]

_PLAN = "as planned"


def add_what_if(app: "typer.Typer") -> None:
    """Add `what-if`."""
    import typer

    @app.command("what-if", epilog=EXIT_CODES)
    @with_options(*EVENT_OPTIONS, *LOG_OPTIONS, *STORE_OPTIONS)
    def command(
        options: LogOptions,
        log_: Annotated[
            Path | None,
            typer.Argument(
                help=f"{LOG_HELP} Without a log: forecast a planned run from past runs.",
                metavar="LOG",
            ),
        ] = None,
        tries: Annotated[
            list[str] | None,
            typer.Option(
                "--try",
                help="Schedule to compare with the plan: a whole one, as for --schedule, or a "
                f"change to the plan ({', '.join(SCHEDULE_EDITS)}). May be repeated.",
            ),
        ] = None,
        target: Annotated[
            float | None, typer.Option(help="Also print the probability of ending below this loss.")
        ] = None,
        json_: Annotated[Path | None, typer.Option("--json", help=JSON_HELP)] = None,
    ) -> None:
        """Compare schedules for the rest of a run, or for a planned one."""
        with errors_in_one_line():
            check_outputs({"--json": json_})
            if not tries:
                raise ConfigurationError(
                    "nothing to compare the plan with: give --try, such as "
                    "--try decay:start=8000,steps=2000"
                )
            if log_ is None:
                forecaster = _planned(options)
            else:
                forecaster = LiveForecast.from_log(log_, options).forecaster
            plan = forecaster.schedule
            forecasts = {_PLAN: forecaster.forecast()}
            if Caveat.LR_UNKNOWN in plan.caveats:
                _check_changes(tries)
            for text in tries:
                forecasts[text] = forecaster.forecast(schedule=edited_by_text(text, plan))
            if math.isnan(forecasts[_PLAN].median):
                raise ConfigurationError(
                    "no forecast yet: the run has no loss, and the store has no finished run of "
                    "its project"
                )
            write_json("what-if", _to_json(forecasts, target), json_)
            console(to_stderr=json_ == STANDARD_OUTPUT).print(_table(forecasts, target))


def _check_changes(tries: list[str]) -> None:
    """Check that a plan of unknown rates is compared with changes to it only.

    Raises:
        ConfigurationError: one is a whole schedule.
    """
    changes = {edit.partition(":")[0] for edit in SCHEDULE_EDITS}
    for text in tries:
        if text.partition(":")[0].strip() not in changes:
            raise ConfigurationError(
                f"--try {text:.60}: no learning rate is known, so a whole schedule cannot be "
                "compared with the plan. Give the plan with --schedule, or try a change to it, "
                f"such as {SCHEDULE_EDITS[0].partition(':')[0]}:start=8000,steps=2000"
            )


def _planned(options: LogOptions) -> Forecaster:
    """The forecaster of a run that has not begun."""
    if options.schedule is None or options.total_steps is None:
        raise ConfigurationError(
            f"without a log, --schedule and --total-steps are needed, {SCHEDULE_EXAMPLE}"
        )
    if options.store is None:
        raise ConfigurationError(
            "without a log, --store and --project are needed: they name the past runs to learn from"
        )
    plan = schedule_from_text(options.schedule, options.total_steps)
    run = options.planned_run(options.metric or "train", options.column)
    forecaster = Forecaster(plan, run, prior=options.prior(run, plan))
    for step, name in options.events:
        forecaster.event(step, name)
    return forecaster


def _to_json(forecasts: dict[str, Forecast], target: float | None) -> list[dict[str, Any]]:
    return [
        {
            "schedule": name,
            **forecast.summary(),
            "total_steps": forecast.schedule.total_steps,
            "prob_below_target": None if target is None else forecast.prob_below(target),
        }
        for name, forecast in forecasts.items()
    ]


def _table(forecasts: dict[str, Forecast], target: float | None) -> "Table":
    headings = ["steps", "forecast", "80% interval", "against the plan"]
    headings += [] if target is None else [f"below {target:g}"]
    table = empty_table("what if", "schedule", headings)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    plan = forecasts[_PLAN].median
    for name, forecast in forecasts.items():
        row = [f"{forecast.schedule.total_steps:,}", number(forecast.median), interval80(forecast)]
        row.append("" if name == _PLAN else f"{percent(forecast.median / plan - 1)}%")
        row += [] if target is None else [chance(forecast.prob_below(target))]
        table.add_row(escaped(name), *row)
    return table
