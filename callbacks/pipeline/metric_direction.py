"""Recognises metrics that are better when higher, for which no run is stopped or changed."""

import re

from lossforecast.callbacks.distributed import processes
from lossforecast.log import logger

__all__ = ["is_better_when_higher", "is_loss_like"]

_RISING_WORDS = re.compile(
    r"(acc(uracy)?|f1|(sacre)?bleu|rouge(l|lsum)?|meteor|chrf|(pr|roc)?auc|auroc|auprc|precision"
    r"|recall|m?iou|dice|psnr|ssim|mcc|kappa|mrr|ndcg|r2|reward)\d*"
)
_FALLING_WORDS = {"loss", "error", "err", "nll", "perplexity", "ppl"}


def is_better_when_higher(monitor: str) -> bool:
    """Return whether a word in the name of a metric says that higher is better.

    >>> rising = ["eval_accuracy", "val/f1_macro", "eval_rougeLsum", "recall@10"]
    >>> all(map(is_better_when_higher, rising))
    True
    >>> any(map(is_better_when_higher, ["eval_loss", "recall_loss", "eval_wer"]))
    False
    """
    words = re.findall(r"[a-z0-9]+", monitor.lower())
    return not _FALLING_WORDS & set(words) and any(map(_RISING_WORDS.fullmatch, words))


def is_loss_like(
    monitor: str | None, higher_is_better: bool | None = None, acts: bool = False
) -> bool:
    """Return whether a metric is better when lower, as a loss; warn if it is not.

    Args:
        monitor: name of the metric; None is the training loss.
        higher_is_better: according to the host's settings; if None, the name decides.
        acts: whether the user wants runs to be stopped or changed.
    """
    if higher_is_better is None:
        higher_is_better = monitor is not None and is_better_when_higher(monitor)
    if monitor is None or not higher_is_better:
        return True
    if processes()[0] == 0:
        logger.warning(
            "%r is better when higher, but only losses, better when lower, are forecast%s. "
            "Monitor a loss",
            monitor,
            ": nothing will be stopped or changed" * acts,
        )
    return False
