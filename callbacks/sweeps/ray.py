"""Ray Tune: `ForecastScheduler` and `ForecastStopper` stop trials by their forecasts.

Use `ForecastScheduler` unless the sweep needs another Ray scheduler, such as
``PopulationBasedTraining``: Ray reports to a scheduler which trials fail or are stopped by others,
and gives it the metric and mode of ``tune.TuneConfig``. Use `ForecastStopper` beside another
scheduler: Ray accepts it in addition (``RunConfig(stop=...)``), but gives it results only.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune import Stopper
from ray.tune.experiment import Trial
from ray.tune.result import SHOULD_CHECKPOINT
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.trainable import FunctionTrainable
from ray.tune.utils import flatten_dict

from lossforecast.callbacks.monitor import guarded
from lossforecast.callbacks.sweeps.plans import REASON_KEY
from lossforecast.callbacks.sweeps.ray_trials import Config, Result, SweepTrials, Verdict, named
from lossforecast.errors import ConfigurationError
from lossforecast.log import logger
from lossforecast.policies import Halving, Policy
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

__all__ = ["ForecastScheduler", "ForecastStopper"]

_DECISIONS = {
    Verdict.GO_ON: TrialScheduler.CONTINUE,
    Verdict.PAUSE: TrialScheduler.PAUSE,
    Verdict.STOP: TrialScheduler.STOP,
}


class ForecastStopper(Stopper):
    """Stops a trial when its forecast says that it will not end among the best of the trials.

    Use it beside another Ray scheduler; without one, use `ForecastScheduler`. Ray does not report
    to a Stopper that a trial failed or was stopped by others, so other trials are still compared
    with its latest forecast.

    Trials are compared by forecasts of their final values, so schedules, horizons and progress may
    differ, and a trial that has not annealed yet is not at a disadvantage. A trial that ended
    counts with its last value; one that was stopped does not count. If values are maximised, their
    negatives are forecast.

    The reported steps must be those of the schedule: for a schedule in optimizer steps, report
    ``tune.report({"val_loss": loss, "step": optimizer_steps_taken})`` and set ``time_attr="step"``.
    Results without the value or the step are ignored; the first is logged as an error.

    A stopped trial says why in the log and in ``result.metrics["lossforecast:reason"]``.

    An internal error is logged once, with its traceback; from then on no trial is stopped.

    Args:
        schedule: the planned learning rates of a trial, or a function of its config that returns
            them (``lambda config: LRSchedule.cosine(2_000, config["lr"])``).
        run: facts about a trial, or a function of its config that returns them; default: its values
            are validation losses. The forecast errors of trials with the same ``optimizer`` are
            assumed to be correlated.
        metric: name of the value in the results; ``"eval/loss"`` if it is nested.
        mode: "min" or "max".
        time_attr: name of the result that counts the steps taken.
        rule: as for `ForecastScheduler`.
        policy: one or more policies; default: `lossforecast.policies.dominated`, and with a target
            `lossforecast.policies.target_miss`. Broken and diverged trials are always stopped.
        target: the final value to reach.
        shadow: only log which trials would be stopped.

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
        rule: str | Halving = "dominated",
        policy: Policy | Iterable[Policy] | None = None,
        target: float | None = None,
        shadow: bool = False,
    ) -> None:
        self.switched_off = False
        self._trials = SweepTrials(
            schedule,
            run,
            time_attr=time_attr,
            rule=rule,
            policy=policy,
            target=target,
            shadow=shadow,
        )
        self._trials.measure(named("metric", metric), mode)

    def __call__(self, trial_id: str, result: Result) -> bool:
        """Return whether to stop the trial; Ray calls this with every result."""
        return bool(self._judged(trial_id, result))

    def stop_all(self) -> bool:
        """Return False: trials are stopped one by one."""
        return False

    @guarded
    def _judged(self, trial_id: str, result: Result) -> bool:
        trials, done = self._trials, bool(result.get("done"))
        seen = trials.observe(trial_id, result.get("config", {}), flatten_dict(result), last=done)
        judged = seen and not done
        stops = judged and trials.verdict(trial_id) is Verdict.STOP and not trials.shadow
        if stops:
            result[REASON_KEY] = trials.stopped_because(trial_id)
        if done or stops:
            trials.close(trial_id)
        return stops


class ForecastScheduler(TrialScheduler):
    """Stops a trial when its forecast says that it will not end among the best of the trials.

    This is the recommended choice with Ray Tune. It compares trials as `ForecastStopper` does, and
    leaves out trials that failed or were stopped by others. Forecasts are corrected by the errors
    that those of ended trials made at the same share of their plans. Trials start in the order in
    which they were created.

    Ray restores an interrupted sweep with a new scheduler. Trials that had reached the end of their
    schedules count with their last value. Of other trials, it has only the results reported from
    then on.

    Args:
        schedule: the planned learning rates of a trial, or a function of its config that returns
            them.
        run: facts about a trial, or a function of its config that returns them; default: its values
            are validation losses.
        metric: name of the value in the results, unless ``tune.TuneConfig`` sets it.
        mode: "min" or "max", unless ``tune.TuneConfig`` sets it.
        time_attr: name of the result that counts the steps taken, as in the schedule.
        rule: "dominated" stops a trial that is unlikely to end among the best. "worthwhile" also
            stops one whose expected gain over the best ended trial is not worth its steps; it is
            cheaper where few trials run at a time. "halving" is the cheapest: at rungs of its own
            schedule a trial is stopped unless its forecast is among the best third of similar
            trials (same optimizer, peak rates within a factor of two). A
            `lossforecast.policies.Halving` sets share and rungs.
        policy: one or more policies; default: those of the rule, and with a target
            `lossforecast.policies.target_miss`. Halving continues alongside them.
        target: the final value to reach.
        pause: pause the trials that the rule would stop, instead of stopping them. When no trial
            waits to start, the one whose steps promise most is resumed from its checkpoint. It is
            trained until it is no longer worth its steps, as in `lossforecast.policies.worthwhile`.
            When no paused trial is worth them, all are stopped. A trial without a checkpoint is
            stopped at once.
        stock: a Ray scheduler that decides instead. It sees forecasts of the final value in place
            of the reported values. Set its own ``time_attr``.
        shadow: only log which trials would be stopped.

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
        rule: str | Halving = "dominated",
        policy: Policy | Iterable[Policy] | None = None,
        target: float | None = None,
        pause: bool = False,
        stock: TrialScheduler | None = None,
        shadow: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        own_rule = policy is not None or target is not None or rule != "dominated" or pause
        if stock is not None and own_rule:
            raise ConfigurationError(
                "give either rule, policy, target and pause or a stock scheduler, not both"
            )
        if stock is not None and not isinstance(stock, TrialScheduler):
            raise ConfigurationError(
                f"stock must be a scheduler of Ray Tune, not {type(stock).__name__}"
            )
        if stock is not None and stock.metric is not None:
            raise ConfigurationError(
                f"the stock scheduler has the metric {stock.metric!r}: give metric and mode to "
                "ForecastScheduler or tune.TuneConfig, which pass them on"
            )
        self.switched_off = False
        self._trials = SweepTrials(
            schedule,
            run,
            time_attr=time_attr,
            rule=rule,
            policy=policy,
            target=target,
            shadow=shadow,
        )
        self._trials.measure(metric, mode)
        self._stock, self._fifo, self._pause = stock, FIFOScheduler(), pause
        self._most_running, self._missed_checkpoint = 1, False

    @property
    def metric(self) -> str | None:
        """Name of the value in the results."""
        return self._trials.metric

    @property
    def supports_buffered_results(self) -> bool:
        """True if Ray may deliver several results at once."""
        return not self._pause and bool(self._base.supports_buffered_results)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Set metric and mode from ``tune.TuneConfig``; False if they are set already."""
        trials = self._trials
        if (metric and trials.metric) or (mode and trials.mode):
            return False
        trials.measure(metric or trials.metric, mode or trials.mode)
        return self._base.set_search_properties(trials.metric, trials.mode, **spec)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Add a trial: a new one, a retry, or one that was over when the sweep was restored.

        Raises:
            ConfigurationError: metric or mode is not set.
        """
        if self._trials.metric is None or self._trials.mode is None:
            raise ConfigurationError(
                f"ForecastScheduler has metric={self._trials.metric!r} and mode="
                f"{self._trials.mode!r}: give both here or in tune.TuneConfig"
            )
        self._base.on_trial_add(tune_controller, trial)
        self._readmitted(trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: Result) -> str:
        """Return CONTINUE or STOP, or the decision of the stock scheduler."""
        return self._decided(tune_controller, trial, result) or TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Result) -> None:
        """Close a trial that is over, at its end or because it was stopped."""
        self._closed(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Leave out a trial that failed, unless Ray retries it."""
        self._trials.set_counts(trial.trial_id, False)
        self._base.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Remove a trial that waits to start, or is paused."""
        self._trials.set_counts(trial.trial_id, False)
        self._explain(trial)
        self._trials.close(trial.trial_id)
        self._base.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the next trial to start or to resume."""
        if self._pause and not self.switched_off:
            return self._chosen(tune_controller)
        return self._base.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """Return the description that Ray prints."""
        stock = "" if self._stock is None else f" with forecasts for {self._stock.debug_string()}"
        return f"Using {type(self).__name__}{stock}"

    def save(self, checkpoint_path: str) -> None:
        """Write the state of the scheduler to a file."""
        Path(checkpoint_path).write_bytes(cloudpickle.dumps(vars(self)))

    def restore(self, checkpoint_path: str) -> None:
        """Read a file that `save` wrote. It is a pickle: load only files you trust."""
        vars(self).update(cloudpickle.loads(Path(checkpoint_path).read_bytes()))

    @guarded
    def _decided(self, tune_controller: Any, trial: Trial, result: Result) -> str:
        trials, name = self._trials, trial.trial_id
        if not trials.observe(name, trial.config, result):
            return TrialScheduler.CONTINUE
        if self._stock is None:
            decision = _DECISIONS[trials.verdict(name, partial(self._can_resume, trial, result))]
        else:
            with_forecast = trials.with_forecast(name, result)
            decision = self._stock.on_trial_result(tune_controller, trial, with_forecast)
            if decision == TrialScheduler.STOP and not trials.stop(name):
                return decision
        return TrialScheduler.CONTINUE if trials.shadow else decision

    @guarded
    def _closed(self, tune_controller: Any, trial: Trial, result: Result) -> None:
        # if others stop a trial, this is the only report of its last result
        self._trials.observe(trial.trial_id, trial.config, result, last=True)
        if self._stock is not None:
            with_forecast = self._trials.with_forecast(trial.trial_id, result)
            self._stock.on_trial_complete(tune_controller, trial, with_forecast)
        self._explain(trial)
        self._trials.close(trial.trial_id)

    @guarded
    def _readmitted(self, trial: Trial) -> None:
        self._trials.set_counts(trial.trial_id, True)
        if trial.status == Trial.TERMINATED:
            self._trials.recall(trial.trial_id, trial.config, flatten_dict(trial.last_result))

    @guarded
    def _chosen(self, tune_controller: Any) -> Trial | None:
        """The next trial to start, else the paused one that is worth most; stops the others."""
        trials = tune_controller.get_trials()
        n_running = sum(trial.status == Trial.RUNNING for trial in trials)
        self._most_running = max(self._most_running, n_running)
        waiting = [trial for trial in trials if trial.status == Trial.PENDING]
        paused = {trial.trial_id: trial for trial in trials if trial.status == Trial.PAUSED}
        if waiting or not paused:
            return waiting[0] if waiting else None
        if n_running == self._most_running:  # what is chosen now would only start later
            return None
        # a trial that was paused before the sweep was restored is not known here
        unknown = [name for name in paused if not self._trials.is_paused(name)]
        chosen = unknown[0] if unknown else self._trials.worth_resuming()
        if chosen is None and not n_running:
            for trial in paused.values():
                tune_controller.stop_trial(trial)
        return paused.get(chosen)

    def _can_resume(self, trial: Trial, result: Result) -> bool:
        """Return whether to pause a trial; log once that one has no checkpoint to resume from."""
        if not self._pause:
            return False
        is_function = issubclass(trial.get_trainable_cls(), FunctionTrainable)
        has_checkpoint = (
            not is_function or trial.has_checkpoint() or bool(result.get(SHOULD_CHECKPOINT))
        )
        if not has_checkpoint and not self._missed_checkpoint:
            self._missed_checkpoint = True
            logger.warning(
                "trial %s has reported no checkpoint, so it cannot be paused, only stopped; give "
                "tune.report a checkpoint",
                trial.trial_id,
            )
        return has_checkpoint

    def _explain(self, trial: Trial) -> None:
        """Say why a trial was stopped in what Ray returns as its metrics."""
        if why := self._trials.stopped_because(trial.trial_id):
            trial.last_result[REASON_KEY] = why

    @property
    def _base(self) -> TrialScheduler:
        """The scheduler that chooses the next trial."""
        return self._fifo if self._stock is None or self.switched_off else self._stock
