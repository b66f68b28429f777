"""Passes the losses that the Hugging Face ``Trainer`` logs to the pipeline."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lossforecast.callbacks.huggingface.logs import logged_loss
from lossforecast.callbacks.pipeline import Pipeline
from lossforecast.log import logger
from lossforecast.runs import mean_step

__all__ = ["LossReader"]

_MANY_STEPS = 20  # more than a gradient scaler skips
_NEAR_ZERO = 0.1  # of the largest loss so far


class LossReader:
    """Passes the losses of one run to its pipeline, and warns once if there are none.

    Args:
        pipeline: receives the losses.
        monitor: name of a metric of evaluation; None is the training loss.
        steps: optimizer steps taken before the run, or before it is resumed.
    """

    def __init__(self, pipeline: Pipeline, monitor: str | None, steps: int) -> None:
        self.logged = steps
        """Optimizer steps at the latest log."""
        self._pipeline = pipeline
        self._monitor = monitor
        self._counted = steps, steps  # optimizer steps seen, and steps of the Trainer at that time
        self._seen: dict[str, int] = {}  # metrics, and optimizer steps at their first evaluation
        self._warned = self._warned_of_steps = False

    def record(self, logs: Mapping[str, Any], args: Any, step: int) -> None:
        """Record the mean loss of the steps since the last log, at the step whose loss it equals.

        Args:
            logs: what the Trainer logged.
            args: arguments of the Trainer.
            step: optimizer steps taken.
        """
        self._warn_if_not_stepped(step)
        loss = logged_loss(logs, args, self._was_large)
        self._pipeline.log(int(mean_step(self.logged, max(step - 1, 0))), loss)
        self.logged = step

    def read_metric(self, metrics: Mapping[str, Any]) -> None:
        """Pass on the monitored metric of an evaluation; warn if later ones have none either."""
        value = metrics.get(str(self._monitor))
        if value is not None:
            self._pipeline.validate(float(value))
            return
        step = self._pipeline.capture.steps
        if any(self._seen.get(name, step) < step for name in metrics):
            self.warn_if_missing()  # not earlier: several datasets are evaluated in turn
        self._seen = {**dict.fromkeys(metrics, step), **self._seen}

    def warn_if_missing(self) -> None:
        """Warn once if no loss was found so far."""
        if self._warned or self._pipeline.has_losses:
            return
        self._warned = True
        if self._seen:
            logger.warning(
                "nothing to forecast from: %r is not among the metrics of the evaluation (%s)",
                self._monitor,
                ", ".join(self._seen),
            )
        else:
            logger.warning(
                "nothing was forecast: the Trainer logged no %s", self._monitor or "training loss"
            )

    def _warn_if_not_stepped(self, step: int) -> None:
        """Warn once if the Trainer takes steps, but the watched optimizer takes none."""
        seen = self._pipeline.capture.steps
        if seen != self._counted[0]:
            self._counted = seen, step
        elif step >= self._counted[1] + _MANY_STEPS and not self._warned_of_steps:
            self._warned_of_steps = True
            logger.warning(
                "no more forecasts: the Trainer has taken %d steps, but its optimizer took none "
                "that was seen. Was it replaced?",
                step - self._counted[1],
            )

    def _was_large(self) -> bool:
        """Return whether there were losses before, none of them near 0."""
        losses = np.abs(self._pipeline.forecaster().history.bins().mean)
        return bool(losses.size and losses.min() > _NEAR_ZERO * losses.max())
