"""`Forecaster`: observes the losses of a run, forecasts the final one and recommends what to do."""

import copy
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from numpy.typing import ArrayLike

from lossforecast.checks import non_negative, number, whole
from lossforecast.display import heading
from lossforecast.errors import ConfigurationError, ObservationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster.assessment import (
    anneal_gain_of,
    caveats_of,
    lowest_validation,
    overfitting_rise,
    status_of,
)
from lossforecast.forecaster.fitting import Background, ahead_of, known_laws
from lossforecast.forecaster.hindsight import Hindsight
from lossforecast.forecaster.replanning import possible_futures, same_future, with_rate_held
from lossforecast.forecaster.state import SavedForecaster, damage_reported
from lossforecast.policies import (
    MAX_EARLIER_CHECKS,
    Outlook,
    Policy,
    Recommendation,
    Situation,
    checked_target,
    is_open,
    policy_list,
    recommend,
)
from lossforecast.posterior import Posterior
from lossforecast.prior import Gap, Prior
from lossforecast.runs import Evidence, History, RunInfo, effective_schedule
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat, Status

__all__ = ["Forecaster"]

_FORECASTS_PER_RUN = 60


class Forecaster:
    """Observes the losses of a run and forecasts the final one.

    The loss at step t is the loss after t optimizer steps, so the training loss of the (t+1)-th
    batch is step t, and a validation loss after the last step is step `total_steps`.

    Args:
        schedule: the planned learning rate of every step.
        run: what is known about the run: metric, optimizer, project, sizes.
        laws: "auto" for all, averaged by evidence, or names of `lossforecast.laws.LAWS`.
        prior: beliefs before the first loss, past runs included; None is the packaged prior.
        every_n_steps: steps between forecasts; by default about a sixtieth of the run.

    Raises:
        ConfigurationError: an argument has another type, or a law is unknown.

    Example:
        >>> from lossforecast import Forecaster, LRSchedule, RunInfo
        >>> plan = LRSchedule.wsd(total_steps=1_000, peak=1e-3, warmup=50)
        >>> forecaster = Forecaster(plan, RunInfo("val", "adamw", task="language modelling"))
        >>> forecaster.observe_many(range(500), [2 + 3 * (t + 5) ** -0.5 for t in range(500)])
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
        self.laws = known_laws(laws)
        self.history = History()
        self.every_n_steps = max(1, round(schedule.total_steps / _FORECASTS_PER_RUN))
        if every_n_steps is not None:
            self.every_n_steps = whole("every_n_steps", every_n_steps, ConfigurationError, least=1)
        self.seconds_spent = 0.0  # on fits and forecasts so far; reported, never acted on
        self._schedule = schedule
        self._gaps: list[Gap] = []
        self._checks: list[tuple[int, Outlook]] = []  # step and outlook of the latest ones
        self._fitted: tuple[Evidence, Posterior] | None = None
        self._hindsight = Hindsight()
        self._background = Background.of(self.prior, self.run, schedule, self.laws)
        self._effective: LRSchedule | None = None
        self._as_planned: Forecast | None = None

    # ------------------------------------------------------------------ observing

    @property
    def schedule(self) -> LRSchedule:
        """The planned learning rates."""
        return self._schedule

    @property
    def n_smaller_runs(self) -> int:
        """Number of past runs of smaller models that the forecast starts from."""
        ladder = self._background.ladder
        return 0 if ladder is None else ladder.n_runs

    @property
    def total_steps(self) -> int:
        """Length of the planned run in optimizer steps."""
        return self._schedule.total_steps

    def observe(self, step: int, loss: float, lr: float | None = None) -> None:
        """Record the loss at a step; nan and inf are counted and otherwise ignored.

        Args:
            step: optimizer steps taken before this loss was computed, 0 or more.
            loss: the loss, in any unit.
            lr: learning rate of optimizer step `step`, if known; it overrides the plan.

        Raises:
            ObservationError: the step is negative or not whole, or the loss is not a number.
        """
        self.history.observe(step, loss, lr)
        self._forget_fit()

    def observe_many(
        self, steps: ArrayLike, losses: ArrayLike, lrs: ArrayLike | None = None
    ) -> None:
        """Record many losses at once, arrays (n,); the result is the same as one by one.

        Raises:
            ObservationError: as in `observe`, or arrays of different shapes.
        """
        self.history.observe_many(steps, losses, lrs)
        self._forget_fit()

    def observe_gap(self, step: int, gap: float, stderr: float, horizon: int) -> None:
        """Record a measurement of the annealing probe: loss(raw weights) - loss(EMA weights).

        Args:
            step: the step of the measurement.
            gap: the difference, in units of the loss; ignored if it is nan or infinite.
            stderr: its standard error.
            horizon: EMA horizon in optimizer steps (decay ``1 - 1 / horizon``).

        Raises:
            ObservationError: a value is not a number, or is impossible.
        """
        value = number("gap", gap, ObservationError)
        error = non_negative("stderr", stderr, ObservationError)
        at = whole("step", step, ObservationError, least=0)
        steps = whole("horizon", horizon, ObservationError, least=1)
        if math.isfinite(value):
            self._gaps.append(Gap(at, value, error, steps))
            self._forget_fit()

    def follow_epochs(self, steps_per_epoch: float) -> None:
        """Correct the number of optimizer steps in one pass over the training data."""
        self.run = replace(self.run, steps_per_epoch=steps_per_epoch)
        self._forget_fit()

    def event(self, step: int, name: str) -> None:
        """Mark a change of data, augmentation, sequence length or batch size: the loss may jump.

        Losses before it then count less, and the forecast is wide until one after it is observed.
        An event before the first loss changes nothing; rewinding drops the events after that step.

        Args:
            step: optimizer steps taken before the change, which may be past or still to come.
            name: the change in a few words.

        Raises:
            ObservationError: the step is negative or not whole, or the name is empty.
        """
        self.history.event(step, name)
        self._forget_fit()

    def thinned(self, max_bins: int) -> Self:
        """An independent copy whose losses are pooled in at most `max_bins` bins."""
        other = copy.copy(self)
        other.history = self.history.thinned(max_bins)
        other._gaps, other._checks = list(self._gaps), list(self._checks)
        other._hindsight = Hindsight()
        return other

    def replan(self, schedule: LRSchedule) -> None:
        """Change the plan from the present step on; the past stays as it was observed.

        Raises:
            ScheduleError: the new plan ends before the present step.
        """
        self._schedule = self._schedule.replanned_from(self._now, schedule)
        self._forget_fit()

    def follow_rate(self, step: int, present_rate: float) -> None:
        """Correct a plan that only assumes a constant rate: hold the present rate from `step` on.

        A plan without `Caveat.LR_ASSUMED`, or whose rates change after `step`, stays unchanged.

        Args:
            step: optimizer steps taken.
            present_rate: learning rate of the next optimizer step.
        """
        plan = with_rate_held(self._schedule, step, present_rate)
        if plan is not self._schedule:
            self.replan(plan)

    def adopt_plan(self, planned: LRSchedule, step: int) -> bool:
        """Adopt the plan of a resumed run from `step` on; return whether it differs.

        The new plan need not hold the rates before `step`: those of the present plan stay. Rates
        that agree to 1e-6 of the peak, and two rates that are only assumed, count as the same.

        Args:
            planned: the plan as the resumed training loop states it.
            step: optimizer steps taken.
        """
        saved = self._schedule
        if step >= planned.total_steps or same_future(saved, planned, step):
            return False
        self.replan(saved.joined(step, planned) if step <= saved.total_steps else planned)
        return True

    def is_due(self, step: int) -> bool:
        """Return whether a forecast is due at a step: every `every_n_steps`, and at the end."""
        return step > 0 and (step % self.every_n_steps == 0 or step == self.total_steps)

    # ------------------------------------------------------------------ forecasting

    def forecast(self, step: int | None = None, schedule: LRSchedule | None = None) -> Forecast:
        """Forecast the expected loss at a step, by default the last one of the plan.

        Args:
            step: the step, 0..total_steps of the schedule.
            schedule: a what-if: the learning rates to follow from the present step on. The plan
                stays as it is.

        Raises:
            ScheduleError: the schedule ends before the present step.
            ConfigurationError: the step is outside the schedule.
        """
        as_planned = step is None and schedule is None
        if as_planned and self._as_planned is not None:
            return self._as_planned
        began = time.perf_counter()
        planned = self._effective_schedule()
        followed = planned if schedule is None else planned.replanned_from(self._now, schedule)
        end = followed.total_steps
        at = end if step is None else whole("step", step, ConfigurationError, least=0)
        if at > end:
            raise ConfigurationError(f"step {at} is after the end of the schedule ({end})")
        if self.history.n_observed == 0 and self._background.is_blank:
            caveats = self._caveats(followed)
            return Forecast.without_data(at, followed, caveats, time.perf_counter() - began)
        forecast = self._forecast(at, planned, followed, began)
        if as_planned:
            self._as_planned = forecast
        return forecast

    def recommend(
        self,
        target: float | None = None,
        policy: Policy | Iterable[Policy] | None = None,
        rivals: Sequence[Outlook] = (),
        corrected: Outlook | None = None,
    ) -> Recommendation:
        """Recommend what to do with the run as planned. A call at a new step counts as a check.

        Args:
            target: the final loss to reach, if any.
            policy: one or more of `lossforecast.policies` instead of its `DEFAULT_POLICIES`.
            rivals: the other runs of a sweep, for policies that compare.
            corrected: the forecast to compare with them, by `lossforecast.policies.SweepErrors`.

        Raises:
            ConfigurationError: the target is not a finite number, or a policy cannot be called.
        """
        target, policies = checked_target(target), policy_list(policy)
        forecast = self.forecast()
        self._checks = [check for check in self._checks if check[0] < self._now]
        earlier = tuple(outlook for _, outlook in self._checks)
        if forecast.status is not Status.NO_DATA and not is_open(forecast):
            self._checks = [*self._checks, (self._now, Outlook.of(forecast))][-MAX_EARLIER_CHECKS:]
        situation = Situation(
            history=self.history,
            forecast=forecast,
            target=target,
            rivals=tuple(rivals),
            run=self.run,
            kind=self.run.optimizer or "",
            earlier=earlier,
            alike=self.prior.alike,
            corrected=corrected,
        )
        return recommend(situation, policies)

    def __repr__(self) -> str:
        seen = f"step {self._now} of {self.total_steps}, {self.history.n_observed} losses"
        ahead = heading(self._as_planned.estimate) if self._as_planned else "no forecast yet"
        return f"Forecaster({seen}, {self.run.kind}, {ahead})"

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """The whole state as JSON-able values; a restored forecaster makes identical forecasts."""
        return SavedForecaster(
            schedule=self._schedule,
            run=self.run,
            laws=self.laws,
            prior=self.prior,
            every_n_steps=self.every_n_steps,
            history=self.history,
            gaps=self._gaps,
            checks=self._checks,
            seconds_spent=self.seconds_spent,
        ).to_dict()

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore a forecaster from its `state_dict`.

        Raises:
            StateError: the state is not that of a forecaster, is damaged or has another version.
        """
        saved = SavedForecaster.from_dict(state)
        with damage_reported():
            forecaster = cls(
                saved.schedule, saved.run, saved.laws, saved.prior, saved.every_n_steps
            )
            for gap in saved.gaps:
                forecaster.observe_gap(*gap)
        forecaster.history, forecaster._checks = saved.history, saved.checks
        forecaster.seconds_spent = saved.seconds_spent
        return forecaster

    # ------------------------------------------------------------------ inside

    @property
    def _now(self) -> int:
        return max(self.history.last_step, 0)

    def _forget_fit(self) -> None:
        self._fitted = self._effective = self._as_planned = None

    def _forecast(
        self, at: int, planned: LRSchedule, followed: LRSchedule, began: float
    ) -> Forecast:
        """Forecast step `at` of the schedule followed, from a fit to the schedule planned."""
        evidence, posterior = self._fit(planned)
        futures = possible_futures(followed, posterior.now)
        mixture, drop = ahead_of(posterior, futures, at)
        gain = anneal_gain_of(posterior, drop)
        seconds = time.perf_counter() - began
        self.seconds_spent += seconds
        return Forecast(
            step=at,
            made_at=self._now,
            status=status_of(evidence, posterior, float(mixture.moments()[1][0]), gain),
            caveats=self._caveats(followed, posterior),
            anneal_gain=gain,
            seconds=seconds,
            schedule=followed,
            _noise=evidence.noise,
            _mixture=mixture,
            _posterior=posterior,
            _futures=futures,
            _seen=(evidence.step, evidence.loss) if self.history.n_observed else None,
            _lowest=lowest_validation(self.history, self.run),
        )

    def _caveats(self, followed: LRSchedule, fit: Posterior | None = None) -> tuple[Caveat, ...]:
        rise = overfitting_rise(self.history, self.run, self._effective_schedule())
        return caveats_of(self.history, self.run, self._schedule, followed, rise, fit)

    def _fit(self, planned: LRSchedule) -> tuple[Evidence, Posterior]:
        if self._fitted is None:
            evidence, posterior = self._background.fit(self.history, planned, self.run, self._gaps)
            surprise = self._hindsight.surprise(self.history, self._schedule, self._posterior)
            self._fitted = evidence, replace(posterior, surprise=surprise)
        return self._fitted

    def _posterior(self, history: History, followed: LRSchedule) -> Posterior:
        return self._background.fit(history, followed, self.run, ())[1]

    def _effective_schedule(self) -> LRSchedule:
        """The observed learning rates where they differ from the plan, then the plan."""
        if self._effective is None:
            self._effective = effective_schedule(self._schedule, self.history)
        return self._effective
