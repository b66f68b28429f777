"""`StepCapture`: keeps the losses of a loop that counts its own steps."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.callbacks.pipeline import Losses
from lossforecast.checks import non_negative, whole
from lossforecast.errors import ConfigurationError, StateError

__all__ = ["StepCapture"]


class StepCapture:
    """Keeps the losses of a loop that counts its own steps, until they are read.

    Arrays whose computation may not be finished, such as those of JAX, are kept as they are, and
    read when a forecast needs them. Other losses are read at once.

    Args:
        next_rates: returns the learning rate of the next step after given numbers of steps, (n,) to
            (n,).
    """

    def __init__(self, next_rates: Callable[[IntArray], FloatArray]) -> None:
        self.steps = 0
        """Optimizer steps taken."""
        self._next_rates = next_rates
        self._rate: float | None = None  # of the last step, where it was given
        # steps before each loss, the loss, and the rate of the last of them, where it was given
        self._kept: list[tuple[int, Any, float | None]] = []

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
        loss = loss if scale == 1.0 else loss * scale
        self._kept.append((self.steps if step is None else step, loss, self._rate))

    def count(self, steps: int = 1, rate: float | None = None) -> None:
        """Count optimizer steps that were taken.

        Args:
            steps: their number.
            rate: learning rate of the last of them; default: that of `next_rates`.
        """
        self._rate, self.steps = None if rate is None else float(rate), self.steps + steps

    def send(self) -> bool:
        """Return whether all losses are on the host already."""
        return all(loss.is_ready() for _, loss, _ in self._kept if hasattr(loss, "is_ready"))

    def take(self, before: int | None = None) -> Losses:
        """Take the losses of finished steps, only those before a step if one is given."""
        cut = self.steps if before is None else before
        taken = [row for row in self._kept if row[0] < cut]
        losses = [_number(loss) for _, loss, _ in taken]
        self._kept = [row for row in self._kept if row[0] >= cut]
        if not taken:
            return np.empty(0, np.int64), np.empty(0), np.empty(0)
        steps, which = np.unique([row[0] for row in taken], return_inverse=True)
        rates = np.full(steps.size, np.nan)
        rates[which] = [np.nan if row[2] is None else row[2] for row in taken]
        planned = np.isnan(rates) & (steps > 0)
        rates[planned] = self._next_rates(steps[planned] - 1)
        with np.errstate(over="ignore", invalid="ignore"):
            means = np.bincount(which, losses) / np.bincount(which)
        return steps.astype(np.int64), means, rates

    def take_all(self) -> Losses:
        """Take all losses, those of the present step included."""
        return self.take(self.steps + 1)

    def forget(self) -> None:
        """Drop all losses that were not taken."""
        self._kept = []

    def present_rate(self) -> float:
        """Return the learning rate of the next step."""
        return float(self._next_rates(np.array([self.steps]))[0])

    def ask_rate(self) -> Callable[[], float]:
        """Return a function that returns the `present_rate` as of now."""
        rate = self.present_rate()
        return lambda: rate

    def last_rate(self) -> float | None:
        """Return the learning rate of the last step; None before the first."""
        if self._rate is None and self.steps > 0:
            return float(self._next_rates(np.array([self.steps - 1]))[0])
        return self._rate

    def warn_if_not_stepped(self, *, at_end: bool = False) -> bool:
        """Return False: each loss comes with its step."""
        return False

    def close(self) -> None:
        """Do nothing: there are no hooks."""

    def state_dict(self) -> dict[str, Any]:
        """Return the count and the last learning rate."""
        return {"steps": self.steps, "last_rate": self.last_rate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved count."""
        self.steps, self._rate = self.checked_state(state)
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
