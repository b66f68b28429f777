"""`TorchLossForecast`: forecasts inside a plain PyTorch loop."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch

from lossforecast.callbacks.capture import innermost, uncompiled
from lossforecast.callbacks.lr_schedulers import LoopLint, parameter_group
from lossforecast.callbacks.monitor import (
    ConsoleSink,
    Sink,
    adopt_plan,
    clean_up,
    guarded,
    switch_off,
)
from lossforecast.callbacks.pipeline import (
    HostRun,
    LoopCallback,
    Pipeline,
    PlanSource,
    Settings,
    StoreLike,
    resume,
    start,
)
from lossforecast.callbacks.probe import AnnealingProbe
from lossforecast.callbacks.tensorboard import TensorBoardSink
from lossforecast.callbacks.torch.schedule import plan_source, steering_of
from lossforecast.checks import instance
from lossforecast.errors import ConfigurationError
from lossforecast.forecaster import Forecaster
from lossforecast.log import logger
from lossforecast.policies import Policy
from lossforecast.prior import Prior
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule
from lossforecast.signals import is_from_signal

__all__ = ["TorchLossForecast"]

_COPY = "this is a copy of a TorchLossForecast, which is in no run"


class TorchLossForecast(LoopCallback):
    """Forecasts the final loss of a plain training loop.

        with TorchLossForecast(optimizer, scheduler, total_steps=N) as monitor:
            for batch in loader:
                loss = compute(batch)
                monitor.step(loss)                    # once per micro-batch under accumulation
                loss.backward(); optimizer.step(); scheduler.step(); optimizer.zero_grad()
                if monitor.should_stop:               # False unless stop=True
                    break

    Hooks of the optimizer count its steps and read the learning rate of each step, so the order of
    the other calls, skipped steps and a scheduler that is stepped early or late make no difference.
    Losses are copied on their device and read on the host about 100 times a run.

    With several processes (`torch.distributed`) create one in each, with the same arguments, and
    call `step`, `validation` and `state_dict` at the same steps. Losses are averaged over all
    processes, the first one forecasts, and all stop at the same step.

    A copy, by `copy` or `pickle`, has the same settings and is in no run: it records nothing.

    By default it only advises. An error of its own is logged once, forecasting is switched off and
    training continues.

    Args:
        optimizer: the torch optimizer (or a wrapper of one).
        scheduler: its learning-rate scheduler; None if the rate is constant. For a schedule that
            is not a torch scheduler give `schedule`.
        total_steps: length of the run in optimizer steps; needed unless the scheduler or
            `schedule` has one. Without it the length follows a steered `SteerableLR`.
        schedule: planned learning rate of every step, instead of the scheduler's future.
        steps_per_scheduler_step: optimizer steps between two steps of the scheduler, for example
            the steps of an epoch.
        metric: "train" or "val": the loss of `forecast` and `recommendation`. Pass validation
            losses to `validation`.
        target: final loss to reach; with `stop=True` the run ends when it will very likely be
            missed.
        stop: whether `should_stop` may become True.
        apply: whether to begin a recommended decay, once; the scheduler must be a
            `lossforecast.callbacks.SteerableLR`.
        policy: one or more of `lossforecast.policies`. Default: `target_miss()`, and with `apply`
            also `reschedule()`.
        run: facts about the run (`lossforecast.RunInfo`); `metric` is set from `metric`.
        steps_per_epoch: optimizer steps in one pass over the training data, such as
            ``len(loader)``, or less under accumulation; tells when data will be seen again. Leave
            it out if none is ever seen twice. The one in `run` prevails.
        laws: "auto" or names of laws, as in `lossforecast.Forecaster`.
        prior: beliefs before the run, as in `lossforecast.Forecaster`.
        every_n_steps: optimizer steps between two forecasts. Default: a sixtieth of the run.
        group: index of the parameter group whose learning rate counts. Default: the first of
            those with the largest rate.
        probe: a `lossforecast.callbacks.AnnealingProbe` of the model; measures how much annealing
            will lower the loss.
        store: where runs are recorded and past runs are found: True, a path, a database URL or a
            `lossforecast.RunStore`. See `lossforecast.callbacks.pipeline.Settings`.
        writer: a TensorBoard ``SummaryWriter`` to write forecasts to.
        sinks: functions called with every `lossforecast.callbacks.monitor.Update`.
        verbose: whether to print a line on stderr after each tenth of the run. Default: if there
            are no sinks, no writer, and Python's logging is not configured.

    Raises:
        ConfigurationError: the length of the run is unknown, or an argument makes no sense.
    """

    _pipeline: Pipeline
    _warned = False
    _run_attributes = ("_resumed", "_new_source", "_capture", "_lint")

    def __init__(
        self,
        optimizer: Any,
        scheduler: Any = None,
        total_steps: int | None = None,
        *,
        schedule: LRSchedule | None = None,
        steps_per_scheduler_step: int = 1,
        metric: str = "train",
        target: float | None = None,
        stop: bool = False,
        apply: bool = False,
        policy: Policy | Iterable[Policy] | None = None,
        run: RunInfo | None = None,
        steps_per_epoch: float | None = None,
        laws: str | Iterable[str] = "auto",
        prior: Prior | None = None,
        every_n_steps: int | None = None,
        group: int | None = None,
        probe: AnnealingProbe | None = None,
        store: StoreLike = None,
        writer: Any = None,
        sinks: Iterable[Sink] = (),
        verbose: bool | None = None,
    ) -> None:
        self.settings = Settings(
            metric=metric,
            target=target,
            stop=stop,
            total_steps=total_steps,
            schedule=schedule,
            apply=apply,
            policy=policy,
            run=_with_epochs(run, steps_per_epoch),
            laws=laws,
            prior=prior,
            every_n_steps=every_n_steps,
            probe=probe,
            store=store,
            sinks=sinks,
        )
        instance("verbose", verbose, bool, ConfigurationError)
        hosts: list[Sink] = [TensorBoardSink(writer)] if writer is not None else []
        if verbose or (verbose is None and not hosts and not self.settings.sinks):
            hosts.append(ConsoleSink(always=bool(verbose)))
        pace, optimizer = steps_per_scheduler_step, innermost(optimizer)
        group = parameter_group(optimizer.param_groups, group)
        new_source = partial(
            plan_source, optimizer, scheduler, self.settings, pace=pace, group=group
        )
        source = new_source()
        plan = source.read(0)
        self._resumed = False
        self._new_source: Callable[[], PlanSource] | None = new_source
        self._pipeline = start(
            self.settings,
            HostRun(
                optimizer=optimizer,
                group=group,
                plan=plan,
                trained=optimizer,
                metrics=("train", "val"),
                sinks=hosts,
                source=source,
                steering=steering_of(scheduler, self.settings, pace=pace, group=group),
                begin_probe=None if probe is None else probe.begin,
            ),
        )
        self._capture = self._pipeline.capture
        followed = scheduler if schedule is None else None
        self._lint = LoopLint(optimizer, plan, followed, pace=pace, group=group)
        # without `with` or `close`, the run ends when this object is deleted or Python ends
        self._finalizer = weakref.finalize(self, self._pipeline.finalize)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.switched_off = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(wait=error is None, error=error)

    # ------------------------------------------------------------------ in the loop

    @uncompiled
    def step(self, loss: torch.Tensor | float) -> None:
        """Record the loss of a (micro-)batch, right after it was computed."""
        if self._is_copy():
            return
        self._poll_if_due()
        if self.switched_off:
            self._capture.forget()
            return
        try:
            self._capture.keep(loss)
        except Exception as error:
            if is_from_signal(error):
                raise
            switch_off(self)

    @uncompiled
    def validation(self, loss: torch.Tensor | float) -> None:
        """Record a validation loss, measured after the optimizer steps taken so far."""
        if not self._is_copy():
            self._validate(loss)
            self._poll_if_due()

    @property
    def should_stop(self) -> bool:
        """True when the training loop is to end; always False without ``stop=True``."""
        if self._is_copy():
            return False
        if self._pipeline.stop:
            self._poll_if_due()
        return self._pipeline.should_stop

    def close(self) -> None:
        """Read the remaining losses, make the last forecast and remove all hooks."""
        self._close(wait=True)

    # ------------------------------------------------------------------ reading

    @property
    def metric(self) -> str:
        """The loss of `forecast` and `recommendation`: "train" or "val"."""
        return self.settings.metric

    @property
    def forecaster(self) -> Forecaster:
        """The forecaster of the chosen metric, with all losses read so far."""
        return self._run.forecaster()

    def forecaster_of(self, metric: str) -> Forecaster:
        """Return the forecaster of the "train" or the "val" loss; both are kept."""
        if metric not in self._run.forecasters:
            raise ConfigurationError(f'metric is {metric!r}; it must be "train" or "val"')
        return self._pipeline.forecaster(metric)

    @property
    def steps(self) -> int:
        """Optimizer steps taken; includes steps that the device may turn out to have skipped."""
        return self._run.capture.steps

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values, to be saved with the model.

        It has all but the losses of the present step, and no pending stop: a resumed run continues
        until a stop is due again.
        """
        self._flush()
        return self._run.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; a changed schedule is adopted with a warning.

        Facts about the run are as saved, but for those that `run` gives now.

        Raises:
            StateError: the state is not of a run, or is damaged.
        """
        resume(self._run, self.settings, state)
        self._resumed = True
        if self.settings.probe is not None:
            self.settings.probe.restart()

    # ------------------------------------------------------------------ inside

    @property
    def _run(self) -> Pipeline:
        if vars(self).get("_pipeline") is None:
            raise ConfigurationError(f"{_COPY}: create a TorchLossForecast for each optimizer")
        return self._pipeline

    def _is_copy(self) -> bool:
        """Return whether this is a copy, which is in no run; warn at the first time."""
        if vars(self).get("_pipeline") is not None:
            return False
        if not self._warned:
            self._warned = True
            logger.warning("no forecasts: %s", _COPY)
        return True

    def _poll_if_due(self) -> None:
        if self._pipeline.is_due:
            self._poll()
            if self.switched_off:
                self._pipeline.withdraw()

    @guarded
    def _poll(self) -> None:
        self._adopt_plan()
        self._lint.check(self._capture.steps)
        self._pipeline.poll()

    @guarded
    def _flush(self) -> None:
        self._pipeline.flush()

    @guarded
    def _validate(self, loss: torch.Tensor | float) -> None:
        self._adopt_plan()
        self._pipeline.validate(float(loss.detach() if isinstance(loss, torch.Tensor) else loss))

    @guarded
    def _finish(self, wait: bool) -> None:
        self._adopt_plan()
        self._pipeline.finish(wait=wait)
        if wait:
            self._pipeline.warn_at_end()

    def _close(self, wait: bool, error: BaseException | None = None) -> None:
        if self._is_copy():
            return
        try:
            self._finish(wait)
            clean_up(self._pipeline.leave)
            self._record_end(error)
        finally:  # also after Ctrl-C during the last forecast
            self._finalizer.detach()
            self._pipeline.close()
            self._lint.close()
            self._new_source = None

    def _adopt_plan(self) -> None:
        """Adopt the plan of a resumed run, at its first step, with a warning if it has changed.

        By then the user has restored the scheduler, too.
        """
        if not self._resumed or self._new_source is None:
            return
        self._resumed, source = False, self._new_source()
        plan = source.read(self._capture.steps)
        self._pipeline.watch_plan(source, plan)
        for name, forecaster in self._pipeline.forecasters.items():
            if name == self.metric:
                adopt_plan(forecaster, plan, self._capture.steps)
            else:
                forecaster.adopt_plan(plan, self._capture.steps)


def _with_epochs(run: RunInfo | None, steps_per_epoch: float | None) -> RunInfo | None:
    """Return the facts about a run with the steps of an epoch, unless they have them.

    Raises:
        ConfigurationError: `steps_per_epoch` is not a number above 0.
    """
    known = run or RunInfo()
    is_known = not isinstance(known, RunInfo) or known.steps_per_epoch is not None
    if steps_per_epoch is None or is_known:
        return run
    return replace(known, steps_per_epoch=steps_per_epoch)
