"""The command `watch`: the runs below a folder on one page that follows their logs."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lossforecast.cli.options import (
    LOG_OPTIONS,
    STORE_OPTIONS,
    TARGET_HELP,
    LogOptions,
    with_options,
)
from lossforecast.cli.output import (
    EXIT_CODE_HELP,
    EXIT_CODES,
    STANDARD_OUTPUT,
    check_outputs,
    console,
    errors_in_one_line,
    exit_by_advice,
    print_note,
    write_json,
)
from lossforecast.cli.tables import empty_table, print_line
from lossforecast.cli.watched import Watched, WatchedRun
from lossforecast.errors import ConfigurationError

if TYPE_CHECKING:
    import typer
    from rich.console import Console
    from rich.table import Table

__all__ = ["add_watch"]

_HEADINGS = ("run", "done", "losses", "now", "forecast", "80% interval", "advice")
_LINES_AROUND_ROWS = 5  # title, headings, rule and prompt
_MIN_ADVICE = 16  # characters of the advice that are always shown
_MIN_NAME = 12  # of a name
_NOTIFY_TIMEOUT_S = 60.0


def add_watch(app: "typer.Typer") -> None:
    """Add `watch`."""
    import typer

    @app.command("watch", epilog=EXIT_CODES)
    @with_options(*LOG_OPTIONS, *STORE_OPTIONS)
    def command(
        options: LogOptions,
        places: Annotated[
            list[Path],
            typer.Argument(
                help="Folders with the logs of runs below them, or logs.", metavar="LOGDIR"
            ),
        ],
        target: Annotated[float | None, typer.Option(help=TARGET_HELP)] = None,
        every: Annotated[
            float, typer.Option(help="Seconds between two readings of the logs.", min=0.1)
        ] = 10.0,
        once: Annotated[
            bool, typer.Option("--once", help="Read the logs once, print a table, and exit.")
        ] = False,
        notify: Annotated[
            str | None,
            typer.Option(
                help="Command for the shell, run once for each run and reason to stop it "
                "(diverged, non_finite, target_miss, overfitting), with LOSSFORECAST_RUN, "
                "LOSSFORECAST_REASON and LOSSFORECAST_MESSAGE in its environment.",
                metavar="CMD",
            ),
        ] = None,
        json_: Annotated[
            Path | None,
            typer.Option(
                "--json", help="Write all runs to this file as JSON at every reading; - for stdout."
            ),
        ] = None,
        exit_code: Annotated[
            bool, typer.Option("--exit-code", help=f"{EXIT_CODE_HELP} The most severe of all runs.")
        ] = False,
    ) -> None:
        """Show all runs below a folder and where they will end, until all are over or Ctrl-C."""
        with errors_in_one_line():
            check_outputs({"--json": json_})
            if json_ == STANDARD_OUTPUT and not once:
                raise ConfigurationError("--json - is for --once: give a path")
            out = console(to_stderr=json_ == STANDARD_OUTPUT)
            watched, alarms = Watched(places, options, target), Alarms(notify)
            page = Page(out, once=once)
            try:
                with page:
                    while True:
                        changed = watched.read()
                        page.show(watched.runs, changed)
                        found = [run.live.to_dict() for run in watched.runs if run.live]
                        write_json("watch", found, json_)
                        alarms.raise_for(changed)
                        if once or _all_over(watched):
                            break
                        time.sleep(every)
            except KeyboardInterrupt:
                pass  # the way to end it
            if exit_code:
                exit_by_advice(run.live.advice.action for run in watched.runs if run.live)


def _all_over(watched: Watched) -> bool:
    """Return whether there are runs, and all of them have reached their last step."""
    lives = [run.live for run in watched.runs]
    return bool(lives) and all(live is not None and live.over for live in lives)


class Page:
    """A table that is redrawn in place on a terminal; elsewhere, lines for the runs that changed.

    Args:
        out: where to write.
        once: whether the logs are read only once, and the whole table is printed.
    """

    def __init__(self, out: "Console", *, once: bool) -> None:
        from rich.live import Live

        self._out, self._once = out, once
        drawn = out.is_terminal and not out.is_dumb_terminal and not once
        self._live = Live(console=out, auto_refresh=False) if drawn else None
        encoding = (out.encoding or "ascii").lower()
        self._ascii_only = not encoding.startswith("utf")

    def __enter__(self) -> "Page":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, runs: Sequence[WatchedRun], changed: Sequence[WatchedRun]) -> None:
        """Show all runs, or those that have changed."""
        if self._live is not None:
            self._live.update(
                self._table(runs, self._out.height - _LINES_AROUND_ROWS), refresh=True
            )
        elif self._once:
            self._out.print(self._table(runs, len(runs)))
        else:
            for run in changed:
                print_line(self._out, f"{time.strftime('%H:%M:%S')}  {run.line()}")

    def _table(self, runs: Sequence[WatchedRun], room: int) -> "Table":
        """The runs by name; if not all fit, those whose logs were written last."""
        from rich.text import Text

        shown = list(runs)
        if len(shown) > max(room, 1):
            latest = sorted(shown, key=lambda run: run.quiet_s)[: max(room, 1)]
            shown = [run for run in shown if run in latest]
        title = f"{time.strftime('%H:%M:%S')}  {len(runs)} run{'s' * (len(runs) != 1)}"
        if len(shown) < len(runs):
            title += f", the {len(shown)} written last"
        if not runs:
            title += ": no log found yet"
        rows = [_HEADINGS, *(run.row(ascii_only=self._ascii_only) for run in shown)]
        if self._live is not None:
            rows = _fitted(rows, self._out.width)
        table = empty_table(title, rows[0][0], rows[0][1:])
        table.columns[-1].justify, table.columns[-1].no_wrap = "left", self._live is not None
        for row in rows[1:]:
            table.add_row(*map(Text, row))  # names are not markup
        return table


def _fitted(rows: Sequence[Sequence[str]], width: int) -> list[Sequence[str]]:
    """The rows, headings first, so that each fits into one line of a terminal.

    Long names lose their beginning. If need be, the losses are left out, then the last cells cut.
    """
    longest = max(width // 4, _MIN_NAME)
    rows = [
        [row[0] if len(row[0]) <= longest else f"...{row[0][3 - longest :]}", *row[1:]]
        for row in rows
    ]

    def room(rows: Sequence[Sequence[str]]) -> int:
        columns = list(zip(*rows, strict=True))[:-1]
        return width - 2 - sum(max(map(len, column)) + 2 for column in columns)

    if room(rows) < _MIN_ADVICE:
        rows = [[*row[:2], *row[4:]] for row in rows]
    left = max(room(rows), _MIN_ADVICE)
    cut = [row[-1] if len(row[-1]) <= left else f"{row[-1][: left - 3]}..." for row in rows]
    return [[*row[:-1], last] for row, last in zip(rows, cut, strict=True)]


class Alarms:
    """Runs a command for each run and reason to stop it, once.

    Runs that are over or quiet when they are found raise none.
    """

    def __init__(self, command: str | None) -> None:
        self._command = command
        self._raised: set[tuple[Path, str]] = set()

    def raise_for(self, changed: Sequence[WatchedRun]) -> None:
        """Run the command for the runs among these that have a new reason."""
        for run in changed:
            reason = run.alarm()
            if self._command is None or reason is None or not run.is_active:
                continue
            if (run.path, reason) not in self._raised:
                self._raised.add((run.path, reason))
                self._run(self._command, run)

    def _run(self, command: str, run: WatchedRun) -> None:
        assert run.live is not None
        told = {
            "LOSSFORECAST_RUN": str(run.path),
            "LOSSFORECAST_REASON": str(run.live.advice.reason),
            "LOSSFORECAST_MESSAGE": f"{run.name}: {run.live.advice.message}",
        }
        try:
            done = subprocess.run(
                command,
                shell=True,
                env={**os.environ, **told},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_NOTIFY_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print_note(f"--notify took longer than {_NOTIFY_TIMEOUT_S:g} s for {run.name}")
            return
        if done.returncode:
            print_note(f"--notify ended with exit code {done.returncode} for {run.name}")
