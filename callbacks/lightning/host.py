"""Describes the run of a Lightning ``Trainer`` at its start."""

from functools import partial
from typing import TYPE_CHECKING, Any

from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.lightning.loggers import logger_sinks, run_name
from lossforecast.callbacks.lightning.plan import TrainerPlan
from lossforecast.callbacks.lightning.schedule import steerable
from lossforecast.callbacks.lr_schedulers import widest_group
from lossforecast.callbacks.pipeline import Settings, is_loss_like
from lossforecast.callbacks.torch_run import TorchRun
from lossforecast.log import logger

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["has_optimizer", "host_run", "is_long_enough"]


def host_run(
    trainer: "Trainer",
    module: "LightningModule",
    settings: Settings,
    plan_of_trainer: TrainerPlan,
    *,
    saved: dict[str, Any] | None,
) -> TorchRun | None:
    """Describe the run, or warn and return None if its length is unknown.

    Args:
        trainer: the Trainer, at the start of training.
        module: the module that is trained.
        settings: arguments of the callback.
        plan_of_trainer: reads the plan of the run from the Trainer.
        saved: state of the callback in the checkpoint that is resumed, if any.
    """
    optimizer = plan_of_trainer.optimizer
    if saved is None:  # a new run, or a checkpoint without a state of this callback
        taken = trainer.global_step // len(trainer.optimizers)
        group = widest_group(optimizer.param_groups)
    else:
        taken, group = int(saved["capture"]["steps"]), int(saved["group"])
    plan_of_trainer.group = group
    plan = plan_of_trainer.at_start(taken, saved)
    if plan is None:
        logger.warning(
            "no forecasts: the length of this run is unknown. Give "
            "Trainer(max_steps=...) or LightningLossForecast(total_steps=...)"
        )
        return None
    may_act = _may_act(trainer, settings)
    begin_probe = None
    if settings.probe is not None:
        context = trainer.precision_plugin.forward_context
        begin_probe = partial(settings.probe.begin, model=module, context=context)
    steering = None
    if settings.schedule is None:
        apply = settings.apply and may_act
        steering = steerable(trainer, optimizer, group, plan.total_steps, apply=apply)
    return TorchRun(
        optimizer=optimizer,
        group=group,
        plan=plan,
        trained=module,
        name=run_name(trainer),
        metrics=(settings.metric,),
        sinks=logger_sinks(trainer),
        may_act=may_act,
        source=plan_of_trainer.source(plan),
        steering=steering,
        probe=begin_probe,
        steps_taken=taken,
        steps_per_epoch=plan_of_trainer.steps_per_epoch(taken),
        saved=saved,
    )


def has_optimizer(trainer: "Trainer") -> bool:
    """Return whether the module has an optimizer; warn if not."""
    if any(optimizer.param_groups for optimizer in trainer.optimizers):
        return True
    logger.warning(
        "no forecasts: configure_optimizers returned no optimizer, so no step can be counted"
    )
    return False


def is_long_enough(trainer: "Trainer") -> bool:
    """Return whether the run has its minimum of steps and epochs."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    enough = epochs.processed >= (trainer.min_epochs or 0)
    return enough and trainer.global_step >= (trainer.min_steps or 0)


def _may_act(trainer: "Trainer", settings: Settings) -> bool:
    """Return whether the run may be stopped or changed; warn if that is wanted but impossible."""
    acts = settings.stop or settings.apply
    if not is_loss_like(settings.monitor, acts=acts) or not acts:
        return False
    if trainer.world_size != processes()[1]:
        logger.warning(
            "nothing will be stopped or changed: the %d processes of this run do not use "
            "torch.distributed, so they cannot agree on it",
            trainer.world_size,
        )
        return False
    return True
