"""What the annealing probe measures, and the drop that it tells of.

Averaging the last weights of a run at a held learning rate takes out most of the noise that
annealing takes out. The gap g between the loss of the weights and that of their average over h
steps is smaller by what the average lags behind:

    c(h, t) = g(h, t) + L(t - h) - L(t)

and grows with h, and with the learning rate. A decay of n steps from the peak to 0 that begins at
step b brings

    D = ratio * c(n / 4, b) * (n / (b / 4))^d,    c(h, t) ~ h^p t^k eta^q

The form and its numbers were learnt from recorded runs, see `probe.json`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.laws import decaying, full_anneal
from lossforecast.numerics import NO_CALIBRATION, Calibration
from lossforecast.schedule import LRSchedule

__all__ = ["Gap", "GapRule", "MeasuredDrop", "Trend"]


_LATE = 0.5  # share of the run so far from which on gaps count
_LONGEST = 6  # horizons have to have passed
_ALPHA = 0.42  # of the power law ahead: that of lawful runs
_ENOUGH = 10  # losses to tell a parabola
_STEADY = 0.3  # share of S1 so far from which on the loss is a parabola of its logarithm
_FAST = 0.3  # of the peak: at a lower rate a gap says little of a full anneal
_RESOLUTION = 1e-6  # of a loss in single precision, with room
_ROUNDS, _FREEDOM = 5, 4  # of the fit, and of its Student t
_QUARTER = 0.25  # of a decay: horizon of the average that comes nearest; of a run: usual decay


class Gap(NamedTuple):
    """One measurement: loss(weights) - loss(averaged weights).

    Attributes:
        step: optimizer steps taken.
        value: the gap, in units of the loss.
        stderr: its standard error.
        horizon: of the average, in optimizer steps (decay ``1 - 1 / horizon``).
    """

    step: int
    value: float
    stderr: float
    horizon: int


class MeasuredDrop(NamedTuple):
    """What the gaps tell of the drop of a full anneal.

    Attributes:
        mean: of the drop, in units of the loss.
        std: its standard deviation.
        level: the loss that it starts from, when all of it has come.
    """

    mean: float
    std: float
    level: float


@dataclass(frozen=True)
class Trend:
    """The loss of late as a parabola of the logarithm of S1."""

    curve: np.polynomial.Polynomial
    s1: float  # at present

    @classmethod
    def of(cls, s1: FloatArray, loss: FloatArray, variance: FloatArray) -> Self:
        """Of n losses."""
        late = s1 >= _STEADY * s1[-1]
        x = np.log(s1[late] / s1[-1])
        places = np.unique(x).size
        degree = 2 if places > _ENOUGH else min(places, 2) - 1
        weight = np.maximum(variance[late], 1e-30) ** -0.5
        fitted = np.polynomial.Polynomial.fit(x, loss[late], degree, w=weight)
        return cls(fitted.convert(), float(s1[-1]))

    def fell(self, ago: FloatArray, s1: FloatArray) -> FloatArray:
        """How far the loss fell from earlier S1, (m,), to later ones, (m,)."""
        fell: FloatArray = self.curve(np.log(ago / self.s1)) - self.curve(np.log(s1 / self.s1))
        return np.maximum(fell, 0.0)

    def ahead(self, s1: float) -> float:
        """The loss later on, if it goes on falling as a power law."""
        present, slope = float(self.curve(0.0)), max(-float(self.curve.deriv()(0.0)), 0.0)
        return present - slope * -math.expm1(-_ALPHA * math.log(s1 / self.s1)) / _ALPHA


@cache
def _table() -> dict[str, Any]:
    """What was learnt from recorded runs, with its provenance."""
    found: dict[str, Any] = json.loads(
        files("lossforecast.prior").joinpath("probe.json").read_text()
    )
    return found


@dataclass(frozen=True)
class GapRule:
    """How a gap tells of a drop.

    Attributes:
        ratio: drop over gap at a quarter of the decay.
        spread: of the logarithm of the ratio, between runs.
        horizon_power: p.
        growth: k.
        rate_power: q.
        decay_power: d.
        apart: what one unit of the logarithm of h, t or eta adds to the spread, (3,).
        lag: relative error of the lag.
        calibration: of forecasts that were told the drop.
    """

    ratio: float
    spread: float
    horizon_power: float
    growth: float
    rate_power: float
    decay_power: float
    apart: tuple[float, float, float]
    lag: float
    calibration: Calibration = NO_CALIBRATION

    @classmethod
    def packaged(cls, without: str | None = None) -> Self:
        """The rule learnt from all recorded runs, or from those of all tasks but one."""
        return cls.from_dict(_table()["without"].get(without, _table()["all"]))

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The rule of plain values, as of `dataclasses.asdict`."""
        rows = tuple(tuple(row) for row in state["calibration"])
        return cls(**{**state, "apart": tuple(state["apart"]), "calibration": rows})

    def drop(
        self,
        gaps: Sequence[Gap],
        schedule: LRSchedule,
        now: int,
        step: NDArray[np.int64],
        loss: FloatArray,
        variance: FloatArray,
    ) -> MeasuredDrop | None:
        """The drop of the planned decay; None if no gap tells of it.

        Args:
            gaps: as measured so far.
            schedule: the learning rates, past and planned. Without a decay, one over its last fifth
                is meant.
            now: the present step.
            step: of the losses so far, (n,).
            loss: the losses, (n,).
            variance: theirs, (n,).
        """
        told = [gap for gap in gaps if self._tells(gap, schedule, now)]
        if not told:
            return None
        share, _ = full_anneal(decaying(schedule))
        decay = max(share * schedule.total_steps, 1.0)
        begin = max(schedule.total_steps - decay, 1.0)
        at, value, stderr, horizon = np.array(told, dtype=float).T
        s1, ago = (schedule.s1(np.maximum(x.astype(np.int64), 1)) for x in (at, at - horizon))
        trend = Trend.of(schedule.s1(np.maximum(step, 1)), loss, variance)
        lag = trend.fell(ago, s1)
        rate = schedule.lr(at.astype(np.int64)) / schedule.peak
        far = np.log([horizon / (_QUARTER * decay), at / begin, rate])
        powers = np.array([self.horizon_power, self.growth, self.rate_power])
        # the horizons of one measurement share its noise
        shared = math.sqrt(np.unique(horizon).size)
        # no difference of two losses is known better than that
        least = _RESOLUTION * float(np.median(np.abs(loss)) + np.abs(value).max()) or 1e-12
        noise = np.maximum(stderr * shared, least)
        gap, error = self._at_reference(value + lag, np.exp(powers @ far), lag, far, noise, shared)
        ratio = self.ratio * (decay / (_QUARTER * begin)) ** self.decay_power
        std = ratio * math.hypot(error, self.spread * gap)
        level = trend.ahead(float(schedule.s1(schedule.total_steps)))
        return MeasuredDrop(ratio * max(gap, 0.0), max(std, 1e-12), level)

    def _tells(self, gap: Gap, schedule: LRSchedule, now: int) -> bool:
        if schedule.peak == 0:
            return False
        late = max(_LATE * now, schedule.warmup_steps + gap.horizon, _LONGEST * gap.horizon)
        return late <= gap.step <= now and float(schedule.lr(gap.step)) >= _FAST * schedule.peak

    def _at_reference(
        self,
        value: FloatArray,
        unit: FloatArray,
        lag: FloatArray,
        far: FloatArray,
        noise: FloatArray,
        share: float,
    ) -> tuple[float, float]:
        """The gap where `far` is 0, with its standard error, from n gaps without lag.

        Linear in that gap, in the error of the lag and in those of the powers, of which the last
        ones are known beforehand. Gaps that fit badly count less (Student t), and all of them if
        none fits well.
        """
        precision = np.array([0.0, self.lag**-2, *(np.array(self.apart) ** -2)])
        gap, scatter, weight = float(np.median(value / unit)), 0.0, np.ones(value.size)
        for _ in range(_ROUNDS):
            design = np.vstack([unit, lag, abs(gap) * unit * far]).T
            variance = noise**2 + scatter**2
            certain = weight / variance
            gram = design.T @ (certain[:, np.newaxis] * design) + np.diag(precision)
            covariance = np.linalg.inv(gram)
            solution = covariance @ (design.T @ (certain * value))
            miss = value - design @ solution
            scatter = 1.4826 * float(np.median(np.abs(miss))) * share
            weight = (_FREEDOM + 1) / (_FREEDOM + miss**2 / variance)
            gap = float(solution[0])
        return gap, math.sqrt(covariance[0, 0])
