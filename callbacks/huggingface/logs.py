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

_MIN_LOSSES_PER_RUN = 20  # with fewer, there is too little to forecast from before the run ends


def is_training_loss(logs: Mapping[str, Any] | None) -> bool:
    """Return whether these are the Trainer's own logs of a training loss, not the user's."""
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
    if processes()[0] != 0:
        return
    kind, total = "logging" if monitor is None else "eval", int(state.max_steps)
    count, at = _losses_of_run(args, state, kind)
    every = max(total // 100, 1)
    advice = f'Give TrainingArguments({kind}_strategy="steps", {kind}_steps={every})'
    if count is None:
        logger.warning(
            "the Trainer will log one loss per epoch, and an epoch of this dataset has no known "
            "length: with fewer than %d epochs in %d steps there is little to forecast from. %s",
            _MIN_LOSSES_PER_RUN,
            total,
            advice,
        )
    elif count < _MIN_LOSSES_PER_RUN:
        logger.warning(
            "%s to forecast from: the Trainer will log %d %s in %d steps%s. %s",
            "little" if count else "nothing",
            count,
            "loss" if count == 1 else "losses",
            total,
            at if count else "",
            advice if count < total // every else "Train for more steps",
        )


def _losses_of_run(args: Any, state: Any, kind: str) -> tuple[int | None, str]:
    """Return how many losses will be logged, None if that is not known, and when, in words.

    Args:
        args: arguments of the Trainer.
        state: state of the Trainer.
        kind: "logging" for training losses, "eval" for those of an evaluation.
    """
    evaluates, total = kind == "eval", int(state.max_steps)
    strategy = getattr(args, f"{kind}_strategy")
    late = max(math.ceil(args.eval_delay or 0) - 1, 0) if evaluates else 0
    extra = int(bool(args.eval_on_start) if evaluates else args.logging_first_step)
    if strategy == "epoch":
        epochs = int(state.num_train_epochs)
        if epochs > total:  # for a dataset without a length the Trainer assumes endless epochs
            return None, ""
        return max(epochs - late, 0) + extra, ", one per epoch"
    if strategy != "steps":
        return extra, ""
    every = max(int(getattr(state, f"{kind}_steps")), 1)  # in steps, also where given as a share
    count = max(total // every - late // every, 0)
    if evaluates and total % every and total > late:
        count += 1  # the end of the run is evaluated, too
    elif not evaluates and every == 1:
        extra = 0  # the first step is logged anyway
    at = "" if every > total else ", one every step" if every == 1 else f", one every {every} steps"
    return count + extra, at
