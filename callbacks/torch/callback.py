"""`TorchLossForecast`: forecasts inside a plain PyTorch loop."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lossforecast.callbacks.capture import LossCapture, innermost, uncompiled
from lossforecast.callbacks.loop import OwnLoop, console_sinks
from lossforecast.callbacks.lr_schedulers import LoopLint, parameter_group
from lossforecast.callbacks.monitor import Sink, guarded
from lossforecast.callbacks.pipeline import Settings, StoreLike
from lossforecast.callbacks.probe import AnnealingProbe
from lossforecast.callbacks.tensorboard import TensorBoardSink
from lossforecast.callbacks.torch.schedule import plan_source, steering_of
from lossforecast.callbacks.torch_run import TorchRun
from lossforecast.policies import Policy
from lossforecast.prior import Prior
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

__all__ = ["TorchLossForecast"]


class TorchLossForecast(OwnLoop):
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
    Losses are copied on their device and read on the host about 60 times a run.

    With several processes (`torch.distributed`) create one in each, with the same arguments, and
    call `step`, `validation` and `state_dict` at the same steps. Losses are averaged over all
    processes, the first one forecasts, and all stop at the same step.

    A copy, by `copy` or `pickle`, has the same settings but belongs to no run: it records nothing.

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
        policy: one or more of `lossforecast.policies`. Default: `target_miss()` and
            `overfitting()`, with `apply` also `reschedule()`.
        run: facts about the run (`lossforecast.RunInfo`); `metric` is set from `metric`.
        steps_per_epoch: optimizer steps in one pass over the training data, such as
            ``len(loader)``, or less under accumulation; shows when data will be seen again. Leave
            it out if no data is ever seen twice. The one in `run` prevails.
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

    _capture: LossCapture
    _run_attributes = (*OwnLoop._run_attributes, "_lint")

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
        settings = Settings(
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
        panel = [] if writer is None else [TensorBoardSink(writer)]
        pace, optimizer = steps_per_scheduler_step, innermost(optimizer)
        group = parameter_group(optimizer.param_groups, group)
        new_source = partial(plan_source, optimizer, scheduler, settings, pace=pace, group=group)
        source = new_source()
        plan = source.read(0)
        host = TorchRun(
            optimizer=optimizer,
            group=group,
            plan=plan,
            trained=optimizer,
            metrics=("train", "val"),
            sinks=console_sinks(verbose, panel, settings),
            source=source,
            steering=steering_of(scheduler, settings, pace=pace, group=group),
            probe=None if probe is None else probe.begin,
        )
        self._begin(settings, host, new_source)
        followed = scheduler if schedule is None else None
        self._lint = LoopLint(optimizer, plan, followed, pace=pace, group=group)

    @uncompiled
    def step(self, loss: torch.Tensor | float) -> None:
        """Record the loss of a (micro-)batch, right after it was computed."""
        if not self._is_copy():
            self._keep(loss)

    @uncompiled
    def validation(self, loss: torch.Tensor | float) -> None:
        """Record a validation loss, measured after the optimizer steps taken so far."""
        super().validation(loss.detach() if isinstance(loss, torch.Tensor) else loss)

    @guarded
    def _poll(self) -> None:
        self._adopt_plan()
        self._lint.check(self._capture.steps)
        self._pipeline.poll()

    def _close(self, wait: bool, error: BaseException | None = None) -> None:
        try:
            super()._close(wait, error)
        finally:
            if "_lint" in vars(self):  # a copy has none
                self._lint.close()


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
