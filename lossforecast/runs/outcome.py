"""The loss that a run ended with: the one definition that all packages share.

The end of a run is the last 2% of its planned steps or, if the run took over 2% more steps than
planned, of those it took. Of the finite losses observed there:

* three or more: the outcome is their mean;
* one or two, as with sparse validations: the outcome is the last one;
* none: the outcome is the last loss before the end, if it lies in the last 10% of the run and the
  next one, at the usual spacing, would have come after the run was over;
* otherwise, or if the losses are not finite at the end, the outcome is unknown.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.runs.history import History

__all__ = [
    "END_SHARE",
    "Outcome",
    "OutcomeRule",
    "at_end",
    "outcome_of",
    "outcome_of_curve",
    "overran",
]

END_SHARE = 0.98
"""Share of the planned steps from which on a loss counts as one of the end of the run."""

_SPARSE_END_SHARE = 0.9  # the same if no validation falls into the last 2%
_MIN_LOSSES_FOR_MEAN = 3
_OVERRUN = 1.02  # times the planned steps


class OutcomeRule(StrEnum):
    """The rule by which the outcome of a run was read off its losses."""

    MEAN = "mean of the last 2%"
    LAST = "last value"


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
        loss: the outcome.
        step: mean step of the losses that the outcome was read off, rounded.
        first_step: the first of these steps.
        rule: mean of the last 2%, or last value.
    """

    loss: float
    step: int
    first_step: int
    rule: OutcomeRule

    def __str__(self) -> str:
        """The rule in words, such as "last value, at step 950"."""
        where = f", at step {self.step:,}" if self.rule is OutcomeRule.LAST else ""
        return f"{self.rule}{where}"


def at_end(total_steps: int) -> float:
    """Lowest step, counted from 0, whose loss counts as one of the end of a run."""
    return min(END_SHARE * total_steps, total_steps - 1)


def overran(history: History, total_steps: int) -> bool:
    """Return whether a run took over 2% more steps than planned."""
    return history.last_step > _OVERRUN * total_steps


def outcome_of(
    history: History, total_steps: int, steps_taken: int | None = None
) -> Outcome | None:
    """The end of a run, from its history; None if the outcome is unknown.

    Args:
        history: all losses of the run.
        total_steps: its planned length in optimizer steps.
        steps_taken: optimizer steps that the run took, if known. The outcome of a run that stopped
            before the last 2% is unknown, however sparse its validations are.

    Example:
        >>> history = History()
        >>> history.observe_many(range(50, 1_001, 50), [2 + 50 / t for t in range(50, 1_001, 50)])
        >>> end = outcome_of(history, 1_000)
        >>> end.loss, str(end)
        (2.05, 'last value, at step 1,000')
    """
    if not len(history) or history.non_finite_run:
        return None
    if steps_taken is not None and max(steps_taken, history.last_step) < at_end(total_steps):
        return None
    bins = history.bins()
    return _outcome_of_bins(
        first=bins.first,
        last=bins.last,
        step=bins.step,
        loss=bins.mean,
        count=bins.count,
        total_steps=total_steps,
    )


def outcome_of_curve(steps: ArrayLike, losses: ArrayLike, total_steps: int) -> Outcome | None:
    """The end of a recorded run: `outcome_of` of a curve given as arrays.

    Args:
        steps: increasing, shape (n,).
        losses: shape (n,); may hold nan and inf.
        total_steps: planned length of the run in optimizer steps.
    """
    at, values = np.asarray(steps, np.int64), np.asarray(losses, np.float64)
    finite = np.isfinite(values)
    if not finite.size or not finite[-1]:
        return None
    at, values = at[finite], values[finite]
    return _outcome_of_bins(
        first=at,
        last=at,
        step=at,
        loss=values,
        count=np.ones(at.size, np.int64),
        total_steps=total_steps,
    )


def _outcome_of_bins(
    *,
    first: IntArray,
    last: IntArray,
    step: NDArray[np.int64] | FloatArray,
    loss: FloatArray,
    count: IntArray,
    total_steps: int,
) -> Outcome | None:
    """The end of a run with `count` finite losses in each of n >= 1 bins, arrays of shape (n,)."""
    end = int(last[-1]) if last[-1] > _OVERRUN * total_steps else total_steps
    used, rule = last >= at_end(end), OutcomeRule.MEAN
    if count[used].sum() < _MIN_LOSSES_FOR_MEAN:
        if not used.any() and not _is_last_before(end, last):
            return None
        used, rule = np.arange(last.size) == last.size - 1, OutcomeRule.LAST
    weights = count[used]
    outcome = float(np.average(loss[used], weights=weights))
    if not np.isfinite(outcome):  # finite losses whose sum overflows
        return None
    return Outcome(
        loss=outcome,
        step=int(np.rint(np.average(step[used], weights=weights))),
        first_step=int(first[used][0]),
        rule=rule,
    )


def _is_last_before(end: int, steps: IntArray) -> bool:
    """Return whether the last step is near the end, less than the usual spacing before it."""
    spacing = np.median(np.diff(steps, prepend=steps[0]))
    return bool(steps[-1] >= _SPARSE_END_SHARE * end and end - steps[-1] <= spacing)
