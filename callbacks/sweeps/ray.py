"""Ray Tune: `ForecastStopper` and `ForecastScheduler` stop trials from where they will end.

A Stopper sees results only. A scheduler also hears of trials that fail, or that others stop, and
takes the metric and its mode from ``tune.TuneConfig``: choose it unless you need another one.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune import Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.utils import flatten_dict

from lossforecast.callbacks.monitor import guarded, logger
from lossforecast.callbacks.sweeps.plans import Plans
from lossforecast.checks import number
from lossforecast.errors import ConfigurationError, ObservationError
from lossforecast.forecaster import Forecaster
from lossforecast.policies import (
    Action,
    Outlook,
    Policy,
    checked_target,
    dominated,
    policy_list,
    target_miss,
)
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

__all__ = ["ForecastScheduler", "ForecastStopper"]

Config = dict[str, Any]
Result = dict[str, Any]

_OFF = 2.0  # times longer or shorter than its plan: the steps counted are hardly the plan's


class ForecastStopper(Stopper):
    """Stops a trial when its forecast says that it will not end among the best of the sweep.

    Trials are compared by forecasts of their final values, so schedules, horizons and progress may
    differ, and a trial that has not annealed yet is not behind one that has. A trial that ended
    counts by its last value, one that was stopped no longer. Values may be maximised: then their
    negatives are forecast.

    The steps reported are those of the schedule: with one in optimizer steps, report
    ``tune.report({"val_loss": loss, "step": optimizer_steps_taken})`` and say ``time_attr="step"``.
    Results without the value or the step are passed over; the first is logged as an error.

    Ray tells a Stopper of no trial that fails, or that somebody else stops: such a trial goes on
    counting by its latest forecast. `ForecastScheduler` knows better.

    An error of ours is logged once, with its traceback, and from then on no trial is stopped.

    Args:
        schedule: the planned learning rates of a trial, or a function that makes them from its
            config (``lambda config: LRSchedule.cosine(2_000, config["lr"])``).
        run: what is known of a trial, or a function of its config; by default that the values are
            of a validation. Forecasts of trials with one ``optimizer`` are taken to err alike.
        metric: name of the value in the results; ``"eval/loss"`` if it is nested.
        mode: "min" or "max".
        time_attr: name of the steps taken in the results.
        policy: one or more policies; by default `lossforecast.policies.dominated`, and with a
            target `lossforecast.policies.target_miss` too. Broken and diverged trials are stopped
            whatever the policies.
        target: the final value hoped for.
        shadow: only log what would be stopped.

    Raises:
        ConfigurationError: an argument is impossible.
    """

    def __init__(
        self,
        schedule: LRSchedule | Callable[[Config], LRSchedule],
        run: RunInfo | Callable[[Config], RunInfo] | None = None,
        *,
        metric: str,
        mode: str = "min",
        time_attr: str = "training_iteration",
        policy: Policy | Iterable[Policy] | None = None,
        target: float | None = None,
        shadow: bool = False,
    ) -> None:
        self.switched_off = False
        self._sweep = _Sweep(schedule, run, time_attr, policy, target, shadow)
        self._sweep.measure(_named("metric", metric), mode)

    def __call__(self, trial_id: str, result: Result) -> bool:
        """Whether the trial should be stopped; Ray asks at every result."""
        return bool(self._judged(trial_id, result))

    def stop_all(self) -> bool:
        """Never: the trials are judged one by one."""
        return False

    @guarded
    def _judged(self, trial_id: str, result: Result) -> bool:
        sweep, done = self._sweep, bool(result.get("done"))
        seen = sweep.observe(trial_id, result.get("config", {}), flatten_dict(result), last=done)
        stops = seen and not done and sweep.hopeless(trial_id) and not sweep.shadow
        if done or stops:
            sweep.close(trial_id)
        return stops


class ForecastScheduler(TrialScheduler):
    """Stops a trial when its forecast says that it will not end among the best of the sweep.

    As `ForecastStopper`, but it knows which trials have failed or were stopped by somebody else:
    they count no longer. Trials start in the order in which they were made.

    Ray restores an interrupted sweep with a new scheduler. It counts the trials that have reached
    the end of their schedules, and sees of the others what they report from then on.

    Args:
        schedule: the planned learning rates of a trial, or a function that makes them from its
            config.
        run: what is known of a trial, or a function of its config; by default that the values are
            of a validation.
        metric: name of the value in the results, if ``tune.TuneConfig`` does not say it.
        mode: "min" or "max", if ``tune.TuneConfig`` does not say it.
        time_attr: name of the steps taken in the results: those of the schedule.
        policy: one or more policies; by default `lossforecast.policies.dominated`, and with a
            target `lossforecast.policies.target_miss` too.
        target: the final value hoped for.
        stock: a scheduler of Ray's that decides instead. Wherever it would see reported values it
            is shown the final values forecast then. It needs a ``time_attr`` of its own.
        shadow: only log what would be stopped.

    Raises:
        ConfigurationError: an argument is impossible.
    """

    def __init__(
        self,
        schedule: LRSchedule | Callable[[Config], LRSchedule],
        run: RunInfo | Callable[[Config], RunInfo] | None = None,
        *,
        metric: str | None = None,
        mode: str | None = None,
        time_attr: str = "training_iteration",
        policy: Policy | Iterable[Policy] | None = None,
        target: float | None = None,
        stock: TrialScheduler | None = None,
        shadow: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if stock is not None and (policy is not None or target is not None):
            raise ConfigurationError(
                "give a policy and a target, or a stock scheduler, not both: one decides"
            )
        if stock is not None and not isinstance(stock, TrialScheduler):
            raise ConfigurationError(
                f"stock must be a scheduler of Ray Tune's, not {type(stock).__name__}"
            )
        if stock is not None and stock.metric is not None:
            raise ConfigurationError(
                f"the stock scheduler has the metric {stock.metric!r}: give metric and mode to "
                "ForecastScheduler or tune.TuneConfig, and it is told them"
            )
        self.switched_off = False
        self._sweep = _Sweep(schedule, run, time_attr, policy, target, shadow)
        self._sweep.measure(metric, mode)
        self._stock, self._fifo = stock, FIFOScheduler()

    @property
    def metric(self) -> str | None:
        """Name of the value in the results."""
        return self._sweep.metric

    @property
    def supports_buffered_results(self) -> bool:
        """Whether results may come several at once."""
        return bool(self._base.supports_buffered_results)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Take metric and mode from ``tune.TuneConfig``; False if there are others already."""
        sweep = self._sweep
        if (metric and sweep.metric) or (mode and sweep.mode):
            return False
        sweep.measure(metric or sweep.metric, mode or sweep.mode)
        return self._base.set_search_properties(sweep.metric, sweep.mode, **spec)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial was made, is tried again, or was over when the sweep was restored.

        Raises:
            ConfigurationError: metric or mode are not known.
        """
        if self._sweep.metric is None or self._sweep.mode is None:
            raise ConfigurationError(
                f"ForecastScheduler has metric={self._sweep.metric!r} and mode="
                f"{self._sweep.mode!r}: give both here or in tune.TuneConfig"
            )
        self._base.on_trial_add(tune_controller, trial)
        self._readmitted(trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Result) -> str:
        """CONTINUE or STOP, or what the stock scheduler says."""
        return self._decided(tune_controller, trial, result) or TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Result) -> None:
        """The trial is over: at its end, or stopped by us or others."""
        self._closed(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The trial has failed, and counts no longer unless it is tried again."""
        self._sweep.count(trial.trial_id, False)
        self._base.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """The trial is given up while it waits."""
        self._sweep.count(trial.trial_id, False)
        self._sweep.close(trial.trial_id)
        self._base.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The next trial to start or go on with."""
        return self._base.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """What Ray prints about the scheduler."""
        judge = "" if self._stock is None else f" with forecasts for {self._stock.debug_string()}"
        return f"Using {type(self).__name__}{judge}"

    def save(self, checkpoint_path: str) -> None:
        """Write all that the scheduler knows to a file."""
        Path(checkpoint_path).write_bytes(cloudpickle.dumps(vars(self)))

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote; load only files you trust, they are pickles."""
        vars(self).update(cloudpickle.loads(Path(checkpoint_path).read_bytes()))

    @guarded
    def _decided(self, tune_controller: Any, trial: Trial, result: Result) -> str:
        sweep, name = self._sweep, trial.trial_id
        if not sweep.observe(name, trial.config, result):
            return TrialScheduler.CONTINUE
        if self._stock is None:
            decision = TrialScheduler.STOP if sweep.hopeless(name) else TrialScheduler.CONTINUE
        else:
            shown = sweep.foreseen(name, result)
            decision = self._stock.on_trial_result(tune_controller, trial, shown)
            if decision == TrialScheduler.STOP and not sweep.stop(name):
                return decision
        return TrialScheduler.CONTINUE if sweep.shadow else decision

    @guarded
    def _closed(self, tune_controller: Any, trial: Trial, result: Result) -> None:
        # of a trial that others stop, or that reaches a criterion, this is the first we see of it
        self._sweep.observe(trial.trial_id, trial.config, result, last=True)
        if self._stock is not None:
            shown = self._sweep.foreseen(trial.trial_id, result)
            self._stock.on_trial_complete(tune_controller, trial, shown)
        self._sweep.close(trial.trial_id)

    @guarded
    def _readmitted(self, trial: Trial) -> None:
        self._sweep.count(trial.trial_id, True)
        if trial.status == Trial.TERMINATED:
            self._sweep.recall(trial.trial_id, trial.config, flatten_dict(trial.last_result))

    @property
    def _base(self) -> TrialScheduler:
        """The scheduler that says which trial is next."""
        return self._fifo if self._stock is None or self.switched_off else self._stock


@dataclass
class _Run:
    """A trial that is not over.

    Attributes:
        forecaster: knows what was reported, negative if maximised.
        last: the latest of it, nan and inf included.
        counts: whether it is compared with; not after it was stopped or has failed.
    """

    forecaster: Forecaster
    last: float = math.nan
    counts: bool = True

    def observe(self, step: int, value: float) -> None:
        """Take in a value, negative if maximised."""
        self.forecaster.observe(step, value)
        self.last = value

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.forecaster.history.last_step

    @property
    def at_its_end(self) -> bool:
        """Whether all steps of the schedule are taken."""
        return self.step >= self.forecaster.total_steps

    @property
    def outlook(self) -> Outlook:
        """How the trial will end, or has."""
        if self.at_its_end:
            return self.ended()
        return Outlook.of(self.forecaster.forecast(), self.forecaster.run.optimizer or "")

    def ended(self) -> Outlook:
        """The outlook if it ends here."""
        return Outlook.ended(self.last, self.forecaster.run.optimizer or "")

    def __reduce__(self) -> tuple[Callable[..., "_Run"], tuple[Any, ...]]:
        # a pickled forecaster would carry its latest fit, thirty times as much
        return _restored, (self.forecaster.state_dict(), self.last, self.counts)


def _restored(state: Mapping[str, Any], last: float, counts: bool) -> _Run:
    return _Run(Forecaster.from_state_dict(state), last, counts)


class _Sweep:
    """The trials of a sweep as far as they were seen: those under way, and how others ended."""

    def __init__(
        self,
        schedule: LRSchedule | Callable[[Config], LRSchedule],
        run: RunInfo | Callable[[Config], RunInfo] | None,
        time_attr: str,
        policy: Policy | Iterable[Policy] | None,
        target: float | None,
        shadow: bool,
    ) -> None:
        self.shadow = shadow
        self.metric: str | None = None
        self.mode: str | None = None
        self._plans = Plans(schedule, run, "config")
        self._time_attr = _named("time_attr", time_attr)
        self._policies = policy_list(policy) or [target_miss(), dominated()]
        self._target = checked_target(target)
        self._runs: dict[str, _Run] = {}
        self._ended: dict[str, Outlook] = {}
        self._said: set[str] = set()

    def measure(self, metric: str | None, mode: str | None) -> None:
        """Take the name of the value and its mode, as far as they are known.

        Raises:
            ConfigurationError: the metric is no name, or the mode neither "min" nor "max".
        """
        if mode not in ("min", "max", None):
            raise ConfigurationError(f'mode is {mode!r}; it must be "min" or "max"')
        self.metric = None if metric is None else _named("metric", metric)
        self.mode = mode

    def observe(self, trial_id: str, config: Config, result: Result, *, last: bool = False) -> bool:
        """Take in a result, flat; whether there is something new to judge the trial by."""
        assert self.metric is not None
        missing = [key for key in (self.metric, self._time_attr) if key not in result]
        if missing:
            if not last:  # a function that returns reports no value
                self._say_once(
                    logging.ERROR,
                    "trial %s reported no %s, but %s: such results are passed over",
                    *(trial_id, " and no ".join(map(repr, missing))),
                    ", ".join(sorted(key for key in result if not key.startswith("config/"))),
                )
            return False
        if trial_id not in self._runs:
            self._runs[trial_id] = _Run(self._plans.forecaster(config))
            self._ended.pop(trial_id, None)
        run = self._runs[trial_id]
        if run.counts:
            value = number(self.metric, result[self.metric], ObservationError)
            run.observe(result[self._time_attr], self._sign * value)
        return run.counts

    def hopeless(self, trial_id: str) -> bool:
        """Whether a trial that was observed is to be stopped; then it counts no longer."""
        run = self._runs[trial_id]
        rivals = [
            *self._ended.values(),
            *(other.outlook for other in self._runs.values() if other.counts and other is not run),
        ]
        target = None if self._target is None else self._sign * self._target
        advice = run.forecaster.recommend(target, self._policies, rivals)
        return advice.action is Action.STOP and self.stop(trial_id, f": {advice.message}")

    def foreseen(self, trial_id: str, result: Result) -> Result:
        """A copy of the result that has the final value forecast now."""
        if trial_id not in self._runs or self.metric not in result:
            return result
        forecast = self._runs[trial_id].forecaster.forecast()
        return {**result, self.metric: self._sign * forecast.mean}

    def stop(self, trial_id: str, why: str = "") -> bool:
        """Log that the trial is stopped and count it no longer; False if it is at its end."""
        run = self._runs[trial_id]
        if run.at_its_end:
            return False
        would = "would be stopped" if self.shadow else "is stopped"
        logger.info("trial %s %s at step %d%s", trial_id, would, run.step, why)
        run.counts = False
        return True

    def count(self, trial_id: str, whether: bool) -> None:
        """Whether the trial counts from now on."""
        if trial_id in self._runs:
            self._runs[trial_id].counts = whether

    def close(self, trial_id: str) -> None:
        """The trial is over: if it counts, by its last value."""
        run = self._runs.pop(trial_id, None)
        if run is None or not run.counts:
            return
        self._ended[trial_id] = run.ended()
        planned = run.forecaster.total_steps
        if not planned / _OFF <= run.step <= planned * _OFF:
            self._say_once(
                logging.WARNING,
                "trial %s ended at step %d, its schedule at %d: is %r what the schedule counts?",
                *(trial_id, run.step, planned, self._time_attr),
            )

    def recall(self, trial_id: str, config: Config, result: Result) -> None:
        """The trial was over before the sweep was restored; short of its end, it was stopped."""
        if self.observe(trial_id, config, result, last=True):
            self.count(trial_id, self._runs[trial_id].at_its_end)
            self.close(trial_id)

    @property
    def _sign(self) -> int:
        return -1 if self.mode == "max" else 1

    def _say_once(self, level: int, message: str, *details: object) -> None:
        if message not in self._said:
            self._said.add(message)
            logger.log(level, message, *details)


def _named(argument: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(
            f"{argument} must be the name of something reported, not {value!r}"
        )
    return value
