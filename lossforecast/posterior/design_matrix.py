"""The linear model of every node: its columns at some steps, and the clock of the discrepancy."""

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.laws import arrived, full_anneal
from lossforecast.prior import Beliefs, Regime
from lossforecast.schedule import LRSchedule

__all__ = [
    "alpha_weights",
    "clock_apart",
    "clock_hands",
    "columns_at",
    "drop_scales",
    "grid",
    "walk_clock",
]


_CLOCK = 0.3  # power of S1(T) / S1(t) in the clock of the walk: found on recorded curves
_EARLIEST = 1e-6  # of the present S1: powers of less say nothing, and may overflow
_DEPTH = 0.9  # a decay to a share x of the peak brings (1 - x)^0.9 of the drop: likewise


def columns_at(
    beliefs: Beliefs, schedule: LRSchedule, plan: LRSchedule, now: int, steps: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Columns 1, S1^-alphas, t^-alphas, arrived, 0 at some steps, (m, columns); the clock's hands.

    The hands, (2, m), are S1(T) / S1 and the travel of the rate since the warm-up, in peaks.
    """
    at = np.maximum(steps, 1)
    alphas = -np.array(beliefs.alphas)
    s1, s1_now = schedule.s1(at), float(schedule.s1(max(now, 1)))
    total = float(plan.s1(plan.total_steps))
    time = at / max(now, 1)
    if s1_now > 1e-300 and s1.min() > 0:
        travelled = np.maximum(s1 / s1_now, _EARLIEST)
        inverse = min(total / s1_now, _EARLIEST**-2) / travelled
    else:  # a learning rate of 0 from the start: nothing moves, only time passes
        travelled, inverse = time, plan.total_steps / at
    drops = arrived(
        schedule,
        at,
        beliefs.relaxations,
        total_steps=plan.total_steps,
        total_s1=max(total, 1e-300),
    )
    columns = [
        np.ones((at.size, 1)),
        travelled[:, np.newaxis] ** alphas,
        time[:, np.newaxis] ** alphas,
        drops.T,
        np.zeros((at.size, 1)),
    ]
    return np.hstack(columns), np.array([inverse, _travel(schedule, at)])


def clock_hands(schedule: LRSchedule, total_s1: float, steps: IntArray) -> FloatArray:
    """The hands of the clock of a run with this S1 in all, at some steps of a schedule, (2, m)."""
    at = np.maximum(steps, 1)
    s1 = np.maximum(schedule.s1(at), _EARLIEST * total_s1)
    inverse = total_s1 / s1 if total_s1 > 0 else schedule.total_steps / at
    return np.array([inverse, _travel(schedule, at)])


def walk_clock(hands: FloatArray, origin: tuple[float, float], lr_travel: float) -> FloatArray:
    """Time of the walk since its origin, (m,)."""
    progress = (origin[0] ** _CLOCK - hands[0] ** _CLOCK) / _CLOCK
    clock: FloatArray = np.maximum(progress + lr_travel * (hands[1] - origin[1]), 0.0)
    return clock


def clock_apart(one: FloatArray, other: FloatArray, lr_travel: float) -> float:
    """Time of the walk that two futures do not share, given their hands, (2,) each."""
    progress = abs(one[0] ** _CLOCK - other[0] ** _CLOCK) / _CLOCK
    return float(progress + lr_travel * abs(one[1] - other[1]))


def grid(beliefs: Beliefs) -> tuple[IntArray, IntArray, IntArray]:
    """Member, alpha and columns of the basis of every (member, alpha)."""
    n_alphas = len(beliefs.alphas)
    first_drop = 1 + 2 * n_alphas
    rows = []
    drop = first_drop
    for index, aware in enumerate(beliefs.aware):
        drop_column = drop if aware else first_drop + sum(beliefs.aware)
        drop += aware
        for a in range(n_alphas):
            rows.append((index, a, (0, 1 + a + n_alphas * (not aware), drop_column)))
    members, alphas, columns = zip(*rows, strict=True)
    return np.array(members), np.array(alphas), np.array(columns)


def alpha_weights(beliefs: Beliefs, regime: Regime) -> FloatArray:
    """Logarithms of the weights of the exponents: a Student t with four degrees of freedom."""
    alphas = np.array(beliefs.alphas)
    centre, spread = regime.alpha
    weights = (1 + ((alphas - centre) / spread) ** 2 / 4) ** -2.5 * np.gradient(alphas)
    logs: FloatArray = np.log(weights / weights.sum())
    return logs


def drop_scales(beliefs: Beliefs, schedule: LRSchedule, at_end: FloatArray) -> FloatArray:
    """For each member, D over the drop of a decay to 0.

    The drop believed is the one realised by the end of the plan, whatever share of the schedule's
    effect the member's relaxation lets arrive by then. `at_end` is the row of `columns_at` there.
    """
    _, depth = full_anneal(schedule)
    scales = np.ones(len(beliefs.members))
    if depth > 0.01:
        share = at_end[1 + 2 * len(beliefs.alphas) : -1]
        realised = np.clip(depth**_DEPTH / np.maximum(share, 0.01), 0.3, 1 / 0.3)
        scales[np.array(beliefs.aware)] = realised
    return scales


def _travel(schedule: LRSchedule, steps: IntArray) -> FloatArray:
    """How far the rate has moved since the warm-up, up and down, in units of the peak, (m,)."""
    knots, rates = schedule.knots
    after = knots >= max(schedule.warmup_steps, 1)
    if after.sum() < 2 or schedule.peak == 0:
        return np.zeros(steps.size)
    moved = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(rates[after])))])
    travel: FloatArray = np.interp(steps, knots[after], moved / schedule.peak)
    return travel
