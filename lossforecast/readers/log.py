"""`read_log`: the losses and learning rates of a run, from the log that its tracker wrote."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.errors import ConfigurationError, NothingLoggedError
from lossforecast.readers.formats import events_below, open_log
from lossforecast.readers.source import Source, is_loss, is_rate, metric_of, run_of, words
from lossforecast.readers.steps import Numbering
from lossforecast.runs import END_SHARE, History
from lossforecast.schedule import OFF_PLAN_TOLERANCE, LRSchedule
from lossforecast.status import Caveat

__all__ = ["Log", "read_log"]


_BINS = 16_384  # of a column, so that memory does not grow with the log
_CHUNK = 4096  # points that are put into bins at once
_REWINDS = 0.02  # of the points: more than these and three are several runs
_OFTEN = 0.2  # of the logged rates: more of them off the plan contradict it
_PREFERRED = (
    "loss",
    "train/loss",
    "train_loss",
    "train_loss_step",
    "training_loss",
    "total_loss",
    "train/total_loss",
    "train_total_loss",
    "loss/total",
)


@dataclass(frozen=True)
class Log:
    """What a log tells of a run.

    Attributes:
        path: the file or folder.
        kind: the format, for people.
        column: the loss.
        metric: "train" or "val".
        history: its losses, in bins if they are many.
        rate_column: the learning rate; None where the log has none.
        rate_steps: whole steps of the rates, (n,).
        rates: learning rates, (n,).
        total_steps: length of the run, where the log has it.
        steps_taken: optimizer steps of the run so far, by all that was logged of it.
        others: further columns that are called like losses.
        notes: what people should know of what was read.
    """

    path: Path
    kind: str
    column: str
    metric: str
    history: History = field(repr=False)
    rate_column: str | None
    rate_steps: IntArray = field(repr=False)
    rates: FloatArray = field(repr=False)
    total_steps: int | None
    steps_taken: int
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the run: the last two parts of the path."""
        return "/".join(self.path.absolute().parts[-2:])

    def plan(self, total_steps: int | None = None, planned: LRSchedule | None = None) -> LRSchedule:
        """The learning rate of every step: as logged up to the last one, then as planned.

        Without a plan the last rate is held, with the caveat `LR_ASSUMED` unless the log covers
        the whole run.

        Args:
            total_steps: length of the run; by default as logged or planned, else that of the log.
            planned: the schedule of the whole run.

        Raises:
            ConfigurationError: no learning rate is known, or the log is longer than the run.
        """
        last = max(self.steps_taken, 1)
        total = self.total_steps if total_steps is None else total_steps
        if total is None:
            total = last if planned is None else planned.total_steps
        if last > total:
            raise ConfigurationError(
                f"{self.path}: the log goes on to step {last}, beyond the {total} steps of the run"
            )
        if planned is not None:
            planned = planned if planned.total_steps == total else _of_length(planned, total)
        if not self.rates.size:
            if planned is None:
                raise ConfigurationError(
                    f"{self.path} has no learning rate that is known by its name. Name the column "
                    "with --lr-column, or give --schedule, such as cosine:peak=3e-4,warmup=2000"
                )
            return planned
        if planned is not None and self._off(planned):
            told = {**planned.to_dict(), "caveats": [*planned.caveats, Caveat.LR_OFF_PLAN]}
            planned = LRSchedule.from_dict(told)
        covered = int(self.rate_steps[-1])
        assumed = [Caveat.LR_ASSUMED] if planned is None and covered < END_SHARE * total else []
        logged = LRSchedule.from_points(
            self.rate_steps, self.rates, total_steps=max(total, 1), caveats=assumed
        )
        if planned is None or covered >= total:
            return logged
        return logged.joined(covered, planned)

    def _off(self, planned: LRSchedule) -> bool:
        """Whether the logged rates contradict a plan; a step earlier or later is no matter."""
        there = (self.rate_steps >= 1) & (self.rate_steps <= planned.total_steps)
        steps, rates = self.rate_steps[there], self.rates[there]
        near = [np.clip(steps + i, 1, planned.total_steps) for i in (-1, 0, 1)]
        away = np.min([np.abs(planned.lr(at) - rates) for at in near], axis=0)
        return bool(steps.size and np.mean(away > OFF_PLAN_TOLERANCE * planned.peak) > _OFTEN)


def read_log(
    path: str | os.PathLike[str],
    *,
    column: str | None = None,
    metric: str | None = None,
    step_column: str | None = None,
    rate_column: str | None = None,
    total_steps: int | None = None,
) -> Log:
    r"""Read a log of any known format: TensorBoard events, CSV, JSON lines, trainer_state.json.

    Memory does not grow with the log. A step before the last one is a restart: what was logged
    after it before is dropped.

    Args:
        path: a file, or the folder of one run.
        column: the loss; by default what is called like a loss.
        metric: "train" or "val"; by default what the name of the column says.
        step_column: the optimizer steps, of a table.
        rate_column: the learning rate; by default what is called like one.
        total_steps: length of the run, if it is known; it tells how the steps are numbered.

    Raises:
        ConfigurationError: no such log, one that is empty, damaged or none that is known, or one
            without what is asked for. The message says what was found.

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
    asked = {name for name in (column, rate_column) if name is not None}
    series = _gathered(source, rate_column, lambda n: n in asked or is_loss(n) or is_rate(n))
    for name in asked - set(series):
        kind = NothingLoggedError if source.columns.get(name) == -1 else ConfigurationError
        raise kind(
            f"{source.path} ({source.kind}) has no values of {name!r}; it has {_listed(source)}"
        )
    losses = [name for name in series if is_loss(name)]
    chosen = column or _chosen(source, losses, metric)
    loss, of = series[chosen], metric or metric_of(chosen)
    loss.check(source, chosen)
    notes = [*source.notes, *loss.notes()]
    total = source.total_steps if total_steps is None else total_steps
    numbering = Numbering.of(source, chosen, total, loss.history.last_step)
    place = numbering.placed(chosen, of)
    if place is not None:  # read again, as where the numbers begin shows at the end
        loss = _gathered(source, None, lambda name: name == chosen, place)[chosen]
    notes += [numbering.note] if numbering.note else []
    rate = rate_column or _rate(series, chosen, notes)
    found = series[rate].history.bins() if rate is not None else History().bins()
    steps = np.rint(found.step).astype(np.int64)
    sound = np.isfinite(found.mean) & (found.mean >= 0)
    return Log(
        path=source.path,
        kind=source.kind,
        column=chosen,
        metric=of,
        history=loss.history,
        rate_column=rate,
        rate_steps=steps[sound],
        rates=found.mean[sound],
        total_steps=source.total_steps,
        steps_taken=numbering.steps_taken,
        others=tuple(name for name in losses if name != chosen),
        notes=tuple(notes),
    )


def _gathered(
    source: Source,
    rate_column: str | None,
    wanted: Callable[[str], bool],
    place: Callable[[int], int] | None = None,
) -> dict[str, "_Series"]:
    series: dict[str, _Series] = {}
    for name, step, value in source.read(wanted):
        if not math.isfinite(value) and (name == rate_column or is_rate(name)):
            continue
        if name not in series:
            series[name] = _Series()
        series[name].add(step if place is None else place(step), value)
    for each in series.values():
        each.flush()
    return series


class _Series:
    """One column, in bins."""

    def __init__(self) -> None:
        self.history = History(_BINS)
        self.points = self.rewinds = 0
        self._last, self._finite = -1, False
        self._steps: list[int] = []
        self._values: list[float] = []

    def add(self, step: int, value: float) -> None:
        """One more point; at a step that has a finite value, nan is a cell that is missing."""
        finite = math.isfinite(value)
        if step == self._last and self._finite and not finite:
            return
        self.points += 1
        self.rewinds += step < self._last
        self._last, self._finite = step, finite
        self._steps.append(step)
        self._values.append(value)
        if len(self._steps) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Put what waits into bins."""
        self.history.observe_many(self._steps, self._values)
        self._steps, self._values = [], []

    def check(self, source: Source, name: str) -> None:
        """Refuse what cannot be one run."""
        if self.rewinds > max(3, _REWINDS * self.points):
            raise ConfigurationError(
                f"{source.path}: the steps of {name!r} go back {self.rewinds} times in "
                f"{self.points} points, so several runs are mixed up in it: give the log of one"
            )

    def notes(self) -> list[str]:
        """What people should know."""
        found = []
        if self.rewinds:
            times = "once" if self.rewinds == 1 else f"{self.rewinds} times"
            found.append(f"the steps go back {times}: taken as restarts, the later losses count")
        if self.history.n_non_finite:
            found.append(f"{self.history.n_non_finite} losses are nan or infinite")
        return found


def _of_length(planned: LRSchedule, total: int) -> LRSchedule:
    longer = total > planned.total_steps
    return planned.extended_to(total) if longer else planned.truncated_to(total)


def _chosen(source: Source, losses: Sequence[str], metric: str | None) -> str:
    """The loss to forecast: of training if there is one, by the commonest name."""
    fitting = [name for name in losses if metric in (None, metric_of(name))]
    if not fitting:
        of = f"of {source.path} ({source.kind})"
        if not any(step >= 0 for step in source.columns.values()):
            raise NothingLoggedError(f"no column {of} has values yet; it has {_listed(source)}")
        waiting = [name for name, step in source.columns.items() if is_loss(name) and step < 0]
        if waiting and not losses:
            raise NothingLoggedError(f"{waiting[0]!r} {of} has no values yet")
        kind = "" if metric is None else f" of {'training' if metric == 'train' else 'validation'}"
        below = events_below(source.path) if source.path.is_dir() else []
        hint = f", or give a folder below: {', '.join(below[:5])}" if below else ""
        raise ConfigurationError(
            f"{source.path} ({source.kind}) has no loss{kind} that is known by its name; it has "
            f"{_listed(source)}. Name one with --column{hint}"
        )
    runs = {run_of(name) for name in fitting if " - " in name}
    if len(runs) > 1:
        raise ConfigurationError(
            f"{source.path} ({source.kind}) holds {len(runs)} runs: name one with --column, "
            f"{', '.join(map(repr, fitting[:6]))}"
        )

    def rank(name: str) -> tuple[bool, int, int]:
        word = words(name.rpartition(" - ")[2])
        known = _PREFERRED.index(word) if word in _PREFERRED else len(_PREFERRED)
        return metric_of(name) == "val", known, losses.index(name)

    return min(fitting, key=rank)


def _rate(series: dict[str, _Series], loss: str, notes: list[str]) -> str | None:
    """The learning rate of the run that the loss is of: of several, the first of the largest."""
    rates = [name for name in series if is_rate(name) and run_of(name) in ("", run_of(loss))]
    if not rates:
        return None
    bins = [series[name].history.bins().mean for name in rates]
    peaks = [float(np.max(rate, initial=0.0, where=np.isfinite(rate))) for rate in bins]
    rate = rates[peaks.index(max(peaks))]
    if len(rates) > 1:
        others = ", ".join(repr(name) for name in rates if name != rate)
        notes.append(
            f"{rate!r} is taken for the learning rate, the largest of {len(rates)}; name another "
            f"with --lr-column: {others}"
        )
    return rate


def _listed(source: Source) -> str:
    names = list(source.columns)
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return (", ".join(names[:12]) or "no columns") + more
