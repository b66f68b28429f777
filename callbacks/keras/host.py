"""Describes a run of Keras: its optimizer, its length and its learning rates."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from lossforecast.callbacks.loop import CountedRun, console_sinks, plan_of
from lossforecast.callbacks.pipeline import PlanSource, Recognition, Settings, is_loss_like
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["KerasRates", "batches_of_epoch", "host_run", "run_length"]


class KerasRates:
    """The steps and the learning rates of an optimizer of Keras.

    Args:
        optimizer: the optimizer of the compiled model.
    """

    def __init__(self, optimizer: Any) -> None:
        inner = getattr(optimizer, "inner_optimizer", optimizer)  # inside LossScaleOptimizer
        self._optimizer = inner
        self.name = type(inner).__name__
        self.accumulated = int(inner.gradient_accumulation_steps or 1)
        """Batches in an optimizer step."""
        rate = inner._learning_rate
        is_schedule = isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
        self.schedule = rate if is_schedule else None

    @property
    def steps(self) -> int:
        """Optimizer steps taken; with JAX not up to date within an epoch."""
        return int(keras.ops.convert_to_numpy(self._optimizer.iterations))

    def next_rate(self, steps: int) -> float:
        """Return the learning rate of the next step, given the number of steps taken."""
        if self.schedule is None:
            return float(keras.ops.convert_to_numpy(self._optimizer.learning_rate))
        return float(self._planned(steps))

    def _planned(self, steps: Any) -> Any:
        """Return the rate of the schedule after a number of steps, or an array of them."""
        # Keras counts batches, and an optimizer step is taken with the last of those accumulated
        assert self.schedule is not None
        return keras.ops.convert_to_numpy(self.schedule(self.accumulated * (steps + 1) - 1))

    def plan(self, total_steps: int, steps: int) -> LRSchedule:
        """Return the learning rate of every step, given the number of steps taken."""
        if self.schedule is not None:
            return plan_of(self._planned, total_steps)
        held = LRSchedule.constant(total_steps, self.next_rate(steps))
        return held.with_caveats(Caveat.LR_ASSUMED)


def batches_of_epoch(params: Mapping[str, Any]) -> int | None:
    """Return the number of batches in an epoch; None if Keras does not know it."""
    steps = params.get("steps")
    return int(steps) if steps else None


def run_length(
    params: Mapping[str, Any], batches: int, epoch: int, steps: int, accumulated: int
) -> int:
    """Return the optimizer steps at the end of the run.

    Args:
        params: parameters of ``fit``, as Keras passes them to callbacks.
        batches: batches in an epoch.
        epoch: number of finished epochs.
        steps: optimizer steps taken.
        accumulated: batches in an optimizer step.
    """
    ahead = (int(params["epochs"]) - epoch) * batches // accumulated
    return steps + max(ahead, 1)


def host_run(
    model: Any,
    rates: KerasRates,
    settings: Settings,
    *,
    total_steps: int,
    steps: int,
    batches: int | None,
    verbose: bool | None,
) -> CountedRun:
    """Describe the run to the pipeline.

    Args:
        model: the model that is trained.
        rates: steps and learning rates of its optimizer.
        settings: arguments of the callback.
        total_steps: length of the run in optimizer steps.
        steps: optimizer steps taken.
        batches: batches in an epoch; None if unknown.
        verbose: whether to print lines.
    """
    given = settings.schedule

    def read(taken: int) -> LRSchedule:
        return rates.plan(total_steps, taken) if given is None else given

    weights = [math.prod(each.shape) for each in model.trainable_variables]
    return CountedRun(
        plan=read(steps),
        metrics=(settings.metric,),
        sinks=console_sinks(verbose, (), settings),
        may_act=is_loss_like(settings.monitor, acts=settings.stop),
        source=PlanSource(
            read=read, scheduler=lambda taken: rates.schedule, fixed_rates=given is not None
        ),
        steps_taken=steps,
        steps_per_epoch=None if batches is None else max(batches / rates.accumulated, 1),
        next_rates=lambda steps: np.array([rates.next_rate(step) for step in steps.tolist()]),
        seen=Recognition(
            optimizer=rates.name, model=type(model).__name__, n_params=sum(weights) or None
        ),
    )
