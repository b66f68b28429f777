"""The linear model of every node: its columns at some steps, and the clock of the discrepancy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.laws import MIN_DECAY_DEPTH, arrived, full_anneal
from lossforecast.prior import Beliefs, Regime
from lossforecast.schedule import LRSchedule

__all__ = [
    "Grid",
    "PastRunOffsets",
    "QueryPoints",
    "clock_terms",
    "columns_at",
    "drop_scales",
    "log_alpha_weights",
    "walk_time",
    "walk_time_between",
]

PastRunOffsets = Callable[[LRSchedule, IntArray], FloatArray]
"""Offsets of z that p nodes of past runs add to the laws, (m, p), at steps (m,) of a schedule."""

_CLOCK_POWER = 0.3  # of S1(T) / S1(t) in the clock of the discrepancy: fitted to recorded curves
_MIN_S1_SHARE = 1e-6  # of the present S1: powers of less carry no information, and may overflow
_DEPTH_POWER = 0.9  # a decay to a share x of the peak brings (1 - x)^0.9 of the drop: fitted too
_MIN_SHARE_ARRIVED = 0.01  # of the drop, in the denominator of a drop scale
_MIN_DROP_SCALE = 0.3
_MAX_DROP_SCALE = 1 / _MIN_DROP_SCALE
_MIN_PEAK = 1e-100  # below it, rates are not divided by the peak
_STEP_LAG = 0.05  # of the run
_TINY = 1e-300  # keeps divisions finite


@dataclass(frozen=True)
class Grid:
    """The g pairs of a law member and an exponent alpha, at each of which the model is linear."""

    member: IntArray
    """Index into ``beliefs.members``, (g,)."""
    alpha: IntArray
    """Index into ``beliefs.alphas``, (g,)."""
    columns: IntArray
    """Columns of the basis that multiply (level, a, -D), (g, 3)."""

    @classmethod
    def of(cls, beliefs: Beliefs) -> Self:
        """Members in the outer order, exponents in the inner one; columns as in `columns_at`."""
        n_alphas = len(beliefs.alphas)
        first_drop = 1 + 2 * n_alphas
        zero_column = first_drop + sum(beliefs.uses_lr)
        rows = []
        next_drop = first_drop
        for member, aware in enumerate(beliefs.uses_lr):
            first_power = 1 if aware else 1 + n_alphas
            drop_column = next_drop if aware else zero_column
            next_drop += aware
            for alpha in range(n_alphas):
                rows.append((member, alpha, (0, first_power + alpha, drop_column)))
        members, alphas, columns = zip(*rows, strict=True)
        return cls(np.array(members), np.array(alphas), np.array(columns))


@dataclass(frozen=True)
class QueryPoints:
    """The m steps at which a posterior is evaluated: basis, clock terms and offsets there."""

    basis: FloatArray
    """Columns from `columns_at`, (m, columns)."""
    terms: FloatArray
    """Clock terms, (2, m)."""
    offsets: FloatArray
    """Offsets of z from past runs, (m, p); p is 0 without past runs."""
    jumps: IntArray
    """Number of events up to each point, (m,)."""
    stepped: FloatArray
    """Fall of the logarithm of the rate in steps, as of a twentieth of the run before each point,
    (m,): a step takes about that long to have its full effect."""
    rate: FloatArray
    """Learning rate at each point over the peak of the plan, (m,)."""

    @classmethod
    def at(
        cls,
        schedule: LRSchedule,
        steps: IntArray,
        *,
        beliefs: Beliefs,
        plan: LRSchedule,
        now: int,
        events: IntArray,
        past_runs: PastRunOffsets | None,
    ) -> "QueryPoints":
        """The points at some steps of a schedule, (m,).

        Args:
            schedule: the learning rates to evaluate under.
            steps: shape (m,).
            beliefs: the prior.
            plan: the learning rates of the fitted run.
            now: the present step.
            events: steps of the events, increasing.
            past_runs: offsets from past runs, if there are any.
        """
        basis, terms = columns_at(beliefs, schedule, plan, now, steps)
        return cls(
            basis=basis,
            terms=terms,
            offsets=np.empty((steps.size, 0)) if past_runs is None else past_runs(schedule, steps),
            jumps=np.searchsorted(events, steps, side="right"),
            stepped=schedule.stepped(steps - round(_STEP_LAG * plan.total_steps)),
            rate=schedule.lr(np.maximum(steps, 1)) / (plan.peak if plan.peak > _MIN_PEAK else 1.0),
        )

    def progress_to(self, terms: FloatArray) -> FloatArray:
        """``log(S1 / S1(now))`` at m clock terms, (m,), at least 0; now is the first point."""
        # a plan of rate 0 has clock terms of 0, infinitely far from those of any other
        ratios = np.maximum([self.terms[0, 0], *terms[0]], np.finfo(float).tiny)
        progress: FloatArray = np.maximum(np.log(ratios[0]) - np.log(ratios[1:]), 0.0)
        return progress

    @property
    def rate_fall(self) -> float:
        """By how much the rate is lower at the last point than at the first, at least 0."""
        return max(float(self.rate[0] - self.rate[-1]), 0.0)

    def last(self, n: int = 1) -> "QueryPoints":
        """The last n points alone."""
        return QueryPoints(
            basis=self.basis[-n:],
            terms=self.terms[:, -n:],
            offsets=self.offsets[-n:],
            jumps=self.jumps[-n:],
            stepped=self.stepped[-n:],
            rate=self.rate[-n:],
        )


def columns_at(
    beliefs: Beliefs, schedule: LRSchedule, plan: LRSchedule, now: int, steps: IntArray
) -> tuple[FloatArray, FloatArray]:
    """The basis at some steps, (m, columns), and the clock terms there, (2, m).

    With ``s = S1(t) / S1(now)`` and ``u = t / now``, the columns of a row are

        1,  s^-alpha for every alpha,  u^-alpha for every alpha,  arrived(t) for every member,  0

    The clock terms are ``S1(T) / S1(t)`` and the distance that the rate has travelled since the
    warm-up, in units of the peak.

    Args:
        beliefs: the prior, with exponents and relaxations.
        schedule: the learning rates to evaluate under.
        plan: the learning rates of the fitted run: lags and S1(T) are relative to it.
        now: the present step.
        steps: shape (m,).
    """
    at = np.maximum(steps, 1)
    alphas = -np.array(beliefs.alphas)
    s1, s1_now = schedule.s1(at), float(schedule.s1(max(now, 1)))
    total = float(plan.s1(plan.total_steps))
    time = at / max(now, 1)
    if s1_now > _TINY and s1.min() > 0:
        travelled = np.maximum(s1 / s1_now, _MIN_S1_SHARE)
        inverse = min(total / s1_now, _MIN_S1_SHARE**-2) / travelled
    else:  # a learning rate of 0 from the start: S1 stays 0, so steps take its place
        travelled, inverse = time, plan.total_steps / at
    drops = arrived(
        schedule,
        at,
        beliefs.relaxations,
        total_steps=plan.total_steps,
        total_s1=max(total, _TINY),
    )
    columns = [
        np.ones((at.size, 1)),
        travelled[:, np.newaxis] ** alphas,
        time[:, np.newaxis] ** alphas,
        drops.T,
        np.zeros((at.size, 1)),
    ]
    return np.hstack(columns), np.array([inverse, _travel(schedule, at)])


def clock_terms(schedule: LRSchedule, total_s1: float, steps: IntArray) -> FloatArray:
    """Clock terms at some steps of a schedule, (2, m), for a run whose S1 ends at `total_s1`."""
    at = np.maximum(steps, 1)
    s1 = np.maximum(schedule.s1(at), _MIN_S1_SHARE * total_s1)
    inverse = total_s1 / s1 if total_s1 > 0 else schedule.total_steps / at
    return np.array([inverse, _travel(schedule, at)])


def walk_time(terms: FloatArray, origin: tuple[float, float], lr_travel: float) -> FloatArray:
    """Time of the random walk since its origin, (m,), at least 0.

    ``(r_0^0.3 - r^0.3) / 0.3 + lr_travel * (v - v_0)`` with the clock terms r = S1(T) / S1 and
    v = travel; 0 marks the origin.
    """
    progress = (origin[0] ** _CLOCK_POWER - terms[0] ** _CLOCK_POWER) / _CLOCK_POWER
    time: FloatArray = np.maximum(progress + lr_travel * (terms[1] - origin[1]), 0.0)
    return time


def walk_time_between(one: FloatArray, other: FloatArray, lr_travel: float) -> float:
    """Walk time not shared by two futures, from the clock terms at their ends, (2,) each."""
    progress = abs(one[0] ** _CLOCK_POWER - other[0] ** _CLOCK_POWER) / _CLOCK_POWER
    return float(progress + lr_travel * abs(one[1] - other[1]))


def log_alpha_weights(beliefs: Beliefs, regime: Regime) -> FloatArray:
    """Log prior weights of the exponents: a Student t with four degrees of freedom."""
    alphas = np.array(beliefs.alphas)
    centre, spread = regime.alpha
    weights = (1 + ((alphas - centre) / spread) ** 2 / 4) ** -2.5 * np.gradient(alphas)
    logs: FloatArray = np.log(weights / weights.sum())
    return logs


def drop_scales(beliefs: Beliefs, schedule: LRSchedule, at_end: FloatArray) -> FloatArray:
    """D of each member over the drop of a decay to 0, (members,).

    The prior is about the drop realised by the end of the plan, whatever share of the schedule's
    effect has arrived by then under the member's relaxation. `at_end` is the row of `columns_at`
    there.
    """
    _, depth = full_anneal(schedule)
    scales = np.ones(len(beliefs.members))
    if depth > MIN_DECAY_DEPTH:
        share = at_end[1 + 2 * len(beliefs.alphas) : -1]
        ratio = depth**_DEPTH_POWER / np.maximum(share, _MIN_SHARE_ARRIVED)
        scales[np.array(beliefs.uses_lr)] = np.clip(ratio, _MIN_DROP_SCALE, _MAX_DROP_SCALE)
    return scales


def _travel(schedule: LRSchedule, steps: IntArray) -> FloatArray:
    """Sum of ``|eta_i - eta_{i-1}|`` since the warm-up, in units of the peak, (m,)."""
    knots, rates = schedule.knots
    after = knots >= max(schedule.warmup_steps, 1)
    if after.sum() < 2 or schedule.peak == 0:
        return np.zeros(steps.size)
    moved = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(rates[after])))])
    travel: FloatArray = np.interp(steps, knots[after], moved / schedule.peak)
    return travel
