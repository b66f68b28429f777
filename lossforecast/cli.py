"""The command line, ``lossforecast`` or ``python -m lossforecast`` (needs typer and rich).

Exit codes of every command: 0 done; 2 what was asked for cannot be done, with one line that says
why; 130 interrupted; 1 a fault of ours, with a traceback. What a command computes goes to standard
output, everything else to standard error; ``-`` in place of a path is standard output, and tables
then go to standard error.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lossforecast.backtest import Backtest, backtest, prior_without_fold
from lossforecast.curves import RecordedRun, load_curves
from lossforecast.errors import ConfigurationError, LossForecastError
from lossforecast.learn import Lessons, learn_prior
from lossforecast.plot_scores import plot_errors
from lossforecast.prior import Prior
from lossforecast.report import (
    difference_table,
    empty_table,
    markdown,
    percent,
    score_table,
)
from lossforecast.report_sweeps import sweep_tables
from lossforecast.rules import RULES
from lossforecast.scorecard import LEAST, VIEWS
from lossforecast.sweeps import replay_sweeps

if TYPE_CHECKING:
    import typer

__all__ = ["main"]

_MISUSE = 2
_WIDTH = 200  # room for a whole row
_STANDARD_OUTPUT = Path("-")
_RATIOS = ("jitters", "slopes")
_PICTURES = (".png", ".pdf", ".svg")
_NOTE = (
    "Errors, widths and CRPS in % of the truth; CRPS from 19 quantiles. [..] is the 95% bootstrap "
    "interval over families of runs, * the smallest median of a row. Sharper: the width of a "
    "last-value conformal interval that covers as much as our 80% interval, over ours. Left out: "
    "cells of fewer than 15 forecasts, and forecasts of what had been seen (runs that ended early)."
)
_CODES = "Exit codes: 0 done, 2 impossible as asked (one line says why), 130 interrupted, 1 a bug."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line with the arguments given, by default those of the process."""
    if missing := [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]:
        _complain(f'the command line needs {missing[0]}: pip install "lossforecast[cli]"')
        sys.exit(_MISUSE)
    _app()(args=None if arguments is None else list(arguments), prog_name="lossforecast")


def _app() -> "typer.Typer":
    """Every command."""
    import typer

    app = typer.Typer(
        help="Says, while a training run is young, where its loss will end.",
        epilog=_CODES,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def root() -> None:
        """Keeps commands named even while there is only one."""

    _add_backtest(app)
    _add_learn_prior(app)
    return app


def _add_backtest(app: "typer.Typer") -> None:
    import typer

    @app.command("backtest", epilog=_CODES)
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
        with _errors_in_one_line():
            _check_outputs({"--json": json_, "--plot": plot, "--markdown": markdown_})
            if sweep:
                if plot or markdown_ or by or unseen != "fold":
                    raise ConfigurationError(
                        "--plot, --markdown, --by and --unseen say nothing about sweeps: leave "
                        "them out with --sweep"
                    )
                _backtest_sweeps(curves, json_, jobs, baselines=baselines)
                return
            _check_plot(plot)
            views = _views(by)
            runs = load_curves(curves)
            priors = _priors(runs, unseen, jobs)
            with _progress("replaying runs") as tell:
                result = backtest(
                    runs, jobs=jobs, baselines=baselines, prior_for=priors, progress=tell
                )
            if not result.records:
                raise ConfigurationError(
                    f"{curves} has no run to score: each needs a finite end, 10 losses before it "
                    "and a completion that does not say it stopped early"
                )
            _draw(result, plot)
            _write_json(result.to_json(), json_)
            if markdown_ is not None:
                _write(markdown_, markdown(result.table("group")))
            _print_tables(result, views, to_stderr=_STANDARD_OUTPUT in (json_, plot, markdown_))


def _backtest_sweeps(curves: Path, json_: Path | None, jobs: int, *, baselines: bool) -> None:
    from rich.console import Console

    if baselines and importlib.util.find_spec("optuna") is None:
        raise ConfigurationError(
            'the rules to compare with need optuna: pip install "lossforecast[optuna]", or give '
            "--no-baselines"
        )
    rules = RULES if baselines else {"dominated": RULES["dominated"]}
    with _progress("forecasting runs") as tell:
        scores = replay_sweeps(curves, jobs=jobs, rules=rules, progress=tell)
    if not scores:
        raise ConfigurationError(
            f"{curves} has no sweep to score: it takes two completed runs with validation losses "
            "and one `sweep` or `sweep_all_optimizers` in their descriptions"
        )
    _write_json([score.to_json() for score in scores], json_)
    console = Console(stderr=json_ == _STANDARD_OUTPUT, highlight=False, width=_WIDTH)
    for table in sweep_tables(scores):
        console.print(table)


def _add_learn_prior(app: "typer.Typer") -> None:
    import typer

    @app.command("learn-prior", epilog=_CODES)
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
        with _errors_in_one_line():
            _check_outputs({"--json": json_})
            with _progress("learning") as tell:
                lessons = learn_prior(load_curves(curves), jobs=jobs, progress=tell)
            _write_json(lessons.to_json(), json_)
            _print_lessons(lessons, to_stderr=json_ == _STANDARD_OUTPUT)


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
    Console(stderr=to_stderr, highlight=False, width=_WIDTH).print(table)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Misuse ends the process with its message and without a traceback."""
    import typer

    try:
        yield
    except BrokenPipeError:  # the reader has seen enough; nothing more may be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (LossForecastError, OSError) as error:
        _complain(" ".join(str(error).split()))
        raise typer.Exit(_MISUSE) from None


def _complain(message: str) -> None:
    sys.stderr.write(f"error: {message}\n")


def _check_outputs(outputs: Mapping[str, Path | None]) -> None:
    """Fail before the work, not after it; paths by the names of their options."""
    for path in outputs.values():
        if path is None or path == _STANDARD_OUTPUT:
            continue
        if path.is_dir() or not path.parent.is_dir():
            raise ConfigurationError(f"cannot write {path}: it is a folder, or is in none")
    printed = [name for name, path in outputs.items() if path == _STANDARD_OUTPUT]
    if len(printed) > 1:
        raise ConfigurationError(f"only one of {' and '.join(printed)} can be standard output")


def _check_plot(plot: Path | None) -> None:
    if plot is None:
        return
    if plot != _STANDARD_OUTPUT and plot.suffix not in _PICTURES:
        raise ConfigurationError(f"cannot draw {plot}: name it {', '.join(_PICTURES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError('--plot needs matplotlib: pip install "lossforecast[plot]"')


def _draw(result: Backtest, path: Path | None) -> None:
    if path is None:
        return
    if path == _STANDARD_OUTPUT:
        plot_errors(result).savefig(sys.stdout.buffer, format="png", dpi=150)
        sys.stdout.flush()
    else:
        plot_errors(result).savefig(path, dpi=150)


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
    with _progress("learning") as tell:
        lessons = learn_prior(runs, fold_of=lambda run: run.peak_fold, jobs=jobs, progress=tell)
    return lambda run: lessons.without[run.peak_fold]


def _write_json(found: Any, path: Path | None) -> None:
    _write(path, json.dumps(found, indent=1, allow_nan=False) + "\n")


def _write(path: Path | None, text: str) -> None:
    if path == _STANDARD_OUTPUT:
        sys.stdout.write(text)
        sys.stdout.flush()
    elif path is not None:
        path.write_text(text, encoding="utf-8")


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    """A bar on standard error, or a line per tenth where that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:

        def line(done: int, total: int) -> None:
            if done * 10 // total > (done - 1) * 10 // total:
                sys.stderr.write(f"{what}: {done} of {total}\n")

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _print_tables(result: Backtest, views: Sequence[str], *, to_stderr: bool) -> None:
    from rich.console import Console

    console = Console(stderr=to_stderr, highlight=False)
    note_width = min(console.width, 100)
    console.width = max(console.width, _WIDTH)  # a row that wraps cannot be read
    for view in views:
        cells = result.table(view)
        if not cells:
            console.print(f"by {view}: no cell has {LEAST} forecasts, too few to quote")
            continue
        console.print(score_table(view, cells))
        if cells[0].baselines:
            console.print(difference_table(view, cells))
    console.print(_NOTE, style="dim", markup=False, width=note_width)
