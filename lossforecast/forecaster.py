"""`Forecaster`: observes a run and forecasts it, the online object that wires the rooms."""

import copy
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from lossforecast.arrays import FloatArray
from lossforecast.checks import non_negative, number, whole
from lossforecast.errors import ConfigurationError, ObservationError, StateError
from lossforecast.forecast import AnnealGain, Forecast
from lossforecast.laws import LAWS
from lossforecast.numerics import Mixture
from lossforecast.policies import (
    MAX_EARLIER_CHECKS,
    Outlook,
    Policy,
    Recommendation,
    Situation,
    checked_target,
    policy_list,
    recommend,
)
from lossforecast.posterior import PastRunTransfer, Posterior, fit
from lossforecast.prior import Gap, Prior, nearest
from lossforecast.runs import Evidence, History, RunInfo, as_used, gather, observed_rates, risen
from lossforecast.schedule import LRSchedule, from_now_on
from lossforecast.status import Caveat, Status

__all__ = [
    "Forecaster",
]

_STATE_VERSION = 1
_TOO_SHORT = 10  # points of evidence
_TOO_YOUNG = 0.5  # of 1 to 0: 50 steps after the warm-up, a fortieth of the run's S1
_LEARNT = 0.5  # of the prior's spread of the drop: below it the drop counts as learnt
_MATTERS = 0.3  # of the forecast's spread: below it the drop is negligible
_BEGUN = 0.1  # share of a run from which on it may differ from its past
_OFF_PLAN = 0.01  # of the peak
_SAME_RATE = 1e-6  # of the peak: a saved and a resumed plan differ by rounding
_START = 0.2  # share of the run so far in which a minimum means nothing


class Forecaster:
    """Observes the losses of a run and says where they will end.

    Steps: the loss at step t is the loss after t optimizer steps, so the training loss of the
    (t+1)-th batch is step t, and a validation loss after the last step is step `total_steps`.

    Args:
        schedule: the planned learning rate of every step.
        run: what is known of the run.
        laws: "auto" (all, averaged by evidence) or one or more of "annealing", "multi-power",
            "memoryless", "power".
        prior: what is believed before the run; None is the packaged prior.
        every_n_steps: how often forecasts are due; by default about 100 times a run.

    Example:
        >>> from lossforecast import Forecaster, LRSchedule
        >>> plan = LRSchedule.wsd(total_steps=1_000, peak=1e-3, warmup=50)
        >>> forecaster = Forecaster(plan)
        >>> steps = range(0, 500)
        >>> forecaster.observe_many(steps, [2 + 3 * (t + 5) ** -0.5 for t in steps])
        >>> forecast = forecaster.forecast()
        >>> forecast.status.name, forecast.anneal_gain.source
        ('PRIOR_DRIVEN', 'prior')
    """

    def __init__(
        self,
        schedule: LRSchedule,
        run: RunInfo | None = None,
        laws: str | Iterable[str] = "auto",
        prior: Prior | None = None,
        every_n_steps: int | None = None,
    ) -> None:
        if not isinstance(schedule, LRSchedule):
            raise ConfigurationError(
                f"schedule must be an LRSchedule, not {type(schedule).__name__}: try "
                "LRSchedule.cosine(total_steps, peak) or LRSchedule.from_array(lrs)"
            )
        self.run = run or RunInfo()
        self.prior = prior or Prior()
        self.laws = _known_laws(laws)
        self.history = History()
        self.every_n_steps = max(1, round(schedule.total_steps / 100))
        if every_n_steps is not None:
            self.every_n_steps = whole("every_n_steps", every_n_steps, ConfigurationError, least=1)
        self.seconds_spent = 0.0
        """Time spent on fits and forecasts so far; reported, never acted on."""
        self._schedule = schedule
        self._gaps: list[Gap] = []
        self._looks: list[tuple[int, Outlook]] = []  # at the latest checks
        self._fitted: tuple[LRSchedule, Evidence, Posterior] | None = None
        self._past_runs = self._transfer()
        self._effective: LRSchedule | None = None
        self._latest: Forecast | None = None  # as planned

    # ------------------------------------------------------------------ observing

    @property
    def schedule(self) -> LRSchedule:
        """The plan."""
        return self._schedule

    @property
    def total_steps(self) -> int:
        """Length of the planned run in optimizer steps."""
        return self._schedule.total_steps

    def observe(self, step: int, loss: float, lr: float | None = None) -> None:
        """Record the loss at a step; nan and inf are counted and left out.

        Args:
            step: optimizer steps taken before this loss was computed, 0 or more.
            loss: the loss, in any unit.
            lr: learning rate of optimizer step `step`, if known; it overrides the plan.

        Raises:
            ObservationError: a step that is negative or not whole, a loss that is no number.
        """
        self.history.observe(step, loss, lr)
        self._forget_fit()

    def observe_many(
        self, steps: ArrayLike, losses: ArrayLike, lrs: ArrayLike | None = None
    ) -> None:
        """Record many losses at once, arrays of shape (n,), with the same result as one by one."""
        self.history.observe_many(steps, losses, lrs)
        self._forget_fit()

    def observe_gap(self, step: int, gap: float, stderr: float, horizon: int) -> None:
        """Record a measurement of the annealing probe: loss(raw weights) - loss(EMA weights).

        Args:
            step: the step of the measurement.
            gap: the difference, in units of the loss.
            stderr: its standard error.
            horizon: EMA horizon in optimizer steps (decay ``1 - 1 / horizon``).
        """
        value = number("gap", gap, ObservationError)
        error = non_negative("stderr", stderr, ObservationError)
        at = whole("step", step, ObservationError, least=0)
        steps = whole("horizon", horizon, ObservationError, least=1)
        if math.isfinite(value):
            self._gaps.append(Gap(at, value, error, steps))
            self._forget_fit()

    def thinned(self, max_bins: int) -> Self:
        """A copy, whose losses are in at most so many bins; it goes on by itself."""
        other = copy.copy(self)
        other.history = self.history.thinned(max_bins)
        other._gaps, other._looks = list(self._gaps), list(self._looks)
        return other

    def replan(self, schedule: LRSchedule) -> None:
        """Change the plan from the present step on; the past stays as it was observed.

        Raises:
            ScheduleError: the new plan ends before the present step.
        """
        self._schedule = from_now_on(self._now, self._schedule, schedule)
        self._forget_fit()

    def follow_rate(self, step: int, present_rate: float) -> None:
        """Hold the present rate from `step` on, where the plan only assumes the rate it holds.

        A plan without `Caveat.LR_ASSUMED`, or one whose rates still change after `step`, stays.

        Args:
            step: optimizer steps taken.
            present_rate: learning rate of the next optimizer step.
        """
        plan = self._schedule
        if Caveat.LR_ASSUMED not in plan.caveats or step >= plan.total_steps:
            return
        rates = _rates_after(plan, step)
        if rates[0] != present_rate and _is_constant(rates):
            held = LRSchedule.constant(plan.total_steps, present_rate)
            self.replan(plan.joined(step, held).with_caveats(Caveat.LR_ASSUMED))

    def adopt_plan(self, planned: LRSchedule, step: int) -> bool:
        """Take over the plan of a resumed run from `step` on; return whether it differs.

        The new plan need not know the rates before `step`: those of the present plan stay. Rates
        that agree to 1e-6 of the peak, and two rates that are only assumed, count as the same.

        Args:
            planned: the plan as the resumed training loop states it.
            step: optimizer steps taken.
        """
        saved = self._schedule
        if step >= planned.total_steps or _same_future(saved, planned, step):
            return False
        self.replan(saved.joined(step, planned) if step <= saved.total_steps else planned)
        return True

    def is_due(self, step: int) -> bool:
        """Whether a forecast is due at a step: every `every_n_steps`, whatever the clock says."""
        return step > 0 and (step % self.every_n_steps == 0 or step == self.total_steps)

    # ------------------------------------------------------------------ forecasting

    def forecast(self, step: int | None = None, schedule: LRSchedule | None = None) -> Forecast:
        """Forecast of the expected loss at a step, by default the last of the plan.

        Args:
            step: the step, 0..total_steps of the schedule.
            schedule: what if the run went on with this schedule; changes nothing.

        Raises:
            ScheduleError: the schedule ends before the present step.
            ConfigurationError: the step is outside the schedule.
        """
        as_planned = step is None and schedule is None
        if as_planned and self._latest is not None:
            return self._latest
        began = time.perf_counter()
        planned = self._effective_schedule()
        followed = planned if schedule is None else from_now_on(self._now, planned, schedule)
        end = followed.total_steps
        at = end if step is None else whole("step", step, ConfigurationError, least=0)
        if at > end:
            raise ConfigurationError(f"step {at} is after the end of the schedule ({end})")
        rise = self._rise()
        caveats = self._caveats(followed, rise)
        if self.history.n_observed == 0 and self._past_runs is None:
            nothing = AnnealGain(math.nan, math.nan, "none")
            seconds = time.perf_counter() - began
            return Forecast(
                at, -1, Status.NO_DATA, caveats, nothing, seconds, 0.0, None, None, followed
            )
        _, evidence, posterior = self._fit(planned, rise)
        now = posterior.now
        mixture, drop = posterior.ahead(followed, max(at, now))
        gain = _anneal_gain(posterior, drop)
        if at < now:
            mixture = posterior.predict(followed, np.array([at]))
        status = self._status(evidence, posterior, float(mixture.moments()[1][0]), gain)
        seconds = time.perf_counter() - began
        self.seconds_spent += seconds
        forecast = Forecast(
            step=at,
            made_at=self._now,
            status=status,
            caveats=caveats,
            anneal_gain=gain,
            seconds=seconds,
            _noise=evidence.noise,
            _mixture=mixture,
            _posterior=posterior,
            schedule=followed,
        )
        if as_planned:
            self._latest = forecast
        return forecast

    def recommend(
        self,
        target: float | None = None,
        policy: Policy | Iterable[Policy] | None = None,
        rivals: Sequence[Outlook] = (),
    ) -> Recommendation:
        """Advice on the run as planned. Every call at a later step is a check.

        Args:
            target: the final loss hoped for; without one only broken runs are stopped.
            policy: one or more of `lossforecast.policies` instead of the target miss.
            rivals: the other runs of a sweep, for policies that compare.
        """
        target, kind = checked_target(target), self.run.optimizer or ""
        forecast = self.forecast()
        self._looks = [look for look in self._looks if look[0] < self._now]
        earlier = tuple(outlook for _, outlook in self._looks)
        if forecast.status not in (Status.NO_DATA, Status.TOO_SHORT):
            self._looks = [*self._looks, (self._now, Outlook.of(forecast))][-MAX_EARLIER_CHECKS:]
        alike = self.prior.alike
        situation = Situation(self.history, forecast, target, tuple(rivals), kind, earlier, alike)
        return recommend(situation, policy_list(policy))

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON-able values: a restored forecaster forecasts bit for bit."""
        return {
            "version": _STATE_VERSION,
            "schedule": self._schedule.to_dict(),
            "run": dict(vars(self.run)),
            "laws": list(self.laws),
            "prior": self.prior.to_dict(),
            "every_n_steps": self.every_n_steps,
            "history": self.history.state_dict(),
            "gaps": [list(gap) for gap in self._gaps],
            "looks": [[step, list(outlook.quantiles)] for step, outlook in self._looks],
            "seconds_spent": self.seconds_spent,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """The forecaster that `state_dict` described.

        Raises:
            StateError: the state is not ours, is damaged or comes from a newer version.
        """
        if not isinstance(state, Mapping) or "version" not in state:
            raise StateError(f"not a saved forecaster: {state!r:.80}")
        if state["version"] != _STATE_VERSION:
            raise StateError(
                f"the state has version {state['version']!r}, this release reads {_STATE_VERSION}: "
                "update lossforecast"
            )
        try:
            forecaster = cls(
                LRSchedule.from_dict(state["schedule"]),
                RunInfo(**state["run"]),
                laws=tuple(state["laws"]),
                prior=Prior.from_dict(state["prior"]),
                every_n_steps=state["every_n_steps"],
            )
            forecaster.history = History.from_state_dict(state["history"])
            for step, gap, stderr, horizon in state["gaps"]:
                forecaster.observe_gap(step, gap, stderr, horizon)
            for step, quantiles in state.get("looks", []):
                forecaster._looks.append((int(step), Outlook(tuple(quantiles))))
            forecaster.seconds_spent = float(state["seconds_spent"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the saved forecaster is damaged: {error}") from error
        return forecaster

    # ------------------------------------------------------------------ inside

    @property
    def _now(self) -> int:
        return max(self.history.last_step, 0)

    def _forget_fit(self) -> None:
        self._fitted = self._effective = self._latest = None

    def _fit(self, planned: LRSchedule, rise: float) -> tuple[LRSchedule, Evidence, Posterior]:
        if self._fitted is None:
            beliefs = self.prior.for_run(self.run, planned, self.laws)
            evidence = gather(self.history.bins(), planned, beliefs.burn_in)
            now = self._now
            if self._past_runs is not None and not len(evidence):
                now = max(round(_BEGUN * planned.total_steps), 1)
                evidence = Evidence.nothing(now, self._past_runs.level)
            measured = self.prior.gaps.drop(
                self._gaps, planned, now, evidence.step, evidence.loss, evidence.variance
            )
            if measured is not None:
                beliefs = replace(beliefs, calibration=self.prior.gaps.calibration)
            posterior = fit(evidence, planned, now, beliefs, measured, rise, self._past_runs)
            self._fitted = planned, evidence, posterior
        return self._fitted

    def _transfer(self) -> PastRunTransfer | None:
        """What the past runs that are most like this one lead one to expect."""
        found = []
        for past, unlike in nearest(self.prior.past, self.run, self._schedule):
            beliefs = self.prior.for_run(past.run, past.schedule, self.laws)
            end = past.schedule.total_steps
            found.append((fit(past.evidence, past.schedule, end, beliefs), unlike))
        return PastRunTransfer.of(found)

    def _effective_schedule(self) -> LRSchedule:
        """The observed learning rates where they differ from the plan, then the plan."""
        if self._effective is None:
            self._effective = as_used(self._schedule, self.history)
        return self._effective

    def _rise(self) -> float:
        """How far an overfitting loss will have risen on by the end, at its pace; 0 if it does not.

        Not where the learning rate has risen since the minimum too, which explains it.
        """
        if self.run.metric != "val":
            return 0.0
        bins, schedule = self.history.bins(), self._effective_schedule()
        settled = np.isfinite(bins.mean) & (bins.first >= _START * self._now)
        steps = np.maximum(bins.last[settled], 1)
        lowest, rise = risen(bins.mean[settled])
        if not rise or schedule.lr(steps[-1]) > 1.01 * schedule.lr(steps[lowest]):
            return 0.0
        left, since = schedule.total_steps - steps[-1], steps[-1] - steps[lowest]
        return rise * float(np.clip(left / since, 0.01, 1.0))  # not 0: it has risen, to the end

    def _status(
        self, evidence: Evidence, posterior: Posterior, spread: float, gain: AnnealGain
    ) -> Status:
        if len(evidence) < _TOO_SHORT or posterior.youth > _TOO_YOUNG:
            return Status.TOO_SHORT
        if posterior.misfit() > 0.5:
            return Status.MISFIT
        if gain.source == "prior" and gain.std > _MATTERS * spread:
            return Status.PRIOR_DRIVEN
        return Status.IDENTIFIED

    def _caveats(self, schedule: LRSchedule, rise: float) -> tuple[Caveat, ...]:
        found = set(schedule.caveats)
        plan = self._schedule
        steps, rates = observed_rates(self.history)
        recent = np.flatnonzero(steps <= plan.total_steps)[-3:]
        if recent.size:
            difference = np.abs(rates[recent] - plan.lr(steps[recent]))
            if (difference > _OFF_PLAN * plan.peak).all():
                found.add(Caveat.LR_OFF_PLAN)
        if self.history.n_non_finite:
            found.add(Caveat.NON_FINITE)
        if rise > 0:
            found.add(Caveat.OVERFITTING)
        knots, rates = schedule.knots
        ahead = rates[knots >= max(self._now, schedule.warmup_steps)]
        if (ahead - np.minimum.accumulate(ahead) > _OFF_PLAN * schedule.peak).any():
            found.add(Caveat.LR_RISES_AHEAD)
        return tuple(sorted(found))


def _same_future(saved: LRSchedule, planned: LRSchedule, step: int) -> bool:
    if saved.total_steps != planned.total_steps:
        return False
    if Caveat.LR_ASSUMED in saved.caveats & planned.caveats and all(
        _is_constant(_rates_after(plan, step)) for plan in (saved, planned)
    ):
        return True  # `follow_rate` corrects the rate
    steps = planned.knots[0]
    steps = steps[steps > step]
    difference = np.abs(saved.lr(steps) - planned.lr(steps))
    return bool((difference <= _SAME_RATE * planned.peak).all())


def _rates_after(plan: LRSchedule, step: int) -> FloatArray:
    """Learning rates at the knots of the plan after a step."""
    steps, rates = plan.knots
    return rates[steps > step]


def _is_constant(rates: FloatArray) -> bool:
    return bool((rates == rates[0]).all())


def _anneal_gain(posterior: Posterior, drop: Mixture) -> AnnealGain:
    mean, std = (float(x[0]) for x in drop.moments())
    if not np.any(np.abs(drop.mean) > 1e-9 * posterior.transform.unit):
        return AnnealGain(0.0, 0.0, "none")
    source = "prior"
    if posterior.drop_shrinkage() < _LEARNT:
        source = "data"
    elif posterior.drop_is_measured():
        source = "probe"
    return AnnealGain(mean, std, source)


def _known_laws(laws: str | Iterable[str]) -> tuple[str, ...]:
    names = tuple(LAWS) if laws == "auto" else (laws,) if isinstance(laws, str) else tuple(laws)
    unknown = [name for name in names if name not in LAWS]
    if unknown or not names:
        raise ConfigurationError(
            f"unknown laws {unknown or laws!r}; choose from {', '.join(LAWS)}, or 'auto'"
        )
    return names
