"""`Source`: a log that was recognised, and what the names of its columns say."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "Points",
    "Source",
    "Wanted",
    "is_loss",
    "is_rate",
    "metric_of",
    "run_of",
    "words",
]

Points = Iterator[tuple[str, int, float]]
Wanted = Callable[[str], bool]

_LOSS = re.compile(r"(^|[^a-z])(loss|nll|cross_entropy|xent)($|[^a-z])")
_RATE = re.compile(r"(^|[^a-z])(lr|learning[ _-]?rate)($|[^a-z])")
_VALIDATION = re.compile(
    r"(^|[^a-z])(val|valid|validate|validation|eval|evaluation|test|testing|dev|heldout|held_out)"
    r"($|[^a-z]|loss)"
)
_NO_RATE = re.compile(
    r"(^|[^a-z])(momentum|weight[ _-]?decay|wd|mult|multiplier|scale|factor|beta|betas|beta\d)"
    r"($|[^a-z])"
)


@dataclass
class Source:
    """A log that was recognised.

    Attributes:
        path: the file, or the folder of event files.
        kind: the format, for people.
        read: the points of the columns that are wanted; also fills `columns`.
        columns: the names seen so far, each with the last step it has a value at, or -1.
        steps_taken: of the run, where the log has it.
        total_steps: length of the run, where the log has it.
        notes: what people should know of what was read.
    """

    path: Path
    kind: str
    read: Callable[[Wanted], Points] = field(repr=False)
    columns: dict[str, int] = field(default_factory=dict)
    steps_taken: int | None = None
    total_steps: int | None = None
    notes: list[str] = field(default_factory=list)


def metric_of(name: str) -> str:
    """Whether a loss is of training or validation, by its name."""
    return "val" if _VALIDATION.search(words(name)) else "train"


def run_of(name: str) -> str:
    """The run that a column of a W&B panel belongs to, as in "run - train/loss"."""
    return name.rpartition(" - ")[0]


def words(name: str) -> str:
    """A name in lower case, its words apart: train_loss for trainLoss."""
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()


def is_loss(name: str) -> bool:
    """Whether a column is called like a loss."""
    word = words(name)
    return _LOSS.search(word) is not None and _RATE.search(word) is None


def is_rate(name: str) -> bool:
    """Whether a column is called like a learning rate, and not like what is logged beside it."""
    word = words(name)
    return _RATE.search(word) is not None and _NO_RATE.search(word) is None
