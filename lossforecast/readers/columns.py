"""Columns recognised by their names: losses of training and validation, rates and epochs."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from lossforecast.readers.languages import in_english

__all__ = [
    "SPLIT_COLUMNS",
    "in_run",
    "is_epoch",
    "is_error",
    "is_likely_loss",
    "is_loss",
    "is_of_trades",
    "is_rate",
    "listed",
    "metric_of",
    "plain",
    "reward_of",
    "run_of",
    "split_of",
    "words",
]

_MAX_CACHED = 4096  # names whose meaning is remembered: it is asked for in every row
_RUN_SEPARATOR = " - "
_MAX_LISTED = 60  # columns that an error names

_LOSS = re.compile(
    r"(^|[^a-z])((train|trn|tr|t|val|valid|v|test|tst|te|eval|dev|avg|mean|total|epoch|batch|running)?"
    r"loss(es)?"
    r"|nll|[a-z]*logloss|cross[_-]?entropy|xent)($|[^a-z])"
)
_COST = re.compile(r"((train|training|val|valid|validation|test|avg|average|mean)[^a-z])?cost")
_ERROR = re.compile(r"(^|[^a-z])(r?mse|mean[ _]squared[ _]error)($|[^a-z])")
_LIKELY = re.compile(
    r"l(_[a-z0-9_]+)?|(.*[^a-z])?(b?ce|ppl|perplexity|bpc|bpb)|learn|train|training|val|valid|validation|test|eval|dev|avg|average"
    r"|total|score_at_iteration"
    r"|(.*[^a-z])?(err|error|deviance|objective|rmsle|mae|mape)([^a-z].*)?|(train|val|test|eval)[^/]*[^a-z]l[12]"
)
_NO_LOSS = re.compile(
    r"loss[ _-]?(scal|(weights?|coefs?|coefficients?|fn|type)($|[^a-z]))"
    r"|(profit|stop|packet)[ _]loss"
)
"""In the names of settings, such as the scale in mixed precision, and of losses of another kind."""
_RATE = re.compile(r"(^|[^a-z])(l\.?r|lrate|learn(ing)?[ _-]?rate)($|[^a-z])")
_VALIDATION = re.compile(
    r"(^|[^a-z])(val|valid|validate|validation|eval|evaluation|test|testing|dev|heldout|held_out"
    r"|cv|cross_?val)"
    r"($|[^a-z]|loss)|(^|[^a-z])(va|te|tst)[ _]?loss|(^|[^a-z])vloss"
)
_REWARD = re.compile(
    r"(^|[^a-z])(rewards?|rew|return|episodic_return|advantages?|actor|critic|policy|pg_loss|ppo|grpo|dpo"
    r"|surrogate|reinforce)($|[^a-z]|avg)"
)
SPLIT_COLUMNS = ("mode", "split", "phase", "stage", "subset", "type", "event")
"""Columns, in lower case, that tell training from validation in words."""
_EPOCHS = {"epoch", "epochs", "current_epoch"}
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_A_RATE = re.compile(
    r"(^|[^a-z])(momentum|weight[ _-]?decay|wd|mult|multiplier|scale|factor|beta|betas|beta\d|by)"
    r"($|[^a-z])|(lr|rate)[ _-]?decay"
)


@lru_cache(_MAX_CACHED)
def metric_of(name: str) -> str:
    """The kind of loss in a column, by its name: "val" or "train"."""
    return "val" if _VALIDATION.search(words(name)) else "train"


def split_of(row: Mapping[str, Any]) -> str | None:
    """The kind of the values in a row, "val" or "train", if a column tells it."""
    for name in row:
        if name.lower() in SPLIT_COLUMNS and isinstance(cell := row[name], str):
            return metric_of(cell.strip())
    return None


def run_of(name: str) -> str:
    """The run that a column of an exported W&B panel belongs to, as in "run - train/loss"."""
    return name.rpartition(_RUN_SEPARATOR)[0]


def plain(name: str) -> str:
    """The name of a column without that of its run."""
    return name.rpartition(_RUN_SEPARATOR)[2]


def in_run(run: str, name: str) -> str:
    """The name of a column of a run, in a log of several."""
    return f"{run}{_RUN_SEPARATOR}{name}"


@lru_cache(_MAX_CACHED)
def words(name: str) -> str:
    """The name in lower case and in English, its words separated: train_loss for trainLoss."""
    return in_english(_WORD_START.sub("_", name)).lower()


def listed(names: Iterable[str]) -> str:
    """The names of the columns or runs of a log: the first 60, and the number of the rest."""
    columns = list(names)
    n_more = len(columns) - _MAX_LISTED
    more = f" and {n_more} more" if n_more > 0 else ""
    return (", ".join(columns[:_MAX_LISTED]) or "no columns") + more


def reward_of(loss: str, names: Iterable[str]) -> str | None:
    """The column by which a loss is an objective of reinforcement learning or of preferences.

    Such a loss, of PPO, GRPO or DPO, need not fall while the policy gets better.

    Args:
        loss: the column of the loss.
        names: the columns of the same run.

    Returns:
        The loss, or another column that is named like a reward or a policy; None for other losses.
    """
    return next((name for name in (loss, *names) if _REWARD.search(words(plain(name)))), None)


@lru_cache(_MAX_CACHED)
def is_epoch(name: str) -> bool:
    """True if a column is named like the epoch of each row."""
    return words(plain(name).rpartition("/")[2]) in _EPOCHS


@lru_cache(_MAX_CACHED)
def is_loss(name: str) -> bool:
    """True if a column is named like a loss, a cost or a mean squared error."""
    word = words(name)
    return (
        (_LOSS.search(word) or _COST.fullmatch(word) or _ERROR.search(word)) is not None
        and _RATE.search(word) is None
        and _NO_LOSS.search(word) is None
    )


@lru_cache(_MAX_CACHED)
def is_likely_loss(name: str) -> bool:
    """True if a column may be a loss where none is named one: `train`, `learn`, `test_error`."""
    return _LIKELY.fullmatch(words(plain(name))) is not None


@lru_cache(_MAX_CACHED)
def is_error(name: str) -> bool:
    """True if a column of losses is an error or a cost, which may be a metric beside a loss."""
    return _LOSS.search(words(name)) is None


def is_of_trades(name: str, names: Iterable[str]) -> bool:
    """True for a loss of money: a column beside it is named like the win, as `avg_win`."""
    return "loss" in words(name) and words(name).replace("loss", "win") in map(words, names)


@lru_cache(_MAX_CACHED)
def is_rate(name: str) -> bool:
    """True if a column is named like a learning rate, and not like a factor or momentum of one."""
    word = words(name)
    return _RATE.search(word) is not None and _NOT_A_RATE.search(word) is None
