"""Metrics that are better when higher: no run is stopped or changed for those."""

import re

from lossforecast.callbacks.distributed import processes
from lossforecast.log import logger

__all__ = ["falls", "rises"]

_RISING = re.compile(
    r"(acc(uracy)?|f1|(sacre)?bleu|rouge(l|lsum)?|meteor|chrf|(pr|roc)?auc|auroc|auprc|precision"
    r"|recall|m?iou|dice|psnr|ssim|mcc|kappa|mrr|ndcg|r2|reward)\d*"
)
_FALLING = {"loss", "error", "err", "nll", "perplexity", "ppl"}


def rises(monitor: str) -> bool:
    """Return whether a word in the name of a metric says that higher is better.

    >>> rises("eval_accuracy"), rises("val/f1_macro"), rises("eval_rougeLsum"), rises("recall@10")
    (True, True, True, True)
    >>> rises("eval_loss"), rises("recall_loss"), rises("eval_wer")
    (False, False, False)
    """
    words = re.findall(r"[a-z0-9]+", monitor.lower())
    return not _FALLING & set(words) and any(map(_RISING.fullmatch, words))


def falls(monitor: str | None, higher_is_better: bool | None = None, acts: bool = False) -> bool:
    """Return whether a metric is better when lower, as a loss; warn if it is not.

    Args:
        monitor: name of the metric; None is the training loss.
        higher_is_better: what the host says; None if it says nothing, then the name decides.
        acts: whether the user wants runs to be stopped or changed.
    """
    if higher_is_better is None:
        higher_is_better = monitor is not None and rises(monitor)
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
