"""`CountedRun`: a run whose loop counts its own steps, as described to the pipeline."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.callbacks.loop.step_capture import StepCapture
from lossforecast.callbacks.pipeline import HostRun, Recognition

__all__ = ["CountedRun"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CountedRun(HostRun):
    """A run whose loop counts its own steps.

    Attributes:
        next_rates: returns the learning rate of the next step after given numbers of steps, (n,) to
            (n,).
        seen: what the model and the optimizer show about the run.
    """

    next_rates: Callable[[IntArray], FloatArray]
    seen: Recognition = field(default_factory=Recognition)

    def recognised(self) -> Recognition:
        """Return what the model and the optimizer show about the run."""
        return self.seen

    def capture(self) -> StepCapture:
        """Count steps from 0 on."""
        return StepCapture(self.next_rates)
