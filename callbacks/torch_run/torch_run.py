"""`TorchRun`: a run that trains a torch model, as the adapters describe it to the pipeline."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lossforecast.callbacks.capture import LossCapture
from lossforecast.callbacks.lr_schedulers import is_schedule_free
from lossforecast.callbacks.pipeline import HostRun, Pipeline, Recognition
from lossforecast.callbacks.torch_run.recognise import recognise

__all__ = ["TorchRun", "capture_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchRun(HostRun):
    """A run that trains a torch model.

    Attributes:
        optimizer: the torch optimizer, without wrappers.
        group: index of the parameter group whose learning rate counts.
        trained: the model, or the optimizer where the model is unknown; shows its size and task.
        probe: starts the probe; called with the optimizer, a function that returns the optimizer
            steps taken, and the length of the run. None without a probe.
    """

    optimizer: Any
    group: int
    trained: Any
    probe: Callable[[Any, Callable[[], int], int], object] | None = None

    def recognised(self) -> Recognition:
        """Return what the model and the optimizer show about the run."""
        is_model = not hasattr(self.trained, "param_groups")
        return replace(
            recognise(self.trained),
            optimizer=type(self.optimizer).__name__,
            schedule_free=is_schedule_free(self.optimizer),
            model=type(self.trained).__name__ if is_model else None,
        )

    def capture(self) -> LossCapture:
        """Count the steps of the optimizer from now on."""
        return LossCapture(self.optimizer, self.group)

    def begin_probe(self, steps: Callable[[], int]) -> None:
        """Start the annealing probe, if there is one."""
        if self.probe is not None:
            self.probe(self.optimizer, steps, self.plan.total_steps)


def capture_of(pipeline: Pipeline) -> LossCapture:
    """Return the capture of a pipeline that was started with a `TorchRun`."""
    assert isinstance(pipeline.capture, LossCapture)
    return pipeline.capture
