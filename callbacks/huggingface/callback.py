"""`TransformersLossForecast`: forecasts inside the Hugging Face ``Trainer``."""

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from lossforecast.callbacks.capture import innermost
from lossforecast.callbacks.huggingface.checkpoint import (
    callback_index,
    checkpoint_folder,
    store_address,
)
from lossforecast.callbacks.huggingface.host import host_run
from lossforecast.callbacks.huggingface.logs import is_logged_next, is_training_loss, warn_if_few
from lossforecast.callbacks.huggingface.losses import LossReader
from lossforecast.callbacks.huggingface.probe import TrainerProbe
from lossforecast.callbacks.huggingface.progress import show_in_bar
from lossforecast.callbacks.huggingface.reporters import ReporterLog
from lossforecast.callbacks.huggingface.schedule import lint_run
from lossforecast.callbacks.lr_schedulers import widest_group
from lossforecast.callbacks.monitor import Sink, clean_up, guarded
from lossforecast.callbacks.pipeline import (
    LoopCallback,
    Settings,
    StoreLike,
    finalize_failed,
    start,
)
from lossforecast.callbacks.probe import AnnealingProbe
from lossforecast.callbacks.torch_run import capture_of
from lossforecast.log import logger
from lossforecast.policies import Policy
from lossforecast.prior import Prior
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

__all__ = ["TransformersLossForecast"]


class TransformersLossForecast(LoopCallback, TrainerCallback, ExportableState):
    """Forecasts the final loss of a run under the Hugging Face ``Trainer``.

        Trainer(..., callbacks=[TransformersLossForecast()])

    The Trainer gives its callbacks the mean training loss since its last log, and the law is fitted
    to means over those steps; let ``logging_steps`` be a hundredth of the run or less. Forecasts go
    to the progress bar, the logger of the package, the reporters of the Trainer (``report_to``) and
    `sinks`. By default it only advises.

    With ``logging_nan_inf_filter`` the Trainer hides losses that are not finite, and logs 0 if all
    are. A loss logged with a gradient norm that is not finite is therefore taken for nan; where no
    norm is logged, a 0 is taken for nan if all losses before it were large.

    The state is in the checkpoints: a resumed run makes the same forecasts as one that was never
    stopped if ``save_steps`` is a multiple of ``logging_steps``. Between two logs the Trainer
    itself drops the losses before a checkpoint.

    An error of its own is logged once, forecasting is switched off and training continues.

    The Trainer does not report exceptions to its callbacks, nor Ctrl-C. A run that one has ended is
    recorded as failed in the store when the callback is used again or deleted, or Python ends.

    Args:
        monitor: name of a metric of evaluation, such as "eval_loss"; None is the training loss. It
            must be a loss: for metrics that are better when higher nothing is stopped or changed.
        target: final loss to reach; with ``stop=True`` the run ends when it will very likely be
            missed.
        stop: whether it may stop the Trainer.
        schedule: planned learning rate of every step, instead of the scheduler's future. If its
            length differs from the run, it is cut or its last rate held, with a warning.
        apply: whether to begin a recommended decay, once; pass the Trainer a
            `lossforecast.callbacks.SteerableLR`, ``optimizers=(optimizer, SteerableLR(...))``.
        policy: one or more of `lossforecast.policies`. Default: `target_miss()` and
            `overfitting()`, with `apply` also `reschedule()`.
        run: facts about the run (`lossforecast.RunInfo`); `metric` is set from `monitor`.
        laws: "auto" or names of laws, as in `lossforecast.Forecaster`.
        prior: beliefs before the run, as in `lossforecast.Forecaster`.
        every_n_steps: optimizer steps between two forecasts. Default: a sixtieth of the run.
        probe: a `lossforecast.callbacks.AnnealingProbe`; measures how much annealing will lower the
            loss, on training batches as the model gets them; with sharded weights on held-out
            batches only. With ``label_smoothing_factor`` or ``compute_loss_func`` the model gets no
            labels: use ``AnnealingProbe(loss, batches=[...])``. Its averages are saved in each
            checkpoint, and loaded from that of the ``output_dir``.
        store: where runs are recorded and past runs are found: True, a path, a database URL or a
            `lossforecast.RunStore`. See `lossforecast.callbacks.pipeline.Settings`.
        sinks: functions called with every `lossforecast.callbacks.monitor.Update`.

    Raises:
        ConfigurationError: an argument makes no sense.
    """

    _run_attributes = (
        "_place",
        "_probe",
        "_training",
        "_group",
        "_given",
        "_losses",
        "_reporters",
        "_total_steps",
    )

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
        self.settings = Settings(
            metric="train" if monitor is None else "val",
            monitor=monitor,
            target=target,
            stop=stop,
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
        # also set by the Trainer, when it creates a callback from a checkpoint
        self._saved: dict[str, Any] | None = None
        self._missing: list[str] = []  # arguments that the checkpoint could not keep
        self._reset()

    def _reset(self) -> None:
        probe = self.settings.probe
        self._place = 0  # index among the callbacks of the same class and monitor
        self._probe = None if probe is None else TrainerProbe(probe)
        self._training = False
        self._group = self._length = 0
        self._given: dict[str, Any] = {}  # the objects that the Trainer passes to callbacks
        self._losses: LossReader | None = None
        self._reporters: ReporterLog | None = None
        self._finalizer: Any = weakref.finalize(self, int)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()

    # ------------------------------------------------------------------ hooks

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the plan and start the pipeline."""
        self._release()
        self._finalizer()  # records the previous run, if an exception ended it
        self._pipeline, self._losses, self._reporters = None, None, None
        self.switched_off = False
        self._place = callback_index(state, type(self).__name__, self.settings.monitor)
        self._given, self._length = dict(kwargs), int(state.max_steps)
        self._start(args, state, self._given)
        self._training = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Record the mean training loss since the last log, and add a new forecast to the log."""
        if self._losses is None:
            return
        step, forecasts_train = int(state.global_step), self.settings.monitor is None
        if forecasts_train and is_training_loss(logs) and step > self._losses.logged:
            self._record(logs, args, step)
            self._poll_if_due(control)
        if self._reporters is not None and logs is not None:
            self._reporters.add_to(logs)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Record the monitored metric, during training only: later ones may use other data."""
        if self._training and self._losses is not None and self.settings.monitor is not None:
            self._read_metric(metrics or {})
            self._poll_if_due(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forecast and stop if due; if the loss is logged next, `on_log` does so instead."""
        self._follow(kwargs)
        if self.settings.monitor is not None or not is_logged_next(args, state, control):
            self._poll_if_due(control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the averages of the probe in the checkpoint."""
        if self._pipeline is not None and args.should_save:
            self._save_probe(checkpoint_folder(args, state))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the remaining losses, forecast a last time and remove all hooks."""
        self._training = False
        self._finalizer.detach()
        if self._pipeline is not None:
            self._finish()
            show_in_bar(self._length, self.postfix)
        self._release()
        self._record_end()

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """Return what the Trainer saves in a checkpoint, as plain values."""
        settings = self.settings
        args = {
            "monitor": settings.monitor,
            "target": settings.target,
            "stop": settings.stop,
            "apply": settings.apply,
            "every_n_steps": settings.every_n_steps,
            "store": store_address(settings.place),
        }
        given = {
            "schedule": settings.schedule is not None,
            "policy": settings.policy is not None,
            "probe": settings.probe is not None,
            "sinks": bool(settings.sinks),
            "store": settings.place is not None and args["store"] is None,
        }
        missing = [name for name, is_given in given.items() if is_given] or self._missing
        saved = self._state() or self._saved
        return {
            "args": args,
            "attributes": {"_saved": saved, "_missing": missing, "_place": self._place},
        }

    # ------------------------------------------------------------------ inside

    @guarded
    def _start(self, args: Any, state: Any, given: Mapping[str, Any]) -> None:
        settings, probe, name = self.settings, self._probe, type(self).__name__
        host = host_run(
            args, state, given, settings, name=name, place=self._place, created=self._saved
        )
        self._reporters = ReporterLog.of(self)
        if self._reporters is not None:
            host = replace(host, sinks=[self._reporters])
        if probe is not None:
            host = replace(host, probe=partial(probe.begin, model=given["model"]))
        try:
            self._pipeline = start(settings, host)
            if probe is not None and host.saved is not None:
                probe.load(checkpoint_folder(args, state), host.saved.get("probe"))
        except BaseException:
            self._release()
            self._pipeline = None
            raise
        if self._missing:
            logger.warning(
                "restore_callback_states_from_checkpoint=True has created this callback without "
                "its %s: leave that option out, forecasts are resumed anyway",
                " and ".join(self._missing),
            )
        self._losses = LossReader(self._pipeline, settings.monitor, host.steps_taken)
        self._group, self._saved = host.group, None
        self._finalizer = weakref.finalize(self, finalize_failed, self._pipeline)
        warn_if_few(args, state, settings.monitor)
        if host.steps_taken == 0:
            followed = given.get("lr_scheduler") if settings.schedule is None else None
            lint_run(host.plan, host.optimizer, followed, host.group)

    @guarded
    def _follow(self, given: Mapping[str, Any]) -> None:
        """Follow the optimizer and the scheduler that the Trainer has now."""
        if self._pipeline is None or not {"optimizer", "lr_scheduler"} <= given.keys():
            return
        before, self._given["lr_scheduler"] = self._given["optimizer"], given["lr_scheduler"]
        if given["optimizer"] is not before:
            self._given["optimizer"] = given["optimizer"]
            optimizer = innermost(given["optimizer"])
            capture_of(self._pipeline).watch(optimizer, widest_group(optimizer.param_groups))

    @guarded
    def _record(self, logs: Mapping[str, Any], args: Any, step: int) -> None:
        assert self._losses is not None
        self._losses.record(logs, args, step)

    @guarded
    def _read_metric(self, metrics: Mapping[str, Any]) -> None:
        assert self._losses is not None
        self._losses.read_metric(metrics)

    def _poll_if_due(self, control: Any) -> None:
        if self._pipeline is None:
            return
        if self._pipeline.is_due:
            self._poll()
            show_in_bar(self._length, self.postfix)
            if self.switched_off:
                self._pipeline.capture.forget()
                self._pipeline.withdraw()
        if self._pipeline.should_stop:
            control.should_training_stop = True

    @guarded
    def _poll(self) -> None:
        assert self._pipeline is not None
        self._pipeline.poll()

    @guarded
    def _finish(self) -> None:
        assert self._pipeline is not None
        assert self._losses is not None
        self._pipeline.finish()
        self._losses.warn_if_missing()

    @guarded
    def _state(self) -> dict[str, Any] | None:
        if self._pipeline is None:
            return None
        self._pipeline.flush()
        probe = None if self._probe is None else self._probe.run()
        return {**self._pipeline.state_dict(), "group": self._group, "probe": probe}

    @guarded
    def _save_probe(self, folder: Path) -> None:
        if self._probe is not None:
            self._probe.save(folder)

    def _release(self) -> None:
        super()._release()
        self._given = {}
        if self._probe is not None:
            clean_up(self._probe.close)
