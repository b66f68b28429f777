"""The trials of a Ray Tune sweep, for `ForecastStopper` and `ForecastScheduler`."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from lossforecast.callbacks.sweeps.outlooks import TrialOutlooks
from lossforecast.callbacks.sweeps.plans import MAX_LENGTH_RATIO, Plans
from lossforecast.checks import number
from lossforecast.errors import ConfigurationError, ObservationError
from lossforecast.forecaster import Forecaster
from lossforecast.log import logger
from lossforecast.policies import (
    GAIN_PER_RUN,
    Action,
    Halving,
    Ladder,
    Outlook,
    Policy,
    Reason,
    alike,
    checked_target,
    halving_of,
    policies_of,
    policy_list,
    target_miss,
    worthwhile,
)
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

__all__ = ["Config", "Result", "SweepTrials", "Verdict", "named"]

Config = dict[str, Any]
Result = dict[str, Any]

_LEAST_LEFT = 0.01  # of a run: the gain of a trial near its end is not divided by less


class Verdict(Enum):
    """The decision about a trial after a result."""

    GO_ON = auto()
    PAUSE = auto()
    STOP = auto()


@dataclass
class Trial:
    """A running or paused trial.

    Attributes:
        forecaster: has observed the reported values, negated if they are maximised.
        last: the latest value, negated likewise; may be nan or infinite.
        counts: whether other trials are compared with it; False once it was stopped or has failed,
            and while it is paused.
        stopped_because: why it was stopped or paused, in words; empty if it was not.
        paused: whether it is paused.
        resumed: whether it was paused and runs again.
    """

    forecaster: Forecaster
    last: float = math.nan
    counts: bool = True
    stopped_because: str = ""
    paused: bool = False
    resumed: bool = False

    def observe(self, step: int, value: float) -> None:
        """Observe a value, negated if values are maximised."""
        self.forecaster.observe(step, value)
        self.last = value

    def resume(self) -> None:
        """Count again, after a pause."""
        self.counts, self.paused, self.resumed, self.stopped_because = True, False, True, ""

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self.forecaster.history.last_step

    @property
    def at_its_end(self) -> bool:
        """True if the trial has taken all steps of its schedule."""
        return self.step >= self.forecaster.total_steps

    def ended(self) -> Outlook:
        """Return the outlook of a trial that ends now."""
        return Outlook.ended(self.last, self.forecaster.run.optimizer or "")

    def __reduce__(self) -> tuple[Callable[..., "Trial"], tuple[Any, ...]]:
        # the saved state is a thirtieth of a pickled forecaster, which carries its latest fit
        return _restored_trial, (self.forecaster.state_dict(), {**vars(self), "forecaster": None})


def _restored_trial(state: Mapping[str, Any], fields: Mapping[str, Any]) -> Trial:
    return Trial(**{**fields, "forecaster": Forecaster.from_state_dict(state)})


class SweepTrials:
    """The running trials of a sweep, and the outcomes of those that ended.

    The arguments are those of `ForecastScheduler`.
    """

    def __init__(
        self,
        schedule: LRSchedule | Callable[[Config], LRSchedule],
        run: RunInfo | Callable[[Config], RunInfo] | None,
        *,
        time_attr: str,
        rule: str | Halving,
        policy: Policy | Iterable[Policy] | None,
        target: float | None,
        shadow: bool,
    ) -> None:
        self.shadow = shadow
        self.metric: str | None = None
        self.mode: str | None = None
        self._plans = Plans(schedule, run, "config")
        self._time_attr = named("time_attr", time_attr)
        self._target = checked_target(target)
        halving = halving_of(rule)
        self._policies = policy_list(policy) or [target_miss(), *policies_of(rule)]
        self._ladder = None if halving is None else Ladder[str](halving)
        self._outlooks = TrialOutlooks[str]()
        self._running: dict[str, Trial] = {}
        self._ended: dict[str, Outlook] = {}
        self._logged: set[str] = set()

    def measure(self, metric: str | None, mode: str | None) -> None:
        """Set the name of the value and its mode; None if not known yet.

        Raises:
            ConfigurationError: the metric is not a name, or the mode neither "min" nor "max".
        """
        if mode not in ("min", "max", None):
            raise ConfigurationError(f'mode is {mode!r}; it must be "min" or "max"')
        self.metric = None if metric is None else named("metric", metric)
        self.mode = mode

    def observe(self, trial_id: str, config: Config, result: Result, *, last: bool = False) -> bool:
        """Observe a flat result; return whether the trial can be judged by it.

        Args:
            trial_id: Ray's id of the trial.
            config: its configuration.
            result: the result, with "/" between the keys of nested ones.
            last: whether the trial is over.
        """
        assert self.metric is not None
        missing = [key for key in (self.metric, self._time_attr) if key not in result]
        if missing:
            if not last:  # the last result of a function that returns has no value
                self._log_once(
                    logging.ERROR,
                    "trial %s reported no %s, but %s: such results are ignored",
                    *(trial_id, " and no ".join(map(repr, missing))),
                    ", ".join(sorted(key for key in result if not key.startswith("config/"))),
                )
            return False
        if trial_id not in self._running:
            self._running[trial_id] = Trial(self._plans.forecaster(config))
            self._ended.pop(trial_id, None)
            self._outlooks.forget(trial_id)
        trial = self._running[trial_id]
        if trial.paused and not last:
            trial.resume()
        if trial.counts:
            value = number(self.metric, result[self.metric], ObservationError)
            trial.observe(result[self._time_attr], self._sign * value)
            self._outlooks.record(trial_id, trial.forecaster)
            self._climb(trial_id, trial)
        return trial.counts

    def verdict(self, trial_id: str, can_pause: Callable[[], bool] = lambda: False) -> Verdict:
        """Decide about an observed trial; one that is stopped or paused no longer counts.

        A trial that is behind others is paused if it can be. One that runs again after a pause is
        paused again when its expected gain is no longer worth its steps.
        """
        trial = self._running[trial_id]
        rivals = [
            *self._ended.values(),
            *(
                other.ended() if other.at_its_end else self._outlooks.of(name, other.forecaster)
                for name, other in self._running.items()
                if other.counts and other is not trial
            ),
        ]
        target = None if self._target is None else self._sign * self._target
        corrected = self._outlooks.of(trial_id, trial.forecaster)
        policies = [target_miss(), worthwhile()] if trial.resumed else self._policies
        advice = trial.forecaster.recommend(target, policies, rivals, corrected)
        if advice.action is Action.STOP:
            pauses = advice.reason is Reason.DOMINATED and can_pause()
            return self._set_aside(trial_id, advice.message, pauses)
        if self._ladder is None or trial.resumed:
            return Verdict.GO_ON
        behind = self._ladder.behind(trial_id)
        if behind is None:
            return Verdict.GO_ON
        return self._set_aside(trial_id, f"stop: {behind}", can_pause())

    def worth_resuming(self) -> str | None:
        """Return the paused trial whose steps are worth most, or None if none is worth resuming.

        The steps are worth it while `lossforecast.policies.worthwhile` would not stop the trial.
        Before any trial has ended it is the one with the lowest forecast.
        """
        paused = {name: trial for name, trial in self._running.items() if trial.paused}
        if not paused:
            return None
        outlooks = {name: self._outlooks.of(name, t.forecaster) for name, t in paused.items()}
        best = min((outlook.median for outlook in self._ended.values()), default=math.nan)
        if math.isnan(best):
            return min(paused, key=lambda name: outlooks[name].median)

        def worth(name: str) -> float:
            """Expected gain for each of the steps left, as a share of the run."""
            left = 1 - paused[name].step / paused[name].forecaster.total_steps
            gain = outlooks[name].expected_gain(best)
            return gain / max(left, _LEAST_LEFT) if gain > 0 else 0.0

        most = max(paused, key=worth)
        return most if worth(most) >= GAIN_PER_RUN else None

    def with_forecast(self, trial_id: str, result: Result) -> Result:
        """Return a copy of the result with the present forecast in place of the value."""
        if trial_id not in self._running or self.metric not in result:
            return result
        forecast = self._running[trial_id].forecaster.forecast()
        return {**result, self.metric: self._sign * forecast.median}

    def stop(self, trial_id: str) -> bool:
        """Log that a trial is stopped by others, if it is not at its end; it no longer counts."""
        return self._set_aside(trial_id, "", pauses=False) is Verdict.STOP

    def stopped_because(self, trial_id: str) -> str:
        """Return why a trial that is not closed yet was stopped; empty if it was not."""
        trial = self._running.get(trial_id)
        return "" if trial is None or self.shadow else trial.stopped_because

    def is_paused(self, trial_id: str) -> bool:
        """Return whether a trial was paused and has not run since."""
        return trial_id in self._running and self._running[trial_id].paused

    def set_counts(self, trial_id: str, counts: bool) -> None:
        """Set whether other trials are compared with this one."""
        if trial_id in self._running:
            self._running[trial_id].counts = counts

    def close(self, trial_id: str) -> None:
        """End a trial; if it counts, its last value is its outcome."""
        trial = self._running.pop(trial_id, None)
        if trial is None or not trial.counts:
            self._outlooks.forget(trial_id)
            return
        self._ended[trial_id] = trial.ended()
        self._outlooks.end(trial_id, trial.last)
        planned = trial.forecaster.total_steps
        if not planned / MAX_LENGTH_RATIO <= trial.step <= planned * MAX_LENGTH_RATIO:
            self._log_once(
                logging.WARNING,
                "trial %s ended at step %d, its schedule at %d: does %r count the same steps?",
                *(trial_id, trial.step, planned, self._time_attr),
            )

    def recall(self, trial_id: str, config: Config, result: Result) -> None:
        """Add a trial that was over before the sweep was restored.

        It counts if it had taken all steps of its schedule; otherwise it was stopped.
        """
        if self.observe(trial_id, config, result, last=True):
            self.set_counts(trial_id, self._running[trial_id].at_its_end)
            self.close(trial_id)

    def _set_aside(self, trial_id: str, why: str, pauses: bool) -> Verdict:
        """Log that a trial is stopped or paused, and why, if it is not at its end."""
        trial = self._running[trial_id]
        if trial.at_its_end:
            return Verdict.GO_ON
        what = "paused" if pauses else "stopped"
        would = f"would be {what}" if self.shadow else f"is {what}"
        because = why and f": {why}"
        logger.info("trial %s %s at step %d%s", trial_id, would, trial.step, because)
        trial.counts, trial.stopped_because = False, why
        trial.paused = pauses and not self.shadow
        return Verdict.PAUSE if pauses else Verdict.STOP

    def _climb(self, trial_id: str, trial: Trial) -> None:
        """Record the forecast with which a trial reaches a rung."""
        forecaster = trial.forecaster
        share = trial.step / forecaster.total_steps
        if self._ladder is not None and self._ladder.wants(trial_id, share):
            group = alike(forecaster.run.optimizer or "", forecaster.schedule)
            self._ladder.record(trial_id, group, share, forecaster.forecast().median)

    @property
    def _sign(self) -> int:
        return -1 if self.mode == "max" else 1

    def _log_once(self, level: int, message: str, *details: object) -> None:
        if message not in self._logged:
            self._logged.add(message)
            logger.log(level, message, *details)


def named(argument: str, value: object) -> str:
    """Return the value of an argument that must be a name.

    Raises:
        ConfigurationError: it is not a string, or empty.
    """
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{argument} must be the name of a reported value, not {value!r}")
    return value
