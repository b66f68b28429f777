"""The command line, ``lossforecast`` or ``python -m lossforecast`` (needs typer and rich).

Results go to standard output; notes, progress and errors go to standard error. ``-`` in place of a
path is standard output, and tables then go to standard error. Exit codes of every command: 0 done;
2 invalid request, with one line that says why; 130 interrupted; 1 a bug, with a traceback, or logs
that were left out, each with the reason.

A command is one module with a function ``add_COMMAND(app)``, listed in `app`.
"""

import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from lossforecast.cli.backtest import add_backtest
from lossforecast.cli.compare import add_compare
from lossforecast.cli.demo import add_demo
from lossforecast.cli.forecast import add_forecast
from lossforecast.cli.learn_prior import add_learn_prior
from lossforecast.cli.output import EXIT_CODES, EXIT_MISUSE, print_error
from lossforecast.cli.plan import add_plan
from lossforecast.cli.replay import add_replay
from lossforecast.cli.runs import add_runs
from lossforecast.cli.schema import add_schema
from lossforecast.cli.watch import add_watch
from lossforecast.cli.what_if import add_what_if
from lossforecast.version import __version__

if TYPE_CHECKING:
    import typer

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line with `arguments`, by default those of the process."""
    if missing := [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]:
        print_error(f'the command line needs {missing[0]}: pip install "lossforecast[cli]"')
        sys.exit(EXIT_MISUSE)
    app()(args=None if arguments is None else list(arguments), prog_name="lossforecast")


def app() -> "typer.Typer":
    """The program with all its commands."""
    import typer

    program = typer.Typer(
        help="Forecast the final loss of a training run while the run is young.",
        epilog=EXIT_CODES,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )

    def show_version(asked: bool) -> None:
        if asked:
            typer.echo(f"lossforecast {__version__}")
            raise typer.Exit

    @program.callback()
    def _(
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=show_version, is_eager=True, help="Show the version."
            ),
        ] = False,
    ) -> None: ...

    for add in (
        add_demo,
        add_replay,
        add_forecast,
        add_watch,
        add_what_if,
        add_plan,
        add_compare,
        add_runs,
        add_backtest,
        add_learn_prior,
        add_schema,
    ):
        add(program)
    return program
