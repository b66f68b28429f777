"""Reads training losses, or a monitored metric, from a Lightning ``Trainer``."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lossforecast.callbacks.pipeline import Pipeline
from lossforecast.callbacks.torch_run import capture_of
from lossforecast.log import logger

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["LossReader"]

_MIN_BATCHES_WITHOUT_LOSS = 20  # before a warning: a module may skip the first ones
_SHARE_WITHOUT_LOSS = 0.1  # of the run, likewise


class LossReader:
    """Passes the losses of one run to its pipeline, and warns once if there are none.

    Args:
        pipeline: receives the losses.
        monitor: name of the monitored metric; None is the training loss.
    """

    def __init__(self, pipeline: Pipeline, monitor: str | None) -> None:
        self.batch_step = 0
        """Optimizer steps taken before the present batch."""
        self.validated = False
        """True after a validation, which may have logged the metric."""
        self._pipeline = pipeline
        self._monitor = monitor
        self._evaluations = 0  # of the loss in the present batch
        self._first: Any = None  # the loss that was computed first
        self._latest: Any = None  # the metric as last read
        self._found = self._warned = False
        self._skipped = 0  # batches without a loss, until the first with one

    def begin_batch(self, step: int) -> None:
        """Note the optimizer steps taken before a batch."""
        self.batch_step, self._evaluations, self._first = step, 0, None

    def note_evaluation(self, loss: Any) -> None:
        """Remember the first loss of a batch, for optimizers that evaluate it several times."""
        self._evaluations += 1
        if self._evaluations == 1:
            self._first = loss.detach()

    def record(self, outputs: Any, accumulated: int) -> None:
        """Record the loss that ``training_step`` returned, at its first evaluation.

        Args:
            outputs: outputs of ``training_step``, as Lightning passes them to callbacks.
            accumulated: batches per optimizer step. Lightning has divided the loss by it, so that
                the gradients add up to those of the mean.
        """
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if self._evaluations > 1:
            loss = self._first
        if loss is not None:
            capture_of(self._pipeline).record(loss, self.batch_step, float(accumulated))
            self._found = True
        elif not self._found:
            self._skipped += 1

    def read_metric(self, metrics: Mapping[str, Any]) -> None:
        """Pass on the monitored metric if it was logged since the last call."""
        value, before = metrics.get(str(self._monitor)), self._latest
        # an old value stays in `metrics` until the metric is logged again, as another tensor
        if value is not None and (before is None or value.data_ptr() != before.data_ptr()):
            self._latest, self._found = value, True
            self._pipeline.validate(float(value))

    def warn_if_still_missing(self, trainer: "Trainer") -> None:
        """Warn once if no loss was found for a while: a module may skip its first batches."""
        a_while = _SHARE_WITHOUT_LOSS * self._pipeline.forecaster().total_steps
        if self._monitor is None and self._skipped < max(a_while, _MIN_BATCHES_WITHOUT_LOSS):
            return
        self.warn_if_missing(trainer)

    def warn_if_missing(self, trainer: "Trainer") -> None:
        """Warn once if no loss was found so far."""
        if self._warned or self._found or self._pipeline.has_losses:
            return
        self._warned = True
        missing = f"training_step returned no loss in {self._skipped:,} batches"
        if self._monitor is not None:
            logged = ", ".join(map(str, trainer.callback_metrics)) or "none"
            missing = f"{self._monitor!r} is not logged (logged: {logged})"
        logger.warning(
            "nothing to forecast from: %s. Return the loss from training_step, or give "
            "LightningLossForecast(monitor=...) the name of a logged metric",
            missing,
        )
