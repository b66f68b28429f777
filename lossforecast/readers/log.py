"""`Log`: the losses and learning rates of a run, as read from its log."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.errors import ConfigurationError
from lossforecast.readers.rate_shape import RateShape, rate_shape
from lossforecast.runs import END_SHARE, History
from lossforecast.schedule import OFF_PLAN_TOLERANCE, LRSchedule
from lossforecast.status import Caveat

__all__ = ["Log"]

_CONTRADICTING_SHARE = 0.2  # of the logged rates: if more differ from a plan, the plan is wrong


@dataclass(frozen=True)
class Log:
    """The losses and learning rates of one run.

    Attributes:
        path: the file or folder.
        format: name of the format, for people.
        column: the column of the loss.
        metric: "train" or "val".
        history: the losses, averaged in bins if there are many.
        rate_column: the column of the learning rate; None if the log has none.
        rate_steps: steps of the rates, increasing, (n,).
        rates: learning rates, (n,).
        total_steps: planned length of the run in optimizer steps, if the log has it.
        steps_taken: optimizer steps of the run so far, judged by all columns of the run.
        steps_per_epoch: optimizer steps in one pass over the data, judged by the logged epochs;
            None if there are none, or too few so far.
        others: the other columns that are named like losses.
        notes: remarks for people about what was read or assumed.
        run: name or number of the run, in a log of several.
        runs: names or numbers of the runs in the log, as far as it was read; empty if there is one
            without a name.
    """

    path: Path
    format: str
    column: str
    metric: str
    history: History = field(repr=False)
    rate_column: str | None
    rate_steps: IntArray = field(repr=False)
    rates: FloatArray = field(repr=False)
    total_steps: int | None
    steps_taken: int
    steps_per_epoch: float | None = None
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    run: str | None = None
    runs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the run: the last two parts of the path, and which run in it."""
        name = "/".join(self.path.absolute().parts[-2:])
        return name if self.run is None else f"{name}, run {self.run}"

    def plan(self, total_steps: int | None = None, planned: LRSchedule | None = None) -> LRSchedule:
        """The learning rate of every step: the logged rates, then those of `planned`.

        Without `planned`, logged rates that lie on a decay (`rate_shape`) follow it to its end.
        Otherwise the last rate is held, with the caveat `LR_ASSUMED` unless the log covers the
        whole run. A log without rates has a constant one of 1 in the plan, with the caveat
        `LR_UNKNOWN`. Logged rates that contradict `planned` add `LR_OFF_PLAN`.

        Args:
            total_steps: length of the run; by default the logged length, else that of `planned`,
                else the steps taken.
            planned: the schedule of the whole run.

        Raises:
            ConfigurationError: the log is longer than the run.
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
                return LRSchedule.constant(total, 1.0).with_caveats(Caveat.LR_UNKNOWN)
            return planned
        if planned is not None and self._contradicts(planned):
            planned = planned.with_caveats(Caveat.LR_OFF_PLAN)
        covered = int(self.rate_steps[-1])
        shape = self.rate_shape(total) if planned is None else None
        planned = planned if shape is None else shape.schedule
        assumed = [Caveat.LR_ASSUMED] if planned is None and covered < END_SHARE * total else []
        logged = LRSchedule.from_points(
            self.rate_steps, self.rates, total_steps=max(total, 1), caveats=assumed
        )
        if planned is None or covered >= total:
            return logged
        return logged.joined(covered, planned)

    def rate_shape(self, total_steps: int) -> RateShape | None:
        """The decay on which the logged rates lie; None if there is none, or the run is over."""
        if not self.rates.size or self.rate_steps[-1] >= END_SHARE * total_steps:
            return None
        return rate_shape(self.rate_steps, self.rates, total_steps)

    def _contradicts(self, planned: LRSchedule) -> bool:
        """True if the logged rates differ from a plan, even when shifted by one step."""
        there = (self.rate_steps >= 1) & (self.rate_steps <= planned.total_steps)
        steps, rates = self.rate_steps[there], self.rates[there]
        near = [np.clip(steps + i, 1, planned.total_steps) for i in (-1, 0, 1)]
        away = np.min([np.abs(planned.lr(at) - rates) for at in near], axis=0)
        return bool(
            steps.size and np.mean(away > OFF_PLAN_TOLERANCE * planned.peak) > _CONTRADICTING_SHARE
        )


def _of_length(planned: LRSchedule, total: int) -> LRSchedule:
    """A plan extended or truncated to `total` steps."""
    longer = total > planned.total_steps
    return planned.extended_to(total) if longer else planned.truncated_to(total)
