"""`StepCapture`: keeps the losses of a loop that counts its own steps."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lossforecast.callbacks.pipeline import Losses
from lossforecast.checks import non_negative, whole
from lossforecast.errors import ConfigurationError, StateError

__all__ = ["StepCapture"]


class StepCapture:
    """Keeps the losses of a loop that counts its own steps, until they are read.

    Arrays that may still be computed, as those of JAX, are kept as they are, and read when a
    forecast needs them. Other losses are read at once.

    Args:
        next_rate: returns the learning rate of the next step, after so many steps taken.
    """

    def __init__(self, next_rate: Callable[[int], float]) -> None:
        self.steps = 0
        """Optimizer steps taken."""
        self._next_rate = next_rate
        self._last_rate: float | None = None
        self._kept: list[tuple[int, Any, float]] = []  # steps before each loss, loss, rate

    @property
    def calls(self) -> int:
        """Optimizer steps taken: none is skipped on a device."""
        return self.steps

    def keep(self, loss: Any, step: int | None = None, scale: float = 1.0) -> None:
        """Record ``scale * loss``, computed after `step` optimizer steps; None is now.

        Raises:
            ConfigurationError: the loss is not one number.
        """
        if hasattr(loss, "copy_to_host_async") and loss.size == 1:
            loss.copy_to_host_async()
        else:
            loss = _number(loss)
        rate = np.nan if self._last_rate is None else self._last_rate
        loss = loss if scale == 1.0 else loss * scale
        self._kept.append((self.steps if step is None else step, loss, rate))

    def count(self, steps: int = 1, rate: float | None = None) -> None:
        """Count optimizer steps that were taken.

        Args:
            steps: their number.
            rate: learning rate of the last of them; default: that of `next_rate`.
        """
        used = self._next_rate(self.steps + steps - 1) if rate is None else rate
        self._last_rate, self.steps = float(used), self.steps + steps

    def send(self) -> bool:
        """Return whether all losses are on the host already."""
        return all(loss.is_ready() for _, loss, _ in self._kept if hasattr(loss, "is_ready"))

    def take(self, before: int | None = None) -> Losses:
        """Take the losses of finished steps, only those before a step if one is given."""
        cut = self.steps if before is None else before
        taken = [row for row in self._kept if row[0] < cut]
        losses = [_number(loss) for _, loss, _ in taken]
        self._kept = [row for row in self._kept if row[0] >= cut]
        steps, which = np.unique([row[0] for row in taken], return_inverse=True)
        rates = np.full(steps.size, np.nan)
        rates[which] = [row[2] for row in taken]
        with np.errstate(over="ignore", invalid="ignore"):
            means = np.bincount(which, losses) / np.bincount(which) if taken else np.empty(0)
        return steps.astype(np.int64), means, rates

    def take_all(self) -> Losses:
        """Take all losses, those of the present step included."""
        return self.take(self.steps + 1)

    def forget(self) -> None:
        """Drop all losses that were not taken."""
        self._kept = []

    def present_rate(self) -> float:
        """Return the learning rate of the next step."""
        return float(self._next_rate(self.steps))

    def ask_rate(self) -> Callable[[], float]:
        """Return a function that returns the `present_rate` of this moment."""
        rate = self.present_rate()
        return lambda: rate

    def last_rate(self) -> float | None:
        """Return the learning rate of the last step; None before the first."""
        return self._last_rate

    def warn_if_not_stepped(self, *, at_end: bool = False) -> bool:
        """Return False: each loss comes with its step."""
        return False

    def close(self) -> None:
        """Do nothing: there are no hooks."""

    def state_dict(self) -> dict[str, Any]:
        """Return the count and the last learning rate."""
        return {"steps": self.steps, "last_rate": self._last_rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved count."""
        self.steps, self._last_rate = self.checked_state(state)
        self.forget()

    @staticmethod
    def checked_state(state: dict[str, Any]) -> tuple[int, float | None]:
        """Return the optimizer steps and the last learning rate of a saved state.

        Raises:
            KeyError, TypeError, StateError: the state is damaged.
        """
        steps, rate = whole("steps", state["steps"], StateError, least=0), state["last_rate"]
        return steps, None if rate is None else non_negative("last_rate", rate, StateError)


def _number(loss: Any) -> float:
    """Return a loss as a number.

    Raises:
        ConfigurationError: it is not one number.
    """
    try:
        return float(loss)
    except (TypeError, ValueError) as error:
        shape = getattr(loss, "shape", None)
        what = f"is {loss!r:.60}" if shape is None else f"has shape {tuple(shape)}"
        raise ConfigurationError(
            f"the loss {what}; give one number, such as loss.mean()"
        ) from error
