"""How a run ended."""

import math

import numpy as np

from lossforecast.runs.history import END, History

__all__ = ["at_end", "ended", "overran"]

_RATHER_LATE = 0.9  # the same where losses are far apart


_LONGER = 1.02  # times the planned steps


def at_end(total_steps: int) -> float:
    """The step, counted from 0, from which on losses are of the end of a run."""
    return min(END * total_steps, total_steps - 1)


def overran(history: History, total_steps: int) -> bool:
    """Whether a run took over 2% more steps than planned."""
    return history.last_step > _LONGER * total_steps


def ended(history: History, total_steps: int) -> float:
    """The loss that a run ended with: the mean of the last 2% of its planned steps.

    If there is none because losses are far apart, it is the last one, if that is of the last 10%
    and there was no room for another. A run that took over 2% more steps ended with the last 2% of
    those. nan where the losses do not reach the end or are not finite there.
    """
    if not len(history) or history.non_finite_run:
        return math.nan
    bins = history.bins()
    end = history.last_step if overran(history, total_steps) else total_steps
    late = bins.last >= at_end(end)
    if not late.any():
        last, usual = bins.last[-1], np.median(np.diff(bins.last, prepend=bins.last[0]))
        if last < _RATHER_LATE * end or end - last > usual:
            return math.nan
        late[-1] = True
    return float(np.average(bins.mean[late], weights=bins.count[late]))
