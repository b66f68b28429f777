"""The command `replay`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lossforecast.backtest import LookBack, Moment, look_back
from lossforecast.cli.log_summary import log_headline, log_to_dict
from lossforecast.cli.options import (
    EVENT_OPTIONS,
    JSON_HELP,
    LOG_HELP,
    LOG_OPTIONS,
    TARGET_HELP,
    LogOptions,
    with_options,
)
from lossforecast.cli.output import (
    EXIT_CODES,
    STANDARD_OUTPUT,
    check_outputs,
    check_plot,
    console,
    draw,
    errors_in_one_line,
    write_json,
)
from lossforecast.cli.tables import empty_table, interval80, number, percent, print_line
from lossforecast.errors import ConfigurationError
from lossforecast.plot import plot as plot_run
from lossforecast.readers import Log
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

if TYPE_CHECKING:
    import typer

__all__ = ["add_replay"]

_DEFAULT_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the planned steps


def add_replay(app: "typer.Typer") -> None:
    """Add `replay`."""
    import typer

    @app.command("replay", epilog=EXIT_CODES)
    @with_options(*EVENT_OPTIONS, *LOG_OPTIONS)
    def command(
        options: LogOptions,
        logs: Annotated[list[Path], typer.Argument(help=LOG_HELP, metavar="LOG")],
        target: Annotated[float | None, typer.Option(help=TARGET_HELP)] = None,
        at: Annotated[
            str | None, typer.Option(help="Percentages of the run to show, such as 10,25,50.")
        ] = None,
        json_: Annotated[Path | None, typer.Option("--json", help=JSON_HELP)] = None,
        picture: Annotated[
            Path | None,
            typer.Option(
                "--plot",
                help="Draw the forecast at the first percentage, and the losses after it, to this "
                ".png, .pdf or .svg; - for stdout.",
            ),
        ] = None,
    ) -> None:
        """Replay a finished run: what would have been forecast on the way, next to how it ended."""
        with errors_in_one_line():
            check_outputs({"--json": json_, "--plot": picture})
            check_plot(picture)
            shares = _shares(at)
            replays = []
            for path in logs:
                log = options.read(path)
                plan = options.plan(log)
                back = look_back(
                    log.history,
                    plan,
                    options.run(log),
                    target=target,
                    steps_taken=log.steps_taken,
                )
                replays.append(_to_json(log, back))
                _print_table(log, plan, back, shares, to_stderr=STANDARD_OUTPUT in (json_, picture))
                if picture is not None and path == logs[0]:
                    moment = back.at(shares[0])
                    figure = plot_run(
                        moment.forecast, back.seen(moment), target=target, outcome=log.history
                    )
                    draw(figure, picture)
            write_json(replays[0] if len(replays) == 1 else replays, json_)


def _shares(text: str | None) -> list[float]:
    if text is None:
        return list(_DEFAULT_SHARES)
    try:
        shares = [float(part.rstrip("% ")) / 100 for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ConfigurationError(f"--at {text}: give percentages, such as 10,25,50")
    return sorted(shares)


def _to_json(log: Log, back: LookBack) -> dict[str, Any]:
    truth = None if back.outcome is None else back.outcome.loss
    stop = back.stop
    return {
        **log_to_dict(log, back.total_steps),
        "target": back.target,
        "outcome": truth,
        "broke_after": back.broke_after,
        "stopped_at": None if stop is None else stop.step,
        "saved": back.saved,
        "rightly": back.rightly,
        "moments": [moment.to_dict(truth) for moment in back.moments],
    }


def _print_table(
    log: Log, plan: LRSchedule, back: LookBack, shares: Sequence[float], *, to_stderr: bool
) -> None:
    out = console(to_stderr=to_stderr)
    print_line(out, log_headline(log, plan))
    truth = None if back.outcome is None else back.outcome.loss
    moments = {id(moment): moment for moment in (back.at(share) for share in shares)}
    shown = [moment for moment in moments.values() if moment.step <= log.history.last_step + 1]
    if back.stop is not None and all(moment is not back.stop for moment in shown):
        shown = sorted([*shown, back.stop], key=lambda moment: moment.step)
    headings = ["forecast", "80% interval", "error", "advice"]
    table = empty_table("what would have been forecast", "seen", headings)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    for moment in shown:
        table.add_row(f"{moment.share:.0%}, step {moment.step:,}", *_cells(moment, truth))
    out.print(table)
    for line in _conclusions(log, back):
        print_line(out, line)


def _cells(moment: Moment, truth: float | None) -> list[str]:
    forecast = moment.forecast
    error = "-" if truth is None else f"{percent(forecast.median / truth - 1)}%"
    return [number(forecast.median), interval80(forecast), error, str(moment.advice.action)]


def _conclusions(log: Log, back: LookBack) -> list[str]:
    stop, lines = back.stop, []
    if back.broke_after is not None:
        lines.append(
            f"It broke after step {back.broke_after:,} of {back.total_steps:,}: its losses are nan "
            "or infinite from there on, so there is no outcome to compare with."
        )
    elif back.outcome is None:
        lines.append(
            f"The log ends at step {log.steps_taken:,} of {back.total_steps:,}, so there is no "
            "outcome to compare with."
        )
    else:
        lines.append(f"It ended at {number(back.outcome.loss)} ({back.outcome}).")
    repeated = [m.step for m in back.moments if Caveat.REPEATED_DATA in m.forecast.caveats]
    if repeated:
        lines.append(
            f"There is no advice up to step {repeated[-1]:,}: the data was still to be seen again, "
            "and nothing seen in the first epoch tells how far a training loss falls then."
        )
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
        lines.append("It would not have been stopped. Give --target to stop runs that miss one.")
    return lines
