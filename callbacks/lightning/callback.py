"""`LightningLossForecast`: forecasts inside a Lightning Trainer."""

import logging
import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lossforecast.callbacks.capture import LossCapture, innermost
from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.lightning.schedule import (
    lint_trainer,
    planned_schedule,
    run_length,
    steerable,
)
from lossforecast.callbacks.monitor import RunMonitor, Sink, Update, adopt_plan, guarded, released
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
from lossforecast.callbacks.tensorboard import TensorBoardSink, scalars
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Policy, Recommendation
from lossforecast.prior import Prior
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError:
        from pytorch_lightning import Callback

__all__ = ["LightningLossForecast"]

logger = logging.getLogger("lossforecast")


class LightningLossForecast(Callback):
    """Forecasts the final loss of a run under a Lightning ``Trainer``, of either namespace.

        Trainer(callbacks=[LightningLossForecast()])

    Steps are those of one optimizer, counted by a hook of its own, so accumulation, several
    optimizers, manual optimisation and skipped steps are counted right. Forecasts go to every
    logger of the Trainer (``forecast/...``) and the progress bar. By default it only advises.

    An error of its own is logged once, forecasting is switched off and training goes on.

    Args:
        monitor: a metric that the module logs at the end of a validation or of a training epoch,
            such as "val_loss"; None is the training loss that ``training_step`` returns. It must be
            a loss, the lower the better: of others nothing is stopped or changed.
        target: the final loss hoped for; with ``stop=True`` the run ends when it will very likely
            be missed.
        stop: whether it may stop the Trainer. ``min_steps`` and ``min_epochs`` are respected; of
            several processes the one of rank 0 decides.
        total_steps: length of the run in optimizer steps, where the Trainer cannot know it: runs
            without a limit or with one of time, a changing accumulation of gradients, optimizers
            that do not step in turn.
        schedule: the planned learning rate of every step, instead of the schedulers' future.
        apply: whether a decay that is recommended is begun, once; ``configure_optimizers`` must
            give a `lossforecast.callbacks.SteerableLR` with ``"interval": "step"``.
        policy: one or more of `lossforecast.policies`; by default `target_miss()`, and with
            `apply` also `reschedule()`.
        run: what is known of the run; its `metric` is set from `monitor`.
        laws: as in `Forecaster`.
        prior: as in `Forecaster`.
        every_n_steps: how often to forecast; by default about 100 times a run.
        optimizer_index: which of the module's optimizers is meant.
        probe: an `lossforecast.callbacks.AnnealingProbe`, to measure what annealing will bring. It
            looks at training batches, in the precision of the Trainer.
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
        total_steps: int | None = None,
        schedule: LRSchedule | None = None,
        apply: bool = False,
        policy: Policy | Iterable[Policy] | None = None,
        run: RunInfo | None = None,
        laws: str | Iterable[str] = "auto",
        prior: Prior | None = None,
        every_n_steps: int | None = None,
        optimizer_index: int = 0,
        probe: AnnealingProbe | None = None,
        store: StoreLike = None,
        sinks: Iterable[Sink] = (),
    ) -> None:
        super().__init__()
        if monitor is not None and not isinstance(monitor, str):
            raise ConfigurationError(f"monitor must be the name of a metric or None: {monitor!r}")
        if total_steps is not None:
            total_steps = whole("total_steps", total_steps, ConfigurationError, least=1)
        self.monitor = monitor
        self.target = target
        self.stop = stop
        self.total_steps = total_steps
        self.schedule = schedule
        self.apply = apply
        self.run = run
        self.laws = laws if isinstance(laws, str) else tuple(laws)
        self.prior = prior
        self.every_n_steps = every_n_steps
        self.optimizer_index = whole(
            "optimizer_index", optimizer_index, ConfigurationError, least=0
        )
        self.probe = probe
        if probe is not None:
            probe.needs_loss()
        self.store = checked(store)
        self.sinks = list(sinks)
        # tried here, so that misuse does not show in the middle of somebody's run
        plan = LRSchedule.constant(total_steps or 1, 1.0) if schedule is None else schedule
        tried = Forecaster(plan, run, self.laws, prior, every_n_steps)
        policy = default_policies(apply) if policy is None else policy
        self.policies = RunMonitor(tried, target=target, policy=policy).policies
        if total_steps not in (None, plan.total_steps):
            raise ConfigurationError(
                f"total_steps is {total_steps}, but the schedule has {plan.total_steps} steps: "
                "give one of them, or extended_to() / truncated_to() the schedule"
            )
        self._saved: dict[str, Any] | None = None
        self._reset()

    def _reset(self) -> None:
        self._between_epochs: Trainer | None = None
        self._pipeline: Pipeline | None = None
        self._heard: Any = None  # the metric as last read
        self._shown: Forecast | None = None
        self._batch_step = self._group = 0
        self.switched_off = self._found = self._missing_told = self._validated = False

    @property
    def state_key(self) -> str:
        """One state for each monitored metric."""
        return self._generate_state_key(monitor=self.monitor)

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

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Find out the plan and begin to count."""
        self._reset()
        if getattr(trainer, "fast_dev_run", False):
            return
        self._start(trainer, pl_module)
        self._turn(trainer)

    def on_train_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int
    ) -> None:
        """Note the step that the batch belongs to."""
        if self._pipeline is None:
            return
        self._batch_step, self._between_epochs = self._pipeline.capture.steps, None
        if self.probe is not None and not self.switched_off:
            self.probe.look(batch)
        if self.monitor is not None and batch_idx == 0 and self._batch_step > 0:
            # only now: what a module logs in its own on_train_epoch_end comes after ours
            self._listen(trainer)
            if self._validated or not trainer.enable_validation:
                self._tell_if_missing(trainer)

    def on_train_batch_end(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the loss; forecast and maybe stop when that is due."""
        if self._pipeline is None:
            return
        if self.switched_off:
            self._pipeline.capture.forget()
        if self.monitor is None:
            self._record(trainer, outputs)
        self._turn(trainer)
        self._show(pl_module)

    def on_validation_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Read the monitored metric."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated = True
            self._listen(trainer)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Read a metric that is logged for a training epoch."""
        self._listen(trainer)
        self._between_epochs = trainer

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Read what is left, forecast a last time and let go of the optimizer."""
        self._finish(trainer)
        self._let_go()
        self._record_end()

    def on_exception(
        self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException
    ) -> None:
        """Let go of the optimizer and of the other processes."""
        self._let_go()
        self._record_end(exception)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Everything but the losses of a step under way, as plain values."""
        return self._state() or self._saved or {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a saved state until training starts."""
        self._saved = state_dict or None

    # ------------------------------------------------------------------ inside

    @guarded
    def _start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        if self.optimizer_index >= len(trainer.optimizers):
            raise ConfigurationError(
                f"optimizer_index is {self.optimizer_index}, but the module has "
                f"{len(trainer.optimizers)} optimizers"
            )
        optimizer, saved = innermost(trainer.optimizers[self.optimizer_index]), self._saved
        if saved is None:  # a new run, or one resumed from a checkpoint without our state
            taken, group = trainer.global_step // len(trainer.optimizers), widest_group(optimizer)
        else:
            taken, group = int(saved["capture"]["steps"]), int(saved["group"])
        plan = self.schedule
        if plan is None:
            length = self.total_steps or run_length(trainer)
            if length is None:
                self.switched_off = True
                logger.warning(
                    "no forecasts: the length of this run is unknown. Give "
                    "Trainer(max_steps=...) or LightningLossForecast(total_steps=...)"
                )
                return
            plan = planned_schedule(trainer, optimizer, length, taken, group)
        metric = self._metric
        described = describe(self.run, optimizer, metric, self.monitor)
        recorder = RunRecorder.of(self.store, _name(trainer), described, plan, pl_module)
        prior = self.prior if recorder is None else recorder.prior(self.prior)
        known = described if recorder is None else recorder.run
        forecaster = Forecaster(plan, known, self.laws, prior, self.every_n_steps)
        sinks = [*_logger_sinks(trainer), *self.sinks]
        runner = RunMonitor(
            forecaster, target=self.target, policy=self.policies, sinks=sinks, recorder=recorder
        )
        may_act = falls(self.monitor, acts=self.stop or self.apply)
        agreed = may_act and self._can_agree(trainer) if self.stop or self.apply else False
        steering = None
        if self.schedule is None:
            apply = self.apply and agreed
            steering = steerable(trainer, optimizer, group, plan.total_steps, apply)
        capture = LossCapture(optimizer, group)
        try:
            if self.probe is not None:
                context = trainer.precision_plugin.forward_context
                self.probe.begin(
                    optimizer, lambda: capture.steps, plan.total_steps, pl_module, context
                )
            pipeline = Pipeline(
                capture,
                {metric: forecaster},
                runner,
                stop=self.stop and agreed,
                at_validations=self.monitor is not None,
                steering=steering,
                probe=self.probe,
            )
            if saved is None:
                pipeline.start(taken)
            else:
                pipeline.load_state_dict(saved)
                if self.probe is not None:
                    self.probe.load_state_dict(saved.get("probe", {}))
                adopt_plan(runner.forecaster, plan, taken)
        except Exception:
            capture.close()
            if self.probe is not None:
                self.probe.close()
            raise
        self._pipeline, self._group, self._saved = pipeline, group, None
        if taken == 0:
            lint_trainer(trainer, optimizer, plan, group, given=self.schedule is not None)

    @guarded
    def _record(self, trainer: "Trainer", outputs: Any) -> None:
        assert self._pipeline is not None
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            # Lightning has divided it, so that the gradients add up to those of the mean
            accumulated = float(trainer.accumulate_grad_batches)
            self._pipeline.capture.record(loss, self._batch_step, accumulated)
            self._found = True

    def _turn(self, trainer: "Trainer") -> None:
        """Read the losses, forecast and maybe stop, if the number of steps asks for it."""
        if self._pipeline is None or self._pipeline.capture.calls < self._pipeline.next:
            return
        self._read(trainer)
        if self.switched_off:
            self._pipeline.heed()
        self._maybe_stop(trainer)

    @guarded
    def _read(self, trainer: "Trainer") -> None:
        assert self._pipeline is not None
        before, self._pipeline.may_stop = self._pipeline.checked, _long_enough(trainer)
        self._pipeline.turn()
        if self._pipeline.checked > before:
            self._tell_if_missing(trainer)

    def _maybe_stop(self, trainer: "Trainer") -> None:
        if self._pipeline is not None and self._pipeline.should_stop:
            trainer.should_stop = True

    def _listen(self, trainer: "Trainer") -> None:
        """Read the monitored metric; forecast and maybe stop."""
        if self.monitor is not None and self._pipeline is not None:
            self._hear(trainer.callback_metrics, trainer)  # asked for on every rank: it may reduce
            if not self.switched_off:
                self._pipeline.may_stop = _long_enough(trainer)
                self._pipeline.consider()
            self._maybe_stop(trainer)

    @guarded
    def _hear(self, metrics: Mapping[str, Any], trainer: "Trainer") -> None:
        """Pass on the monitored metric if it was logged since the last time."""
        assert self._pipeline is not None
        value, before = metrics.get(str(self.monitor)), self._heard
        # a metric stays among the others until it is logged again, as another tensor
        if value is not None and (before is None or value.data_ptr() != before.data_ptr()):
            self._heard, self._found = value, True
            self._pipeline.may_stop = _long_enough(trainer)
            self._pipeline.validate(float(value))

    @guarded
    def _show(self, pl_module: "LightningModule") -> None:
        """The latest forecast in the progress bar, if there is one: logging has its price."""
        if self.forecast is self._shown or pl_module.trainer.progress_bar_callback is None:
            return
        if self.forecast is not None:
            self._shown = self.forecast
            if not math.isnan(self.forecast.mean):
                pl_module.log("final_loss", self.forecast.mean, prog_bar=True, logger=False)

    def _can_agree(self, trainer: "Trainer") -> bool:
        if trainer.world_size == processes()[1]:
            return True
        logger.warning(
            "nothing will be stopped or changed: the %d processes of this run are not those of "
            "torch.distributed, and could not agree on it",
            trainer.world_size,
        )
        return False

    def _tell_if_missing(self, trainer: "Trainer") -> None:
        if self._missing_told or self._found or self._pipeline is None:
            return
        if self._pipeline.monitor.forecaster.history.last_step >= 0:
            return
        self._missing_told = True
        missing = "training_step returned no loss"
        if self.monitor is not None:
            known = ", ".join(map(str, trainer.callback_metrics)) or "none"
            missing = f"{self.monitor!r} is not logged (logged: {known})"
        logger.warning(
            "nothing to forecast from: %s. Return the loss from training_step, or give "
            "LightningLossForecast(monitor=...) the name of a logged metric",
            missing,
        )

    @guarded
    def _state(self) -> dict[str, Any] | None:
        if self._pipeline is None:
            return None
        trainer = self._between_epochs
        if trainer is not None and self.monitor is not None:
            self._hear(trainer.callback_metrics, trainer)
        self._pipeline.settle(together=self.monitor is None)
        state = {**self._pipeline.state_dict(), "group": self._group}
        return state if self.probe is None else {**state, "probe": self.probe.state_dict()}

    @guarded
    def _finish(self, trainer: "Trainer") -> None:
        if self._pipeline is None:
            return
        if self.monitor is not None:
            self._hear(trainer.callback_metrics, trainer)
        self._tell_if_missing(trainer)
        self._pipeline.finish()

    def _record_end(self, error: BaseException | None = None) -> None:
        if self._pipeline is not None:
            released(partial(self._pipeline.record_end, error, watched=not self.switched_off))

    def _let_go(self) -> None:
        self._between_epochs = None
        if self._pipeline is not None:
            released(self._pipeline.leave, self._pipeline.capture.close)
            if self.probe is not None:
                released(self.probe.close)


def _long_enough(trainer: "Trainer") -> bool:
    """Whether the run has its minimum of steps and epochs."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    enough = epochs.processed >= (trainer.min_epochs or 0)
    return enough and trainer.global_step >= (trainer.min_steps or 0)


def _name(trainer: "Trainer") -> str | None:
    """What the first logger calls this run."""
    each = trainer.logger
    if each is None:
        return None
    version = f"version_{each.version}" if isinstance(each.version, int) else each.version
    return f"{each.name}/{version}"


def _logger_sinks(trainer: "Trainer") -> list[Sink]:
    """One sink for each logger, on the rank that logs."""
    return [_logger_sink(each) for each in trainer.loggers] if trainer.is_global_zero else []


def _logger_sink(each: Any) -> Sink:
    writer = getattr(each, "experiment", None)
    if hasattr(writer, "add_custom_scalars") and hasattr(writer, "add_scalar"):
        return TensorBoardSink(writer)

    def log(update: Update) -> None:
        values = scalars(update)
        if values:
            each.log_metrics(values, step=update.step)

    return log
