"""`TransformersLossForecast`: forecasts inside the Hugging Face ``Trainer``."""

import logging
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from lossforecast.callbacks.capture import LossCapture, innermost
from lossforecast.callbacks.huggingface.checkpoint import checkpoint, kept, place, told
from lossforecast.callbacks.huggingface.logs import (
    awaited,
    is_window,
    told_direction,
    told_loss,
    warn_if_few,
)
from lossforecast.callbacks.huggingface.probe import TrainerProbe
from lossforecast.callbacks.huggingface.schedule import lint_run, planned
from lossforecast.callbacks.lr_schedulers import Steering
from lossforecast.callbacks.monitor import (
    RunMonitor,
    Sink,
    adopt_plan,
    guarded,
    listed_sinks,
    released,
)
from lossforecast.callbacks.pipeline import (
    Pipeline,
    RunRecorder,
    StoreLike,
    checked,
    default_policies,
    describe,
    falls,
    widest_group,
)
from lossforecast.callbacks.probe import AnnealingProbe
from lossforecast.checks import instance
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Policy, Recommendation
from lossforecast.prior import Prior
from lossforecast.runs import RunInfo, mean_step
from lossforecast.schedule import LRSchedule

__all__ = ["TransformersLossForecast"]

logger = logging.getLogger("lossforecast")


class TransformersLossForecast(TrainerCallback, ExportableState):
    """Forecasts the final loss of a run under the Hugging Face ``Trainer``.

        Trainer(..., callbacks=[TransformersLossForecast()])

    The Trainer tells its callbacks the mean training loss since it logged before, and the law is
    compared with it as the mean of those steps; let ``logging_steps`` be a hundredth of the run or
    less. Forecasts go to the log of the package and to `sinks`. By default it only advises.

    A loss that is not finite, which the Trainer hides (``logging_nan_inf_filter``), is taken for
    nan: a loss of 0 after others, or one that is logged with a norm of the gradients that is not
    finite.

    The state is in the checkpoints: a resumed run makes the same forecasts as one that was never
    stopped, where ``save_steps`` is a multiple of ``logging_steps``. Between two logs the Trainer
    itself forgets the losses before a checkpoint.

    An error of its own is logged once, forecasting is switched off and training goes on.

    The Trainer tells no callback of an exception that ends the run, nor of Ctrl-C: in the store the
    run has failed once the callback is used again or let go of, at the latest when Python ends.

    Args:
        monitor: a metric of evaluation, such as "eval_loss"; None is the training loss. It must be
            a loss, the lower the better: of others nothing is stopped or changed.
        target: the final loss hoped for; with ``stop=True`` the run ends when it will very likely
            be missed.
        stop: whether it may stop the Trainer.
        schedule: the planned learning rate of every step, instead of the scheduler's future. One
            of another length than the run is cut, or its last rate held, with a warning.
        apply: whether a decay that is recommended is begun, once; the Trainer must have been given
            a `lossforecast.callbacks.SteerableLR`, ``optimizers=(optimizer, SteerableLR(...))``.
        policy: one or more of `lossforecast.policies`; by default `target_miss()`, and with
            `apply` also `reschedule()`.
        run: what is known of the run; its `metric` is set from `monitor`.
        laws: as in `Forecaster`.
        prior: as in `Forecaster`.
        every_n_steps: how often to forecast; by default about 100 times a run.
        probe: an `lossforecast.callbacks.AnnealingProbe`, to measure what annealing will bring. It
            looks at training batches as the model gets them; of sharded weights only at held-out
            ones. With ``label_smoothing_factor`` or ``compute_loss_func`` the model gets no labels:
            ``AnnealingProbe(loss, batches=[...])``. Its averages are saved in each checkpoint, and
            resumed from that of the ``output_dir``.
        store: where runs are kept and learnt from: True for the store of this user, a path, a
            database URL or a `lossforecast.RunStore`. Runs of one `project` are compared, by
            default those of this script; the best of them is the `target` if none is given
            and `run` names the project or the dataset.
        sinks: functions called with every `lossforecast.callbacks.monitor.Update`.

    Raises:
        ConfigurationError: an argument makes no sense.
    """

    def __init__(
        self,
        monitor: str | None = None,
        *,
        target: float | None = None,
        stop: bool = False,
        schedule: LRSchedule | None = None,
        apply: bool = False,
        policy: Policy | Iterable[Policy] | None = None,
        run: RunInfo | None = None,
        laws: str | Iterable[str] = "auto",
        prior: Prior | None = None,
        every_n_steps: int | None = None,
        probe: AnnealingProbe | None = None,
        store: StoreLike = None,
        sinks: Iterable[Sink] = (),
    ) -> None:
        if monitor is not None and (not isinstance(monitor, str) or not monitor):
            raise ConfigurationError(f"monitor must be the name of a metric or None: {monitor!r}")
        for name, value, kind in (
            ("stop", stop, bool),
            ("apply", apply, bool),
            ("run", run, RunInfo),
            ("probe", probe, AnnealingProbe),
        ):
            instance(name, value, kind, ConfigurationError)
        self.monitor, self.target, self.stop = monitor, target, stop
        self.schedule, self.run, self.prior, self.probe = schedule, run, prior, probe
        self.laws = laws if isinstance(laws, str) else tuple(laws)
        self.every_n_steps, self.sinks = every_n_steps, listed_sinks(sinks)
        self.apply, self.store = apply, checked(store)
        # tried here, so that misuse does not show in the middle of somebody's run
        plan = LRSchedule.constant(1, 1.0) if schedule is None else schedule
        tried = Forecaster(plan, run, self.laws, prior, every_n_steps)
        self._own_policy = policy is not None
        policy = default_policies(apply) if policy is None else policy
        self.policies = RunMonitor(tried, target=target, policy=policy).policies
        self._saved: dict[str, Any] | None = None
        self._place = 0  # among the callbacks of the same class and monitor
        self._missing: list[str] = []  # what a checkpoint could not keep
        self._training = False
        self._pipeline: Pipeline | None = None
        self._probe = None if probe is None else TrainerProbe(probe)
        self._logged = 0
        self._heard: dict[str, int] = {}  # metrics of evaluations, and when they were first told
        self._complained = False
        self._unended: Any = weakref.finalize(self, int)
        self.switched_off = False

    @property
    def forecaster(self) -> Forecaster | None:
        """The forecaster; None before training starts."""
        return self._pipeline.forecaster(self._metric) if self._pipeline else None

    @property
    def forecast(self) -> Forecast | None:
        """The latest forecast of the final loss; None before the first and outside process 0."""
        return self._pipeline.monitor.forecast if self._pipeline else None

    @property
    def recommendation(self) -> Recommendation | None:
        """The latest recommendation; None before the first."""
        return self._pipeline.monitor.recommendation if self._pipeline else None

    @property
    def _metric(self) -> str:
        return "train" if self.monitor is None else "val"

    # ------------------------------------------------------------------ hooks

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find out the plan and begin to count."""
        self._let_go()
        self._unended()  # the run before, if an exception ended it
        self._pipeline, self.switched_off = None, False
        self._place = place(state, type(self).__name__, self.monitor)
        self._heard, self._complained = {}, False
        self._start(args, state, kwargs)
        self._training = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Record the mean training loss of the steps since the last log."""
        step = int(state.global_step)
        if self._pipeline is None or self.monitor is not None:
            return
        if is_window(logs) and step > self._logged:
            self._record(logs, args, step)
            self._turn(control)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Record the monitored metric, unless training is over and other data may be looked at."""
        if self._training and self._pipeline is not None and self.monitor is not None:
            self._hear(metrics or {})
            self._turn(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forecast and maybe stop when that is due, after the loss of this step if it is told."""
        if self.monitor is not None or not awaited(args, state, control):
            self._turn(control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the averages of the probe in the checkpoint."""
        if self._pipeline is not None and args.should_save:
            self._save_probe(checkpoint(args, state))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read what is left, forecast a last time and let go of the optimizer."""
        self._training = False
        self._unended.detach()
        if self._pipeline is not None:
            self._finish()
        self._let_go()
        if self._pipeline is not None:
            released(partial(self._pipeline.record_end, watched=not self.switched_off))

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as plain values; the Trainer calls it."""
        args = {
            "monitor": self.monitor,
            "target": self.target,
            "stop": self.stop,
            "apply": self.apply,
            "every_n_steps": self.every_n_steps,
            "store": told(self.store),
        }
        given = {
            "schedule": self.schedule is not None,
            "policy": self._own_policy,
            "probe": self.probe is not None,
            "sinks": bool(self.sinks),
            "store": self.store is not None and args["store"] is None,
        }
        missing = [name for name, there in given.items() if there] or self._missing
        saved = self._state() or self._saved
        return {
            "args": args,
            "attributes": {"_saved": saved, "_missing": missing, "_place": self._place},
        }

    # ------------------------------------------------------------------ inside

    @guarded
    def _start(self, args: Any, state: Any, given: Mapping[str, Any]) -> None:
        optimizer = innermost(given["optimizer"])
        taken, total = int(state.global_step), int(state.max_steps)
        saved = (
            kept(state, type(self).__name__, self.monitor, self._place) or self._saved
            if taken
            else None
        )
        group = widest_group(optimizer) if saved is None else int(saved["group"])
        scheduler = given.get("lr_scheduler")
        plan = planned(self.schedule, scheduler, total, taken, group)
        run = self.run
        if self._saved is not None and saved is not None and run is None:
            run = RunInfo(**saved["forecasters"][self._metric]["run"])
        described = describe(run, optimizer, self._metric, self.monitor)
        name = args.run_name or Path(args.output_dir).name
        recorder = RunRecorder.of(self.store, name, described, plan, given["model"])
        prior = self.prior if recorder is None else recorder.prior(self.prior)
        known = described if recorder is None else recorder.run
        forecaster = Forecaster(plan, known, self.laws, prior, self.every_n_steps)
        may_act = falls(self.monitor, told_direction(args, self.monitor), self.stop or self.apply)
        runner = RunMonitor(
            forecaster,
            target=self.target,
            policy=self.policies,
            sinks=self.sinks,
            recorder=recorder,
        )
        capture = LossCapture(optimizer, group)
        try:
            if self._probe is not None:
                self._probe.begin(optimizer, capture, plan.total_steps, given["model"])
            pipeline = Pipeline(
                capture,
                {self._metric: forecaster},
                runner,
                stop=self.stop and may_act,
                at_validations=self.monitor is not None,
                steering=self._steering(scheduler, group, plan.total_steps, may_act),
                probe=self.probe,
            )
            if saved is None:
                pipeline.start(taken)
            else:
                pipeline.load_state_dict(saved)
                adopt_plan(runner.forecaster, plan, taken)
                if self._probe is not None:
                    self._probe.load(checkpoint(args, state), saved.get("probe"))
        except Exception:
            capture.close()
            if self._probe is not None:
                self._probe.close()
            raise
        if self._missing:
            logger.warning(
                "restore_callback_states_from_checkpoint=True has made this callback anew, without "
                "its %s: leave that option out, the forecasts are resumed anyway",
                " and ".join(self._missing),
            )
        self._pipeline, self._group, self._saved, self._logged = pipeline, group, None, taken
        self._unended = weakref.finalize(self, _abandon, pipeline)
        warn_if_few(args, state, self.monitor)
        if taken == 0:
            lint_run(plan, optimizer, scheduler if self.schedule is None else None, group)

    def _steering(
        self, scheduler: Any, group: int, total_steps: int, may_act: bool
    ) -> Steering | None:
        """What follows a scheduler that can be steered; a warning where it was to be and cannot."""
        steering = None
        if self.schedule is None:
            steering = Steering.of(scheduler, group, total_steps, self.apply and may_act)
        if self.apply and steering is None:
            logger.warning(
                "no decay will be begun: apply=True needs a SteerableLR stepped once after each "
                "optimizer step, Trainer(..., optimizers=(optimizer, SteerableLR(optimizer, "
                "total_steps))), and no other schedule="
            )
        return steering

    @guarded
    def _record(self, logs: Mapping[str, Any], args: Any, step: int) -> None:
        """A mean over the steps since the last log, as the loss at the step that has it."""
        assert self._pipeline is not None
        loss = told_loss(logs, args, self._was_positive)
        self._pipeline.log(int(mean_step(self._logged, max(step - 1, 0))), loss)
        self._logged = step

    def _was_positive(self) -> bool:
        forecaster = self.forecaster
        return forecaster is not None and bool((forecaster.history.bins().mean > 0).any())

    @guarded
    def _hear(self, metrics: Mapping[str, Any]) -> None:
        assert self._pipeline is not None
        value = metrics.get(str(self.monitor))
        if value is not None:
            self._pipeline.validate(float(value))
            return
        step = self._pipeline.capture.steps
        if any(self._heard.get(name, step) < step for name in metrics):
            self._complain()  # and not at once: each of several sets of data is told by itself
        self._heard = {**dict.fromkeys(metrics, step), **self._heard}

    def _complain(self) -> None:
        """Tell once that there is no loss."""
        assert self._pipeline is not None
        if self._pipeline.monitor.forecaster.history.last_step >= 0 or self._complained:
            return
        self._complained = True
        if not self._heard:
            logger.warning(
                "nothing was forecast: the Trainer told no %s", self.monitor or "training loss"
            )
            return
        logger.warning(
            "nothing to forecast from: %r is not among the metrics of the evaluation (%s)",
            self.monitor,
            ", ".join(self._heard),
        )

    def _turn(self, control: Any) -> None:
        pipeline = self._pipeline
        if pipeline is None:
            return
        if pipeline.capture.calls >= pipeline.next:
            self._read()
            if self.switched_off:
                pipeline.capture.forget()
                pipeline.heed()
        if pipeline.should_stop:
            control.should_training_stop = True

    @guarded
    def _read(self) -> None:
        assert self._pipeline is not None
        self._pipeline.turn()

    @guarded
    def _finish(self) -> None:
        assert self._pipeline is not None
        self._pipeline.finish()
        self._complain()

    @guarded
    def _state(self) -> dict[str, Any] | None:
        if self._pipeline is None:
            return None
        self._pipeline.settle()
        probe = None if self._probe is None else self._probe.run()
        return {**self._pipeline.state_dict(), "group": self._group, "probe": probe}

    @guarded
    def _save_probe(self, folder: Path) -> None:
        if self._probe is not None:
            self._probe.save(folder)

    def _let_go(self) -> None:
        if self._pipeline is not None:
            released(self._pipeline.leave, self._pipeline.capture.close)
        if self._probe is not None:
            released(self._probe.close)


def _abandon(pipeline: Pipeline) -> None:
    """Let go of a run that an exception has ended, of which the Trainer tells nobody."""
    error = RuntimeError("an exception ended the run")
    released(pipeline.capture.close, partial(pipeline.record_end, error))
