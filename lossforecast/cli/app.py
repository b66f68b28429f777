"""The command line, ``lossforecast`` or ``python -m lossforecast`` (needs typer and rich).

Exit codes of every command: 0 done; 2 what was asked for cannot be done, with one line that says
why; 130 interrupted; 1 a fault of ours, with a traceback. What a command computes goes to standard
output, everything else to standard error; ``-`` in place of a path is standard output, and tables
then go to standard error.
"""

import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lossforecast.cli.backtest import add_backtest, add_learn_prior
from lossforecast.cli.logs import add_forecast, add_replay, add_what_if
from lossforecast.cli.output import CODES, MISUSE, complain
from lossforecast.cli.runs import add_runs

if TYPE_CHECKING:
    import typer

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line with the arguments given, by default those of the process."""
    if missing := [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]:
        complain(f'the command line needs {missing[0]}: pip install "lossforecast[cli]"')
        sys.exit(MISUSE)
    app()(args=None if arguments is None else list(arguments), prog_name="lossforecast")


def app() -> "typer.Typer":
    """Every command."""
    import typer

    found = typer.Typer(
        help="Says, while a training run is young, where its loss will end.",
        epilog=CODES,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    for add in (add_replay, add_forecast, add_what_if, add_runs, add_backtest, add_learn_prior):
        add(found)
    return found
