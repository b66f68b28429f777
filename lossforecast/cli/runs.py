"""The commands that manage the store of past runs: `runs list`, `show`, `import`, `forget`."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lossforecast.cli.options import (
    JSON_HELP,
    LOG_HELP,
    LOG_OPTIONS,
    PROJECT_HELP,
    LogOptions,
    print_notes,
    with_options,
)
from lossforecast.cli.output import (
    EXIT_CODES,
    EXIT_LEFT_OUT,
    STANDARD_OUTPUT,
    check_outputs,
    console,
    errors_in_one_line,
    print_error,
    print_note,
    write_json,
)
from lossforecast.cli.tables import details_table, empty_table, escaped, number, print_line
from lossforecast.errors import ConfigurationError, LossForecastError, StoreError
from lossforecast.readers import Log
from lossforecast.runs import History, observed, points
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat
from lossforecast.store import RunStore, StoredRun

if TYPE_CHECKING:
    import typer
    from rich.table import Table

__all__ = ["add_runs"]

_STORE_HELP = "Path or database URL of the store. Default: $LOSSFORECAST_STORE, else this user's."
_KEY_HELP = "Key of a run, or its beginning, as `runs list` shows it."
_KEY_CHARACTERS = 8  # of a key in tables and messages
_N_FORECASTS, _MAX_DECISIONS = 10, 10  # that `runs show` prints


def add_runs(app: "typer.Typer") -> None:
    """Add the group `runs`."""
    import typer

    group = typer.Typer(
        help="Manage the store of past runs, which new runs learn from.",
        no_args_is_help=True,
    )
    app.add_typer(group, name="runs")
    for add in (_add_list, _add_show, _add_import, _add_forget):
        add(group)


def _add_list(group: "typer.Typer") -> None:
    import typer

    @group.command("list", epilog=EXIT_CODES)
    def list_(
        project: Annotated[str | None, typer.Option(help="Only runs of this project.")] = None,
        state: Annotated[
            str | None,
            typer.Option(help="Only runs in this state: running, finished, stopped or failed."),
        ] = None,
        store: Annotated[str | None, typer.Option(help=_STORE_HELP)] = None,
        json_: Annotated[Path | None, typer.Option("--json", help=JSON_HELP)] = None,
    ) -> None:
        """List the runs in the store, newest first."""
        with errors_in_one_line():
            check_outputs({"--json": json_})
            given = {"project": project, "state": state}
            filters = {name: value for name, value in given.items() if value is not None}
            opened = RunStore(store, make=False)
            runs = opened.runs(**filters)
            write_json("runs-list", [_to_json(run) for run in runs], json_)
            out = console(to_stderr=json_ == STANDARD_OUTPUT)
            if not runs:
                print_line(out, f"no runs in {opened.url}")
                return
            out.print(_table(runs))


def _add_show(group: "typer.Typer") -> None:
    import typer

    @group.command("show", epilog=EXIT_CODES)
    def show(
        key: Annotated[str, typer.Argument(help=_KEY_HELP)],
        store: Annotated[str | None, typer.Option(help=_STORE_HELP)] = None,
        json_: Annotated[Path | None, typer.Option("--json", help=JSON_HELP)] = None,
    ) -> None:
        """Show one run with its forecasts and decisions."""
        with errors_in_one_line():
            check_outputs({"--json": json_})
            opened = RunStore(store, make=False)
            run = opened.run(key)
            forecasts, decisions = opened.forecasts(run.key), opened.decisions(run.key)
            steps, losses = points(_history(opened, run.key))
            result = {
                **_to_json(run),
                "schedule": run.schedule.to_dict(),
                "steps": steps.tolist(),
                "losses": losses.tolist(),
                "forecasts": forecasts,
                "decisions": decisions,
            }
            write_json("runs-show", result, json_)
            out = console(to_stderr=json_ == STANDARD_OUTPUT)
            out.print(_details(run))
            if forecasts:
                out.print(_forecasts(forecasts, run.outcome))
            for decision in decisions[-_MAX_DECISIONS:]:
                print_line(out, f"step {decision['step']:,}: {decision['message']}")


def _add_import(group: "typer.Typer") -> None:
    import typer

    @group.command("import", epilog=EXIT_CODES)
    @with_options(*LOG_OPTIONS, "model")
    def import_(
        options: LogOptions,
        logs: Annotated[list[Path], typer.Argument(help=LOG_HELP, metavar="LOG")],
        project: Annotated[str, typer.Option(help=PROJECT_HELP)],
        store: Annotated[str | None, typer.Option(help=_STORE_HELP)] = None,
        json_: Annotated[Path | None, typer.Option("--json", help=JSON_HELP)] = None,
    ) -> None:
        """Add finished runs to the store, from their logs.

        All runs of a log that holds several are added, unless --run names one. Logs that cannot be
        read are listed with the reason, and the others are added.
        """
        with errors_in_one_line():
            check_outputs({"--json": json_})
            options = replace(options, project=project)
            read, reasons = _read(options, logs)  # read all before storing any
            if not read:
                raise ConfigurationError("; ".join(reasons))
            opened = RunStore(store)
            keys = [
                opened.add(
                    log.name,
                    options.run_info(log),
                    plan,
                    *observed(log.history),
                    steps_taken=log.steps_taken,
                )
                for log, plan in read
            ]
            runs = [opened.run(key) for key in keys]
            added = {"results": [_to_json(run) for run in runs], "left_out": reasons}
            write_json("runs-import", added, json_)
            console(to_stderr=json_ == STANDARD_OUTPUT).print(_table(runs))
            for reason in reasons:
                print_error(f"left out: {reason}")
            if reasons:
                raise typer.Exit(EXIT_LEFT_OUT)


def _add_forget(group: "typer.Typer") -> None:
    import typer

    @group.command("forget", epilog=EXIT_CODES)
    def forget(
        keys: Annotated[list[str], typer.Argument(help=_KEY_HELP, metavar="KEY")],
        keep: Annotated[
            bool,
            typer.Option("--exclude", help="Keep the runs, but do not learn from them."),
        ] = False,
        again: Annotated[
            bool, typer.Option("--include", help="Learn from excluded runs again.")
        ] = False,
        store: Annotated[str | None, typer.Option(help=_STORE_HELP)] = None,
        json_: Annotated[Path | None, typer.Option("--json", help=JSON_HELP)] = None,
    ) -> None:
        """Delete runs, or stop learning from them."""
        with errors_in_one_line():
            check_outputs({"--json": json_})
            if keep and again:
                raise ConfigurationError("--exclude and --include: give only one of them")
            opened = RunStore(store, make=False)
            runs = [opened.find(key) for key in keys]  # find all before deleting any
            done = "excluded" if keep else "included" if again else "deleted"
            for key, name in runs:
                if keep or again:
                    opened.exclude(key, keep)
                else:
                    opened.forget(key)
                print_note(f"{done}: {key[:_KEY_CHARACTERS]} {name!s:.60}")
            forgotten = [{"key": key, "name": name, "done": done} for key, name in runs]
            write_json("runs-forget", forgotten, json_)


def _read(options: LogOptions, paths: list[Path]) -> tuple[list[tuple[Log, LRSchedule]], list[str]]:
    """The logs that can be read, with their plans, and why the others cannot."""
    read, reasons = [], []
    for path in paths:
        try:
            log = options.read(path, notes=False)
            if not log.runs or options.run is not None:
                print_notes(log)
                read.append((log, options.plan(log)))
                continue
        except (LossForecastError, OSError) as error:
            reasons.append(_reason(path, error))
            continue
        for run in log.runs:
            try:
                log = replace(options, run=run).read(path)
                read.append((log, options.plan(log)))
            except (LossForecastError, OSError) as error:
                reasons.append(f"run {run} of {_reason(path, error)}")
    return read, reasons


def _reason(path: Path, error: Exception) -> str:
    message = " ".join(str(error).split())
    return message if str(path) in message else f"{path}: {message}"


def _history(store: RunStore, key: str) -> History:
    """The losses of a run; none, with a note, if they are damaged."""
    try:
        return store.history(key)
    except StoreError as error:
        print_note(str(error))
        return History()


def _to_json(run: StoredRun) -> dict[str, Any]:
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
        peak = "-" if Caveat.LR_UNKNOWN in run.schedule.caveats else f"{run.schedule.peak:.3g}"
        done = f"{total:,}" if run.state == "finished" else f"{run.step + 1:,} of {total:,}"
        table.add_row(
            escaped(run.key[:_KEY_CHARACTERS]),
            escaped(run.name),
            escaped(run.run.project),
            escaped(run.run.monitor or run.run.metric),
            escaped(run.run.optimizer),
            peak,
            done,
            state,
            number(run.outcome),
            f"{run.updated.astimezone():%Y-%m-%d %H:%M}",
        )
    return table


def _details(run: StoredRun) -> "Table":
    known = {name: value for name, value in _to_json(run).items() if value is not None}
    return details_table(
        "run", {name.replace("_", " "): str(value) for name, value in known.items()}
    )


def _forecasts(forecasts: list[dict[str, Any]], outcome: float) -> "Table":
    """About ten of the forecasts, evenly spaced."""
    table = empty_table("forecasts", "made at", ["forecast", "80% interval", "error", "status"])
    for row in forecasts[:: max(len(forecasts) // _N_FORECASTS, 1)]:
        known = row["median"] is not None and math.isfinite(outcome) and outcome != 0
        error = f"{100 * (row['median'] / outcome - 1):+.2f}%" if known else "-"
        interval = f"{number(row['lower80'])} to {number(row['upper80'])}"
        table.add_row(
            f"{row['made_at']:,}", number(row["median"]), interval, error, escaped(row["status"])
        )
    return table
