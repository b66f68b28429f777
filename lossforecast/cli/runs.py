"""The commands that look after the store of past runs: `runs list`, `show`, `import`, `forget`."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lossforecast.cli.options import LOG, OF_LOG, LogOptions, with_options
from lossforecast.cli.output import (
    CODES,
    STANDARD_OUTPUT,
    check_outputs,
    console,
    errors_in_one_line,
    note,
    write_json,
)
from lossforecast.cli.tables import empty_table
from lossforecast.errors import ConfigurationError
from lossforecast.runs import observed, points
from lossforecast.store import RunStore, StoredRun

if TYPE_CHECKING:
    import typer
    from rich.table import Table

__all__ = ["add_runs"]

_STORE = "The store, a path or a database URL; by default $LOSSFORECAST_STORE or that of this user."
_KEY = "Keys of runs, or the beginnings of keys, as `runs list` shows them."
_JSON = "Write all of it here; - for stdout."


def add_runs(app: "typer.Typer") -> None:
    """`runs`."""
    import typer

    group = typer.Typer(
        help="Look after the store of past runs, which the next ones learn from.",
        no_args_is_help=True,
    )
    app.add_typer(group, name="runs")

    @group.command("list", epilog=CODES)
    def list_(
        project: Annotated[str | None, typer.Option(help="Only those of a project.")] = None,
        state: Annotated[
            str | None,
            typer.Option(help="Only those that are running, finished, stopped or failed."),
        ] = None,
        store: Annotated[str | None, typer.Option(help=_STORE)] = None,
        json_: Annotated[Path | None, typer.Option("--json", help=_JSON)] = None,
    ) -> None:
        """The runs of the store, newest first."""
        with errors_in_one_line():
            check_outputs({"--json": json_})
            asked = {"project": project, "state": state}
            words = {name: word for name, word in asked.items() if word is not None}
            opened = RunStore(store, make=False)
            runs = opened.runs(**words)
            write_json([_plain(run) for run in runs], json_)
            out = console(to_stderr=json_ == STANDARD_OUTPUT)
            if not runs:
                out.print(f"no runs in {opened.url}", markup=False)
                return
            out.print(_table(runs))

    @group.command("show", epilog=CODES)
    def show(
        key: Annotated[str, typer.Argument(help=_KEY)],
        store: Annotated[str | None, typer.Option(help=_STORE)] = None,
        json_: Annotated[Path | None, typer.Option("--json", help=_JSON)] = None,
    ) -> None:
        """One run: what is known of it, what was forecast and decided."""
        with errors_in_one_line():
            check_outputs({"--json": json_})
            opened = RunStore(store, make=False)
            run = opened.run(key)
            forecasts, decisions = opened.forecasts(run.key), opened.decisions(run.key)
            steps, losses = points(opened.history(run.key))
            found = {
                **_plain(run),
                "schedule": run.schedule.to_dict(),
                "steps": steps.tolist(),
                "losses": losses.tolist(),
                "forecasts": forecasts,
                "decisions": decisions,
            }
            write_json(found, json_)
            out = console(to_stderr=json_ == STANDARD_OUTPUT)
            out.print(_details(run))
            if forecasts:
                out.print(_forecasts(forecasts, run.outcome))
            for each in decisions[-10:]:
                out.print(f"step {each['step']:,}: {each['message']}", markup=False)

    @group.command("import", epilog=CODES)
    @with_options(*OF_LOG, "model")
    def import_(
        options: LogOptions,
        logs: Annotated[list[Path], typer.Argument(help=LOG, metavar="LOG")],
        project: Annotated[
            str, typer.Option(help="What the runs belong to; runs of one project are compared.")
        ],
        store: Annotated[str | None, typer.Option(help=_STORE)] = None,
    ) -> None:
        """Put runs that are over into the store, from their logs."""
        with errors_in_one_line():
            options = replace(options, project=project)
            read = [options.read(path) for path in logs]  # all of them, before any is stored
            plans = [options.plan(log) for log in read]
            opened = RunStore(store)
            keys = [
                opened.add(
                    log.name,
                    options.run(log.metric, log.column),
                    plan,
                    *observed(log.history),
                    steps_taken=log.steps_taken,
                )
                for log, plan in zip(read, plans, strict=True)
            ]
            console(to_stderr=False).print(_table([opened.run(key) for key in keys]))

    @group.command("forget", epilog=CODES)
    def forget(
        keys: Annotated[list[str], typer.Argument(help=_KEY, metavar="KEY")],
        keep: Annotated[
            bool,
            typer.Option("--exclude", help="Keep the runs, but learn nothing from them."),
        ] = False,
        again: Annotated[
            bool, typer.Option("--include", help="Learn from excluded runs again.")
        ] = False,
        store: Annotated[str | None, typer.Option(help=_STORE)] = None,
    ) -> None:
        """Delete runs, or only learn nothing from them."""
        with errors_in_one_line():
            if keep and again:
                raise ConfigurationError("--exclude and --include: give one of them")
            opened = RunStore(store, make=False)
            runs = [opened.find(key) for key in keys]  # all of them are there, before any is gone
            for key, name in runs:
                if keep or again:
                    opened.exclude(key, keep)
                else:
                    opened.forget(key)
                done = "excluded" if keep else "included" if again else "forgotten"
                note(f"{done}: {key[:8]} {name}")


def _plain(run: StoredRun) -> dict[str, Any]:
    return {
        "key": run.key,
        "name": run.name,
        **asdict(run.run),
        "state": run.state,
        "step": run.step,
        "total_steps": run.schedule.total_steps,
        "outcome": run.outcome,
        "excluded": run.excluded,
        "started": run.started.isoformat(),
        "updated": run.updated.isoformat(),
    }


def _table(runs: list[StoredRun]) -> "Table":
    headings = [
        "name",
        "project",
        "loss",
        "optimizer",
        "peak",
        "steps",
        "state",
        "outcome",
        "updated",
    ]
    table = empty_table("runs", "key", headings)
    for column in table.columns[1:5]:
        column.justify = "left"
    for run in runs:
        total = run.schedule.total_steps
        state = run.state + ", excluded" * run.excluded
        done = f"{total:,}" if run.state == "finished" else f"{run.step + 1:,} of {total:,}"
        table.add_row(
            run.key[:8],
            _plainly(run.name),
            _plainly(run.run.project),
            _plainly(run.run.monitor or run.run.metric),
            _plainly(run.run.optimizer),
            f"{run.schedule.peak:.3g}",
            done,
            state,
            _number(run.outcome),
            f"{run.updated.astimezone():%Y-%m-%d %H:%M}",
        )
    return table


def _details(run: StoredRun) -> "Table":
    table = empty_table("run", "", [""])
    table.show_header = False
    table.columns[1].justify = "left"
    for name, value in _plain(run).items():
        if value is not None:
            table.add_row(name.replace("_", " "), _plainly(str(value)))
    return table


def _forecasts(made: list[dict[str, Any]], outcome: float) -> "Table":
    """About ten of them."""
    table = empty_table("forecasts", "made at", ["forecast", "80% interval", "error", "status"])
    for row in made[:: max(len(made) // 10, 1)]:
        error = "-" if math.isnan(outcome) else f"{100 * (row['mean'] / outcome - 1):+.2f}%"
        interval = f"{_number(row['lower80'])} to {_number(row['upper80'])}"
        table.add_row(f"{row['made_at']:,}", _number(row["mean"]), interval, error, row["status"])
    return table


def _plainly(text: str | None) -> str:
    """Without what a table would take for markup."""
    from rich.markup import escape

    return escape(text or "")


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"
