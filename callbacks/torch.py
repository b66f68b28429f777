"""`TorchLossForecast`: forecasts inside a plain PyTorch loop."""

import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import torch

from lossforecast.callbacks.capture import LossCapture, innermost, uncompiled
from lossforecast.callbacks.lr_schedulers import (
    LoopLint,
    Steering,
    every,
    schedule_from_torch,
    steps_per_call,
)
from lossforecast.callbacks.monitor import RunMonitor, Sink, adopt_plan, guarded, switch_off
from lossforecast.callbacks.pipeline import (
    Pipeline,
    RunRecorder,
    StoreLike,
    checked,
    default_policies,
    describe,
    widest_group,
)
from lossforecast.callbacks.probe import AnnealingProbe
from lossforecast.callbacks.tensorboard import TensorBoardSink
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Policy, Recommendation
from lossforecast.prior import Prior
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["TorchLossForecast"]


class TorchLossForecast:
    """Watches a plain training loop and forecasts where its loss will end.

        with TorchLossForecast(optimizer, scheduler, total_steps=N) as monitor:
            for batch in loader:
                loss = compute(batch)
                monitor.step(loss)                    # once per micro-batch under accumulation
                loss.backward(); optimizer.step(); scheduler.step(); optimizer.zero_grad()
                if monitor.should_stop:               # False unless stop=True was asked for
                    break

    Optimizer steps are counted, and the learning rate really used is read, in hooks of the
    optimizer, so the order of the other calls, skipped steps and stepping the scheduler early or
    late change nothing. Losses are copied on their device and read on the host about 100 times a
    run.

    Of several processes (`torch.distributed`) each needs one, with the same arguments, and calls
    `step`, `validation` and `state_dict` alike. Losses are averaged over all of them, the first
    one forecasts and all stop at the same step.

    By default it only advises. An error of its own is logged once, forecasting is switched off and
    training goes on.

    Args:
        optimizer: the torch optimizer (or a wrapper of one).
        scheduler: its learning-rate scheduler; None if the rate stays as it is. For a schedule
            that is not a torch scheduler give `schedule`.
        total_steps: length of the run in optimizer steps; needed unless the scheduler or
            `schedule` has one. Without it the length follows a `SteerableLR` that is steered.
        schedule: the planned learning rate of every step, instead of the scheduler's future.
        steps_per_scheduler_step: optimizer steps between two steps of the scheduler, such as the
            steps of an epoch.
        metric: "train" or "val": which loss `forecast` and `recommendation` are about. Validation
            losses come through `validation`.
        target: the final loss hoped for; `stop=True` acts when it will very likely be missed.
        stop: whether `should_stop` may become True.
        apply: whether a decay that is recommended is begun, once; the scheduler must be a
            `lossforecast.callbacks.SteerableLR`.
        policy: one or more of `lossforecast.policies`; by default `target_miss()`, and with
            `apply` also `reschedule()`.
        run: what is known of the run; its `metric` is set from `metric`.
        laws: as in `Forecaster`.
        prior: as in `Forecaster`.
        every_n_steps: how often to forecast; by default about 100 times a run.
        group: the parameter group whose learning rate counts; by default the first of the largest.
        probe: an `lossforecast.callbacks.AnnealingProbe` of the model, to measure what annealing
            will bring.
        store: where runs are kept and learnt from: True for the store of this user, a path, a
            database URL or a `lossforecast.RunStore`. Runs of one `project` are compared, by
            default those of this script; the best of them is the `target` if none is given
            and `run` names the project or the dataset.
        writer: a TensorBoard ``SummaryWriter`` to write forecasts to.
        sinks: functions called with every `lossforecast.callbacks.monitor.Update`.

    Raises:
        ConfigurationError: the length of the run is unknown, or an argument makes no sense.
    """

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
        laws: str | Iterable[str] = "auto",
        prior: Prior | None = None,
        every_n_steps: int | None = None,
        group: int | None = None,
        probe: AnnealingProbe | None = None,
        store: StoreLike = None,
        writer: Any = None,
        sinks: Iterable[Sink] = (),
    ) -> None:
        self.switched_off = False
        self._resumed = False
        optimizer = innermost(optimizer)
        group = _group(optimizer, group)
        planner = _planner(
            optimizer, scheduler, total_steps, schedule, steps_per_scheduler_step, group
        )
        self._plan: Callable[[int], LRSchedule] | None = planner
        plan = planner(0)
        steering = None
        if schedule is None and steps_per_scheduler_step == 1:
            steering = Steering.of(scheduler, group, total_steps, apply)
        if apply and steering is None:
            raise ConfigurationError(
                "apply=True needs a SteerableLR as the scheduler, SteerableLR(optimizer, "
                "total_steps), stepped once after each optimizer step and not once a process, and "
                f"no other schedule=; this is {type(scheduler).__name__} stepped every "
                f"{steps_per_scheduler_step}"
            )
        if metric not in ("train", "val"):
            raise ConfigurationError(f'metric is {metric!r}; it must be "train" or "val"')
        laws = laws if isinstance(laws, str) else tuple(laws)
        known = {name: describe(run, optimizer, name) for name in ("train", "val")}
        priors: dict[str, Prior | None] = dict.fromkeys(known, prior)
        recorder = RunRecorder.of(checked(store), None, known[metric], plan, optimizer)
        if recorder is not None:
            known[metric], priors[metric] = recorder.run, recorder.prior(prior)
        forecasters = {
            name: Forecaster(plan, known[name], laws, priors[name], every_n_steps) for name in known
        }
        self.metric = metric
        self._monitor = RunMonitor(
            forecasters[metric],
            target=target,
            policy=default_policies(apply) if policy is None else policy,
            sinks=[*([TensorBoardSink(writer)] if writer is not None else []), *sinks],
            recorder=recorder,
        )
        stepped = scheduler if schedule is None else None
        self._lint = LoopLint(optimizer, plan, stepped, steps_per_scheduler_step, group)
        self._capture, self._probe = LossCapture(optimizer, group), probe
        if probe is not None:
            capture = self._capture  # and not self, which is to be let go of with its last user
            probe.begin(optimizer, lambda: capture.steps, plan.total_steps)
        self._pipeline = Pipeline(
            self._capture, forecasters, self._monitor, stop=stop, steering=steering, probe=probe
        )
        # who neither uses `with` nor calls `close` has the end stored with the last reference, or
        # when the process ends
        self._unclosed = weakref.finalize(self, self._pipeline.abandon) if recorder else None

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
        if self._capture.calls >= self._pipeline.next:
            self._turn()
        if self.switched_off:
            self._capture.forget()
            return
        try:
            self._capture.keep(loss)
        except Exception:
            switch_off(self)

    @uncompiled
    def validation(self, loss: torch.Tensor | float) -> None:
        """Record a validation loss, measured after the optimizer steps taken so far."""
        self._validate(loss)
        if self._capture.calls >= self._pipeline.next:
            self._turn()

    @property
    def should_stop(self) -> bool:
        """Whether to leave the loop; False unless ``stop=True``."""
        if self._pipeline.stop and self._capture.calls >= self._pipeline.next:
            self._turn()
        return self._pipeline.should_stop

    def close(self) -> None:
        """Read what is left, make the last forecast and let go of the optimizer."""
        self._close(wait=True)

    # ------------------------------------------------------------------ reading

    @property
    def forecaster(self) -> Forecaster:
        """The forecaster of the chosen metric, with all that was read so far."""
        return self._pipeline.forecaster(self.metric)

    def forecaster_of(self, metric: str) -> Forecaster:
        """The forecaster of the "train" or the "val" loss; both are kept."""
        if metric not in self._pipeline.forecasters:
            raise ConfigurationError(f'metric is {metric!r}; it must be "train" or "val"')
        return self._pipeline.forecaster(metric)

    @property
    def forecast(self) -> Forecast | None:
        """The latest forecast of the final loss; None before the first and outside process 0."""
        return self._monitor.forecast

    @property
    def recommendation(self) -> Recommendation | None:
        """The latest recommendation; None before the first."""
        return self._monitor.recommendation

    @property
    def steps(self) -> int:
        """Optimizer steps taken, as far as is known without asking the device."""
        return self._capture.steps

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Everything but the losses of a step under way, as plain values; save it with the model.

        Not whether to stop either: a run that is resumed nevertheless goes on until that is due.
        """
        self._settle()
        return self._pipeline.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called; a changed schedule is adopted with a warning.

        Raises:
            StateError: the state is not ours, or is damaged.
        """
        self._pipeline.load_state_dict(state)
        self._resumed = True
        if self._probe is not None:
            self._probe.restart()

    # ------------------------------------------------------------------ inside

    def _turn(self) -> None:
        self._read()
        if self.switched_off:
            self._pipeline.heed()

    @guarded
    def _read(self) -> None:
        self._adopt_plan()
        self._lint.look(self._capture.steps)
        self._pipeline.turn()

    @guarded
    def _settle(self) -> None:
        self._pipeline.settle()

    @guarded
    def _validate(self, loss: torch.Tensor | float) -> None:
        self._adopt_plan()
        self._pipeline.validate(float(loss.detach() if isinstance(loss, torch.Tensor) else loss))

    @guarded
    def _finish(self, wait: bool) -> None:
        self._adopt_plan()
        self._pipeline.finish(wait=wait)

    def _close(self, wait: bool, error: BaseException | None = None) -> None:
        try:
            self._finish(wait)
            self._pipeline.leave()
            self._pipeline.record_end(error, watched=not self.switched_off)
        finally:  # whoever loses patience during the last forecast leaves nothing behind either
            if self._unclosed is not None:
                self._unclosed.detach()
            self._capture.close()
            self._lint.close()
            if self._probe is not None:
                self._probe.close()
            self._plan = None

    def _adopt_plan(self) -> None:
        if not self._resumed or self._plan is None:
            return
        self._resumed = False  # only now has the user surely restored the scheduler, too
        planned = self._plan(self._capture.steps)
        for name, forecaster in self._pipeline.forecasters.items():
            if name == self.metric:
                adopt_plan(forecaster, planned, self._capture.steps)
            else:
                forecaster.adopt_plan(planned, self._capture.steps)


def _group(optimizer: Any, group: int | None) -> int:
    if group is None:
        return widest_group(optimizer)
    index, groups = whole("group", group, ConfigurationError, least=0), optimizer.param_groups
    if index >= len(groups):
        raise ConfigurationError(
            f"group is {group}, but the optimizer has {len(groups)}: give 0..{len(groups) - 1}"
        )
    return index


def _planner(
    optimizer: Any,
    scheduler: Any,
    total_steps: int | None,
    schedule: LRSchedule | None,
    interval: int,
    group: int,
) -> Callable[[int], LRSchedule]:
    """What makes the plan, given the optimizer steps already taken."""
    if schedule is not None:
        if not isinstance(schedule, LRSchedule):
            raise ConfigurationError(
                f"schedule must be an LRSchedule, not {type(schedule).__name__}: try "
                "LRSchedule.from_array(lrs), or give the scheduler as `scheduler`"
            )
        if total_steps not in (None, schedule.total_steps):
            raise ConfigurationError(
                f"total_steps is {total_steps}, but the schedule has {schedule.total_steps} steps: "
                "give one of them, or extended_to() / truncated_to() the schedule"
            )
        return lambda step: schedule
    pace = whole("steps_per_scheduler_step", interval, ConfigurationError, least=1)
    if total_steps is None and getattr(scheduler, "total_steps", None) is None:
        raise ConfigurationError(
            "the length of the run is unknown; give total_steps= (optimizer steps)"
        )

    def planned(step: int) -> LRSchedule:
        if total_steps is not None:
            steps = whole("total_steps", total_steps, ConfigurationError, least=1)
        else:  # which may change
            theirs = scheduler.total_steps
            steps = pace * whole("scheduler.total_steps", theirs, ConfigurationError, least=1)
        if scheduler is None:
            rate = float(optimizer.param_groups[group]["lr"])
            return LRSchedule.constant(steps, rate).with_caveats(Caveat.LR_ASSUMED)
        return schedule_from_torch(
            scheduler,
            total_steps=steps,
            step=min(step, steps),
            group=group,
            scheduler_steps=every(pace, step=step, times=steps_per_call(scheduler)),
        )

    return planned
