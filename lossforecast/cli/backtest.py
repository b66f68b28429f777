"""The command `backtest`."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lossforecast.backtest import (
    MIN_FORECASTS_PER_CELL,
    OUR_RULES,
    RULES,
    VIEWS,
    Backtest,
    RecordedRun,
    Told,
    backtest,
    learn_prior,
    load_curves,
    plot_errors,
    plot_sweeps,
    prior_without_fold,
    replay_ladder,
    replay_sweeps,
)
from lossforecast.cli.family_tables import (
    FAMILY_LEGEND,
    ScoreTable,
    family_table,
    kind_table,
    worse_table,
)
from lossforecast.cli.ladder_tables import LADDER_LEGEND, ladder_table
from lossforecast.cli.options import CURVES_HELP, JOBS_HELP
from lossforecast.cli.output import (
    EXIT_CODES,
    PIPE_WIDTH,
    STANDARD_OUTPUT,
    check_outputs,
    check_plot,
    draw,
    errors_in_one_line,
    progress,
    write,
    write_json,
)
from lossforecast.cli.score_tables import difference_table, markdown, score_table
from lossforecast.cli.sweep_tables import sweep_tables
from lossforecast.errors import ConfigurationError
from lossforecast.prior import Prior

if TYPE_CHECKING:
    import typer

__all__ = ["add_backtest"]

_LEGEND = (
    "Errors, widths and CRPS in % of the outcome; CRPS from 19 quantiles. [..]: 95% bootstrap "
    "interval over families of runs. *: the smallest median of a row. Sharper: width of a "
    "last-value conformal interval that covers as much as our 80% interval, over the width of "
    f"ours. Left out: cells of fewer than {MIN_FORECASTS_PER_CELL} forecasts, and forecasts of "
    "losses that had been observed (runs that ended early)."
)
_NOTE_WIDTH = 100  # characters
_KIND, _FAMILY = "kind", "family"
_TABLES = (_KIND, _FAMILY, *VIEWS)  # names for --by
_DEFAULT_TABLES = (_KIND, *VIEWS)


def add_backtest(app: "typer.Typer") -> None:
    """Add `backtest`."""
    import typer

    @app.command("backtest", epilog=EXIT_CODES)
    def command(
        curves: Annotated[Path, typer.Option(help=CURVES_HELP)],
        json_: Annotated[
            Path | None,
            typer.Option(
                "--json", help="Write one object per run and fraction to this file; - for stdout."
            ),
        ] = None,
        jobs: Annotated[int, typer.Option(help=JOBS_HELP)] = 1,
        baselines: Annotated[
            bool, typer.Option("--baselines/--no-baselines", help="Also score the baselines.")
        ] = True,
        plot: Annotated[
            Path | None,
            typer.Option(
                help="Draw error against fraction, or with --sweep regret against compute, to this "
                ".png, .pdf or .svg; - for stdout."
            ),
        ] = None,
        markdown_: Annotated[
            Path | None,
            typer.Option(
                "--markdown",
                help="Write the tables by kind and by group, and with --by family the one by "
                "family, to this file in Markdown.",
            ),
        ] = None,
        unseen: Annotated[
            str,
            typer.Option(
                help="Runs left out when the prior of a run is learned: fold, those of its fold "
                "(uses the packaged tables), or peak, those of its fold with its peak learning "
                "rate (learns from the folder)."
            ),
        ] = "fold",
        by: Annotated[
            list[str] | None,
            typer.Option(
                help=f"Table to print, one of {', '.join(_TABLES)}; may be repeated. Default: all "
                "but family."
            ),
        ] = None,
        told: Annotated[
            str,
            typer.Option(
                help="What the forecaster is told of a run: found, what a callback would find by "
                "itself (metric, optimizer, recorded number of parameters and steps per epoch, and "
                "the task of a language model); optimizer, metric and optimizer; or nothing, the "
                "metric alone."
            ),
        ] = Told.FOUND.value,
        max_per_family: Annotated[
            int | None,
            typer.Option(
                help="Forecast at most so many runs of each family (one fold, one metric), spread "
                "over its clusters: a quick look.",
                min=1,
            ),
        ] = None,
        sweep: Annotated[
            bool,
            typer.Option(
                "--sweep",
                help="Score stopping rules on recorded sweeps instead of forecasts; --json then "
                "writes one object per rule, sweep and order of arrival. Needs optuna, or "
                "--no-baselines.",
            ),
        ] = False,
        ladder: Annotated[
            bool,
            typer.Option(
                "--ladder",
                help="Forecast every run above the smallest size of its source and evaluation set "
                "from all smaller ones, before its first step and on the way; --json then writes "
                "one object per run and fraction, with the predictions of baselines by name.",
            ),
        ] = False,
    ) -> None:
        """Replay recorded runs and score the forecasts made on the way."""
        with errors_in_one_line():
            check_outputs({"--json": json_, "--plot": plot, "--markdown": markdown_})
            if sweep or ladder:
                mode = "--sweep" if sweep else "--ladder"
                others = markdown_ or by or unseen != "fold" or told != "found" or max_per_family
                if others or (ladder and (sweep or plot)):
                    raise ConfigurationError(
                        f"--markdown, --by, --unseen, --told, --max-per-family"
                        f"{', --plot and --sweep' if ladder else ''} do not apply to "
                        f"{mode}: leave them out"
                    )
            if ladder:
                _backtest_ladder(curves, json_, jobs, baselines=baselines)
                return
            if sweep:
                check_plot(plot)
                _backtest_sweeps(curves, json_, plot, jobs, baselines=baselines)
                return
            check_plot(plot)
            views, described_as = _views(by), _told(told)
            runs = load_curves(curves)
            priors = _priors(runs, unseen, jobs)
            with progress("replaying runs") as report:
                result = backtest(
                    runs,
                    jobs=jobs,
                    baselines=baselines,
                    prior_for=priors,
                    told=described_as,
                    max_per_family=max_per_family,
                    progress=report,
                )
            if not result.records:
                raise ConfigurationError(
                    f"{curves} has no run to score: a run needs a finite outcome, 10 losses before "
                    "it, and must not be recorded as stopped early"
                )
            if plot is not None:
                draw(plot_errors(result), plot)
            write_json("backtest", result.to_json(), json_)
            if markdown_ is not None:
                write(markdown_, _markdown(result, views, described_as))
            to_stderr = STANDARD_OUTPUT in (json_, plot, markdown_)
            _print_tables(result, views, described_as, to_stderr=to_stderr)


def _backtest_sweeps(
    curves: Path, json_: Path | None, plot: Path | None, jobs: int, *, baselines: bool
) -> None:
    from rich.console import Console

    if baselines and importlib.util.find_spec("optuna") is None:
        raise ConfigurationError(
            'the rules to compare with need optuna: pip install "lossforecast[optuna]", or give '
            "--no-baselines"
        )
    rules = RULES if baselines else OUR_RULES
    with progress("forecasting runs") as report:
        scores = replay_sweeps(curves, jobs=jobs, rules=rules, progress=report)
    if not scores:
        raise ConfigurationError(
            f"{curves} has no sweep to score: it needs two completed runs with validation losses "
            "and the same `sweep_of` in their descriptions"
        )
    if plot is not None:
        draw(plot_sweeps(scores), plot)
    write_json("backtest-sweep", [score.to_json() for score in scores], json_)
    console = Console(stderr=STANDARD_OUTPUT in (json_, plot), highlight=False, width=PIPE_WIDTH)
    for table in sweep_tables(scores):
        console.print(table)


def _backtest_ladder(curves: Path, json_: Path | None, jobs: int, *, baselines: bool) -> None:
    from rich.console import Console

    with progress("forecasting runs") as report:
        records = replay_ladder(curves, jobs=jobs, baselines=baselines, progress=report)
    if not records:
        raise ConfigurationError(
            f"{curves} has no run with smaller ones: runs of one source need different `n_params` "
            "in their descriptions"
        )
    write_json("backtest-ladder", [record.to_json() for record in records], json_)
    console = Console(stderr=json_ == STANDARD_OUTPUT, highlight=False, width=PIPE_WIDTH)
    console.print(ladder_table(records))
    console.print(LADDER_LEGEND, style="dim", markup=False, width=_NOTE_WIDTH)


def _views(by: Sequence[str] | None) -> list[str]:
    views = list(by or _DEFAULT_TABLES)
    unknown = [view for view in views if view not in _TABLES]
    if unknown:
        raise ConfigurationError(f"--by {unknown[0]}: it must be one of {', '.join(_TABLES)}")
    return views


def _told(value: str) -> Told:
    if value not in set(Told):
        raise ConfigurationError(f"--told {value}: it must be one of {', '.join(Told)}")
    return Told(value)


def _priors(runs: Sequence[RecordedRun], unseen: str, jobs: int) -> Callable[[RecordedRun], Prior]:
    if unseen == "fold":
        return prior_without_fold
    if unseen != "peak":
        raise ConfigurationError(f"--unseen {unseen}: it must be fold or peak")
    with progress("learning") as report:
        lessons = learn_prior(runs, fold_of=lambda run: run.peak_fold, jobs=jobs, progress=report)
    return lambda run: lessons.without[run.peak_fold]


def _family_tables(result: Backtest, views: Sequence[str], told: Told) -> list[ScoreTable]:
    """Return those of the named tables in which families count once."""
    families = result.families()
    tables = []
    if _KIND in views:
        worse = worse_table(families)
        tables += [kind_table(result.kinds(), told), *([worse] if worse.rows else [])]
    if _FAMILY in views:
        tables.append(family_table(families, told))
    return tables


def _markdown(result: Backtest, views: Sequence[str], told: Told) -> str:
    tables = _family_tables(result, [_KIND, *views], told)
    by_group = markdown(result.table("group"))
    return "\n".join([*(table.markdown() for table in tables), "## Scores by group\n", by_group])


def _print_tables(result: Backtest, views: Sequence[str], told: Told, *, to_stderr: bool) -> None:
    from rich.console import Console

    console = Console(stderr=to_stderr, highlight=False)
    note_width = min(console.width, _NOTE_WIDTH)
    console.width = max(console.width, PIPE_WIDTH)  # rows must not wrap
    tables = _family_tables(result, views, told)
    for table in tables:
        console.print(table.for_terminal())
    if tables:
        console.print(FAMILY_LEGEND, style="dim", markup=False, width=note_width)
    cell_views = [view for view in views if view in VIEWS]
    for view in cell_views:
        cells = result.table(view)
        if not cells:
            console.print(
                f"by {view}: no cell has {MIN_FORECASTS_PER_CELL} forecasts, too few to quote"
            )
            continue
        console.print(score_table(view, cells))
        if cells[0].baselines:
            console.print(difference_table(view, cells))
    if cell_views:
        console.print(_LEGEND, style="dim", markup=False, width=note_width)
