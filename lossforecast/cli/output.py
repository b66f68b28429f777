"""Helpers of all commands: exit codes, errors, files, pictures, progress."""

import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossforecast.cli.schemas import schema_name
from lossforecast.errors import ConfigurationError, LossForecastError
from lossforecast.policies import Action
from lossforecast.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

__all__ = [
    "EXIT_BY_ADVICE",
    "EXIT_CODES",
    "EXIT_CODE_HELP",
    "EXIT_LEFT_OUT",
    "EXIT_MISUSE",
    "PIPE_WIDTH",
    "STANDARD_OUTPUT",
    "check_outputs",
    "check_plot",
    "console",
    "draw",
    "errors_in_one_line",
    "exit_by_advice",
    "print_error",
    "print_note",
    "progress",
    "reading",
    "write",
    "write_json",
]

EXIT_LEFT_OUT, EXIT_MISUSE = 1, 2
EXIT_CODES = (
    "Exit codes: 0 done, 2 invalid request (one line says why), 130 interrupted, 1 a bug, or some "
    "of the logs were left out (with the reasons)."
)
EXIT_BY_ADVICE = {Action.STOP: 10, Action.CHANGE_SCHEDULE: 11, Action.ABSTAIN: 12}
"""Exit codes of --exit-code, the most severe first; 0 is to go on."""
EXIT_CODE_HELP = (
    "End with an exit code for the advice: 0 go on, 10 stop, 11 change the schedule, 12 no advice "
    "yet."
)
PIPE_WIDTH = 200
"""Width in characters of output that is not shown on a terminal: room for the longest row."""
STANDARD_OUTPUT = Path("-")
_MEGABYTE = 1_000_000
_LARGE = 50 * _MEGABYTE  # bytes of a log whose reading takes seconds
_PICTURE_SUFFIXES = (".png", ".pdf", ".svg")
_PICTURE_DPI = 150


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn misuse and file errors into one line on standard error and exit code 2."""
    import typer

    try:
        yield
    except BrokenPipeError:  # the reader closed the pipe, as `head` does: write nothing more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (LossForecastError, OSError) as error:
        print_error(" ".join(str(error).split()))
        raise typer.Exit(EXIT_MISUSE) from None


def exit_by_advice(advice: Iterable[Action]) -> None:
    """End the command with the exit code of the most severe advice."""
    import typer

    given = set(advice)
    for action, code in EXIT_BY_ADVICE.items():
        if action in given:
            raise typer.Exit(code)


def print_error(message: str) -> None:
    """Print why a command failed, in one line on standard error."""
    sys.stderr.write(f"error: {printable(message)}\n")


def check_outputs(outputs: Mapping[str, Path | None]) -> None:
    """Check before the work that the outputs can be written.

    Args:
        outputs: paths by the names of their options; None for an output that is not wanted.

    Raises:
        ConfigurationError: a path is a folder or its folder is missing, or two outputs are standard
            output.
    """
    for path in outputs.values():
        if path is None or path == STANDARD_OUTPUT:
            continue
        if path.is_dir() or not path.parent.is_dir():
            raise ConfigurationError(
                f"cannot write {path}: it is a folder, or its folder is missing"
            )
    printed = [name for name, path in outputs.items() if path == STANDARD_OUTPUT]
    if len(printed) > 1:
        raise ConfigurationError(f"only one of {' and '.join(printed)} can be standard output")


def check_plot(plot: Path | None) -> None:
    """Check before the work that a picture can be drawn.

    Raises:
        ConfigurationError: matplotlib is missing, or the suffix is not one of a picture.
    """
    if plot is None:
        return
    if plot != STANDARD_OUTPUT and plot.suffix not in _PICTURE_SUFFIXES:
        raise ConfigurationError(
            f"cannot draw {plot}: its name must end in one of {', '.join(_PICTURE_SUFFIXES)}"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError('--plot needs matplotlib: pip install "lossforecast[plot]"')


def draw(figure: "Figure", path: Path) -> None:
    """Write a picture to a file, or as PNG to standard output."""
    if path == STANDARD_OUTPUT:
        figure.savefig(sys.stdout.buffer, format="png", dpi=_PICTURE_DPI)
        sys.stdout.flush()
    else:
        figure.savefig(path, dpi=_PICTURE_DPI)


def console(*, to_stderr: bool) -> "Console":
    """Console for tables; wide enough for whole rows if it is not a terminal."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:  # rich itself would exit with code 1
            raise BrokenPipeError

    plain = Plain(stderr=to_stderr, highlight=False)
    if not plain.is_terminal:
        plain = Plain(stderr=to_stderr, highlight=False, width=PIPE_WIDTH)
    return plain


def print_note(message: str) -> None:
    """Print a remark about the result on standard error."""
    sys.stderr.write(f"note: {printable(message)}\n")


def write_json(command: str, value: Any, path: Path | None) -> None:
    """Write the result of a command as JSON of its schema, null for numbers that are not finite.

    Args:
        command: name of the schema, which an object gets as its first field.
        value: one object or a list of them, as plain values.
        path: file to write; None for nothing.
    """
    named = {"schema": schema_name(command), **value} if isinstance(value, Mapping) else value
    write(path, json.dumps(_finite(named), indent=1, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(path: Path | None, text: str) -> None:
    """Write text to a file or to standard output; to nothing for None."""
    if path == STANDARD_OUTPUT:
        sys.stdout.write(text)
        sys.stdout.flush()
    elif path is not None and path.exists() and not path.is_file():  # a pipe, a device
        path.write_text(text, encoding="utf-8")
    elif path is not None:  # readers find a whole file at any moment, also once the disk is full
        whole = path.resolve()
        partial = whole.with_name(f".{whole.name}.{os.getpid()}")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(whole)
        except OSError as error:
            raise ConfigurationError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def progress(label: str) -> Iterator[Any]:
    """Yield a function of (done, total) that draws a bar on standard error.

    If that is not a terminal, the function prints a line for every tenth.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    stderr = Console(stderr=True)
    if not stderr.is_terminal:

        def line(done: int, total: int) -> None:
            if done * 10 // total > (done - 1) * 10 // total:
                sys.stderr.write(f"{label}: {done} of {total}\n")

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def reading(path: Path) -> Iterator[Callable[[int], None] | None]:
    """Yield a function of the bytes just read that draws a bar on standard error.

    None for a small log, and if standard error is not a terminal.
    """
    files = path.iterdir() if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    if size < _LARGE or not sys.stderr.isatty():
        yield None
        return
    done = 0
    with progress(f"reading {printable(path.name)} (MB)") as report:

        def on_read(more: int) -> None:
            nonlocal done
            done = (done + more) % size  # some logs are read twice
            report(done // _MEGABYTE, size // _MEGABYTE)

        yield on_read
