"""The commands that learn from recorded curves and score against them."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lossforecast.backtest import (
    MIN_FORECASTS_PER_CELL,
    RULES,
    VIEWS,
    Backtest,
    Lessons,
    RecordedRun,
    backtest,
    learn_prior,
    load_curves,
    plot_errors,
    prior_without_fold,
    replay_sweeps,
)
from lossforecast.cli.output import (
    CODES,
    STANDARD_OUTPUT,
    WIDTH,
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
from lossforecast.cli.tables import empty_table, percent
from lossforecast.errors import ConfigurationError
from lossforecast.prior import Prior

if TYPE_CHECKING:
    import typer

__all__ = ["add_backtest", "add_learn_prior"]

_RATIOS = ("jitters", "slopes")
_NOTE = (
    "Errors, widths and CRPS in % of the truth; CRPS from 19 quantiles. [..] is the 95% bootstrap "
    "interval over families of runs, * the smallest median of a row. Sharper: the width of a "
    "last-value conformal interval that covers as much as our 80% interval, over ours. Left out: "
    "cells of fewer than 15 forecasts, and forecasts of what had been seen (runs that ended early)."
)


def add_backtest(app: "typer.Typer") -> None:
    """`backtest`."""
    import typer

    @app.command("backtest", epilog=CODES)
    def command(
        curves: Annotated[
            Path, typer.Option(help="Folder of recorded runs, NAME.npz beside NAME.json.")
        ],
        json_: Annotated[
            Path | None,
            typer.Option(
                "--json", help="Write one object per run and fraction here; - for stdout."
            ),
        ] = None,
        jobs: Annotated[int, typer.Option(help="Processes that share the runs.")] = 1,
        baselines: Annotated[
            bool, typer.Option("--baselines/--no-baselines", help="Score the baselines as well.")
        ] = True,
        plot: Annotated[
            Path | None,
            typer.Option(
                help="Draw error against fraction here, .png, .pdf or .svg; - for stdout."
            ),
        ] = None,
        markdown_: Annotated[
            Path | None,
            typer.Option("--markdown", help="Write the table by group here, in Markdown."),
        ] = None,
        unseen: Annotated[
            str,
            typer.Option(
                help="What the prior has not seen of a run it is scored on: its fold (the packaged "
                "tables) or its peak rate (learns anew from the folder)."
            ),
        ] = "fold",
        by: Annotated[
            list[str] | None,
            typer.Option(help=f"Tables to print, any of {', '.join(VIEWS)}; all by default."),
        ] = None,
        sweep: Annotated[
            bool,
            typer.Option(
                "--sweep",
                help="Score who would have stopped which runs of recorded sweeps instead; --json "
                "then writes one object per policy, sweep and arrival. Needs optuna, or "
                "--no-baselines.",
            ),
        ] = False,
    ) -> None:
        """Replay recorded runs and score what would have been forecast of them."""
        with errors_in_one_line():
            check_outputs({"--json": json_, "--plot": plot, "--markdown": markdown_})
            if sweep:
                if plot or markdown_ or by or unseen != "fold":
                    raise ConfigurationError(
                        "--plot, --markdown, --by and --unseen say nothing about sweeps: leave "
                        "them out with --sweep"
                    )
                _backtest_sweeps(curves, json_, jobs, baselines=baselines)
                return
            check_plot(plot)
            views = _views(by)
            runs = load_curves(curves)
            priors = _priors(runs, unseen, jobs)
            with progress("replaying runs") as tell:
                result = backtest(
                    runs, jobs=jobs, baselines=baselines, prior_for=priors, progress=tell
                )
            if not result.records:
                raise ConfigurationError(
                    f"{curves} has no run to score: each needs a finite end, 10 losses before it "
                    "and a completion that does not say it stopped early"
                )
            if plot is not None:
                draw(plot_errors(result), plot)
            write_json(result.to_json(), json_)
            if markdown_ is not None:
                write(markdown_, markdown(result.table("group")))
            _print_tables(result, views, to_stderr=STANDARD_OUTPUT in (json_, plot, markdown_))


def _backtest_sweeps(curves: Path, json_: Path | None, jobs: int, *, baselines: bool) -> None:
    from rich.console import Console

    if baselines and importlib.util.find_spec("optuna") is None:
        raise ConfigurationError(
            'the rules to compare with need optuna: pip install "lossforecast[optuna]", or give '
            "--no-baselines"
        )
    rules = RULES if baselines else {"dominated": RULES["dominated"]}
    with progress("forecasting runs") as tell:
        scores = replay_sweeps(curves, jobs=jobs, rules=rules, progress=tell)
    if not scores:
        raise ConfigurationError(
            f"{curves} has no sweep to score: it needs two completed runs with validation losses "
            "and the same `sweep_of` in their descriptions"
        )
    write_json([score.to_json() for score in scores], json_)
    console = Console(stderr=json_ == STANDARD_OUTPUT, highlight=False, width=WIDTH)
    for table in sweep_tables(scores):
        console.print(table)


def add_learn_prior(app: "typer.Typer") -> None:
    """`learn-prior`."""
    import typer

    @app.command("learn-prior", epilog=CODES)
    def command(
        curves: Annotated[
            Path, typer.Option(help="Folder of recorded runs, NAME.npz beside NAME.json.")
        ],
        json_: Annotated[
            Path | None,
            typer.Option("--json", help="Write the table of the prior here; - for stdout."),
        ] = None,
        jobs: Annotated[int, typer.Option(help="Processes that share the runs.")] = 1,
    ) -> None:
        """Learn the prior from recorded runs: the table that Prior.from_table reads."""
        with errors_in_one_line():
            check_outputs({"--json": json_})
            with progress("learning") as tell:
                lessons = learn_prior(load_curves(curves), jobs=jobs, progress=tell)
            write_json(lessons.to_json(), json_)
            _print_lessons(lessons, to_stderr=json_ == STANDARD_OUTPUT)


def _print_lessons(lessons: Lessons, *, to_stderr: bool) -> None:
    from rich.console import Console

    columns = [
        "drop at 1e-3",
        "peak ^",
        "decay ^",
        "spread",
        "drop elsewhere",
        "x jitter",
        "x slope",
    ]
    table = empty_table("the prior learnt from all runs, and without each fold", "without", columns)
    for fold, prior in {"(none)": lessons.all, **lessons.without}.items():
        rule, elsewhere = prior.known, prior.unknown_drops[0]
        jitters, slopes = (max(getattr(d, n) for d in prior.loose_drops) for n in _RATIOS)
        shares = (rule.size, rule.spread, elsewhere.size)
        size, spread, other = (percent(share) + "%" for share in shares)
        powers = (rule.peak_exponent, rule.decay_exponent, jitters, slopes)
        peak, decay, jitter, slope = (f"{power:.2f}" for power in powers)
        table.add_row(fold, size, peak, decay, spread, other, jitter, slope)
    Console(stderr=to_stderr, highlight=False, width=WIDTH).print(table)


def _views(by: Sequence[str] | None) -> list[str]:
    views = list(by or VIEWS)
    unknown = [view for view in views if view not in VIEWS]
    if unknown:
        raise ConfigurationError(f"--by {unknown[0]}: it must be one of {', '.join(VIEWS)}")
    return views


def _priors(runs: Sequence[RecordedRun], unseen: str, jobs: int) -> Callable[[RecordedRun], Prior]:
    if unseen == "fold":
        return prior_without_fold
    if unseen != "peak":
        raise ConfigurationError(f"--unseen {unseen}: it must be fold or peak")
    with progress("learning") as tell:
        lessons = learn_prior(runs, fold_of=lambda run: run.peak_fold, jobs=jobs, progress=tell)
    return lambda run: lessons.without[run.peak_fold]


def _print_tables(result: Backtest, views: Sequence[str], *, to_stderr: bool) -> None:
    from rich.console import Console

    console = Console(stderr=to_stderr, highlight=False)
    note_width = min(console.width, 100)
    console.width = max(console.width, WIDTH)  # a row that wraps cannot be read
    for view in views:
        cells = result.table(view)
        if not cells:
            console.print(
                f"by {view}: no cell has {MIN_FORECASTS_PER_CELL} forecasts, too few to quote"
            )
            continue
        console.print(score_table(view, cells))
        if cells[0].baselines:
            console.print(difference_table(view, cells))
    console.print(_NOTE, style="dim", markup=False, width=note_width)
