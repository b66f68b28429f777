"""The command `learn-prior`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lossforecast.backtest import Lessons, learn_prior, load_curves
from lossforecast.cli.options import CURVES_HELP, JOBS_HELP
from lossforecast.cli.output import (
    EXIT_CODES,
    PIPE_WIDTH,
    STANDARD_OUTPUT,
    check_outputs,
    errors_in_one_line,
    progress,
    write_json,
)
from lossforecast.cli.tables import empty_table, escaped, percent

if TYPE_CHECKING:
    import typer

__all__ = ["add_learn_prior"]


def add_learn_prior(app: "typer.Typer") -> None:
    """Add `learn-prior`."""
    import typer

    @app.command("learn-prior", epilog=EXIT_CODES)
    def command(
        curves: Annotated[Path, typer.Option(help=CURVES_HELP)],
        json_: Annotated[
            Path | None,
            typer.Option("--json", help="Write the table of the prior to this file; - for stdout."),
        ] = None,
        jobs: Annotated[int, typer.Option(help=JOBS_HELP)] = 1,
    ) -> None:
        """Learn the prior from recorded runs: the table that Prior.from_table reads."""
        with errors_in_one_line():
            check_outputs({"--json": json_})
            with progress("learning") as report:
                lessons = learn_prior(load_curves(curves), jobs=jobs, progress=report)
            write_json("learn-prior", lessons.to_json(), json_)
            _print_lessons(lessons, to_stderr=json_ == STANDARD_OUTPUT)


def _print_lessons(lessons: Lessons, *, to_stderr: bool) -> None:
    from rich.console import Console

    columns = [
        "drop at 1e-3",
        "peak ^",
        "decay ^",
        "spread",
        "without the rule",
        "x jitter",
        "x slope",
        "x fall",
    ]
    table = empty_table(
        "the prior learned from all runs, and without those of each fold", "without", columns
    )
    for fold, prior in {"(none)": lessons.all, **lessons.without}.items():
        rule, elsewhere = prior.known, prior.language_drops[0]
        jitters, slopes, falls = (
            max(getattr(drop, name) for drop in prior.loose_drops)
            for name in ("jitters", "slopes", "falls")
        )
        shares = (rule.size, rule.spread, elsewhere.size)
        size, spread, other = (percent(share) + "%" for share in shares)
        powers = (rule.peak_exponent, rule.decay_exponent)
        peak, decay = (f"{power:.2f}" for power in powers)
        ratios = (f"{ratio:.2f}" for ratio in (jitters, slopes, falls))
        table.add_row(escaped(fold), size, peak, decay, spread, other, *ratios)
    Console(stderr=to_stderr, highlight=False, width=PIPE_WIDTH).print(table)
