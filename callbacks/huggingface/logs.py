"""Reads losses from the logs of the Hugging Face ``Trainer``, and checks how many there will be."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from lossforecast.callbacks.distributed import processes
from lossforecast.log import logger

__all__ = [
    "higher_is_better",
    "is_logged_next",
    "is_training_loss",
    "logged_loss",
    "warn_if_few",
]

_MIN_LOSSES_PER_RUN = 20  # fewer are too few to forecast from before the run ends


def is_training_loss(logs: Mapping[str, Any] | None) -> bool:
    """Return whether these are the Trainer's own logs of a training loss, not those of its user."""
    return logs is not None and "loss" in logs and "learning_rate" in logs


def logged_loss(logs: Mapping[str, Any], args: Any, was_large: Callable[[], bool]) -> float:
    """Return the mean training loss in the logs; nan if the Trainer hides that it is not finite.

    With ``logging_nan_inf_filter``, the default, the Trainer leaves out losses that are not finite
    and logs 0 if all are. It logs the gradient norm of the last step unfiltered:

    * A 0 is nan if the norm is not finite. A loss that has reached 0 has a finite one.
    * Any other loss is nan, too, if the norm is not finite, except with fp16, whose gradient scaler
      makes the norm of a sound loss infinite now and then.
    * Where no norm is logged (``max_grad_norm=0`` before transformers 5, or a ``log`` that drops
      it), a 0 is nan if all losses before were large: a loss that falls to 0 passes through small
      values, one that breaks does not.

    Args:
        logs: logs of the Trainer.
        args: arguments of the Trainer.
        was_large: returns whether there were losses before, none of them near 0.
    """
    loss, norm = float(logs["loss"]), logs.get("grad_norm")
    if not args.logging_nan_inf_filter:
        return loss
    if norm is None:
        return math.nan if loss == 0 and was_large() else loss
    proves = loss == 0 or not args.fp16
    return math.nan if proves and not math.isfinite(float(norm)) else loss


def is_logged_next(args: Any, state: Any, control: Any) -> bool:
    """Return whether the Trainer will log the loss of the optimizer step that has just ended."""
    if control.should_log or args.logging_strategy != "epoch":
        return bool(control.should_log)
    return bool(state.global_step >= state.max_steps or state.epoch == int(state.epoch))


def higher_is_better(args: Any, monitor: str | None) -> bool | None:
    """Return ``greater_is_better`` of the Trainer if it is about this metric, else None."""
    best = args.metric_for_best_model
    if monitor is None or best not in (monitor, monitor.removeprefix("eval_")):
        return None
    greater: bool | None = args.greater_is_better
    return greater


def warn_if_few(args: Any, state: Any, monitor: str | None) -> None:
    """Warn, in the first process, if the Trainer will log few losses in the run, or none.

    Args:
        args: arguments of the Trainer.
        state: state of the Trainer.
        monitor: name of a metric of evaluation; None is the training loss.
    """
    kind = "logging" if monitor is None else "eval"
    strategy, every = getattr(args, f"{kind}_strategy"), getattr(state, f"{kind}_steps")
    total, count = int(state.max_steps), 0
    if strategy == "epoch":
        count = int(state.num_train_epochs)
    elif strategy == "steps":
        count = total // max(int(every), 1)
    if count < _MIN_LOSSES_PER_RUN and processes()[0] == 0:
        logger.warning(
            "%s to forecast from: the Trainer will log %d losses in %d steps. "
            'Give TrainingArguments(%s_strategy="steps", %s_steps=%d)',
            "little" if count else "nothing",
            count,
            total,
            kind,
            kind,
            max(total // 100, 1),
        )
