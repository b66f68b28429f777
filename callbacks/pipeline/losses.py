"""Training losses on their way from the capture to the forecasters."""

from typing import Any

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.errors import StateError

__all__ = ["Losses", "joined", "losses_from_state", "losses_state", "no_losses"]

Losses = tuple[IntArray, FloatArray, FloatArray]
"""Steps, losses and learning rates (nan where unknown), (n,) each."""


def no_losses() -> Losses:
    """Return an empty sequence of losses."""
    return np.empty(0, np.int64), np.empty(0), np.empty(0)


def joined(first: Losses, then: Losses) -> Losses:
    """Concatenate two sequences of losses."""
    steps, losses, rates = (np.concatenate(pair) for pair in zip(first, then, strict=True))
    return steps, losses, rates


def losses_state(losses: Losses) -> list[list[float | None]]:
    """Return JSON-able columns; None stands for values that are not finite."""
    return [[x if np.isfinite(x) else None for x in column.tolist()] for column in losses]


def losses_from_state(state: Any) -> Losses:
    """Return the losses that `losses_state` described.

    Raises:
        StateError: the columns have different lengths.
        TypeError, ValueError: the state is damaged.
    """
    steps, losses, rates = state
    if not len(steps) == len(losses) == len(rates):
        raise StateError("the kept losses of the saved state are damaged")
    return np.array(steps, np.int64), np.array(losses, float), np.array(rates, float)
