"""`past_runs`: the finished runs that a new run learns from.

Losses take a millisecond to read. Similar runs are chosen by their descriptions and schedules, so
only the losses of the nearest are read; a ladder needs those of all smaller runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lossforecast.ladder import Ladder
from lossforecast.prior import (
    MAX_PAST_RUNS,
    PastRun,
    expected_differences,
    highest_final_loss,
    is_below,
    is_smaller,
)
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule
from lossforecast.store.rows import StoredRun

__all__ = ["CurvesOf", "FinishedRuns", "past_runs"]

PastRunsOf = Callable[[Sequence[StoredRun]], dict[str, PastRun]]
"""Reads the losses of runs; returns those that can be learned from, by key."""

CurvesOf = Callable[[Sequence[str]], Mapping[str, str | None]]

_READ_AT_ONCE = 2 * MAX_PAST_RUNS


@dataclass(frozen=True)
class FinishedRuns:
    """Finished runs of a store, without their losses.

    Attributes:
        runs: the runs, newest first.
        curves: queries the store for the losses of runs, by key.
    """

    runs: Sequence[StoredRun]
    curves: CurvesOf


def past_runs(
    finished: Sequence[StoredRun], run: RunInfo, schedule: LRSchedule, read: PastRunsOf
) -> list[PastRun]:
    """The most similar finished runs, then a ladder of smaller ones.

    Those that diverged are left out. So are second records of a run, say one recorded and one
    imported from its log.

    Args:
        finished: finished runs.
        run: description of the new run.
        schedule: its plan.
        read: reads the losses of some of them.
    """
    return [*_similar(finished, run, schedule, read), *_smaller(finished, run, schedule, read)]


def _similar(
    finished: Sequence[StoredRun], run: RunInfo, schedule: LRSchedule, read: PastRunsOf
) -> list[PastRun]:
    """At most four runs of this size or an unknown one, most similar first."""
    distances = [
        (float(differences.sum()), i)
        for i, each in enumerate(finished)
        if not is_smaller(each.run, run)
        and (differences := expected_differences(each, run, schedule)) is not None
    ]
    nearest = [finished[i] for _, i in sorted(distances)]
    final_losses: list[float] = []
    kept: list[PastRun] = []
    for start in range(0, len(nearest), _READ_AT_ONCE):
        some = nearest[start : start + _READ_AT_ONCE]
        losses = read(some)
        found = [losses[each.key] for each in some if each.key in losses]
        final_losses += [past.final_loss for past in found]
        highest = highest_final_loss(final_losses)
        for past in found:
            if past.diverged or past.final_loss > highest:
                continue
            if not any(past.duplicates(other) for other in kept):
                kept.append(past)
            if len(kept) == MAX_PAST_RUNS:
                return kept
    return kept


def _smaller(
    finished: Sequence[StoredRun], run: RunInfo, schedule: LRSchedule, read: PastRunsOf
) -> list[PastRun]:
    """The smaller runs that the ladder of a new run needs, chosen among all that are sound."""
    below = [each for each in finished if is_below(each, run)]
    losses = read(below)
    ladder = Ladder.of([losses[each.key] for each in below if each.key in losses], run)
    return ladder.nearest(schedule) if ladder else []
