"""The loss laws, which differ in G: how fast a change of the learning rate takes effect.

With ``eta_i`` the learning rate of step i and ``S1(t) = eta_1 + ... + eta_t``,

    L(t) = L0 + A * S1(t)^-alpha - sum_{k<=t} (eta_{k-1} - eta_k) * B * G_k(t),    eta_0 = eta_1

where G_k(t) is the share of the effect of the change at step k that has arrived by step t:

    annealing     G_k(t) = 1 - lambda^(t-k+1),  B = C / (1 - lambda)
                  so the sum is C * S2: Tissue et al. 2024, arXiv:2408.11029
    multi-power   G_k(t) = 1 - (1 + C eta_k^-gamma S_k(t))^-beta,  S_k(t) = eta_k + ... + eta_t
                  Luo et al. 2025, arXiv:2503.12811
    memoryless    G_k(t) = 1,  so the sum is B * (eta_1 - eta_t)
                  the starting point of the multi-power authors' fit
    power         no sum, and t in place of S1(t): the baseline that ignores the learning rate

The sum is taken over the knots of a schedule instead of its steps, and divided by the peak rate:

    arrived(t) = sum_{k<=t} (eta_{k-1} - eta_k) G_k(t) / eta_peak

It is 0 before any decay, and 1 once the rate has gone from the peak to 0 and the effect of all its
changes has arrived. Its factor ``D = B * eta_peak`` is the drop of a full anneal, in units of the
loss.

Units: losses in the user's unit, learning rates absolute, time in optimizer steps.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.schedule import LRSchedule

__all__ = ["LAWS", "MIN_DECAY_DEPTH", "Relaxation", "arrived", "decaying", "full_anneal"]


LAWS = ("annealing", "multi-power", "memoryless", "power")
"""The name of every law."""

_MIN_RATE = 1e-6  # of the peak: smaller rates count as this in the multi-power law
_AT_PEAK = 0.999  # of the peak: a rate above it has not left the peak
_ASSUMED_DECAY_SHARE = 0.2  # of a run without a decay
MIN_DECAY_DEPTH = 0.01
"""Share of the peak by which a schedule must fall to have a decay."""


@dataclass(frozen=True)
class Relaxation:
    """One member of the family G, its parameters in units that carry over between runs.

    Attributes:
        law: "annealing" (``1 - exp(-age / lag)``), "multi-power" (``1 - (1 + distance/lag)^-beta``,
            distance in LR-sum, gamma as in the law) or "memoryless" (1).
        lag: the scale of the relaxation as a share of the run: of its steps for the annealing law
            (lambda = exp(-1/(lag * total_steps))), of its S1 for the multi-power law.
        beta: multi-power only.
        gamma: multi-power only; the learning rate is in units of the peak, and at least 1e-6.
        concavity: 0 for the published laws. With c above 0 the end of a decay brings more of the
            drop: a share x of the published law becomes ``1 - log(1 + c (1 - x)) / log(1 + c)``
            (measured on recorded runs: the drop grows less than in proportion to the rate).
    """

    law: str
    lag: float = 0.0
    beta: float = 0.0
    gamma: float = 0.0
    concavity: float = 0.0

    @cached_property
    def published(self) -> "Relaxation":
        """The same member without concavity."""
        return replace(self, concavity=0.0)

    def share(self, age: FloatArray, distance: FloatArray, rate: FloatArray) -> FloatArray:
        """G of changes of the learning rate: the share of their effect that has arrived.

        All arrays have the same shape, any.

        Args:
            age: steps since the change, as a share of the run's steps.
            distance: S1 since the change, as a share of the run's S1.
            rate: learning rate after the change, in units of the peak.
        """
        if self.law == "annealing":
            return -np.expm1(-age / self.lag)
        if self.law == "multi-power":
            speed = np.maximum(rate, _MIN_RATE) ** -self.gamma / self.lag
            return -np.expm1(-self.beta * np.log1p(speed * distance))
        return np.ones_like(age)


def arrived(
    schedule: LRSchedule,
    steps: NDArray[np.int64],
    relaxations: tuple[Relaxation, ...],
    *,
    total_steps: int,
    total_s1: float,
) -> FloatArray:
    """``sum_k (eta_{k-1} - eta_k) G_k(t) / eta_peak`` for every relaxation and step.

    Changes during the warm-up are left out. Between two knots the rate is a straight line whose
    change is taken to happen in its middle: the error is below 1e-3 of the full drop, and 0 where
    every step is a knot.

    Args:
        schedule: the learning rates.
        steps: shape (n,), each in 0..schedule.total_steps.
        relaxations: the members G, m of them.
        total_steps: length of the run, of which lags are shares; for a what-if, that of the plan.
        total_s1: S1 at the end of that run.

    Returns:
        Shape (m, n).
    """
    knots, rates = schedule.knots
    annealing = knots >= max(schedule.warmup_steps, 1)
    knots, rates, sums = knots[annealing], rates[annealing], schedule.knot_sums[annealing]
    if knots.size < 2 or schedule.peak == 0:
        return np.zeros((len(relaxations), steps.size))
    moving = np.diff(rates) != 0
    first, last = knots[:-1][moving], knots[1:][moving]
    begin, length = rates[:-1][moving] / schedule.peak, last - first
    fall = -np.diff(rates)[moving] / schedule.peak / length  # of one step
    at = np.clip(steps, knots[0], None)
    s1_first, s1_at = sums[:-1][moving], schedule.s1(at)
    s1_step = (sums[1:][moving] - s1_first) / length
    # one entry for each pair of a step t and a segment that begins before it. `done` changes of the
    # segment, k = first + 1, first + 2, ..., have happened by t. G needs the age t - k + 1 of a
    # change, S1(t) - S1(k - 1) and the rate after it: here their means over k, exact for a single
    # change
    row, segment = np.nonzero(first < at[:, np.newaxis])
    passed = at[row] - first[segment]
    done = np.minimum(passed, length[segment])
    earlier = (done - 1) / 2  # changes before the middle one
    weight = fall[segment] * done
    age = (passed - earlier) / total_steps
    travelled = s1_at[row] - s1_first[segment] - s1_step[segment] * earlier
    distance = np.maximum(travelled, 0.0) / total_s1
    rate = begin[segment] - fall[segment] * (earlier + 1)
    linear = [g.published for g in relaxations]
    share_of = {
        g: np.bincount(row, weight * g.share(age, distance, rate), minlength=steps.size)
        for g in set(linear)
    }
    shares = np.array([share_of[g] for g in linear]).reshape(len(linear), steps.size)
    for i, g in enumerate(relaxations):
        if g.concavity:
            left = np.log1p(g.concavity * np.clip(1 - shares[i], 0.0, 1.0))
            shares[i] = np.where(shares[i] > 0, 1 - left / np.log1p(g.concavity), shares[i])
    return shares


def full_anneal(schedule: LRSchedule) -> tuple[float, float]:
    """Share of the run after its rate first leaves the peak, and depth of its decay.

    The depth is ``1 - eta_T / eta_peak``: 1 for a decay to 0, 0 for a run that ends at its peak.
    """
    knots, rates = schedule.knots
    if schedule.peak == 0:
        return 0.0, 0.0
    rates = rates / schedule.peak
    below = rates < _AT_PEAK
    below[: int(np.argmin(below))] = False  # the warm-up
    left = knots[max(int(np.argmax(below)) - 1, 0)] if below.any() else knots[-1]
    return 1 - float(left) / schedule.total_steps, 1 - float(rates[-1])


def decaying(schedule: LRSchedule) -> LRSchedule:
    """The schedule itself if it decays, else with a linear decay to 0 over its last fifth.

    The prior is about the drop that a decay brings; for a run without a decay it is about this one.
    """
    if full_anneal(schedule)[1] > MIN_DECAY_DEPTH or schedule.peak == 0:
        return schedule
    decay = max(1, round(_ASSUMED_DECAY_SHARE * schedule.total_steps))
    return schedule.with_decay(start=schedule.total_steps - decay)
