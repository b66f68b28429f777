"""`Capture`: the interface that counts the optimizer steps of a loop and keeps its losses."""

from collections.abc import Callable
from typing import Any, Protocol

from lossforecast.callbacks.pipeline.losses import Losses

__all__ = ["Capture"]


class Capture(Protocol):
    """Counts the optimizer steps of a training loop and keeps its losses until they are read."""

    steps: int
    """Optimizer steps taken."""

    @property
    def calls(self) -> int:
        """Optimizer steps taken and those that the device skipped."""

    def keep(self, loss: Any, step: int | None = None, scale: float = 1.0) -> None:
        """Record ``scale * loss``, computed after `step` optimizer steps; None is now."""

    def send(self) -> bool:
        """Start bringing the losses to the host; return whether all are there already."""

    def take(self, before: int | None = None) -> Losses:
        """Take the losses of finished steps, only those before a step if one is given."""

    def take_all(self) -> Losses:
        """Take all losses, those of the present step included."""

    def forget(self) -> None:
        """Drop all losses that were not taken."""

    def present_rate(self) -> float:
        """Return the learning rate of the next step, after `close` too."""

    def ask_rate(self) -> Callable[[], float]:
        """Start reading the `present_rate`; return a function that waits for it."""

    def last_rate(self) -> float | None:
        """Return the learning rate of the last step; None if it is unknown."""

    def warn_if_not_stepped(self, *, at_end: bool = False) -> bool:
        """Warn once if losses were recorded but no steps; return whether it warned."""

    def close(self) -> None:
        """Detach from the training loop."""

    def state_dict(self) -> dict[str, Any]:
        """Return the count and the last learning rate."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved count."""

    def checked_state(self, state: dict[str, Any]) -> tuple[int, float | None]:
        """Return the optimizer steps and the last learning rate of a saved state.

        Raises:
            KeyError, TypeError, StateError: the state is damaged.
        """
