"""`TrainerPace`: the pace of an optimizer under a Lightning ``Trainer``, and the run's length.

The Trainer counts batches; its settings declare how many of them make an optimizer step, but a
module may do otherwise: manual optimization, an ``optimizer_step`` of its own, optimizers that take
unequal turns. So the steps taken are compared with the steps declared.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch.utils.data import RandomSampler

__all__ = ["TrainerPace", "simplest_ratio", "steps_of_epoch", "trained_epochs"]

_MIN_BATCHES = 32  # seen before the pace counts as known
_SKIPPED_SHARE = 0.08  # of the declared steps; a gradient scaler skips fewer
_SKIPPED_STEPS = 2  # skipped steps that are tolerated in any case
_MAX_DENOMINATOR = 1_000


@dataclass(frozen=True)
class _Counts:
    """Numbers counted since training began.

    Attributes:
        batches: batches.
        declared: steps of the optimizer that the settings of the Trainer declare for them.
        taken: steps that it took.
        all_taken: steps of all optimizers, as the Trainer counts them.
    """

    batches: int
    declared: int
    taken: int
    all_taken: int

    def since(self, earlier: "_Counts") -> "_Counts":
        """Return the numbers counted since an earlier time."""
        return _Counts(
            batches=self.batches - earlier.batches,
            declared=self.declared - earlier.declared,
            taken=self.taken - earlier.taken,
            all_taken=self.all_taken - earlier.all_taken,
        )


class TrainerPace:
    """Counts the batches of a run, and compares them with the steps of one optimizer.

    Args:
        trainer: the Trainer, at the start of training.
    """

    def __init__(self, trainer: Any) -> None:
        self.batches = 0
        """Batches of the present epoch so far."""
        self._trainer = trainer
        self._seen = 0  # batches since training began
        self._declared = 0  # steps declared for the epochs before the present one
        self._starts: list[_Counts] = []  # of the latest epochs, the present one last

    def begin_batch(self, batch_idx: int, taken: int) -> None:
        """Note the beginning of an epoch.

        Args:
            batch_idx: index of the batch in the epoch.
            taken: steps of the optimizer so far.
        """
        if batch_idx != 0 and self._starts:
            return
        self._declared += self._declared_in_epoch(self.batches)
        self.batches = batch_idx
        self._declared -= self._declared_in_epoch(batch_idx)  # a run resumed within an epoch
        self._starts.append(self._counts(taken))
        while len(self._starts) > 2 and self._seen - self._starts[1].batches >= _MIN_BATCHES:
            del self._starts[0]

    def end_batch(self, batch_idx: int) -> None:
        """Count a batch."""
        self.batches = batch_idx + 1
        self._seen += 1

    @property
    def is_training(self) -> bool:
        """False in the epoch in which the Trainer only updates the statistics of batch norms."""
        return not getattr(self._trainer.fit_loop, "_skip_backward", False)

    @property
    def is_settled(self) -> bool:
        """True once the pace is known; if each epoch gets new loaders, not in the first one."""
        reloads = self._trainer.reload_dataloaders_every_n_epochs
        return self.is_known and not (reloads and self._trainer.current_epoch == 0)

    @property
    def is_known(self) -> bool:
        """True once enough batches were seen to know the pace."""
        return self._seen >= _MIN_BATCHES

    def measured(self, taken: int) -> Fraction | None:
        """Return the measured steps per batch; None if they are as declared, or not known yet."""
        counted = self._recent(taken)
        if counted is None or _agree(counted.taken, counted.declared):
            return None
        return simplest_ratio(counted.taken, counted.batches)

    def steps_of_epoch(self, taken: int) -> int | None:
        """Return the optimizer steps of an epoch, rounded; None if it has no known length."""
        declared, pace = steps_of_epoch(self._trainer), self.measured(taken)
        if declared is None or pace is None:
            return declared
        return max(round(pace * int(self._trainer.num_training_batches)), 1)

    def steps_per_pass(self, taken: int) -> float | None:
        """Return the optimizer steps in one pass over the training data; None without a length.

        An epoch that ``limit_train_batches`` cuts short is less than that if the data is shuffled.
        """
        batches, an_epoch = _batches_per_pass(self._trainer), steps_of_epoch(self._trainer)
        if batches is None or an_epoch is None:
            return None
        pace = self.measured(taken)
        per_batch = an_epoch / self._trainer.num_training_batches if pace is None else float(pace)
        return batches * per_batch or None

    def length(self, taken: int) -> int | None:
        """Return the optimizer steps of the whole run; None if they are not known."""
        counted, trainer = self._recent(taken), self._trainer
        if counted is None or not self.is_training:
            return None
        ends = []
        batches = float(trainer.num_training_batches)
        if math.isfinite(batches) and trainer.max_epochs != -1:
            pace = self.measured(taken)
            epochs_left = trained_epochs(trainer) - trainer.current_epoch - 1
            if pace is None:
                an_epoch = self._declared_in_epoch(int(batches))
                left = an_epoch - self._declared_in_epoch(self.batches) + epochs_left * an_epoch
            else:
                left = round(pace * (int(batches) * (1 + epochs_left) - self.batches))
            ends.append(taken + left)
        if trainer.max_steps > 0:
            left = max(trainer.max_steps - trainer.global_step, 0)
            share = Fraction(1, len(trainer.optimizers))
            if not _agree(counted.taken, round(counted.all_taken * share)) and counted.all_taken:
                share = simplest_ratio(counted.taken, counted.all_taken)
            ends.append(taken + math.ceil(left * share))
        return min(ends, default=None)

    # ------------------------------------------------------------------ inside

    def _recent(self, taken: int) -> _Counts | None:
        """Return the numbers of the latest epochs; None before the pace is known."""
        if not self.is_known or not self._starts:
            return None
        return self._counts(taken).since(self._starts[0])

    def _counts(self, taken: int) -> _Counts:
        return _Counts(
            batches=self._seen,
            declared=self._declared + self._declared_in_epoch(self.batches),
            taken=taken,
            all_taken=int(self._trainer.global_step),
        )

    def _declared_in_epoch(self, batches: int) -> int:
        """Return the optimizer steps declared for the first batches of an epoch."""
        accumulated = int(self._trainer.accumulate_grad_batches)
        is_last = batches >= self._trainer.num_training_batches
        return math.ceil(batches / accumulated) if is_last else batches // accumulated


def steps_of_epoch(trainer: Any) -> int | None:
    """Return the declared optimizer steps of an epoch; None if the dataset has no length."""
    batches, accumulate = float(trainer.num_training_batches), int(trainer.accumulate_grad_batches)
    return max(math.ceil(batches / accumulate), 1) if math.isfinite(batches) else None


def _batches_per_pass(trainer: Any) -> int | None:
    """Return the batches in one pass over the training data; None if it has no known length."""
    loaders = _single_loaders(trainer.train_dataloader)
    lengths = [_length(loader) for loader in loaders]
    batches = float(trainer.num_training_batches)
    if None in lengths or not math.isfinite(batches) or batches < 1:
        return None
    if len(loaders) == 1 and _shuffles(loaders[0]):
        return lengths[0]
    return int(batches)


def _single_loaders(loaders: Any) -> list[Any]:
    """Return the loaders in a collection of them, which may be nested."""
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if not isinstance(loaders, list | tuple):
        return [loaders]
    return [single for loader in loaders for single in _single_loaders(loader)]


def _length(loader: Any) -> int | None:
    """Return the number of batches in a loader; None for a stream."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def _shuffles(loader: Any) -> bool:
    """Return whether a loader shuffles: every pass has a different order."""
    sampler = getattr(loader, "sampler", None)
    return isinstance(sampler, RandomSampler) or getattr(sampler, "shuffle", False) is True


def trained_epochs(trainer: Any) -> int:
    """Return the epochs of a run in which weights are trained.

    ``StochasticWeightAveraging`` adds one, to update the statistics of batch norms.
    """
    epochs = -1 if trainer.max_epochs is None else int(trainer.max_epochs)
    for callback in trainer.callbacks:
        last = getattr(callback, "swa_end", None)
        if isinstance(last, int):
            epochs = min(epochs, last + 1)
    return epochs


def simplest_ratio(count: int, of: int) -> Fraction:
    """Return the simplest fraction f for which `count` differs from ``f * of`` by less than 1.

    >>> simplest_ratio(12, 50), simplest_ratio(41, 50), simplest_ratio(250, 50)
    (Fraction(1, 4), Fraction(5, 6), Fraction(5, 1))
    """
    exact = Fraction(count, of)
    for denominator in range(1, min(of, _MAX_DENOMINATOR) + 1):
        ratio = Fraction(round(exact * denominator), denominator)
        if abs(ratio * of - count) < 1 and (ratio > 0 or count == 0):
            return ratio
    return exact


def _agree(taken: int, declared: int) -> bool:
    return abs(taken - declared) <= max(_SKIPPED_STEPS, _SKIPPED_SHARE * declared)
