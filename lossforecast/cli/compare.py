"""The command `compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lossforecast.cli.options import (
    JSON_HELP,
    LOG_OPTIONS,
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
from lossforecast.cli.tables import details_table, number, percent, print_line
from lossforecast.comparison import MAX_SEEDS, ComparedRun, Comparison, Contender
from lossforecast.errors import ConfigurationError
from lossforecast.runs import outcome_of
from lossforecast.store import RunStore

if TYPE_CHECKING:
    import typer
    from rich.table import Table

__all__ = ["add_compare"]

_RUN_HELP = "A log, or with --store the key or the name of a run in it."
_OPTIONS = tuple(name for name in LOG_OPTIONS if name != "run")


def add_compare(app: "typer.Typer") -> None:
    """Add `compare`."""
    import typer

    @app.command("compare", epilog=EXIT_CODES)
    @with_options(*_OPTIONS, *STORE_OPTIONS)
    def command(
        options: LogOptions,
        first: Annotated[str, typer.Argument(help=_RUN_HELP, metavar="A")],
        second: Annotated[str, typer.Argument(help=_RUN_HELP, metavar="B")],
        json_: Annotated[Path | None, typer.Option("--json", help=JSON_HELP)] = None,
    ) -> None:
        """Compare two runs: do they differ by more than the noise of seeds and evaluation?

        The noise is learned from the repeats in the store: finished runs of the same project or
        dataset whose records are equal. Without repeats it is the packaged one, which is wide. A
        run that has not ended is compared by its forecast.
        """
        with errors_in_one_line():
            check_outputs({"--json": json_})
            store = None if options.store is None else RunStore(options.store, make=False)
            one, other = (_run(word, options, store) for word in (first, second))
            found = Comparison.of(one, other) if store is None else store.compare(one, other)
            write_json("compare", _to_json(found), json_)
            out = console(to_stderr=json_ == STANDARD_OUTPUT)
            out.print(_table(found))
            print_line(out, _verdict(found))


def _run(word: str, options: LogOptions, store: RunStore | None) -> ComparedRun:
    """The run of a log, or of the store."""
    path = Path(word)
    if store is not None and not path.exists():
        return store.compared(word)
    if not path.exists():
        raise ConfigurationError(
            f"there is no log {word:.80}; give --store to compare runs of a store"
        )
    log = options.read(path)
    plan = options.plan(log)
    end = outcome_of(log.history, plan.total_steps, log.steps_taken)
    outcome = float("nan") if end is None else end.loss
    return ComparedRun(word, options.run_info(log), plan, log.history, outcome)


def _to_json(found: Comparison) -> dict[str, Any]:
    lower95, upper95 = found.interval95
    return {
        "first": _side(found.first),
        "second": _side(found.second),
        "same_recipe": found.same_recipe,
        "median": float(found.difference),
        "lower80": found.difference.lower,
        "upper80": found.difference.upper,
        "lower95": lower95,
        "upper95": upper95,
        "prob_first_better": found.prob_first_better,
        "differ": found.differ,
        "spread": found.spread.scale,
        "spread_dof": found.spread.dof,
        "spread_runs": found.spread.n_runs,
        "spread_recipes": found.spread.n_recipes,
        "seeds_to_tell": found.seeds_to_tell,
    }


def _side(side: Contender) -> dict[str, Any]:
    return {
        "name": side.name,
        "finished": side.finished,
        "median": float(side.loss),
        "lower80": side.loss.lower,
        "upper80": side.loss.upper,
        "repeats": list(side.repeats),
    }


def _table(found: Comparison) -> "Table":
    lower, upper = found.interval95
    spread, seeds = found.spread, found.seeds_to_tell
    source = (
        f"{spread.n_runs:,} repeats of {spread.n_recipes:,} recipes in the store"
        if spread.n_runs
        else "packaged: no repeats are known"
    )
    rows = {
        f"A: {found.first.name:.60}": _loss(found.first),
        f"B: {found.second.name:.60}": _loss(found.second),
        "A against B": f"{_signed(float(found.difference))} (95%: {_signed(lower)} to "
        f"{_signed(upper)})",
        "chance that A's recipe is better": f"{found.prob_first_better:.1%}",
        "spread of repeats": f"{percent(spread.scale)}% ({source})",
        "seeds of each needed": f"over {MAX_SEEDS:,}" if seeds is None else f"{seeds:,}",
    }
    return details_table("comparison", rows)


def _loss(side: Contender) -> str:
    loss = side.loss
    known = f"ended at {number(float(loss))}"
    if not side.finished:
        known = f"forecast {number(float(loss))} ({number(loss.lower)} to {number(loss.upper)})"
    ends = ", ".join(number(repeat) for repeat in side.repeats[:5])
    more = ", ..." * (len(side.repeats) > 5)
    return f"{known}; repeats: {ends}{more}" if side.repeats else known


def _signed(share: float) -> str:
    return f"{'+' if share >= 0 else '-'}{percent(abs(share))}%"


def _verdict(found: Comparison) -> str:
    same = "Nothing recorded distinguishes the two. " if found.same_recipe else ""
    if not found.differ:
        return f"{same}The difference is within the noise of seeds and evaluation."
    better = "A" if found.prob_first_better > 0.5 else "B"
    return f"{same}{better} is better, beyond the noise of seeds and evaluation."
