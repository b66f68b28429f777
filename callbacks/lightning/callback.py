"""`LightningLossForecast`: forecasts inside a Lightning Trainer."""

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lossforecast.callbacks.lightning.host import has_optimizer, host_run, is_long_enough
from lossforecast.callbacks.lightning.lint import TrainerLint
from lossforecast.callbacks.lightning.losses import LossReader
from lossforecast.callbacks.lightning.plan import TrainerPlan
from lossforecast.callbacks.lightning.progress import ForecastInBar
from lossforecast.callbacks.monitor import Sink, guarded
from lossforecast.callbacks.pipeline import LoopCallback, Settings, StoreLike, start
from lossforecast.callbacks.probe import AnnealingProbe
from lossforecast.callbacks.torch_run import capture_of
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.policies import Policy
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


class LightningLossForecast(LoopCallback, Callback):
    """Forecasts the final loss of a run under a Lightning ``Trainer``, of either namespace.

        Trainer(callbacks=[LightningLossForecast()])

    Steps are those of one optimizer, counted by a hook on it, so accumulation, several optimizers,
    manual optimization and skipped steps are counted correctly. Forecasts go to every logger of
    the Trainer (``forecast/...``) and to the progress bar. By default it only advises.

    An error of its own is logged once, forecasting is switched off and training continues.

    Args:
        monitor: name of a metric that the module logs at the end of a validation or of a training
            epoch, such as "val_loss"; None is the training loss that ``training_step`` returns. It
            must be a loss: for metrics that are better when higher nothing is stopped or changed.
        target: final loss to reach; with ``stop=True`` the run ends when it will very likely be
            missed.
        stop: whether it may stop the Trainer, not before ``min_steps`` and ``min_epochs``. With
            several processes rank 0 decides.
        total_steps: length of the run in optimizer steps, needed where the Trainer cannot know it:
            no limit or only a time limit, accumulation that changes, optimizers that do not step
            in turn.
        schedule: planned learning rate of every step, instead of the schedulers' future.
        apply: whether to begin a recommended decay, once; ``configure_optimizers`` must return a
            `lossforecast.callbacks.SteerableLR` with ``"interval": "step"``.
        policy: one or more of `lossforecast.policies`. Default: `target_miss()` and
            `overfitting()`, with `apply` also `reschedule()`.
        run: facts about the run (`lossforecast.RunInfo`); `metric` is set from `monitor`.
        laws: "auto" or names of laws, as in `lossforecast.Forecaster`.
        prior: beliefs before the run, as in `lossforecast.Forecaster`.
        every_n_steps: optimizer steps between two forecasts. Default: a sixtieth of the run.
        optimizer_index: index of the module's optimizer whose steps count.
        probe: a `lossforecast.callbacks.AnnealingProbe`; measures how much annealing will lower the
            loss, on training batches and in the precision of the Trainer.
        store: where runs are recorded and past runs are found: True, a path, a database URL or a
            `lossforecast.RunStore`. See `lossforecast.callbacks.pipeline.Settings`.
        sinks: functions called with every `lossforecast.callbacks.monitor.Update`.

    Raises:
        ConfigurationError: an argument makes no sense.
    """

    _run_attributes = ("_losses", "_plan", "_lint", "_between_epochs")

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
        self.settings = Settings(
            metric="train" if monitor is None else "val",
            monitor=monitor,
            target=target,
            stop=stop,
            total_steps=total_steps,
            schedule=schedule,
            apply=apply,
            policy=policy,
            run=run,
            laws=laws,
            prior=prior,
            every_n_steps=every_n_steps,
            probe=probe,
            store=store,
            sinks=sinks,
        )
        self.optimizer_index = whole(
            "optimizer_index", optimizer_index, ConfigurationError, least=0
        )
        if probe is not None:
            probe.needs_loss()
        self._saved: dict[str, Any] | None = None
        self._reset()

    def _reset(self) -> None:
        self.switched_off = False
        self._pipeline = None
        self._losses: LossReader | None = None
        self._plan: TrainerPlan | None = None
        self._lint: TrainerLint | None = None
        self._between_epochs: Trainer | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()

    @cached_property  # Lightning reads it at every hook
    def state_key(self) -> str:
        """One state for each monitored metric."""
        return self._generate_state_key(monitor=self.settings.monitor)

    # ------------------------------------------------------------------ hooks

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Read the plan and start the pipeline."""
        self._reset()
        if getattr(trainer, "fast_dev_run", False):
            return
        self._start(trainer, pl_module)
        self._show(trainer)
        self._poll_if_due(trainer)

    def on_train_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: Any, batch_idx: int
    ) -> None:
        """Remember the step of the batch, and measure with the probe."""
        if self._pipeline is None or self._losses is None or self._plan is None:
            return
        self._follow(batch_idx)
        self._losses.begin_batch(self._pipeline.capture.steps)
        self._between_epochs = None
        if self.settings.probe is not None and not self.switched_off:
            self.settings.probe.measure_if_due(batch)
        if self.settings.monitor is not None and batch_idx == 0 and self._losses.batch_step > 0:
            # not earlier: the on_train_epoch_end of the module logs after that of callbacks
            self._read_and_stop(trainer)
            if self._losses.validated or not trainer.enable_validation:
                self._losses.warn_if_missing(trainer)

    def on_before_backward(
        self, trainer: "Trainer", pl_module: "LightningModule", loss: Any
    ) -> None:
        """Remember the first loss of a batch; LBFGS computes many in one step."""
        if self._losses is not None and pl_module.automatic_optimization:
            self._losses.note_evaluation(loss)

    def on_train_batch_end(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the loss; forecast and stop if that is due."""
        if self._pipeline is None or self._plan is None:
            return
        if not self._plan.pace.is_training:
            return
        self._plan.pace.end_batch(batch_idx)
        if self.switched_off:
            self._pipeline.capture.forget()
        if self.settings.monitor is None:
            self._record(trainer, outputs)
        self._poll_if_due(trainer)

    def on_validation_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Read the monitored metric."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            if self._losses is not None:
                self._losses.validated = True
            self._read_and_stop(trainer)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Read a metric that is logged for a training epoch."""
        self._read_and_stop(trainer)
        self._between_epochs = trainer

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Read the remaining losses, forecast a last time and remove all hooks."""
        self._finish(trainer)
        self._between_epochs = None
        ForecastInBar.remove(trainer.progress_bar_callback, self)
        self._release()
        self._record_end()

    def on_exception(
        self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException
    ) -> None:
        """Remove all hooks, leave the other processes and record the failure."""
        self._between_epochs = None
        ForecastInBar.remove(trainer.progress_bar_callback, self)
        self._release()
        self._record_end(exception)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return all but the losses of the present step, as plain values."""
        return self._state() or self._saved or {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a saved state until training starts."""
        self._saved = state_dict or None

    # ------------------------------------------------------------------ inside

    @guarded
    def _start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        saved, probe = self._saved, self.settings.probe
        if not has_optimizer(trainer):
            self.switched_off = True
            return
        plan = TrainerPlan(trainer, self.settings, self.optimizer_index)
        host = host_run(trainer, pl_module, self.settings, plan, saved=saved)
        if host is None:
            self.switched_off = True
            return
        self._pipeline, self._plan, self._saved = start(self.settings, host), plan, None
        self._losses = LossReader(self._pipeline, self.settings.monitor)
        if probe is not None and saved is not None:
            probe.load_state_dict(saved.get("probe", {}))
        if host.steps_taken == 0:
            given = self.settings.schedule is not None
            self._lint = TrainerLint(trainer, host.optimizer, host.plan, host.group, given=given)

    @guarded
    def _follow(self, batch_idx: int) -> None:
        """Note the beginning of a batch, and watch the optimizer that the Trainer has now."""
        assert self._pipeline is not None
        assert self._plan is not None
        if self._plan.optimizer_changed():
            capture_of(self._pipeline).watch(self._plan.optimizer, self._plan.group)
        if self._plan.pace.is_training:
            self._plan.pace.begin_batch(batch_idx, self._pipeline.capture.steps)

    def _check_schedule(self, *, at_end: bool = False) -> None:
        """Check the schedule of a new run once, as soon as the pace of its steps is known."""
        if self._lint is None or self._plan is None or self._pipeline is None:
            return
        if self._lint.is_open and (at_end or self._plan.pace.is_settled):
            positions = self._plan.positions_from_start(self._pipeline.capture.steps)
            if positions is not None or self._lint.needs_no_pace or at_end:
                total = self._pipeline.forecasters[self.settings.metric].total_steps
                self._lint.check(total, positions)

    @guarded
    def _record(self, trainer: "Trainer", outputs: Any) -> None:
        assert self._losses is not None
        self._losses.record(outputs, trainer.accumulate_grad_batches)

    def _poll_if_due(self, trainer: "Trainer") -> None:
        if self._pipeline is None or not self._pipeline.is_due:
            return
        self._poll(trainer)
        if self.switched_off:
            self._pipeline.withdraw()
        self._stop_if_due(trainer)

    @guarded
    def _poll(self, trainer: "Trainer") -> None:
        assert self._pipeline is not None
        assert self._losses is not None
        before = self._pipeline.checked
        self._pipeline.actions.may_stop = is_long_enough(trainer)
        self._pipeline.poll()
        self._check_schedule()
        if self._pipeline.checked > before:
            self._losses.warn_if_still_missing(trainer)

    def _stop_if_due(self, trainer: "Trainer") -> None:
        if self._pipeline is not None and self._pipeline.should_stop:
            trainer.should_stop = True

    def _read_and_stop(self, trainer: "Trainer") -> None:
        """Read the monitored metric, forecast, and stop if that is due."""
        if self.settings.monitor is not None and self._pipeline is not None:
            self._read_metric(trainer, trainer.callback_metrics)  # on every rank: it may reduce
            if not self.switched_off:
                self._pipeline.actions.may_stop = is_long_enough(trainer)
                self._pipeline.apply_request()
            self._stop_if_due(trainer)

    @guarded
    def _read_metric(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        assert self._pipeline is not None
        assert self._losses is not None
        self._pipeline.actions.may_stop = is_long_enough(trainer)
        self._losses.read_metric(metrics)

    @guarded
    def _show(self, trainer: "Trainer") -> None:
        ForecastInBar.add(trainer.progress_bar_callback, self)

    @guarded
    def _state(self) -> dict[str, Any] | None:
        if self._pipeline is None:
            return None
        trainer, monitor, probe = self._between_epochs, self.settings.monitor, self.settings.probe
        if trainer is not None and monitor is not None:
            self._read_metric(trainer, trainer.callback_metrics)
        self._pipeline.flush(together=monitor is None)
        assert self._plan is not None
        of_plan = {"group": self._plan.group, "declared": self._plan.declared}
        state = {**self._pipeline.state_dict(), **of_plan}
        return state if probe is None else {**state, "probe": probe.state_dict()}

    @guarded
    def _finish(self, trainer: "Trainer") -> None:
        if self._pipeline is None or self._losses is None:
            return
        if self.settings.monitor is not None:
            self._read_metric(trainer, trainer.callback_metrics)
        self._losses.warn_if_missing(trainer)
        self._pipeline.finish()
        self._check_schedule(at_end=True)
        if not trainer.should_stop:
            self._pipeline.warn_at_end()
