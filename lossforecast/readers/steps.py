"""`Numbering`: the optimizer step of each logged value. Trackers number steps differently.

In this package the training loss of the first batch belongs to step 0, and a validation loss after
the last step to step T = `total_steps`. Loops that log after the step number training losses from
1, Lightning numbers validation losses one lower, and the Hugging Face Trainer logs means over the
steps since the last log.
"""

from collections.abc import Callable
from dataclasses import dataclass

from lossforecast.readers.columns import is_loss, metric_of, plain, run_of
from lossforecast.readers.source import Source
from lossforecast.runs import mean_step

__all__ = ["Numbering"]

_MAX_STEP_RATIO = 2  # a column with steps beyond this multiple of the loss's counts something else
_TRAINER_COLUMNS = {"train/loss", "train/learning_rate", "train/epoch"}  # always logged
_TRAINER_EXTRAS = {"train/grad_norm", "train/total_flos"}  # at least one is logged


@dataclass(frozen=True)
class Numbering:
    """The way in which the log of a run numbers its steps.

    Attributes:
        steps_taken: optimizer steps of the run so far, judged by all its columns.
        train_shift: added to the logged steps of training losses.
        val_shift: added to the logged steps of validation losses.
        means: True if a training loss is the mean over the steps since the last one.
        note: a remark for people.
    """

    steps_taken: int
    train_shift: int = 0
    val_shift: int = 0
    means: bool = False
    note: str | None = None

    @classmethod
    def of(
        cls,
        source: Source,
        loss: str,
        total_steps: int | None,
        last_step: int = -1,
        from_1: bool = False,
    ) -> "Numbering":
        """The numbering of a log that has been read once, so that its columns are known.

        Args:
            source: the log.
            loss: the column that is forecast.
            total_steps: planned length of the run, if known.
            last_step: last logged step of that column, also if the loss there is not finite.
            from_1: True if the steps of that column are numbered from 1.
        """
        last_steps = _last_steps(source, loss)
        end = max(last_steps.values(), default=-1)
        if source.counts != "steps":  # the first epoch is number 0
            one_less = total_steps is not None and end == total_steps
            return cls(end + (not one_less), train_shift=-one_less, val_shift=1 - one_less)
        if source.losses_are_means:
            return cls(max(source.steps_taken or 0, end), means=True)
        if _is_from_trainer(run_of(loss), set(last_steps)):
            note = "a log of the Hugging Face Trainer: its losses are means since the last log"
            return cls(end, means=True, note=note)
        training = [step for name, step in last_steps.items() if _is_training_loss(name, loss)]
        if total_steps is not None and total_steps in training:
            note = (
                f"a training loss is logged at step {total_steps:,}: assuming that steps are "
                "numbered from 1"
            )
            return cls(end, train_shift=-1, note=note)
        if source.maybe_lightning and "epoch" in last_steps and end != total_steps:
            return cls(end + 1, val_shift=1)
        if from_1:
            return cls(max(end, 0, last_step))
        # a training loss at step t is that of the batch of optimizer step t + 1
        own_end = last_step + (metric_of(loss) == "train" and last_step != total_steps)
        return cls(max(end, 0, own_end, *(step + 1 for step in training)))

    def true_step(self, loss: str, metric: str) -> Callable[[int], int] | None:
        """A function that turns the logged steps of a loss, in order, into true ones.

        None if they are the same.
        """
        if self.means and plain(loss) in ("loss", "train/loss"):
            return _MeanSteps()
        shift = self.train_shift if metric == "train" else self.val_shift
        return (lambda step: max(step + shift, 0)) if shift else None


class _MeanSteps:
    """Steps of means over the steps since the last log: where a falling loss equals its mean."""

    def __init__(self) -> None:
        self._before = 0

    def __call__(self, step: int) -> int:
        """The step that the mean logged after `step` optimizer steps belongs to."""
        before = min(self._before, max(step - 1, 0))
        self._before = step
        return int(mean_step(before, max(step - 1, 0)))


def _last_steps(source: Source, loss: str) -> dict[str, int]:
    """Last step of each column of the same run, without columns that count something else."""
    own = source.columns[loss]
    return {
        name: step
        for name, step in source.columns.items()
        if run_of(name) == run_of(loss) and step <= _MAX_STEP_RATIO * max(own, 1)
    }


def _is_training_loss(name: str, loss: str) -> bool:
    return (is_loss(name) or name == loss) and metric_of(name) == "train"


def _is_from_trainer(run: str, names: set[str]) -> bool:
    """True if the Hugging Face Trainer wrote the log, judged by the names of the columns."""
    prefix = f"{run} - " if run else ""
    plain = {name.removeprefix(prefix) for name in names}
    return plain >= _TRAINER_COLUMNS and bool(plain & _TRAINER_EXTRAS)
