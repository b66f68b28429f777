"""`TorchLossForecast`: forecasts inside a plain PyTorch loop."""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import torch

from lossforecast.callbacks.capture import LossCapture
from lossforecast.callbacks.lr_scheduler import every, schedule_from_torch
from lossforecast.callbacks.monitor import RunMonitor, Sink, adopt, assumed, guarded
from lossforecast.callbacks.tensorboard import TensorBoardSink
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError, StateError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.prior import Prior, RunInfo
from lossforecast.recommend import Policy, Recommendation
from lossforecast.schedule import LRSchedule

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

    Optimizer steps are counted, and the learning rate really used is read, in a hook of the
    optimizer, so the order of the calls, skipped steps and stepping the scheduler early or late
    change nothing. Losses are copied on their device and read on the host about 100 times a run.

    By default it only advises. An error of its own is logged once, forecasting is switched off and
    training goes on.

    Args:
        optimizer: the torch optimizer (or a wrapper of one).
        scheduler: its learning-rate scheduler; None if the rate stays as it is. For a schedule
            that is not a torch scheduler give `schedule`.
        total_steps: length of the run in optimizer steps; needed unless the scheduler or
            `schedule` has one.
        schedule: the planned learning rate of every step, instead of the scheduler's future.
        steps_per_scheduler_step: optimizer steps between two steps of the scheduler, such as the
            steps of an epoch.
        metric: "train" or "val": which loss `forecast` and `recommendation` are about. Validation
            losses come through `validation`.
        target: the final loss hoped for; `stop=True` acts when it will very likely be missed.
        stop: whether `should_stop` may become True.
        policy: one or more policies of `lossforecast.recommend` instead of the default.
        run: what is known of the run; its `metric` is set from `metric`.
        laws: as in `Forecaster`.
        prior: as in `Forecaster`.
        every_n_steps: how often to forecast; by default about 100 times a run.
        group: the parameter group whose learning rate counts; by default the first of the largest.
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
        policy: Policy | Iterable[Policy] | None = None,
        run: RunInfo | None = None,
        laws: str | Iterable[str] = "auto",
        prior: Prior | None = None,
        every_n_steps: int | None = None,
        group: int | None = None,
        writer: Any = None,
        sinks: Iterable[Sink] = (),
    ) -> None:
        self.switched_off = False
        self.stop = stop
        self._latched = False
        self._resumed = False
        self._checked = 0
        group = widest_group(optimizer) if group is None else group
        self._plan = _planner(
            optimizer, scheduler, total_steps, schedule, steps_per_scheduler_step, group
        )
        plan = self._plan(0)
        self._forecasters = {
            name: Forecaster(plan, describe(run, optimizer, name), laws, prior, every_n_steps)
            for name in ("train", "val")
        }
        if metric not in self._forecasters:
            raise ConfigurationError(f'metric is {metric!r}; it must be "train" or "val"')
        self.metric = metric
        self._monitor = RunMonitor(
            self._forecasters[metric],
            target=target,
            policy=policy,
            sinks=[*([TensorBoardSink(writer)] if writer is not None else []), *sinks],
        )
        self._capture = LossCapture(optimizer, group)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ in the loop

    def step(self, loss: torch.Tensor | float) -> None:
        """Record the loss of a (micro-)batch, right after it was computed."""
        if self._capture.steps != self._checked:
            self._check_if_due()
        self._record(loss)

    @guarded
    def validation(self, loss: torch.Tensor | float) -> None:
        """Record a validation loss, measured after the optimizer steps taken so far."""
        self._forecasters["val"].observe(
            self._capture.steps, float(loss), self._capture.last_rate()
        )

    @property
    def should_stop(self) -> bool:
        """Whether to leave the loop; False unless ``stop=True``."""
        if self.stop and self._capture.steps != self._checked:
            self._check_if_due()
        return self._latched

    @guarded
    def close(self) -> None:
        """Read what is left, make the last forecast and let go of the optimizer."""
        self._capture.close()
        self._flush(everything=True)
        if self.forecaster.history.n_observed:
            self._monitor.check(self._capture.steps, self._capture.present_rate())

    # ------------------------------------------------------------------ reading

    @property
    def forecaster(self) -> Forecaster:
        """The forecaster of the chosen metric, with all that was read so far."""
        return self._forecasters[self.metric]

    def forecaster_of(self, metric: str) -> Forecaster:
        """The forecaster of the "train" or the "val" loss; both are kept."""
        if metric not in self._forecasters:
            raise ConfigurationError(f'metric is {metric!r}; it must be "train" or "val"')
        return self._forecasters[metric]

    @property
    def forecast(self) -> Forecast | None:
        """The latest forecast of the final loss; None before the first."""
        return self._monitor.forecast

    @property
    def recommendation(self) -> Recommendation | None:
        """The latest recommendation; None before the first."""
        return self._monitor.recommendation

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self._capture.steps

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain values; save it with the model, between two optimizer steps."""
        self._flush(everything=True)
        return {
            "forecasters": {name: f.state_dict() for name, f in self._forecasters.items()},
            "capture": self._capture.state_dict(),
            "checked": self._checked,
            "stopped": self._latched,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called; a changed schedule is adopted with a warning.

        Raises:
            StateError: the state is not ours, or is damaged.
        """
        try:
            saved = {
                name: Forecaster.from_state_dict(state["forecasters"][name])
                for name in self._forecasters
            }
            checked, stopped = int(state["checked"]), bool(state["stopped"])
            self._capture.load_state_dict(state["capture"])
        except (KeyError, TypeError) as error:
            raise StateError(f"not a saved TorchLossForecast: {error!r}") from error
        self._forecasters, self._checked, self._latched = saved, checked, stopped
        self._monitor.forecaster = self.forecaster
        self._resumed = True

    # ------------------------------------------------------------------ inside

    @guarded
    def _record(self, loss: torch.Tensor | float) -> None:
        if self._resumed:  # only now has the user surely restored the scheduler, too
            self._resumed = False
            planned = self._plan(self._capture.steps)
            for forecaster in self._forecasters.values():
                adopt(forecaster, planned, self._capture.steps)
        self._capture.record(loss)

    @guarded
    def _check_if_due(self) -> None:
        before, now = self._checked, self._capture.steps
        self._checked = now
        every_n = self.forecaster.every_n_steps
        if now // every_n == before // every_n and now != self.forecaster.total_steps:
            return
        self._flush(everything=False)
        if self.forecaster.history.last_step >= 0:
            self._monitor.check(now, self._capture.present_rate())
            self._latched = self._latched or (self.stop and self._monitor.wants_stop)

    def _flush(self, *, everything: bool) -> None:
        block = self._capture.take_all() if everything else self._capture.take()
        if block[0].size:
            self._forecasters["train"].observe_many(*block)


def widest_group(optimizer: Any) -> int:
    """Index of the first parameter group with the largest rate, initial or present."""
    rates = [
        max(float(group["lr"]), float(group.get("initial_lr", group["lr"])))
        for group in optimizer.param_groups
    ]
    return rates.index(max(rates))


def describe(run: RunInfo | None, optimizer: Any, metric: str) -> RunInfo:
    """What is known of the run, with the metric and, unless given, the optimizer's name."""
    known = vars(run) if run else {}
    name = known.get("optimizer") or type(optimizer).__name__
    return RunInfo(**{**known, "metric": metric, "optimizer": name})


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
        if total_steps not in (None, schedule.total_steps):
            raise ConfigurationError(
                f"total_steps is {total_steps}, but the schedule has {schedule.total_steps} steps: "
                "give one of them, or extended_to() / truncated_to() the schedule"
            )
        return lambda step: schedule
    length = total_steps if total_steps is not None else getattr(scheduler, "total_steps", None)
    if length is None:
        raise ConfigurationError(
            "the length of the run is unknown; give total_steps= (optimizer steps)"
        )
    steps = whole("total_steps", length, ConfigurationError, least=1)
    pace = whole("steps_per_scheduler_step", interval, ConfigurationError, least=1)
    if scheduler is None:
        rate = float(optimizer.param_groups[group]["lr"])
        return lambda step: assumed(LRSchedule.constant(steps, rate))
    return lambda step: schedule_from_torch(
        scheduler,
        total_steps=steps,
        step=min(step, steps),
        group=group,
        scheduler_steps=every(pace, step=step),
    )
