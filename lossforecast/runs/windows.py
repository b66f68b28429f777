"""Means over windows of steps, as some frameworks log the training loss."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["mean_step"]


def mean_step(first: ArrayLike, last: ArrayLike) -> NDArray[np.int64]:
    """The step at which a falling loss equals its mean over a window of steps.

    ``((sqrt(first) + sqrt(last)) / 2)**2``, exact for a loss that falls as t**-1/2. The middle of
    the window is later, and the mean of a convex curve higher than the loss there.

    Args:
        first: first step of the window, shape (n,) or a number.
        last: its last step.

    Returns:
        The steps, rounded.

    Example:
        >>> mean_step([0, 100, 9_900], [99, 199, 9_999]).tolist()
        [25, 145, 9949]
    """
    between = (np.sqrt(np.asarray(first, float)) + np.sqrt(np.asarray(last, float))) / 2
    steps: NDArray[np.int64] = np.rint(between**2).astype(np.int64)
    return steps
