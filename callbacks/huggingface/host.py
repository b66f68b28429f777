"""Describes the run of the Hugging Face ``Trainer`` at its start."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lossforecast.callbacks.capture import innermost
from lossforecast.callbacks.huggingface.checkpoint import checkpoint_state
from lossforecast.callbacks.huggingface.logs import higher_is_better
from lossforecast.callbacks.huggingface.schedule import planned
from lossforecast.callbacks.lr_schedulers import Steering, widest_group
from lossforecast.callbacks.pipeline import PlanSource, Settings, is_loss_like
from lossforecast.callbacks.torch_run import TorchRun
from lossforecast.log import logger
from lossforecast.runs import RunInfo

__all__ = ["host_run"]


def host_run(
    args: Any,
    state: Any,
    given: Mapping[str, Any],
    settings: Settings,
    *,
    name: str,
    place: int,
    created: dict[str, Any] | None,
) -> TorchRun:
    """Describe the run to the pipeline, all but its probe.

    Args:
        args: arguments of the Trainer.
        state: state of the Trainer.
        given: the objects that the Trainer passes to callbacks: optimizer, lr_scheduler, model,
            train_dataloader; kept up to date.
        settings: arguments of the callback.
        name: name of the callback's class.
        place: index of the callback among those of the same class and monitor.
        created: state from which the Trainer created the callback, if it did.
    """
    optimizer, scheduler = innermost(given["optimizer"]), given.get("lr_scheduler")
    taken, total = int(state.global_step), int(state.max_steps)
    saved = None
    if taken:
        saved = checkpoint_state(state, name, settings.monitor, place) or created
    group = widest_group(optimizer.param_groups) if saved is None else int(saved["group"])
    plan = planned(settings.schedule, scheduler, total, taken=taken, group=group)
    run = settings.run
    if created is not None and saved is not None and run is None:
        run = RunInfo(**saved["forecasters"][settings.metric]["run"])
    may_act = is_loss_like(
        settings.monitor,
        higher_is_better(args, settings.monitor),
        acts=settings.stop or settings.apply,
    )
    return TorchRun(
        optimizer=optimizer,
        group=group,
        plan=plan,
        trained=given["model"],
        name=args.run_name or Path(args.output_dir).name,
        metrics=(settings.metric,),
        run=run,
        may_act=may_act,
        source=PlanSource(
            read=lambda steps: planned(
                settings.schedule,
                given.get("lr_scheduler"),
                int(state.max_steps),
                taken=steps,
                group=group,
            ),
            scheduler=lambda steps: given.get("lr_scheduler"),
            length=lambda steps: int(state.max_steps),
            fixed_rates=settings.schedule is not None,
        ),
        steering=_steering(scheduler, settings, group, total_steps=total, may_act=may_act),
        steps_taken=taken,
        steps_per_epoch=_steps_per_epoch(args, given.get("train_dataloader")),
        saved=saved,
    )


def _steps_per_epoch(args: Any, loader: Any) -> float | None:
    """Return the optimizer steps in one pass over the training data; None for a stream.

    Args:
        args: arguments of the Trainer.
        loader: its data loader.
    """
    try:
        batches = len(loader)
    except (TypeError, RuntimeError):  # as the Trainer itself recognises data without a length
        return None
    return math.ceil(batches / max(args.gradient_accumulation_steps, 1)) or None


def _steering(
    scheduler: Any, settings: Settings, group: int, *, total_steps: int, may_act: bool
) -> Steering | None:
    """Return the steering of a steerable scheduler; warn if `apply` needs one and there is none."""
    steering = None
    if settings.schedule is None:
        apply = settings.apply and may_act
        steering = Steering.of(scheduler, group, total_steps, apply)
    if settings.apply and steering is None:
        logger.warning(
            "no decay will be started: apply=True needs a SteerableLR stepped once after each "
            "optimizer step, Trainer(..., optimizers=(optimizer, SteerableLR(optimizer, "
            "total_steps))), and no other schedule="
        )
    return steering
