"""Which optimizer step a row of a log belongs to: trackers number them differently.

Here the training loss of the first batch is step 0, and a validation loss after the last step is
step T. Trainers that log after the step number the training losses from 1, Lightning numbers the
validation losses from 0, and the Hugging Face Trainer logs means over the steps since the last log.
"""

from collections.abc import Callable
from dataclasses import dataclass

from lossforecast.readers.source import Source, is_loss, metric_of, run_of
from lossforecast.runs import mean_step

__all__ = ["Numbering"]

_FAR = 2  # times the last step of the loss: what goes on beyond it counts something else
_LIGHTNING = ("TensorBoard events", "Lightning metrics.csv")
_TRAINER = ({"train/learning_rate", "train/epoch"}, {"train/grad_norm", "train/total_flos"})


@dataclass(frozen=True)
class Numbering:
    """How the steps of one run are numbered in its log.

    Attributes:
        windows: whether the training loss is the mean over the steps since it was logged before.
        train: what is added to the steps of training losses.
        val: what is added to those of validation losses.
        steps_taken: optimizer steps of the run so far, by all that was logged of it.
        note: what people should know of it.
    """

    windows: bool
    train: int
    val: int
    steps_taken: int
    note: str | None = None

    @classmethod
    def of(
        cls, source: Source, loss: str, total_steps: int | None, last_step: int = -1
    ) -> "Numbering":
        """That of a log whose columns are known.

        Args:
            source: the log, which was read once.
            loss: the column that is forecast.
            total_steps: planned length of the run, if known.
            last_step: of the loss, finite or not.
        """
        last = _last_steps(source, loss)
        end = max(last.values(), default=-1)
        if source.steps_taken is not None:
            return cls(True, 0, 0, max(source.steps_taken, end))
        if _is_trainer(run_of(loss), set(last)):
            note = "a log of the Hugging Face Trainer: its losses are means since the last log"
            return cls(True, 0, 0, end, note)
        training = [step for name, step in last.items() if _is_training(name, loss)]
        if total_steps is not None and total_steps in training:
            note = f"a training loss is logged at step {total_steps:,}: taken as numbered from 1"
            return cls(False, -1, 0, end, note)
        if "epoch" in last and source.kind in _LIGHTNING and end != total_steps:
            return cls(False, 0, 1, end + 1)
        broken = last_step + (metric_of(loss) == "train" and last_step != total_steps)
        return cls(False, 0, 0, max(end, 0, broken, *(step + 1 for step in training)))

    def placed(self, loss: str, metric: str) -> Callable[[int], int] | None:
        """What puts logged steps, one after the other, where they belong; None to leave them."""
        if self.windows and loss.rpartition(" - ")[2] in ("loss", "train/loss"):
            return _Windows()
        shift = self.train if metric == "train" else self.val
        return (lambda step: max(step + shift, 0)) if shift else None


class _Windows:
    """Puts means over the steps since the last log where a falling loss equals them."""

    def __init__(self) -> None:
        self._before = 0

    def __call__(self, step: int) -> int:
        """The place of the mean that is logged after a step."""
        before = min(self._before, max(step - 1, 0))
        self._before = step
        return int(mean_step(before, max(step - 1, 0)))


def _last_steps(source: Source, loss: str) -> dict[str, int]:
    """Of the columns of the same run that count the same steps."""
    own = source.columns[loss]
    return {
        name: step
        for name, step in source.columns.items()
        if run_of(name) == run_of(loss) and step <= _FAR * max(own, 1)
    }


def _is_training(name: str, loss: str) -> bool:
    return (is_loss(name) or name == loss) and metric_of(name) == "train"


def _is_trainer(run: str, names: set[str]) -> bool:
    """Whether the Hugging Face Trainer wrote it."""
    prefix = f"{run} - " if run else ""
    plain = {name.removeprefix(prefix) for name in names}
    always, often = _TRAINER
    return "train/loss" in plain and always <= plain and bool(often & plain)
