"""`lint`: flaws of a learning-rate schedule, reported before the first step is taken."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from lossforecast.schedule.lr_schedule import LRSchedule

__all__ = ["Finding", "Flaw", "averages", "climbs_again", "falls_once", "lint"]

# rates are shares of the peak, lengths shares of the run
_MIN_TURN = 0.02  # change of the rate: smaller ups and downs are not turns
_MAX_ANNEALED_RATE = 0.35  # highest final rate without a finding: 3 linear epochs end at 1/3
_MIN_FALL_AHEAD = 0.05  # further fall of the rate in the part of a decay that the run cuts off
_MAX_DECAY_END = 0.75  # of the length of `beyond` after the run: a later decay may have no end
_LATE_RISE_SHARE = 0.9  # a rate that rises after this share of the run does not anneal again
_NEGLIGIBLE_RATE = 1e-5  # a rate that trains nothing
_MAX_IDLE_SHARE = 0.05  # time at such a rate; in schedules that people use it is shorter
_MAX_HELD_SHARE = 0.25  # time at a lowest rate above that, such as 10% of the peak
_MAX_HELD_SHARE_AFTER_DROP = 0.75  # the same after a drop: the last step of a step decay is long
_MIN_DROP = 1 / 3  # relative fall of the rate within a hundredth of the run, in a step decay
_MIN_CYCLES, _MAX_CYCLE_STEPS = 25, 1_000  # many short cycles: lengths were given in epochs
_SAME_RATE_TOLERANCE = 1e-9


class Flaw(StrEnum):
    """A flaw of a schedule, or of the way it is stepped."""

    HORIZON_SHORT = "horizon_short"
    """The decay ends long before the run does."""
    HORIZON_LONG = "horizon_long"
    """The run ends long before the decay does."""
    NEVER_LOW = "never_low"
    """The learning rate decays, but not far."""
    RISES_AT_END = "rises_at_end"
    """The learning rate has just risen again when the run ends."""
    MANY_CYCLES = "many_cycles"
    """The learning rate goes up and down so often that its lengths must be epochs, not steps."""
    OVERRUN = "overrun"
    """The scheduler will be stepped more often than it allows, which ends the run."""
    STEPPED_TOO_OFTEN = "stepped_too_often"
    """The scheduler is stepped more often than it was made for: each step, not each epoch."""
    STEPPED_TOO_SELDOM = "stepped_too_seldom"
    """The scheduler is stepped less often than it was made for: each epoch, not each step."""
    STEPPED_PER_PROCESS = "stepped_per_process"
    """The scheduler is stepped once for each process of the run."""
    SCHEDULE_FREE = "schedule_free"
    """The optimizer averages weights instead of annealing."""


@dataclass(frozen=True)
class Finding:
    """A flaw of a schedule.

    Attributes:
        flaw: its kind.
        message: the flaw in numbers, and what to do.
    """

    flaw: Flaw
    message: str


def lint(
    schedule: LRSchedule, *, optimizer: str | None = None, beyond: LRSchedule | None = None
) -> tuple[Finding, ...]:
    """Find the flaw of a planned schedule; none in schedules that people use on purpose.

    There is at most one finding, the one that explains the others. There is none for constant
    rates, warm-ups, decays to 35% of the peak or lower that end with the run or are held for up to
    a quarter of it (three quarters after a drop, 5% at a negligible rate), and restarts whose last
    cycle ends with the run. Of 873 schedules of recorded runs that were completed, seven have a
    finding.

    Args:
        schedule: the learning rate of every step of the run.
        optimizer: its name. A name with "schedule-free" in it, however written, is itself the
            finding, and the schedule is not checked.
        beyond: the schedule as it would continue after the run, if known, until well after its
            decay. It distinguishes a decay that the run cuts off from one meant to end there.

    Example:
        >>> cut = LRSchedule.cosine(total_steps=10_000, peak=1e-3)
        >>> [finding.flaw.value for finding in lint(cut)]
        []
        >>> [finding.flaw.value for finding in lint(cut.truncated_to(4_000))]
        ['never_low']
        >>> lint(cut.truncated_to(4_000), beyond=cut.extended_to(16_000))[0].message[-43:]
        'until about step 10,000: make it for 4,000.'
    """
    if optimizer is not None and averages(optimizer):
        return (_free(schedule, optimizer),)
    finding = _shape(schedule, beyond)
    return () if finding is None else (finding,)


def falls_once(schedule: LRSchedule) -> bool:
    """Return whether the rate falls from its peak once and does not rise again."""
    return [fall for _, _, fall in _legs(schedule)] in ([True], [False, True])


def climbs_again(schedule: LRSchedule) -> bool:
    """Return whether the rate rises again after a fall, other than in the jump of a restart."""
    rises = [schedule.lr([a, b - 1, b]) for a, b, fall in _legs(schedule)[1:] if not fall]
    return any(before - low > 0.1 * (high - low) for low, before, high in rises)


# ---------------------------------------------------------------------- the shape


def _shape(schedule: LRSchedule, beyond: LRSchedule | None) -> Finding | None:
    legs, total = _legs(schedule), schedule.total_steps
    if legs and not legs[0][2]:
        del legs[0]  # the warm-up
    if not legs:
        return None
    rises = [leg for leg in legs if not leg[2]]
    cycles, spent = len(rises), total - legs[0][0]
    if cycles >= _MIN_CYCLES and spent <= cycles * _MAX_CYCLE_STEPS:
        return Finding(
            Flaw.MANY_CYCLES,
            f"the learning rate falls and rises again {cycles:,} times in {total:,} steps, every "
            f"{spent / cycles:.0f} steps: was a number of epochs given where steps are counted? "
            f"Give lengths in optimizer steps: {total:,} for one decay over the run.",
        )
    after, until, falls = legs[-1]
    last, peak = float(schedule.lr(total)), schedule.peak
    if not falls and until < _LATE_RISE_SHARE * total:
        return None  # held since then, which some people do on purpose
    # the rate after the run: a rate that changes once an epoch may be about to fall
    following = last if beyond is None else min(last, float(beyond.lr(total + 1)))
    if not falls or (
        rises and after >= _LATE_RISE_SHARE * total and following > _MAX_ANNEALED_RATE * peak
    ):
        turn = rises[-1][0]
        return Finding(
            Flaw.RISES_AT_END,
            f"the learning rate rises again after step {turn:,}, from {schedule.lr(turn):.3g}, and "
            f"the run of {total:,} steps ends at {last:.3g}, {last / peak:.0%} of its peak: make "
            f"the schedule, or its last cycle, end with the run, at step {total:,}.",
        )
    end = None if beyond is None else _rest(beyond, total, following)
    if end is not None and (following > _MAX_ANNEALED_RATE * peak or not rises):
        return Finding(
            Flaw.HORIZON_LONG,
            f"the run ends after {total:,} steps at a learning rate of {last:.3g}, "
            f"{last / peak:.0%} of its peak, but its schedule falls until about step "
            f"{_rounded(end):,}: make it for {total:,}.",
        )
    if following > _MAX_ANNEALED_RATE * peak:
        return Finding(
            Flaw.NEVER_LOW,
            f"the learning rate decays, but the run of {total:,} steps ends at {last:.3g}, "
            f"{last / peak:.0%} of its peak, too high to have annealed: make the schedule for "
            f"{total:,} steps if it is for more, or end with a decay to 10% of the peak or less.",
        )
    return _idle(schedule, after, last)


def _legs(schedule: LRSchedule) -> list[tuple[int, int, bool]]:
    """Rises and falls by `_MIN_TURN` of the peak or more: first step, last step, True for a fall.

    A leg ends where the rate is furthest, not where it turns: a rate that is held belongs to the
    leg before.
    """
    steps, rates = schedule.knots
    enough, legs = _MIN_TURN * schedule.peak, list[tuple[int, int, bool]]()
    if not enough:
        return legs
    low = high = start = 0
    for i, rate in enumerate(rates.tolist()):
        falling = bool(legs) and legs[-1][2]
        if rate > rates[high]:
            high = i
        if rate < rates[low]:
            low = i
        if rates[high] - rate >= enough and not falling:  # a fall began at the top
            legs.append((high, i, True))
            low = i
        elif rate - rates[low] >= enough and (falling or not legs):
            legs.append((low, i, False))
            high = i
        elif legs:
            start, _, falls = legs[-1]
            if falls and low == i:
                legs[-1], high = (start, i, True), i
            elif not falls and high == i:
                legs[-1], low = (start, i, False), i
    return [(int(steps[start]), int(steps[end]), falls) for start, end, falls in legs]


def _rest(beyond: LRSchedule, total: int, following: float) -> int | None:
    """Last step of a decay that the run cuts off; None if it cuts off none."""
    steps, rates = beyond.knots
    ahead, peak = rates[steps > total], beyond.peak
    if not ahead.size or following - ahead.min() < _MIN_FALL_AHEAD * peak:
        return None
    fall = _first(beyond, total, following - _SAME_RATE_TOLERANCE * peak)
    if _drops(beyond, fall - 1, min(fall - 1 + _moment(total), beyond.total_steps)):
        return None  # the next drop of a step decay
    end = _first(beyond, total, float(ahead.min()) + _SAME_RATE_TOLERANCE * peak)
    return end if end <= total + _MAX_DECAY_END * (beyond.total_steps - total) else None


def _rounded(step: int) -> int:
    """Round to three digits: torch's schedulers end one step after the length they are given."""
    return int(float(f"{step:.3g}"))


def _idle(schedule: LRSchedule, after: int, last: float) -> Finding | None:
    """A finding if the rate has been at its lowest for long when the run ends."""
    total, peak = schedule.total_steps, schedule.peak
    negligible = last <= _NEGLIGIBLE_RATE * peak
    level = _NEGLIGIBLE_RATE * peak if negligible else last + _SAME_RATE_TOLERANCE * peak
    lowest = _first(schedule, after, level)
    dropped = _drops(schedule, max(lowest - _moment(total), 1), lowest)
    allowed = _MAX_HELD_SHARE_AFTER_DROP if dropped else _MAX_HELD_SHARE
    # a rate that changes once an epoch may well be at its lowest for the whole last epoch
    before = float(schedule.lr(lowest - 1)) + _SAME_RATE_TOLERANCE * peak
    an_epoch = lowest - _first(schedule, after, before)
    idle = (total - lowest - an_epoch) / total
    if idle <= (_MAX_IDLE_SHARE if negligible else allowed):
        return None
    return Finding(
        Flaw.HORIZON_SHORT,
        f"the learning rate is down to {last:.3g} after {lowest:,} of {total:,} steps and stays "
        f"there for the last {1 - lowest / total:.0%} of the run: make the schedule for "
        f"{total:,} steps, or end the run at step {lowest:,}.",
    )


def _first(schedule: LRSchedule, after: int, level: float) -> int:
    """The first step after `after` with a rate of `level` or less; there must be one."""
    steps, rates = schedule.knots
    knot = int(np.flatnonzero((steps > after) & (rates <= level))[0])
    before = max(int(steps[knot - 1]) if knot else 0, after)
    between = np.arange(before + 1, steps[knot] + 1)
    return int(between[schedule.lr(between) <= level][0])


def _drops(schedule: LRSchedule, start: int, stop: int) -> bool:
    """Return whether the rate loses a third between two steps, and next to nothing before."""
    before, high, low = schedule.lr([max(2 * start - stop, 1), start, stop]).tolist()
    return bool(low < (1 - _MIN_DROP) * high and before - high <= 0.1 * (high - low))


def _moment(total: int) -> int:
    """Longest fall, in steps, that counts as one drop: a log may show a drop as a short slope."""
    return max(total // 100, 1)


# ---------------------------------------------------------------------- the optimizer


def averages(name: str) -> bool:
    """Return whether a name is that of a schedule-free optimizer, however written."""
    return "schedulefree" in "".join(filter(str.isalnum, name.lower()))


def _free(schedule: LRSchedule, optimizer: str) -> Finding:
    falls = any(fall for _, _, fall in _legs(schedule))
    here = f"; here it falls to {schedule.lr(schedule.total_steps):.3g}" if falls else ""
    return Finding(
        Flaw.SCHEDULE_FREE,
        f"{optimizer} averages weights instead of annealing, so advice on annealing is off: leave "
        f"its learning rate constant after the warm-up{here}.",
    )
