"""Prediction of the annealing drop from the gaps that the annealing probe measures.

Averaging the last weights of a run at a constant learning rate removes most of the noise that
annealing removes. The gap g is the loss of the weights minus that of their average over a horizon
of h steps. The average lags behind, so the gap without the lag is

    c(h, t) = g(h, t) + L(t - h) - L(t)

It grows with the horizon h, the step t and the learning rate eta. A decay of n steps from the peak
to 0 that begins at step b brings the drop

    D = ratio * c(n / 4, b) * (n / (b / 4))^d,    c(h, t) ~ h^p t^k eta^q

The form and its numbers were learned from recorded runs, see `probe.json`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, Self

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.laws import decaying, full_anneal
from lossforecast.numerics import MAD_TO_STD, NO_CALIBRATION, Calibration
from lossforecast.schedule import LRSchedule

__all__ = ["Gap", "GapRule", "MeasuredDrop", "Trend"]


_MIN_GAP_STEP_SHARE = 0.5  # of the step of the latest gap: earlier ones are not used
_MIN_STEPS_IN_HORIZONS = 6  # before that many, the average still contains the initial weights
_MIN_RATE_SHARE = 0.3  # of the peak: at a lower rate a gap says little about a full anneal
_REFERENCE_HORIZON_SHARE = 0.25  # of the decay: the average over it comes closest to annealing
_REFERENCE_DECAY_SHARE = 0.25  # of the steps before the decay: a decay over the last fifth
_TREND_ALPHA = 0.42  # exponent of the power law ahead: the mean of lawful runs
_TREND_START_SHARE = 0.3  # of S1 so far, after which the loss is a parabola in log(S1)
_MAX_POINTS_OF_LINE = 10  # with losses at more values of S1, the trend is a parabola
_LOSS_RESOLUTION = 1e-6  # relative, of a loss in single precision, with a margin
_N_ITERATIONS = 5  # of the robust regression of the gaps
_STUDENT_DOF = 4  # degrees of freedom of its Student t residuals
_MIN_LOSS_VARIANCE = 1e-30
_MIN_STD = 1e-12  # keeps divisions finite


class Gap(NamedTuple):
    """One measurement: loss(weights) - loss(averaged weights).

    Attributes:
        step: optimizer steps taken.
        value: the gap, in units of the loss.
        stderr: its standard error.
        horizon: horizon h of the average in optimizer steps; its decay is ``1 - 1 / h``.
    """

    step: int
    value: float
    stderr: float
    horizon: int


class MeasuredDrop(NamedTuple):
    """The drop of a full anneal, predicted from gaps.

    Attributes:
        mean: mean of the drop, in units of the loss.
        std: its standard deviation.
        level: the loss at the end of the run without the drop.
        is_stale: True if no gap was measured in the later half of the steps so far.
    """

    mean: float
    std: float
    level: float
    is_stale: bool = False


@dataclass(frozen=True)
class Trend:
    """The recent loss as a polynomial of log(S1 / S1(now)), of degree 2 or less.

    Attributes:
        curve: the polynomial.
        s1: S1(now).
    """

    curve: np.polynomial.Polynomial
    s1: float

    @classmethod
    def of(cls, s1: FloatArray, loss: FloatArray, variance: FloatArray) -> Self:
        """Weighted least squares over n losses; all arguments have shape (n,)."""
        recent = s1 >= _TREND_START_SHARE * s1[-1]
        x = np.log(s1[recent] / s1[-1])
        n_distinct = np.unique(x).size
        degree = 2 if n_distinct > _MAX_POINTS_OF_LINE else min(n_distinct, 2) - 1
        weight = np.maximum(variance[recent], _MIN_LOSS_VARIANCE) ** -0.5
        polynomial = np.polynomial.Polynomial.fit(x, loss[recent], degree, w=weight)
        return cls(polynomial.convert(), float(s1[-1]))

    def fall(self, earlier: FloatArray, later: FloatArray) -> FloatArray:
        """Fall of the loss, at least 0, from earlier values of S1 to later ones, each (m,)."""
        fall: FloatArray = self.curve(np.log(earlier / self.s1)) - self.curve(
            np.log(later / self.s1)
        )
        return np.maximum(fall, 0.0)

    def loss_at(self, s1: float) -> float:
        """Loss at a later S1 if it goes on falling as a power law.

        With the present loss L and slope m = -dL / d log(S1), at least 0:
        ``L - m (1 - (s1 / S1(now))^-alpha) / alpha``.
        """
        present, slope = float(self.curve(0.0)), max(-float(self.curve.deriv()(0.0)), 0.0)
        decay = -math.expm1(-_TREND_ALPHA * math.log(s1 / self.s1))
        return present - slope * decay / _TREND_ALPHA


@cache
def _packaged_table() -> dict[str, Any]:
    """The rules learned from recorded runs, with their provenance: `probe.json`."""
    table: dict[str, Any] = json.loads(
        files("lossforecast.prior").joinpath("probe.json").read_text()
    )
    return table


@dataclass(frozen=True)
class GapRule:
    """The rule that predicts the drop of a decay from gaps; symbols as in the module docstring.

    Attributes:
        ratio: drop over gap, the gap at a quarter of the decay.
        spread: standard deviation of log(ratio) between runs.
        horizon_power: p.
        growth: k.
        rate_power: q.
        decay_power: d.
        apart: standard deviations of p, k and q between runs, (3,).
        lag: relative error of the lag.
        calibration: calibration of forecasts that use a measured drop.
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
        """The rule learned from all recorded runs, or from those of all tasks but one."""
        table = _packaged_table()
        return cls.from_dict(table["without"].get(without, table["all"]))

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore the rule from the plain values of `dataclasses.asdict`."""
        rows = tuple(tuple(row) for row in state["calibration"])
        return cls(**{**state, "apart": tuple(state["apart"]), "calibration": rows})

    def drop(
        self,
        gaps: Sequence[Gap],
        schedule: LRSchedule,
        now: int,
        *,
        step: IntArray,
        loss: FloatArray,
        variance: FloatArray,
    ) -> MeasuredDrop | None:
        """Predict the drop of the planned decay; None if no gap is of use.

        The gaps from half of the step t of the latest one on are used. If that was measured in the
        earlier half of the n steps so far, the spread of the ratio grows by a factor of
        ``1 + log(n / (2 t))``.

        Args:
            gaps: the measurements so far.
            schedule: learning rate of every step, past and planned. If it has no decay, one over
                its last fifth is assumed.
            now: the present step.
            step: steps of the losses so far, (n,).
            loss: the losses, (n,).
            variance: variances of the losses, (n,).
        """
        used = [gap for gap in gaps if _is_informative(gap, schedule, now)]
        if not used:
            return None
        latest = max(gap.step for gap in used)
        age = max(math.log(_MIN_GAP_STEP_SHARE * max(now, 1) / latest), 0.0)
        used = [gap for gap in used if gap.step >= _MIN_GAP_STEP_SHARE * latest]
        decay_share, _ = full_anneal(decaying(schedule))
        decay = max(decay_share * schedule.total_steps, 1.0)
        begin = max(schedule.total_steps - decay, 1.0)
        trend = Trend.of(schedule.s1(np.maximum(step, 1)), loss, variance)
        resolution = _LOSS_RESOLUTION * float(
            np.median(np.abs(loss)) + np.abs([gap.value for gap in used]).max()
        )
        gap, error = self._reference_gap(
            used,
            schedule,
            trend,
            decay=decay,
            begin=begin,
            resolution=resolution or _MIN_STD,
        )
        ratio = self.ratio * (decay / (_REFERENCE_DECAY_SHARE * begin)) ** self.decay_power
        std = ratio * math.hypot(error, self.spread * (1 + age) * gap)
        level = trend.loss_at(float(schedule.s1(schedule.total_steps)))
        return MeasuredDrop(ratio * max(gap, 0.0), max(std, _MIN_STD), level, is_stale=age > 0)

    def _reference_gap(
        self,
        gaps: Sequence[Gap],
        schedule: LRSchedule,
        trend: Trend,
        *,
        decay: float,
        begin: float,
        resolution: float,
    ) -> tuple[float, float]:
        """The gap c(n / 4, b) at the peak rate, and its standard error.

        Args:
            gaps: m measurements.
            schedule: learning rate of every step.
            trend: trend of the loss, which gives the lag.
            decay: length n of the decay in steps.
            begin: its first step b.
            resolution: standard error below which no difference of two losses is known.
        """
        at, value, stderr, horizon = np.array(gaps, dtype=float).T
        s1, earlier_s1 = (
            schedule.s1(np.maximum(x.astype(np.int64), 1)) for x in (at, at - horizon)
        )
        lag = trend.fall(earlier_s1, s1)
        rate = schedule.lr(at.astype(np.int64)) / schedule.peak
        log_ratios = np.log([horizon / (_REFERENCE_HORIZON_SHARE * decay), at / begin, rate])
        # the gaps of one measurement, one for each horizon, share its noise
        inflation = math.sqrt(np.unique(horizon).size)
        return self._regression(
            value + lag,
            lag,
            log_ratios,
            noise=np.maximum(stderr * inflation, resolution),
            inflation=inflation,
        )

    def _regression(
        self,
        value: FloatArray,
        lag: FloatArray,
        log_ratios: FloatArray,
        *,
        noise: FloatArray,
        inflation: float,
    ) -> tuple[float, float]:
        """Robust regression of m gaps without lag; returns c at the reference, and its error.

        With ``u = exp((p, k, q) . x)``, x the log ratios of (h, t, eta) to the reference,

            value = c u + e lag + (dp, dk, dq) . x c u + noise

        is linear in c, in the relative error e of the lag and in the errors of the three powers,
        all but c with Gaussian priors. Gaps that fit badly get less weight (Student t residuals);
        if none fits well, the scatter of the residuals is added to the noise.

        Args:
            value: gaps without lag, (m,).
            lag: the lags, (m,).
            log_ratios: x, (3, m).
            noise: standard errors of the gaps, (m,).
            inflation: factor of the scatter, for gaps that share their noise.
        """
        powers = np.array([self.horizon_power, self.growth, self.rate_power])
        unit = np.exp(powers @ log_ratios)
        precision = np.array([0.0, self.lag**-2, *(np.array(self.apart) ** -2)])
        gap, scatter, weight = float(np.median(value / unit)), 0.0, np.ones(value.size)
        for _ in range(_N_ITERATIONS):
            design = np.vstack([unit, lag, abs(gap) * unit * log_ratios]).T
            variance = noise**2 + scatter**2
            row_precision = weight / variance
            gram = design.T @ (row_precision[:, np.newaxis] * design) + np.diag(precision)
            covariance = np.linalg.inv(gram)
            solution = covariance @ (design.T @ (row_precision * value))
            residual = value - design @ solution
            scatter = MAD_TO_STD * float(np.median(np.abs(residual))) * inflation
            weight = (_STUDENT_DOF + 1) / (_STUDENT_DOF + residual**2 / variance)
            gap = float(solution[0])
        return gap, math.sqrt(covariance[0, 0])


def _is_informative(gap: Gap, schedule: LRSchedule, now: int) -> bool:
    """Return whether a gap is late enough for its horizon, and measured near the peak."""
    if schedule.peak == 0:
        return False
    first_step = max(schedule.warmup_steps + gap.horizon, _MIN_STEPS_IN_HORIZONS * gap.horizon)
    if not max(first_step, 1) <= gap.step <= now:
        return False
    return float(schedule.lr(gap.step)) >= _MIN_RATE_SHARE * schedule.peak
