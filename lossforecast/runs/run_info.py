"""`RunInfo`: the description of a run."""

import re
from dataclasses import dataclass
from enum import StrEnum

from lossforecast.checks import non_negative, positive
from lossforecast.errors import ConfigurationError

__all__ = ["RunInfo", "RunKind"]

_PLAIN_LOSS = re.compile("(train|training|val|valid|validation|eval)?loss(step|epoch)?|")
_LANGUAGE_WORDS = {"language", "lm", "llm", "pretraining"}  # in the name of a task
_MASKED_WORDS = {"masked", "mlm"}  # such losses stay on a plateau first
_TUNING_WORDS = {"fine", "finetune", "finetuning", "tuning", "sft", "rlhf", "dpo"}
_EPOCH_TOLERANCE = 0.01  # of an epoch: a run that is not longer than that has one epoch
_MAX_SMALL_PARAMS = 1e7  # the smallest recorded large language model has 2.5e7


class RunKind(StrEnum):
    """Kinds of runs, each with a prior and a calibration of its own, and scored together."""

    LARGE_LANGUAGE_MODEL = "large language model"
    """Trained from scratch as a causal language model with more than ten million parameters."""
    SMALL_MODEL = "small model"
    """At most ten million parameters, whatever the task."""
    OTHER = "other"
    """Everything else, and what is not known."""


@dataclass(frozen=True)
class RunInfo:
    """The description of a run. Every attribute is optional; an unknown name means a wide prior.

    Whatever is left out is assumed equal when runs are compared.

    Attributes:
        metric: the observed loss, "train" (every step, noisy) or "val" (sparse, clean).
        optimizer: its name, such as "adamw" or "sgd".
        project: name of the project that the run belongs to.
        task: what the model is trained for, such as "language modelling" or "image classification".
            The rule of the annealing drop of large language models is used for them alone.
        model: the architecture.
        dataset: the data.
        n_params: number of parameters; at most ten million make it a small model.
        batch_size: samples or tokens per optimizer step.
        monitor: name under which the loss is logged, such as "eval_loss". Losses with different
            names are never compared; None and all common spellings of "loss" and "validation loss"
            count as one name.
        steps_per_epoch: optimizer steps in one pass over the training data, also of a run that ends
            before; None if it is unknown, or if no data is ever seen twice, as in a stream. Runs
            are never compared by it.
    """

    metric: str = "train"
    optimizer: str | None = None
    project: str | None = None
    task: str | None = None
    model: str | None = None
    dataset: str | None = None
    n_params: float | None = None
    batch_size: float | None = None
    monitor: str | None = None
    steps_per_epoch: float | None = None

    def __post_init__(self) -> None:
        if self.metric not in ("train", "val"):
            raise ConfigurationError(f'metric is {self.metric!r}; it must be "train" or "val"')
        for name in ("optimizer", "project", "task", "model", "dataset", "monitor"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigurationError(f"{name} must be a string or None, not {value!r}")
        for name in ("n_params", "batch_size"):
            if getattr(self, name) is not None:
                non_negative(name, getattr(self, name), ConfigurationError)
        if self.steps_per_epoch is not None:
            positive("steps_per_epoch", self.steps_per_epoch, ConfigurationError)

    @property
    def is_language_model(self) -> bool:
        """True if `task` says that a causal language model is trained, and not fine-tuned."""
        words = set(re.findall("[a-z]+", (self.task or "").lower()))
        return bool(words & _LANGUAGE_WORDS) and not words & (_TUNING_WORDS | _MASKED_WORDS)

    @property
    def kind(self) -> RunKind:
        """The kind of the run, from its task and its number of parameters."""
        if self.n_params is not None and self.n_params <= _MAX_SMALL_PARAMS:
            return RunKind.SMALL_MODEL
        return RunKind.LARGE_LANGUAGE_MODEL if self.is_language_model else RunKind.OTHER

    def epochs_in(self, total_steps: int) -> float:
        """Passes over the training data in some steps; 1 if there are hardly more, or unknown."""
        epochs = total_steps / self.steps_per_epoch if self.steps_per_epoch else 1.0
        return epochs if epochs > 1 + _EPOCH_TOLERANCE else min(epochs, 1.0)

    @property
    def optimizer_word(self) -> str:
        """The optimizer in lower case, cut at the first character outside a-z, 0-9."""
        match = re.match("[a-z0-9]*", (self.optimizer or "").lower())
        return match.group() if match else ""

    @property
    def loss_word(self) -> str:
        """Name of the loss in lower-case letters and digits; empty for a plain loss."""
        letters = re.sub("[^a-z0-9]", "", (self.monitor or "").lower())
        return "" if _PLAIN_LOSS.fullmatch(letters) else letters
