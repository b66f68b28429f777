"""The command `replay`."""

from collections.abc import Sequence
from dataclasses import asdict
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
from lossforecast.cli.tables import empty_table, escaped, interval80, number, percent, print_line
from lossforecast.errors import ConfigurationError
from lossforecast.plot import plot as plot_run
from lossforecast.policies import Reason, Recommendation
from lossforecast.readers import Log
from lossforecast.runs import points
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

if TYPE_CHECKING:
    import typer
    from rich.table import Table

__all__ = ["add_replay"]

_NEAR_ZERO = 0.02  # of the largest loss: errors relative to a lower outcome are meaningless
_SUMMARY_SHARE = 0.25  # of the planned steps
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
        """Replay a run: what would have been forecast on the way, next to how it ended."""
        with errors_in_one_line():
            check_outputs({"--json": json_, "--plot": picture})
            check_plot(picture)
            shares = _shares(at)
            replays, backs = [], []
            for path in logs:
                log = options.read(path)
                plan = options.plan(log)
                back = look_back(
                    log.history,
                    plan,
                    options.run_info(log),
                    target=target,
                    steps_taken=log.steps_taken,
                )
                replays.append(_to_json(log, back))
                backs.append((log.name, back))
                _print_table(log, plan, back, shares, to_stderr=STANDARD_OUTPUT in (json_, picture))
                if picture is not None and path == logs[0]:
                    moment = back.at(shares[0])
                    figure = plot_run(
                        moment.forecast, back.seen(moment), target=target, outcome=log.history
                    )
                    draw(figure, picture)
            write_json("replay", replays[0] if len(replays) == 1 else replays, json_)
            if len(backs) > 1:
                out = console(to_stderr=STANDARD_OUTPUT in (json_, picture))
                out.print(_summary(backs, _SUMMARY_SHARE if at is None else shares[0]))


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
        "tally": None if back.tally is None else asdict(back.tally),
        "moments": [moment.to_dict(truth) for moment in back.moments],
    }


def _print_table(
    log: Log, plan: LRSchedule, back: LookBack, shares: Sequence[float], *, to_stderr: bool
) -> None:
    out = console(to_stderr=to_stderr)
    print_line(out, log_headline(log, plan))
    headings = ["forecast", "80% interval", "error", "last value", "its error", "advice"]
    if back.outcome is None:
        headings = [heading for heading in headings if "error" not in heading]
    table = empty_table("what would have been forecast", "seen", headings)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    for moment in _shown(back, shares):
        table.add_row(f"{moment.share:.0%}, step {moment.step:,}", *_cells(moment, back))
    out.print(table)
    for line in _conclusions(log, back):
        print_line(out, line)


def _summary(backs: Sequence[tuple[str, LookBack]], share: float) -> "Table":
    """One row for each run: the forecast at a share of it, or at the end of its log."""
    headings = ["seen", "forecast", "80% interval", "error", "last value", "its error", "ended at"]
    table = empty_table(f"all {len(backs)} runs", "run", headings)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    for name, back in backs:
        moment = back.at(share)
        *cells, _ = _cells(moment, back)
        if back.outcome is None:
            cells = [*cells[:2], "-", cells[2], "-"]
        ended = "-" if back.outcome is None else number(back.outcome.loss)
        table.add_row(escaped(name), f"{moment.share:.0%}", *cells, ended)
    return table


def _shown(back: LookBack, shares: Sequence[float]) -> list[Moment]:
    """The moments at some shares of the run, the one of a stop, and the present one."""
    last = back.moments[-1]
    reached = [share for share in shares if share <= max(last.share, back.moments[0].share)]
    moments = {moment.step: moment for moment in (back.at(share) for share in reached)}
    if back.stop is not None:
        moments[back.stop.step] = back.stop
    if not moments or (back.outcome is None and back.broke_after is None):
        moments[last.step] = last
    return [moments[step] for step in sorted(moments)]


def _cells(moment: Moment, back: LookBack) -> list[str]:
    forecast, last = moment.forecast, moment.last_value
    cells = [number(forecast.median), interval80(forecast), *_error(forecast.median, back)]
    return [*cells, number(last), *_error(last, back), str(moment.advice.action)]


def _error(value: float, back: LookBack) -> list[str]:
    """The error relative to the outcome, or the difference if the loss ended near 0.

    Empty without an outcome.
    """
    if back.outcome is None:
        return []
    truth, highest = back.outcome.loss, float(points(back.history)[1].max())
    if truth < _NEAR_ZERO * highest or truth <= 0:
        return [f"{value - truth:+.2g}"]
    return [f"{percent(value / truth - 1)}%"]


def _conclusions(log: Log, back: LookBack) -> list[str]:
    stop, now = back.stop, back.moments[-1].forecast
    lines: list[str] = []
    if back.broke_after is not None:
        lines.append(
            f"It broke after step {back.broke_after:,} of {back.total_steps:,}: its losses are nan "
            "or infinite from there on, so there is no outcome to compare with."
        )
    elif back.outcome is None:
        lines.append(
            f"The log ends at step {log.steps_taken:,} of {back.total_steps:,}, so there is no "
            "outcome to compare with. Heading for "
            f"{number(now.median)} (80%: {interval80(now)}) as of then; "
            "'lossforecast forecast LOG --follow' follows the run."
        )
    else:
        lines.append(f"It ended at {number(back.outcome.loss)} ({back.outcome}).")
        lines += _tally_lines(back)
    repeated = [m.step for m in back.moments if Caveat.REPEATED_DATA in m.forecast.caveats]
    if repeated:
        lines.append(
            f"There is no advice up to step {repeated[-1]:,}: the data was still to be seen again, "
            "and nothing seen in the first epoch shows how far a training loss falls then."
        )
    if Caveat.LR_UNKNOWN in now.caveats:
        lines.append("There is no advice without a learning rate.")
    if stop is not None:
        lines.append(
            f"It would have been stopped at step {stop.step:,}, with {back.saved:.0%} of the "
            f"compute saved: {stop.advice.message}"
        )
        if back.rightly is not None:
            lines.append("Rightly." if back.rightly else f"Wrongly: {_why_wrong(stop.advice)}.")
    elif back.target is not None:
        lines.append(f"It would not have been stopped for the target {back.target:g}.")
    elif Caveat.LR_UNKNOWN not in now.caveats:
        lines.append("It would not have been stopped. Give --target to stop runs that miss one.")
    return lines


def _why_wrong(advice: Recommendation) -> str:
    if advice.reason is Reason.OVERFITTING:
        return "a later validation loss was lower"
    return "it got below the target"


def _tally_lines(back: LookBack) -> list[str]:
    """How the forecasts compare with the last values, and whether the intervals held."""
    tally = back.tally
    if tally is None or not tally.n:
        return []
    return [
        f"At the {tally.n} checks before the end, the forecast was nearer {tally.forecast_nearer} "
        f"times and the last value {tally.last_value_nearer} times; the 80% interval held the "
        f"outcome {tally.inside80} times, the 95% interval {tally.inside95} times."
    ]
