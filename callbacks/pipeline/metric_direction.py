"""Metrics of which more is better, which a forecaster of losses must not act on."""

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
    """Whether a metric is known, by a word in its name, to be better where it is higher.

    >>> rises("eval_accuracy"), rises("val/f1_macro"), rises("eval_rougeLsum"), rises("recall@10")
    (True, True, True, True)
    >>> rises("eval_loss"), rises("recall_loss"), rises("eval_wer")
    (False, False, False)
    """
    words = re.findall(r"[a-z0-9]+", monitor.lower())
    return not _FALLING & set(words) and any(map(_RISING.fullmatch, words))


def falls(monitor: str | None, told: bool | None = None, acts: bool = False) -> bool:
    """Whether runs may be stopped or changed for a metric: not if it is better where it is higher.

    A warning if not.

    Args:
        monitor: its name; None is the training loss.
        told: what was told of it: True if it is better where it is higher; None if nothing.
        acts: whether runs were to be stopped or changed.
    """
    if monitor is None or not (rises(monitor) if told is None else told):
        return True
    if processes()[0] == 0:
        logger.warning(
            "%r is better where it is higher, but forecasts are of losses, the lower the better%s. "
            "Monitor a loss",
            monitor,
            ": nothing will be stopped or changed" * acts,
        )
    return False
