"""`read_log`: the losses and learning rates of a run, from the log that its tracker wrote."""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from lossforecast.errors import ConfigurationError, NothingLoggedError
from lossforecast.readers.cells import MAX_STEP
from lossforecast.readers.columns import (
    in_run,
    is_epoch,
    is_error,
    is_likely_loss,
    is_loss,
    is_of_trades,
    is_rate,
    listed,
    metric_of,
    plain,
    reward_of,
    run_of,
    words,
)
from lossforecast.readers.epochs import EpochColumn
from lossforecast.readers.find import MAX_LISTED_LOGS, logs_below, open_log
from lossforecast.readers.length import Length
from lossforecast.readers.log import Log
from lossforecast.readers.rate_end import implied_end
from lossforecast.readers.rates import rate_column as best_rate_column
from lossforecast.readers.series import Series
from lossforecast.readers.several_runs import chosen_run, run_number, runs_of
from lossforecast.readers.source import Source
from lossforecast.readers.steps import Numbering
from lossforecast.runs import History

__all__ = ["read_log"]

_PREFERRED_LOSSES = (
    "loss",
    "train/loss",
    "train_loss",
    "train_loss_step",
    "training_loss",
    "total_loss",
    "train/total_loss",
    "train_total_loss",
    "loss/total",
    "average_loss",
    "avg_loss",
    "mean_loss",
)
"""Names of the loss to forecast, the preferred one first."""
_OF_FILE = re.compile(r"loss|error")
_PARTS_SHARE = 0.4  # of its points at the step before: such a column has parts of steps
_ONCE, _OFTEN = 2, 20  # points of a column that is passed over for those of another
_TOTAL = re.compile(r"(^|[^a-z])(total|sum|mean|avg|average|overall)($|[^a-z])")
"""In the names that come before those of components."""


def read_log(
    path: str | os.PathLike[str],
    *,
    column: str | None = None,
    metric: str | None = None,
    step_column: str | None = None,
    rate_column: str | None = None,
    total_steps: int | None = None,
    run: str | int | None = None,
    on_read: Callable[[int], None] | None = None,
) -> Log:
    r"""Read a log of any known format: TensorBoard events, CSV, JSON lines, trainer_state.json.

    Memory does not grow with the log. A step lower than the one before is a restart: what any
    column had from that step on is dropped. A log that goes back to its first step holds several
    runs, of which the last is read.

    Args:
        path: a file, or the folder of one run.
        column: the column of the loss; by default the first named like one, a training loss if
            there is any.
        metric: "train" or "val"; by default judged by the name of the column.
        step_column: the column of optimizer steps in a table, if its name is not a usual one.
        rate_column: the column of the learning rate; by default the one named like it.
        total_steps: planned length of the run; shows whether its steps are numbered from 0 or 1.
        run: the run to read from a log of several: its name, or its number from 1. By default the
            last of runs that were appended, and the first of runs with names.
        on_read: is told, now and then, how many more bytes were read. Some logs are read twice.

    Raises:
        ConfigurationError: the log is missing, empty, damaged or in no known format, or it lacks
            a column or run asked for. The message says what the log has.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/log.csv"
        >>> with open(path, "w") as file:
        ...     _ = file.write("step,train_loss,lr\n0,4.0,0.1\n1,3.5,0.1\n2,3.2,0.05\n")
        >>> log = read_log(path)
        >>> log.column, log.metric, log.history.n_observed, log.rate_column
        ('train_loss', 'train', 3, 'lr')
    """
    source = open_log(path, step_column)
    source.on_read = on_read
    asked = frozenset(name for name in (column, rate_column) if name is not None)
    source.asked = asked | set(map(words, asked))
    if run is not None and not source.runs_have_names:
        source.run = run_number(source, run)
    series, epochs = _read(source, source.asked, rate_column)
    source.check_run()
    column, rate_column = _in_lower_case(column, series), _in_lower_case(rate_column, series)
    losses = [name for name in series if is_loss(name) and not series[name].is_count]
    losses = [name for name in losses if not is_of_trades(name, source.columns)]
    likely = not losses and column is None
    if likely:
        losses, series, epochs = _likely_losses(source, rate_column) or (losses, series, epochs)
    runs = runs_of(source, series if column in series else losses)
    taken = chosen_run(source, runs, run, column if column in series else None)
    if source.runs_have_names:
        losses = [name for name in losses if run_of(name) == (taken or "")]
        column, rate_column = _of_run(taken, column, series), _of_run(taken, rate_column, series)
    _check_columns(source, {name for name in (column, rate_column) if name is not None}, series)
    chosen = column or _loss_column(source, losses, metric, series)
    loss, loss_metric = series[chosen], metric or _metric_of(source, chosen)
    loss.check(source, chosen)
    notes = [*dict.fromkeys(source.notes), *loss.notes()]
    if likely:
        notes.append(
            f"nothing in this log is named a loss: taking {chosen!r}, which falls, for the "
            f"{'validation' if loss_metric == 'val' else 'training'} loss; name another with "
            "--column"
        )
    same_run = (name for name in source.columns if run_of(name) in ("", run_of(chosen)))
    if (sign := reward_of(chosen, same_run)) is not None:
        notes.append(
            f"{chosen!r} is an objective of reinforcement learning or of preferences, as {sign!r} "
            "shows: it need not fall while the policy gets better, so its forecast says little"
        )
    total = source.total_steps if total_steps is None else total_steps
    from_1 = loss_metric == "train" and loss.counts_from_1
    numbering = Numbering.of(source, chosen, total, loss.history.last_step, from_1)
    true_step = numbering.true_step(chosen, loss_metric)
    if true_step is not None:  # read again: only the end of the log shows how steps are numbered
        loss = _read(source, {chosen}, None, true_step)[0][chosen]
    notes += [numbering.note] if numbering.note else []
    often = {name: column for name, column in series.items() if not _seen_once(column, loss)}
    rate = rate_column or best_rate_column(often, chosen, notes)
    bins = series[rate].history.bins() if rate is not None else History().bins()
    steps = np.rint(bins.step).astype(np.int64)
    valid = np.isfinite(bins.mean) & (bins.mean >= 0)
    steps_per_epoch = source.steps_per_epoch or _steps_per_epoch(epochs, chosen)
    end = None if total_steps is not None else implied_end(steps[valid], bins.mean[valid])
    length = Length.of(source, numbering.steps_taken, steps_per_epoch, end)
    if total_steps is None and length.note:
        notes.append(length.note)
    return Log(
        path=source.path,
        format=source.format,
        column=chosen,
        metric=loss_metric,
        history=loss.history,
        rate_column=rate,
        rate_steps=steps[valid],
        rates=bins.mean[valid],
        total_steps=length.total_steps,
        steps_taken=numbering.steps_taken,
        steps_per_epoch=steps_per_epoch,
        others=tuple(name for name in losses if name != chosen),
        notes=tuple(notes),
        run=taken,
        runs=runs,
    )


def _read(
    source: Source,
    asked: AbstractSet[str],
    rate_column: str | None,
    true_step: Callable[[int], int] | None = None,
) -> tuple[dict[str, Series], dict[str, EpochColumn]]:
    """The losses, rates and columns asked for, or these alone if `true_step` is given; the epochs.

    Learning rates that are not finite are left out.
    """
    series: dict[str, Series] = {}
    epochs: dict[str, EpochColumn] = {}
    n_runs = 1
    for name, step, value in source.points(
        lambda n: (
            n in asked
            or plain(n) in asked
            or (true_step is None and (is_loss(n) or is_rate(n) or is_epoch(n)))
        )
    ):
        if source.n_runs != n_runs:
            n_runs = source.n_runs
            series.clear()
            epochs.clear()
        if source.purged_from is not None:
            _restart(source, series, source.purged_from - 1, MAX_STEP)
            source.purged_from = None
        if is_epoch(name):
            epochs.setdefault(name, EpochColumn()).add(step, value)
        if is_epoch(name) and name not in asked:
            continue
        if not math.isfinite(value) and (name == rate_column or is_rate(name)):
            continue
        if name not in series:
            series[name] = Series()
        at = step if true_step is None else true_step(step)
        if at < (last := series[name].last_step):
            _restart(source, series, at, last)
        series[name].add(at, value)
    for column in series.values():
        column.flush()
    return series, epochs


def _restart(source: Source, series: Mapping[str, Series], step: int, last: int) -> None:
    """Drop what the columns that count the same steps have after a step to which one goes back."""
    for column in series.values():
        if step < column.last_step <= last:
            column.rewind(step)
    for name, end in source.columns.items():
        if step < end <= last:
            source.columns[name] = step


def _in_lower_case(name: str | None, series: Mapping[str, Series]) -> str | None:
    """The name of a column, in lower case if it is found so, as those of text logs are."""
    if name is None or name in series or words(name) not in series:
        return name
    return words(name)


def _of_run(run: str | None, name: str | None, series: Mapping[str, Series]) -> str | None:
    """The full name of a column that was given without the name of its run."""
    full = in_run(run or "", name or "")
    return full if full in series else name


def _check_columns(source: Source, asked: set[str], series: Mapping[str, Series]) -> None:
    """Check that every column asked for has values."""
    for name in asked - set(series):
        empty = source.columns.get(name) == -1
        raise (NothingLoggedError if empty else ConfigurationError)(
            f"{source.path} ({source.format}) has no values of {name!r}; it has "
            f"{listed(source.columns)}"
        )


def _likely_losses(
    source: Source, rate_column: str | None
) -> tuple[list[str], dict[str, Series], dict[str, EpochColumn]] | None:
    """The columns that may be losses in a log where none is named one, and what was read.

    These are columns such as `train`, or a single column; those that rise are none.
    """
    values = [n for n in source.columns if not is_rate(n) and not is_epoch(n)]
    names = [name for name in values if is_likely_loss(name)]
    names = names or (values if len(values) == 1 else [])
    if not names:
        return None
    source.asked |= set(names)
    series, epochs = _read(source, source.asked, rate_column)
    losses = [name for name in names if name in series and series[name].falls]
    return (losses, series, epochs) if losses else None


def _metric_of(source: Source, column: str) -> str:
    """The kind of a loss, by the names of its column and of its file, as of `test_error.tsv`."""
    stem = source.path.name.partition(".")[0].lower()
    of_file = metric_of(stem) if _OF_FILE.search(stem) else "train"
    return "val" if "val" in (metric_of(column), of_file) else "train"


def _loss_column(
    source: Source, losses: Sequence[str], metric: str | None, series: Mapping[str, Series]
) -> str:
    """The loss to forecast: a training loss if there is one, by the commonest name.

    Raises:
        ConfigurationError: there is none.
    """
    fitting = [name for name in losses if metric in (None, metric_of(name))]
    if not fitting:
        raise _no_loss(source, losses, metric)

    most = max((series[name] for name in fitting), key=lambda column: column.points)

    any_constant = any(series[name].is_constant for name in fitting)

    def rank(name: str) -> tuple[bool, bool, bool, bool, bool, bool, int, int]:
        word = words(plain(name))
        common = word in _PREFERRED_LOSSES
        total = _TOTAL.search(word) is not None and not word.startswith("epoch_")
        place = _PREFERRED_LOSSES.index(word) if common else len(_PREFERRED_LOSSES) + (not total)
        of_parts = series[name].repeats > _PARTS_SHARE * series[name].points
        doubtful = _seen_once(series[name], most), of_parts
        of_validation = metric_of(name) == "val"
        constant = any_constant and of_validation, series[name].is_constant
        return *constant, is_error(name), of_validation, *doubtful, place, losses.index(name)

    return min(fitting, key=rank)


def _seen_once(column: Series, other: Series) -> bool:
    """True if a column has a value or two where another goes on, as in the code above a log."""
    return column.points <= _ONCE < _OFTEN <= other.points


def _no_loss(source: Source, losses: Sequence[str], metric: str | None) -> ConfigurationError:
    """The error for a log without a loss, or without one yet."""
    log = f"{source.path} ({source.format})"
    if not any(step >= 0 for step in source.columns.values()):
        return NothingLoggedError(
            f"no column of {log} has values yet; it has {listed(source.columns)}"
        )
    empty = [name for name, step in source.columns.items() if is_loss(name) and step < 0]
    if empty and not losses:
        return NothingLoggedError(f"{empty[0]!r} of {log} has no values yet")
    loss = {None: "loss", "train": "training loss"}.get(metric, "validation loss")
    below = logs_below(source.path) if source.path.is_dir() else []
    hint = f", or give a log below: {', '.join(below[:MAX_LISTED_LOGS])}" if below else ""
    return ConfigurationError(
        f"no column of {log} is named like a {loss}; it has {listed(source.columns)}. Name one "
        f"with --column{hint}"
    )


def _steps_per_epoch(epochs: Mapping[str, EpochColumn], loss: str) -> float | None:
    """The optimizer steps of an epoch of the run of a loss, by the first column that tells."""
    columns = (column for name, column in epochs.items() if run_of(name) in ("", run_of(loss)))
    return next((steps for column in columns if (steps := column.steps_per_epoch())), None)
