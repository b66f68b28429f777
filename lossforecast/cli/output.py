"""What every command of the command line does alike: errors, files, pictures, progress."""

import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossforecast.errors import ConfigurationError, LossForecastError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

__all__ = [
    "CODES",
    "MISUSE",
    "STANDARD_OUTPUT",
    "WIDTH",
    "check_outputs",
    "check_plot",
    "complain",
    "console",
    "draw",
    "errors_in_one_line",
    "note",
    "progress",
    "write",
    "write_json",
]

MISUSE = 2
WIDTH = 200
"""Columns of a table that is not shown on a terminal: room for a whole row."""
STANDARD_OUTPUT = Path("-")
CODES = "Exit codes: 0 done, 2 impossible as asked (one line says why), 130 interrupted, 1 a bug."
_PICTURES = (".png", ".pdf", ".svg")


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Misuse ends the process with its message and without a traceback."""
    import typer

    try:
        yield
    except BrokenPipeError:  # the reader has seen enough; nothing more may be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (LossForecastError, OSError) as error:
        complain(" ".join(str(error).split()))
        raise typer.Exit(MISUSE) from None


def complain(message: str) -> None:
    """Say in one line why something cannot be done."""
    sys.stderr.write(f"error: {message}\n")


def check_outputs(outputs: Mapping[str, Path | None]) -> None:
    """Fail before the work, not after it; paths by the names of their options."""
    for path in outputs.values():
        if path is None or path == STANDARD_OUTPUT:
            continue
        if path.is_dir() or not path.parent.is_dir():
            raise ConfigurationError(f"cannot write {path}: it is a folder, or is in none")
    printed = [name for name, path in outputs.items() if path == STANDARD_OUTPUT]
    if len(printed) > 1:
        raise ConfigurationError(f"only one of {' and '.join(printed)} can be standard output")


def check_plot(plot: Path | None) -> None:
    """Fail before the work if the picture cannot be drawn."""
    if plot is None:
        return
    if plot != STANDARD_OUTPUT and plot.suffix not in _PICTURES:
        raise ConfigurationError(f"cannot draw {plot}: name it {', '.join(_PICTURES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError('--plot needs matplotlib: pip install "lossforecast[plot]"')


def draw(figure: "Figure", path: Path) -> None:
    """Write a picture, a PNG to standard output."""
    if path == STANDARD_OUTPUT:
        figure.savefig(sys.stdout.buffer, format="png", dpi=150)
        sys.stdout.flush()
    else:
        figure.savefig(path, dpi=150)


def console(*, to_stderr: bool) -> "Console":
    """Where tables for people go; as wide as they need where that is no terminal."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:  # by itself it would end the process with 1
            raise BrokenPipeError

    found = Plain(stderr=to_stderr, highlight=False)
    if not found.is_terminal:
        found = Plain(stderr=to_stderr, highlight=False, width=WIDTH)
    return found


def note(message: str) -> None:
    """Tell people something beside the result."""
    sys.stderr.write(f"note: {message}\n")


def write_json(found: Any, path: Path | None) -> None:
    """Write plain values, null for numbers that are not finite."""
    write(path, json.dumps(_finite(found), indent=1, allow_nan=False) + "\n")


def _finite(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {name: _finite(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def write(path: Path | None, text: str) -> None:
    """Write to a file, to standard output, or nowhere."""
    if path == STANDARD_OUTPUT:
        sys.stdout.write(text)
        sys.stdout.flush()
    elif path is not None:
        path.write_text(text, encoding="utf-8")


@contextmanager
def progress(what: str) -> Iterator[Any]:
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
