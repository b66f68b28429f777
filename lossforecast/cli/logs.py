"""The commands that read the log of a run: `replay`, `forecast` and `what-if`."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lossforecast.backtest import LookBack, Moment, look_back
from lossforecast.cli.live import Look, awaited, headline, interval, number, of_log, sizes
from lossforecast.cli.options import LOG, OF_LOG, OF_STORE, SPEC, LogOptions, with_options
from lossforecast.cli.output import (
    CODES,
    STANDARD_OUTPUT,
    check_outputs,
    check_plot,
    console,
    draw,
    errors_in_one_line,
    note,
    write_json,
)
from lossforecast.cli.tables import empty_table, percent
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.plot import plot as plot_run
from lossforecast.readers import Log
from lossforecast.schedule import edited_by_text, schedule_from_text

if TYPE_CHECKING:
    import typer
    from rich.table import Table

__all__ = ["add_forecast", "add_replay", "add_what_if"]

_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
_TARGET = "The final loss hoped for."
_JSON = "Write all of it here; - for stdout."
_PLOT = "Draw the forecast here, .png, .pdf or .svg; - for stdout."


def add_replay(app: "typer.Typer") -> None:
    """`replay`."""
    import typer

    @app.command("replay", epilog=CODES)
    @with_options(*OF_LOG)
    def command(
        options: LogOptions,
        logs: Annotated[list[Path], typer.Argument(help=LOG, metavar="LOG")],
        target: Annotated[float | None, typer.Option(help=_TARGET)] = None,
        at: Annotated[
            str | None, typer.Option(help="Shares of the run to show, such as 10,25,50.")
        ] = None,
        json_: Annotated[Path | None, typer.Option("--json", help=_JSON)] = None,
        plot: Annotated[
            Path | None,
            typer.Option(help="Draw the first share shown, with what came, here; - for stdout."),
        ] = None,
    ) -> None:
        """What would have been forecast at each moment of a run that is over, and what came."""
        with errors_in_one_line():
            check_outputs({"--json": json_, "--plot": plot})
            check_plot(plot)
            shares = _shares(at)
            found = []
            for path in logs:
                log = options.read(path)
                back = look_back(
                    log.history,
                    options.plan(log),
                    options.run(log.metric, log.column),
                    target=target,
                    steps_taken=log.steps_taken,
                )
                found.append(_replayed(log, back))
                _print_replay(log, back, shares, to_stderr=STANDARD_OUTPUT in (json_, plot))
                if plot is not None and path == logs[0]:
                    moment = back.at(shares[0])
                    figure = plot_run(
                        moment.forecast, back.seen(moment), target=target, outcome=log.history
                    )
                    draw(figure, plot)
            write_json(found[0] if len(found) == 1 else found, json_)


def add_forecast(app: "typer.Typer") -> None:
    """`forecast`."""
    import typer

    @app.command("forecast", epilog=CODES)
    @with_options(*OF_LOG, *OF_STORE)
    def command(
        options: LogOptions,
        log_: Annotated[Path, typer.Argument(help=LOG, metavar="LOG")],
        target: Annotated[float | None, typer.Option(help=_TARGET)] = None,
        follow: Annotated[
            bool, typer.Option("--follow", help="Forecast again when the log grows, to its end.")
        ] = False,
        every: Annotated[
            float, typer.Option(help="Seconds between two looks of --follow.", min=0.1)
        ] = 30.0,
        json_: Annotated[Path | None, typer.Option("--json", help=_JSON)] = None,
        plot: Annotated[Path | None, typer.Option(help=_PLOT)] = None,
    ) -> None:
        """Where the loss of a run in progress will end."""
        with errors_in_one_line():
            check_outputs({"--json": json_, "--plot": plot})
            check_plot(plot)
            if follow and STANDARD_OUTPUT in (json_, plot):
                raise ConfigurationError("--follow writes many times: give --json and --plot paths")
            seen = awaited(log_, options, every) if follow else {}
            look = Look.at(log_, options, target)
            look.show(json_, plot, brief=False)
            while follow and not look.over:
                time.sleep(every)
                if (now := sizes(log_)) == seen:
                    continue
                seen = now
                try:
                    look = Look.at(log_, options, target)
                except ConfigurationError as error:
                    note(f"{error}; looking again when it changes")  # it is being written
                else:
                    look.show(json_, plot, brief=True)


def add_what_if(app: "typer.Typer") -> None:
    """`what-if`."""
    import typer

    @app.command("what-if", epilog=CODES)
    @with_options(*OF_LOG, *OF_STORE)
    def command(
        options: LogOptions,
        log_: Annotated[
            Path | None,
            typer.Argument(
                help=f"{LOG} Without one, what past runs say before launch.", metavar="LOG"
            ),
        ] = None,
        tries: Annotated[
            list[str] | None,
            typer.Option(
                "--try",
                help="Another schedule for the rest of the run: as --schedule, or a change to the "
                "plan: decay:start=8000,steps=2000,shape=sqrt, extend:to=.., truncate:to=.. or "
                "scale:from=..,by=... May be repeated.",
            ),
        ] = None,
        target: Annotated[float | None, typer.Option(help=_TARGET)] = None,
        json_: Annotated[Path | None, typer.Option("--json", help=_JSON)] = None,
    ) -> None:
        """Compare schedules for the rest of a run, or for one that is planned."""
        with errors_in_one_line():
            check_outputs({"--json": json_})
            if not tries:
                raise ConfigurationError(
                    "nothing to compare the plan with: give --try, such as "
                    "--try decay:start=8000,steps=2000"
                )
            forecaster = _planned(options) if log_ is None else Look.at(log_, options).forecaster
            plan = forecaster.schedule
            found = {"as planned": forecaster.forecast()}
            for text in tries:
                found[text] = forecaster.forecast(schedule=edited_by_text(text, plan))
            if math.isnan(found["as planned"].mean):
                raise ConfigurationError(
                    "nothing is known of this run yet: no loss, and no finished run of its project "
                    "in the store"
                )
            write_json(_compared(found, target), json_)
            console(to_stderr=json_ == STANDARD_OUTPUT).print(_comparison(found, target))


# ---------------------------------------------------------------------- replay


def _shares(text: str | None) -> list[float]:
    if text is None:
        return list(_SHARES)
    try:
        shares = [float(part.rstrip("% ")) / 100 for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ConfigurationError(f"--at {text}: give percentages, such as 10,25,50")
    return sorted(shares)


def _replayed(log: Log, back: LookBack) -> dict[str, Any]:
    truth = None if back.outcome is None else back.outcome.loss
    stop = back.stop
    return {
        **of_log(log, back.total_steps),
        "target": back.target,
        "outcome": truth,
        "broke_after": back.broke_after,
        "stopped_at": None if stop is None else stop.step,
        "saved": back.saved,
        "rightly": back.rightly,
        "moments": [moment.to_dict(truth) for moment in back.moments],
    }


def _print_replay(log: Log, back: LookBack, shares: Sequence[float], *, to_stderr: bool) -> None:
    out = console(to_stderr=to_stderr)
    out.print(headline(log, back.total_steps), markup=False)
    truth = None if back.outcome is None else back.outcome.loss
    moments = {id(each): each for each in (back.at(share) for share in shares)}
    shown = [each for each in moments.values() if each.step <= log.history.last_step + 1]
    if back.stop is not None and all(each is not back.stop for each in shown):
        shown = sorted([*shown, back.stop], key=lambda each: each.step)
    headings = ["forecast", "80% interval", "error", "advice"]
    table = empty_table("what would have been forecast", "seen", headings)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    for moment in shown:
        table.add_row(f"{moment.share:.0%}, step {moment.step:,}", *_cells(moment, truth))
    out.print(table)
    for line in _conclusions(log, back):
        out.print(line, markup=False)


def _cells(moment: Moment, truth: float | None) -> list[str]:
    forecast = moment.forecast
    error = "-" if truth is None else f"{percent(forecast.mean / truth - 1)}%"
    return [number(forecast.mean), interval(forecast), error, str(moment.advice.action)]


def _conclusions(log: Log, back: LookBack) -> list[str]:
    stop, lines = back.stop, []
    if back.broke_after is not None:
        lines.append(
            f"It broke after step {back.broke_after:,} of {back.total_steps:,}, where its losses "
            "turn nan or infinite: there is no outcome to compare with."
        )
    elif back.outcome is None:
        lines.append(
            f"The log ends at step {log.steps_taken:,} of {back.total_steps:,}: there is no "
            "outcome to compare with."
        )
    else:
        lines.append(f"It ended at {number(back.outcome.loss)} ({back.outcome}).")
    if stop is not None:
        lines.append(
            f"It would have been stopped at step {stop.step:,}, with {back.saved:.0%} of the "
            f"compute saved: {stop.advice.message}"
        )
        if back.rightly is not None:
            lines.append("Rightly." if back.rightly else "Wrongly: it got below the target.")
    elif back.target is not None:
        lines.append(f"It would not have been stopped for the target {back.target:g}.")
    else:
        lines.append("It would not have been stopped; a --target says what to hope for.")
    return lines


# ---------------------------------------------------------------------- what if


def _planned(options: LogOptions) -> Forecaster:
    """Of a run that has not begun."""
    if options.schedule is None or options.total_steps is None:
        raise ConfigurationError(
            f"without a log, --schedule and --total-steps say what is planned, {SPEC}"
        )
    if options.store is None:
        raise ConfigurationError(
            "without a log, --store and --project say which past runs to learn from"
        )
    plan = schedule_from_text(options.schedule, options.total_steps)
    run = options.run(options.metric or "train", options.column)
    return Forecaster(plan, run, prior=options.prior(run, plan))


def _compared(found: dict[str, Forecast], target: float | None) -> list[dict[str, Any]]:
    return [
        {
            "schedule": name,
            **forecast.summary(),
            "total_steps": forecast.schedule.total_steps,
            "prob_below_target": None if target is None else forecast.prob_below(target),
        }
        for name, forecast in found.items()
    ]


def _comparison(found: dict[str, Forecast], target: float | None) -> "Table":
    headings = ["steps", "forecast", "80% interval", "against the plan"]
    headings += [] if target is None else [f"below {target:g}"]
    table = empty_table("what if", "schedule", headings)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    plan = found["as planned"].mean
    for name, forecast in found.items():
        row = [f"{forecast.schedule.total_steps:,}", number(forecast.mean), interval(forecast)]
        row.append("" if name == "as planned" else f"{percent(forecast.mean / plan - 1)}%")
        row += [] if target is None else [f"{forecast.prob_below(target):.0%}"]
        table.add_row(name, *row)
    return table
