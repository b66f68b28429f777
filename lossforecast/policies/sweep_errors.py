"""`SweepErrors`: corrects the forecasts of a sweep by the errors of those of its ended runs.

    errors = SweepErrors()
    errors.record("run 7", Setup.of("adamw", plan), 0.1, outlook)  # at a tenth of its plan
    errors.end("run 7", loss)
    errors.record("run 8", Setup.of("adamw", plan_of_run_8), 0.1, outlook_of_run_8)
    errors.corrected("run 8", 0.1, outlook_of_run_8)

The error of a forecast is the normal score z of the final loss under it: 0 at the median, 1 at the
84% quantile. At the same share of their plans, similar runs have similar errors. The errors of n
ended runs and of a run in progress are taken to be jointly Student-t distributed with mean 0 and
the covariance

    s^2 (k(i, j) + NOISE [i = j])
    k(i, j) = OF_SWEEP + same kind * (OF_KIND + p (OF_PEAK + OF_PLAN d m))

where p, d and m fall from 1 to 0, as exp(-x^2 / 2), with the differences in peak rate, start of the
decay and median forecast. The scale s is learned from the ended runs. Without any of them, every
forecast stays as it is; if all of them differ much from it, it hardly changes.
"""

import math
from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.forecast import LEVEL_SCORES, QUANTILE_LEVELS
from lossforecast.numerics import stdtrit
from lossforecast.policies.ranking import Outlook
from lossforecast.schedule import LRSchedule

__all__ = ["MAX_ENDED_RUNS", "Setup", "SweepErrors"]

RunId = TypeVar("RunId", bound=Hashable)

MAX_ENDED_RUNS = 100
"""Number of ended runs that are learned from, the latest ones, so that the cost stays bounded."""

_CHECKS_PER_RUN = 50  # evenly spaced, at which forecasts are kept
# parts of the variance of an error, 1 in sum, chosen by likelihood on recorded sweeps
_OF_SWEEP, _OF_KIND, _OF_PEAK, _OF_PLAN, _NOISE = 0.3, 0.1, 0.1, 0.45, 0.05
_PEAK_OCTAVES = 1.0  # difference in log2(peak rate) at which exp(-x^2 / 2) has x = 1
_DECAY_SHARES = 0.2  # the same of the start of the decay, in shares of the plan
_MEDIAN_STDS = 1.0  # the same of the median forecast, in standard deviations of the forecast
_DEGREES_OF_PRIOR = 3.0  # a scale of 1 counts as this many ended runs
_ROUNDING = 1e-9  # of a share in fiftieths
_MAX_SCORE = 5.0  # of a loss far outside the forecast
_DECAYED_SHARE = 0.9  # of the peak rate: below it the decay has begun
_RATES_READ = 200  # of a plan, evenly spaced
_MEDIAN, _ONE_STD = len(QUANTILE_LEVELS) // 2, 4  # index, and distance of indices, of quantiles


@dataclass(frozen=True)
class Setup:
    """The settings of a run by which the runs of a sweep are compared.

    Attributes:
        kind: the optimizer, or another label that groups the runs of a sweep, as in `Outlook.kind`.
        log2_peak: logarithm of the peak rate to the base 2; 0 for a rate of 0.
        decay_start: share of the plan from which on the rate stays below 90% of its peak; 1 if
            it never does.
    """

    kind: str
    log2_peak: float
    decay_start: float

    @classmethod
    def of(cls, kind: str, plan: LRSchedule) -> Self:
        """Read the setup off a plan.

        Example:
            >>> Setup.of("adamw", LRSchedule.wsd(1_000, 0.5, decay_fraction=0.2))
            Setup(kind='adamw', log2_peak=-1.0, decay_start=0.82)
        """
        steps = np.linspace(1, plan.total_steps, _RATES_READ).astype(np.int64)
        high = np.flatnonzero(plan.lr(steps) >= _DECAYED_SHARE * plan.peak)
        start = float(steps[high[-1]] / plan.total_steps) if high.size else 1.0
        log2_peak = math.log2(plan.peak) if plan.peak > 0 else 0.0
        return cls(kind, log2_peak, round(start, 2))


@dataclass
class _Trail:
    """The forecasts of a run.

    Attributes:
        setup: the setup of the run.
        checks: number of whole fiftieths of the plan taken at each forecast, ascending, n.
        medians: medians of the forecasts, n.
        quantiles: quantiles of the forecasts, each (29,), n.
        errors: scores under them of the loss that the run ended with, n; None while it is in
            progress.
    """

    setup: Setup
    checks: list[int] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    quantiles: list[NDArray[np.float32]] = field(default_factory=list)
    errors: list[float] | None = None

    def record(self, check: int, quantiles: tuple[float, ...]) -> None:
        """Add a forecast; nothing is learned from those made after the end."""
        if self.errors is None:
            kept = np.array(quantiles, np.float32)
            self.checks.append(check)
            self.medians.append(float(kept[_MEDIAN]))
            self.quantiles.append(kept)

    def end(self, loss: float) -> None:
        """Turn the forecasts into errors, which is all that is needed of them from now on."""
        self.errors = [_score(loss, seen.astype(np.float64)) for seen in self.quantiles]
        self.quantiles = []

    def latest(self, check: int) -> int:
        """Return the index of the latest forecast made by then; -1 if there was none."""
        return bisect_right(self.checks, check) - 1


@dataclass(frozen=True)
class _Settings:
    """The setups of n runs as arrays, (n,) each: the kinds, and peaks and starts in their units."""

    kind: NDArray[np.str_]
    peak: FloatArray
    start: FloatArray

    @classmethod
    def of(cls, setups: Sequence[Setup]) -> Self:
        return cls(
            np.array([setup.kind for setup in setups]),
            np.array([setup.log2_peak for setup in setups]) / _PEAK_OCTAVES,
            np.array([setup.decay_start for setup in setups]) / _DECAY_SHARES,
        )


@dataclass(frozen=True)
class _Likeness:
    """How alike the setups of runs are, (n, m) each: the factors of k(i, j) without medians."""

    same_kind: NDArray[np.bool_]
    peak: FloatArray
    start: FloatArray

    @classmethod
    def between(cls, one: _Settings, other: _Settings) -> Self:
        return cls(
            one.kind[:, np.newaxis] == other.kind,
            _closeness(one.peak, other.peak),
            _closeness(one.start, other.start),
        )

    def among(self, rows: list[int]) -> "_Likeness":
        """The same for some of the runs."""
        if len(rows) == len(self.peak):
            return self
        at = np.ix_(rows, rows)
        return _Likeness(self.same_kind[at], self.peak[at], self.start[at])

    def covariance(self, medians: FloatArray) -> FloatArray:
        """Covariance of the errors for s = 1, without the noise, (n, m).

        Args:
            medians: closeness of the median forecasts, (n, m).
        """
        of_plan = _OF_PLAN * self.start * medians
        covariance: FloatArray = _OF_SWEEP + self.same_kind * (
            _OF_KIND + self.peak * (_OF_PEAK + of_plan)
        )
        return covariance


@dataclass(frozen=True)
class _Past:
    """The ended runs that had a forecast at a share of their plans.

    Attributes:
        settings: their setups, n.
        likeness: how alike these are, (n, n).
        medians: medians of their latest forecasts by then, (n,).
        errors: scores of their losses under these, (n,).
    """

    settings: _Settings
    likeness: _Likeness
    medians: FloatArray
    errors: FloatArray


@dataclass
class SweepErrors(Generic[RunId]):
    """The forecasts made during the runs of a sweep, and the losses that they ended with."""

    _trails: dict[RunId, _Trail] = field(default_factory=dict)
    _ended: dict[RunId, None] = field(default_factory=dict)  # in the order in which they ended
    _likeness: _Likeness | None = None  # of those that count
    _pasts: dict[int, _Past | None] = field(default_factory=dict)  # by check
    version: int = 0
    """Number of changes of the ended runs; while it stays, so does a correction."""

    def __getstate__(self) -> dict[str, Any]:
        """Without what was computed from the ended runs."""
        return {**vars(self), "_likeness": None, "_pasts": {}}

    def wants(self, run: RunId, share: float) -> bool:
        """Return whether no forecast was recorded yet since this fiftieth of the plan began."""
        trail = self._trails.get(run)
        return trail is None or not trail.checks or _check(share) > trail.checks[-1]

    def record(self, run: RunId, setup: Setup, share: float, outlook: Outlook) -> None:
        """Record the forecast of a run at a share of its plan, at most one in each fiftieth of it.

        One without data is not recorded.
        """
        if not outlook.known or not self.wants(run, share):
            return
        self._trails.setdefault(run, _Trail(setup)).record(_check(share), outlook.quantiles)

    def end(self, run: RunId, loss: float) -> None:
        """Record the loss that a run ended with; nothing is learned from one that is not finite."""
        if run in self._trails and math.isfinite(loss) and run not in self._ended:
            self._trails[run].end(loss)
            self._ended[run] = None
            self._forget_past()

    def forget(self, run: RunId) -> None:
        """Drop the forecasts of a run that was stopped, failed or is restarted."""
        self._trails.pop(run, None)
        if run in self._ended:
            del self._ended[run]
            self._forget_past()

    def corrected(self, run: RunId, share: float, outlook: Outlook) -> Outlook:
        """Return the forecast of a run corrected by the errors of the runs that have ended.

        Args:
            run: the run; if no forecast of it was recorded, this one stays as it is.
            share: share of its plan that it has taken.
            outlook: the forecast.
        """
        quantiles = np.array(outlook.quantiles)
        std = (quantiles[_MEDIAN + _ONE_STD] - quantiles[_MEDIAN - _ONE_STD]) / 2
        if not self._ended or run not in self._trails or not std > 0:
            return outlook
        past = self._past(_check(share))
        if past is None:
            return outlook
        unit = _MEDIAN_STDS * std
        medians, own = past.medians / unit, quantiles[_MEDIAN : _MEDIAN + 1] / unit
        covariance = past.likeness.covariance(_closeness(medians, medians))
        settings = _Settings.of([self._trails[run].setup])
        shared = _Likeness.between(past.settings, settings).covariance(_closeness(medians, own))
        errors, n = past.errors, len(past.errors)
        weights = np.linalg.solve(
            covariance + _NOISE * np.eye(n), np.column_stack([shared[:, 0], errors])
        )
        of_run = weights[:, 0]
        degrees = _DEGREES_OF_PRIOR + n
        scale = (_DEGREES_OF_PRIOR + errors @ weights[:, 1]) / degrees
        mean = of_run @ errors
        std_left = math.sqrt(scale * (1 - of_run @ shared[:, 0]))
        scores = mean + std_left * stdtrit(degrees, np.array(QUANTILE_LEVELS))
        return replace(outlook, quantiles=tuple(np.interp(scores, *_nodes(quantiles)).tolist()))

    def _past(self, check: int) -> _Past | None:
        """The latest ended runs with a forecast by a check; None without any."""
        if check not in self._pasts:
            self._pasts[check] = self._read_past(check)
        return self._pasts[check]

    def _read_past(self, check: int) -> _Past | None:
        trails = [self._trails[run] for run in [*self._ended][-MAX_ENDED_RUNS:]]
        if self._likeness is None:
            settings = _Settings.of([trail.setup for trail in trails])
            self._likeness = _Likeness.between(settings, settings)
        latest = [trail.latest(check) for trail in trails]
        seen = [row for row, i in enumerate(latest) if i >= 0]
        if not seen:
            return None
        return _Past(
            settings=_Settings.of([trails[row].setup for row in seen]),
            likeness=self._likeness.among(seen),
            medians=np.array([trails[row].medians[latest[row]] for row in seen]),
            errors=np.array([(trails[row].errors or ())[latest[row]] for row in seen]),
        )

    def _forget_past(self) -> None:
        self.version += 1
        self._likeness = None
        self._pasts.clear()


def _check(share: float) -> int:
    """Return the number of whole fiftieths in a share."""
    return math.floor(share * _CHECKS_PER_RUN + _ROUNDING)


def _closeness(one: FloatArray, other: FloatArray) -> FloatArray:
    """``exp(-x^2 / 2)`` for the differences x between values (n,) and others (m,), (n, m)."""
    closeness: FloatArray = np.exp(-((one[:, np.newaxis] - other) ** 2) / 2)
    return closeness


def _nodes(quantiles: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores and losses, (31,) each: the quantiles, and their straight continuation to +-5."""
    beyond = (_MAX_SCORE - LEVEL_SCORES[-1]) / (LEVEL_SCORES[-1] - LEVEL_SCORES[-1 - 2 * _ONE_STD])
    low = quantiles[0] - beyond * (quantiles[2 * _ONE_STD] - quantiles[0])
    high = quantiles[-1] + beyond * (quantiles[-1] - quantiles[-1 - 2 * _ONE_STD])
    return (
        np.concatenate([[-_MAX_SCORE], LEVEL_SCORES, [_MAX_SCORE]]),
        np.concatenate([[low], quantiles, [high]]),
    )


def _score(loss: float, quantiles: NDArray[np.float64]) -> float:
    """Normal score of a loss under a forecast with these quantiles, (29,); at most 5 in size."""
    scores, losses = _nodes(quantiles)
    return float(np.interp(loss, losses, scores))
