"""`KerasLossForecast`: forecasts inside ``Model.fit`` of Keras 3."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from lossforecast.callbacks.keras.host import (
    KerasRates,
    batches_of_epoch,
    host_run,
    run_length,
)
from lossforecast.callbacks.keras.losses import EpochMean
from lossforecast.callbacks.loop import StepCapture
from lossforecast.callbacks.monitor import Sink, guarded
from lossforecast.callbacks.pipeline import (
    LoopCallback,
    Settings,
    StoreLike,
    finalize_failed,
    start,
)
from lossforecast.log import logger
from lossforecast.policies import Policy
from lossforecast.prior import Prior
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

__all__ = ["KerasLossForecast"]


class KerasLossForecast(LoopCallback, keras.callbacks.Callback):  # type: ignore[misc]
    """Forecasts the final loss of a run of Keras 3, with any backend.

        model.fit(data, epochs=20, callbacks=[KerasLossForecast()])

    A ``LearningRateSchedule`` of the optimizer is the plan; another learning rate is assumed to be
    held, until it is changed. Keras gives its callbacks the mean loss of the epoch so far, from
    which the losses of the batches are computed. That of the last batch of an epoch, which may be
    smaller, is left out.

    The length of the run is ``epochs`` times the batches of an epoch. Where Keras does not know
    these, as with a generator, forecasts begin with the second epoch, or give `total_steps`.

    By default it only advises. An error of its own is logged once, forecasting is switched off and
    training continues. Keras does not report exceptions to its callbacks: a run that one has ended
    is recorded as failed in the store when the callback is used again or deleted.

    Args:
        monitor: name of a metric of the validation, such as "val_loss"; None is the training loss.
            It must be a loss: for metrics that are better when higher nothing is stopped.
        target: final loss to reach; with ``stop=True`` the run ends when it will very likely be
            missed.
        stop: whether it may set ``model.stop_training``.
        total_steps: length of the run in optimizer steps.
        schedule: planned learning rate of every step, instead of that of the optimizer.
        policy: one or more of `lossforecast.policies`. Default: `target_miss()` and
            `overfitting()`.
        run: facts about the run (`lossforecast.RunInfo`), such as the task; `metric` is set from
            `monitor`.
        laws: "auto" or names of laws, as in `lossforecast.Forecaster`.
        prior: beliefs before the run, as in `lossforecast.Forecaster`.
        every_n_steps: optimizer steps between two forecasts. Default: a sixtieth of the run.
        store: where runs are recorded and past runs are found: True, a path, a database URL or a
            `lossforecast.RunStore`. See `lossforecast.callbacks.pipeline.Settings`.
        sinks: functions called with every `lossforecast.callbacks.monitor.Update`.
        verbose: whether to print a line on stderr after each tenth of the run. Default: if there
            are no sinks, and Python's logging is not configured.

    Raises:
        ConfigurationError: an argument makes no sense.
    """

    _run_attributes = ("_rates", "_mean", "_model")

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
        store: StoreLike = None,
        sinks: Iterable[Sink] = (),
        verbose: bool | None = None,
    ) -> None:
        super().__init__()
        monitor = None if monitor == "loss" else monitor
        self.settings = Settings(
            metric="train" if monitor is None else "val",
            monitor=monitor,
            target=target,
            stop=stop,
            total_steps=total_steps,
            schedule=schedule,
            policy=policy,
            run=run,
            laws=laws,
            prior=prior,
            every_n_steps=every_n_steps,
            store=store,
            sinks=sinks,
        )
        self._verbose = verbose
        self._reset()

    def _reset(self) -> None:
        self._model: Any = None
        self._rates: KerasRates | None = None
        self._mean = EpochMean(None)
        self._batches: int | None = None  # in an epoch
        self._first = self._counted = 0  # batches of the epoch before the present call, and so far
        self._before = 0  # optimizer steps before the epoch
        self._finalizer: Any = weakref.finalize(self, int)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    @property
    def steps(self) -> int:
        """Optimizer steps taken in the present run, or in the latest one."""
        return 0 if self._pipeline is None else self._pipeline.capture.steps

    # ------------------------------------------------------------------ hooks

    def on_train_begin(self, logs: Any = None) -> None:
        """Leave the previous run."""
        self._release()
        self._finalizer()  # records the previous run, if an exception ended it
        self._pipeline, self.switched_off = None, False
        self._batches, self._counted = batches_of_epoch(self.params), 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the pipeline in the first epoch whose length is known."""
        self._begin_epoch(epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Note the first batch of those that are trained on at once."""
        self._first = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Record the loss of a batch, and forecast and stop if that is due."""
        count = self._first + int(getattr(self._model, "steps_per_execution", 1) or 1)
        count = min(count, batches_of_epoch(self.params) or count)
        self._record(count, logs or {})
        self._counted = count
        self._poll_if_due()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Record the monitored metric of the validation, and stop if that is due."""
        self._batches = self._counted or self._batches
        self._validate(logs or {})
        self._poll_if_due()

    def on_train_end(self, logs: Any = None) -> None:
        """Read the remaining losses, and forecast a last time."""
        self._finalizer.detach()
        self._finish(logs or {})
        self._release()
        self._record_end()

    # ------------------------------------------------------------------ inside

    @guarded
    def _begin_epoch(self, epoch: int) -> None:
        if self._pipeline is None:
            self._start(epoch)
        if self._pipeline is not None and self._rates is not None:
            self._before = self._pipeline.capture.steps = self._rates.steps
            self._mean = EpochMean(self._batches)

    def _start(self, epoch: int) -> None:
        model, settings = self.model, self.settings
        if getattr(model, "optimizer", None) is None:
            logger.warning("no forecasts: the model has no optimizer, so no step can be counted")
            self.switched_off = True
            return
        rates, batches = KerasRates(model.optimizer), self._batches
        given = settings.total_steps or getattr(settings.schedule, "total_steps", None)
        if given is None and batches is None:
            return
        steps = rates.steps
        total = given or run_length(self.params, batches or 0, epoch, steps, rates.accumulated)
        host = host_run(
            model,
            rates,
            settings,
            total_steps=total,
            steps=steps,
            batches=batches,
            verbose=self._verbose,
        )
        self._pipeline, self._rates = start(settings, host), rates
        self._finalizer = weakref.finalize(self, finalize_failed, self._pipeline)

    @guarded
    def _record(self, count: int, logs: Mapping[str, Any]) -> None:
        """Record the loss of the batches since the last call, and count their optimizer steps.

        Args:
            count: batches of this epoch so far.
            logs: what Keras logged.
        """
        if self._pipeline is None or self._rates is None:
            return
        capture, accumulated = self._pipeline.capture, self._rates.accumulated
        assert isinstance(capture, StepCapture)
        value = logs.get("loss")
        loss = None if value is None else self._mean.loss(count, float(value))
        if loss is not None and self.settings.monitor is None:
            middle = (self._first + count - 1) // 2
            capture.keep(loss, self._before + middle // accumulated)
        taken = self._before + count // accumulated
        if taken > capture.steps:
            capture.count(taken - capture.steps, self._rates.next_rate(taken - 1))

    def _poll_if_due(self) -> None:
        if self._pipeline is None:
            return
        if self._pipeline.is_due:
            self._poll()
        if self._pipeline.should_stop:
            self._model.stop_training = True  # not through `model`, which waits for JAX

    @guarded
    def _poll(self) -> None:
        assert self._pipeline is not None
        self._pipeline.poll()

    @guarded
    def _validate(self, logs: Mapping[str, Any]) -> None:
        value = logs.get(str(self.settings.monitor))
        if self._pipeline is not None and value is not None:
            self._pipeline.validate(float(value))

    @guarded
    def _finish(self, logs: Mapping[str, Any]) -> None:
        if self._pipeline is None:
            logger.warning(
                "nothing was forecast: Keras does not know the batches of an epoch. "
                "Give KerasLossForecast(total_steps=...)"
            )
            return
        self._pipeline.finish()
        if not self._pipeline.has_losses:
            logger.warning(
                "nothing to forecast from: %r is not among the metrics of an epoch (%s)",
                self.settings.monitor or "loss",
                ", ".join(logs),
            )
        self._pipeline.warn_at_end()
