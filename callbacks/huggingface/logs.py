"""What the Hugging Face ``Trainer`` logs of the training loss, and what it will log."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from lossforecast.callbacks.distributed import processes
from lossforecast.log import logger

__all__ = ["awaited", "is_window", "told_direction", "told_loss", "warn_if_few"]

_ENOUGH = 20  # losses in a run; with fewer there is nothing to forecast from until it is over


def is_window(logs: Mapping[str, Any] | None) -> bool:
    """Whether the Trainer itself has logged this, and not its user."""
    return logs is not None and "loss" in logs and "learning_rate" in logs


def told_loss(logs: Mapping[str, Any], args: Any, was_positive: Callable[[], bool]) -> float:
    """The mean training loss that was logged; nan where the Trainer has hidden one that is.

    With ``logging_nan_inf_filter``, as by default, it leaves out the losses that are not finite,
    and logs 0 if all are. The norm of the gradients of the last step, if there is one, is as it
    was; with fp16 its being infinite is the business of the gradient scaler.

    Args:
        logs: what was logged.
        args: of the Trainer.
        was_positive: whether earlier losses of the run were above 0.
    """
    loss, norm = float(logs["loss"]), logs.get("grad_norm")
    if not args.logging_nan_inf_filter:
        return loss
    if norm is not None and not args.fp16 and not math.isfinite(float(norm)):
        return math.nan
    return math.nan if loss == 0 and was_positive() else loss


def awaited(args: Any, state: Any, control: Any) -> bool:
    """Whether, after an optimizer step, the Trainer is about to log a loss that has it."""
    if control.should_log or args.logging_strategy != "epoch":
        return bool(control.should_log)
    return bool(state.global_step >= state.max_steps or state.epoch == int(state.epoch))


def told_direction(args: Any, monitor: str | None) -> bool | None:
    """Whether the Trainer was told that a metric is better where it is higher; None if neither."""
    best = args.metric_for_best_model
    if monitor is None or best not in (monitor, monitor.removeprefix("eval_")):
        return None
    known: bool | None = args.greater_is_better
    return known


def warn_if_few(args: Any, state: Any, monitor: str | None) -> None:
    """Warn, in the first process, where a run that begins will tell few losses or none.

    Args:
        args: of the Trainer.
        state: of the Trainer.
        monitor: the metric of evaluation; None is the training loss.
    """
    kind = "logging" if monitor is None else "eval"
    strategy, every = getattr(args, f"{kind}_strategy"), getattr(state, f"{kind}_steps")
    total, count = int(state.max_steps), 0
    if strategy == "epoch":
        count = int(state.num_train_epochs)
    elif strategy == "steps":
        count = total // max(int(every), 1)
    if count < _ENOUGH and processes()[0] == 0:
        logger.warning(
            "%s to forecast from: the Trainer will tell %d losses in %d steps. "
            'Give TrainingArguments(%s_strategy="steps", %s_steps=%d)',
            "little" if count else "nothing",
            count,
            total,
            kind,
            kind,
            max(total // 100, 1),
        )
