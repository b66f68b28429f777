"""The runs in a log that holds several, by name or by number, and the one that is read."""

from collections.abc import Iterable, Sequence

from lossforecast.errors import ConfigurationError
from lossforecast.readers.columns import listed, run_of
from lossforecast.readers.source import Source

__all__ = ["chosen_run", "run_number", "runs_of"]


def run_number(source: Source, run: str | int) -> int:
    """The number of a run that was asked for, in a log whose runs have no names.

    Raises:
        ConfigurationError: it is not a whole number of at least 1.
    """
    text = str(run).strip()
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(
            f"{source.path} ({source.format}) names no runs: give the number of a run, from 1 on, "
            f"not {run!r:.60}"
        )
    return int(text)


def runs_of(source: Source, losses: Iterable[str]) -> tuple[str, ...]:
    """The names or numbers of the runs in a log, in order, as far as it has been read.

    Args:
        source: the log.
        losses: the columns of losses.

    Returns:
        The runs; () if a log whose runs have no names holds a single one.
    """
    if source.runs_have_names:
        return tuple(dict.fromkeys(run for name in losses if (run := run_of(name))))
    numbers = range(1, source.n_runs + 1) if source.n_runs > 1 else ()
    return tuple(map(str, numbers))


def chosen_run(
    source: Source, runs: Sequence[str], asked: str | int | None, column: str | None
) -> str | None:
    """The run to read; None if the log holds a single one. The choice is noted in the log.

    Args:
        source: the log.
        runs: names or numbers of its runs.
        asked: the name or number, from 1, that was asked for.
        column: the column of the loss, if it was given.

    Raises:
        ConfigurationError: there is no such run.
    """
    if not source.runs_have_names:
        if asked is not None:
            return str(source.run)
        if runs:
            source.notes.append(
                f"{len(runs)} runs in this log, one after the other: the last one is read; "
                "another one with --run N"
            )
        return runs[-1] if runs else None
    if asked is None:
        if column is None and len(runs) > 1:
            source.notes.append(
                f"{len(runs)} runs in this log: {runs[0]!r} is read; another one with --run, by "
                f"its name or number: {listed(runs)}"
            )
        return (run_of(column) if column is not None else next(iter(runs), "")) or None
    text = str(asked)
    if text in runs:
        return text
    if text.isdecimal() and 1 <= int(text) <= len(runs):
        return runs[int(text) - 1]
    raise ConfigurationError(
        f"{source.path} ({source.format}) has no run {text!r:.60}; it has "
        f"{listed(runs) if runs else 'a single one'}"
    )
