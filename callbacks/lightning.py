"""`LightningLossForecast`: forecasts inside a Lightning Trainer."""

import logging
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.callbacks.capture import LossCapture
from lossforecast.callbacks.lr_scheduler import every, schedule_from_torch
from lossforecast.callbacks.monitor import RunMonitor, Sink, Update, adopt, assumed, guarded
from lossforecast.callbacks.tensorboard import TensorBoardSink, scalars
from lossforecast.callbacks.torch import describe, widest_group
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.prior import Prior, RunInfo
from lossforecast.recommend import Policy, Recommendation
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

    Args:
        monitor: a metric that the module logs, such as "val_loss"; None is the training loss that
            ``training_step`` returns.
        target: the final loss hoped for; with ``stop=True`` the run ends when it will very likely
            be missed.
        stop: whether it may stop the Trainer. ``min_steps`` and ``min_epochs`` are respected.
        total_steps: length of the run in optimizer steps, where the Trainer cannot know it.
        schedule: the planned learning rate of every step, instead of the schedulers' future.
        policy: one or more policies of `lossforecast.recommend` instead of the default.
        run: what is known of the run; "val" is assumed of a monitored metric.
        laws: as in `Forecaster`.
        prior: as in `Forecaster`.
        every_n_steps: how often to forecast; by default about 100 times a run.
        optimizer_index: which of the module's optimizers is meant.
        sinks: functions called with every `lossforecast.callbacks.monitor.Update`.
    """

    def __init__(
        self,
        monitor: str | None = None,
        *,
        target: float | None = None,
        stop: bool = False,
        total_steps: int | None = None,
        schedule: LRSchedule | None = None,
        policy: Policy | Iterable[Policy] | None = None,
        run: RunInfo | None = None,
        laws: str | Iterable[str] = "auto",
        prior: Prior | None = None,
        every_n_steps: int | None = None,
        optimizer_index: int = 0,
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
        self.policy = policy
        self.run = run
        self.laws = laws
        self.prior = prior
        self.every_n_steps = every_n_steps
        self.optimizer_index = whole(
            "optimizer_index", optimizer_index, ConfigurationError, least=0
        )
        self.sinks = list(sinks)
        self.switched_off = False
        self._runner: RunMonitor | None = None
        self._capture: LossCapture | None = None
        self._saved: dict[str, Any] | None = None
        self._checked = 0
        self._batch_step = 0
        self._pace = self._end = 1
        self._missing_told = False
        self._shown: Forecast | None = None

    @property
    def state_key(self) -> str:
        """One state for each monitored metric."""
        return self._generate_state_key(monitor=self.monitor)

    @property
    def forecaster(self) -> Forecaster | None:
        """The forecaster; None before training starts."""
        return self._runner.forecaster if self._runner else None

    @property
    def forecast(self) -> Forecast | None:
        """The latest forecast of the final loss; None before the first."""
        return self._runner.forecast if self._runner else None

    @property
    def recommendation(self) -> Recommendation | None:
        """The latest recommendation; None before the first."""
        return self._runner.recommendation if self._runner else None

    # ------------------------------------------------------------------ hooks

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Find out the plan and begin to count."""
        self._runner = self._capture = None
        self._checked = self._batch_step = 0
        if not getattr(trainer, "fast_dev_run", False):
            self._start(trainer)

    def on_train_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int
    ) -> None:
        """Note the step that the batch belongs to."""
        if self._capture is not None:
            self._batch_step = self._capture.steps

    def on_train_batch_end(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the loss; forecast and maybe stop when that is due."""
        if self._capture is None:
            return
        if self.monitor is None:
            self._record(trainer, outputs)
            self._advance(trainer)
        self._show(pl_module)

    def on_validation_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Read the monitored metric."""
        if not trainer.sanity_checking:
            self._read_metric(trainer, warn=False)
            self._advance(trainer)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Read a metric that is logged at the end of a training epoch."""
        self._read_metric(trainer, warn=True)
        self._advance(trainer)

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Read what is left, forecast a last time and let go of the optimizer."""
        self._finish(trainer)

    def on_exception(
        self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException
    ) -> None:
        """Let go of the optimizer."""
        if self._capture is not None:
            self._capture.close()

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        if self._runner is None or self._capture is None or self.switched_off:
            return self._saved or {}
        self._flush(everything=False)
        return {
            "forecaster": self._runner.forecaster.state_dict(),
            "capture": self._capture.state_dict(),
            "checked": self._checked,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a saved state until training starts."""
        self._saved = state_dict or None

    # ------------------------------------------------------------------ inside

    @guarded
    def _start(self, trainer: "Trainer") -> None:
        if self.optimizer_index >= len(trainer.optimizers):
            raise ConfigurationError(
                f"optimizer_index is {self.optimizer_index}, but the module has "
                f"{len(trainer.optimizers)} optimizers"
            )
        optimizer = trainer.optimizers[self.optimizer_index]
        group = widest_group(optimizer)
        saved, self._saved = self._saved, None
        taken = int(saved["capture"]["steps"]) if saved else 0
        length = self._length(trainer)
        if length is None:
            self.switched_off = True
            return
        plan = self.schedule or _planned(trainer, optimizer, length, taken, group)
        if saved:
            forecaster = Forecaster.from_state_dict(saved["forecaster"])
            adopt(forecaster, plan, taken)
        else:
            metric = "train" if self.monitor is None else "val"
            described = describe(self.run, optimizer, metric)
            forecaster = Forecaster(plan, described, self.laws, self.prior, self.every_n_steps)
        self._runner = RunMonitor(
            forecaster,
            target=self.target,
            policy=self.policy,
            sinks=[*_logger_sinks(trainer), *self.sinks],
        )
        self._pace, self._end = forecaster.every_n_steps, forecaster.total_steps
        self._capture = LossCapture(optimizer, group)
        if saved:
            self._capture.load_state_dict(saved["capture"])
            self._checked = int(saved["checked"])

    def _length(self, trainer: "Trainer") -> int | None:
        if self.total_steps is not None:
            return self.total_steps
        if self.schedule is not None:
            return self.schedule.total_steps
        estimate = trainer.estimated_stepping_batches
        if not math.isfinite(estimate) or estimate < 1:
            logger.warning(
                "no forecasts: this run has no end that is known. Give Trainer(max_steps=...) or "
                "LightningLossForecast(total_steps=...)"
            )
            return None
        optimizers = len(trainer.optimizers)
        if trainer.max_steps == estimate and optimizers > 1:
            # max_steps counts the steps of all optimizers; alternating ones share them
            return math.ceil(estimate / optimizers)
        return int(estimate)

    @guarded
    def _record(self, trainer: "Trainer", outputs: Any) -> None:
        assert self._capture is not None
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is None:
            self._tell_missing("training_step returned no loss")
            return
        automatic = trainer.lightning_module.automatic_optimization
        scale = float(trainer.accumulate_grad_batches) if automatic else 1.0
        self._capture.record(loss, self._batch_step, scale)

    def _advance(self, trainer: "Trainer") -> None:
        """Forecast, and maybe stop, where that is due: on every rank at the same steps."""
        if self._capture is None or self._capture.steps == self._checked:
            return
        before, now = self._checked, self._capture.steps
        self._checked = now
        if now // self._pace != before // self._pace or now == self._end:
            self._check()
            self._stop_together(trainer)

    @guarded
    def _check(self) -> None:
        assert self._runner is not None
        assert self._capture is not None
        self._flush(everything=False)
        if self._runner.forecaster.history.last_step < 0:
            return
        self._runner.check(self._capture.steps, self._capture.present_rate())

    @guarded
    def _show(self, pl_module: "LightningModule") -> None:
        """The latest forecast in the progress bar."""
        if self.forecast is not self._shown and self.forecast is not None:
            self._shown = self.forecast
            if not math.isnan(self.forecast.mean):
                value = self.forecast.mean
                pl_module.log("final_loss", value, prog_bar=True, logger=False)

    def _stop_together(self, trainer: "Trainer") -> None:
        """Stop on every rank or on none; reached at the same steps whatever failed here."""
        if not self.stop:
            return
        wanted = not self.switched_off and self._runner is not None and self._runner.wants_stop
        if trainer.world_size > 1:
            wanted = trainer.strategy.reduce_boolean_decision(wanted, all=False)
        allowed = trainer.global_step >= (trainer.min_steps or 0)
        allowed = allowed and trainer.current_epoch >= (trainer.min_epochs or 0)
        if wanted and allowed:
            trainer.should_stop = True

    @guarded
    def _read_metric(self, trainer: "Trainer", *, warn: bool) -> None:
        if self._runner is None or self._capture is None or self.monitor is None:
            return
        metrics = trainer.callback_metrics
        value = metrics.get(self.monitor)
        step = self._capture.steps
        if value is None:
            if warn and self._runner.forecaster.history.last_step < 0:
                known = ", ".join(map(str, metrics)) or "none"
                self._tell_missing(f"{self.monitor!r} is not logged (logged: {known})")
        elif step != self._runner.forecaster.history.last_step:
            self._runner.forecaster.observe(step, float(value), self._capture.last_rate())

    def _tell_missing(self, what: str) -> None:
        if not self._missing_told:
            self._missing_told = True
            logger.warning(
                "nothing to forecast from: %s. Return the loss from training_step, or give "
                "LightningLossForecast(monitor=...) the name of a logged metric",
                what,
            )

    @guarded
    def _finish(self, trainer: "Trainer") -> None:
        if self._runner is None or self._capture is None:
            return
        self._capture.close()
        self._flush(everything=True)
        if self._runner.forecaster.history.n_observed:
            self._runner.check(self._capture.steps, self._capture.present_rate())

    def _flush(self, *, everything: bool) -> None:
        assert self._runner is not None
        assert self._capture is not None
        block = self._capture.take_all() if everything else self._capture.take()
        if block[0].size:
            self._runner.forecaster.observe_many(*block)


def _planned(trainer: "Trainer", optimizer: Any, length: int, taken: int, group: int) -> LRSchedule:
    """The future of the scheduler that Lightning steps for this optimizer."""
    taken = min(taken, length)
    for config in trainer.lr_scheduler_configs:
        if getattr(config.scheduler, "optimizer", None) is not optimizer:
            continue
        steps = _scheduler_steps(trainer, config, taken)
        return schedule_from_torch(
            config.scheduler, total_steps=length, step=taken, group=group, scheduler_steps=steps
        )
    rate = float(optimizer.param_groups[group]["lr"])
    constant = LRSchedule.constant(length, rate)
    # a module that optimises by hand may also set its rates by hand
    return constant if trainer.lightning_module.automatic_optimization else assumed(constant)


def _scheduler_steps(
    trainer: "Trainer", config: Any, taken: int
) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """How often Lightning steps a scheduler from now until an optimizer step begins."""
    if not trainer.lightning_module.automatic_optimization:
        return every(1, step=taken)  # stepped by the module itself: most do so once a step
    batches = trainer.num_training_batches
    accumulate = trainer.accumulate_grad_batches
    if not math.isfinite(batches):
        return every(config.frequency if config.interval == "step" else 2**61, step=taken)
    an_epoch = max(math.ceil(batches / accumulate), 1)
    if config.interval == "epoch":
        return every(an_epoch * config.frequency, step=taken)
    # stepped after an optimizer step if the number of batches so far in the epoch divides
    ends = np.minimum(np.arange(1, an_epoch + 1) * accumulate, batches)
    within = np.concatenate([[0], np.cumsum(ends % config.frequency == 0)])

    def stepped(steps: NDArray[np.int64]) -> NDArray[np.int64]:
        epochs, rest = np.divmod(np.append(steps - 1, taken), an_epoch)
        total = epochs * within[-1] + within[rest]
        further: NDArray[np.int64] = total[:-1] - total[-1]
        return further

    return stepped


def _logger_sinks(trainer: "Trainer") -> list[Sink]:
    """One sink for each logger, on the rank that logs."""
    if not trainer.is_global_zero:
        return []
    return [_logger_sink(each) for each in trainer.loggers]


def _logger_sink(each: Any) -> Sink:
    writer = getattr(each, "experiment", None)
    if hasattr(writer, "add_custom_scalars") and hasattr(writer, "add_scalar"):
        return TensorBoardSink(writer)

    def log(update: Update) -> None:
        values = scalars(update)
        if values:
            each.log_metrics(values, step=update.step)

    return log
