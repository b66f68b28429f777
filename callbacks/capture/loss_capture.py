"""`LossCapture`: counts optimizer steps and brings losses and rates to the host in blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.callbacks.capture.transfer import Transfer, copied, uncompiled
from lossforecast.checks import number, whole
from lossforecast.errors import ConfigurationError, StateError
from lossforecast.signals import is_from_signal

__all__ = [
    "LossCapture",
    "innermost",
]

_MAX_LOSSES_ON_DEVICE = 1024  # so many are sent as a block at once, to bound memory
_MAX_WRAPPERS = 6  # around an optimizer; bounds the search where wrappers form a circle


@dataclass
class _Block:
    """The losses and rates recorded between two calls of `send`.

    Attributes:
        at: optimizer steps taken before each loss, (n,).
        rates_from: step of the first rate.
        losses: the losses, (n,).
        rates: the rate of each optimizer step from `rates_from` on, (m,).
        skippable: indices into `rates` of the steps that the device may have skipped.
        skipped: above 0 for the steps that it skipped, in the order of `skippable`.
    """

    at: NDArray[np.int64]
    rates_from: int
    losses: Transfer
    rates: Transfer
    skippable: list[int]
    skipped: Transfer

    @property
    def pending(self) -> bool:
        """True if a part may not be on the host yet."""
        return self.losses.pending or self.rates.pending or self.skipped.pending


class LossCapture:
    """Counts the steps of an optimizer and keeps the losses between two reads.

    A loss is copied on its own device when recorded, because users scale it in place and CUDA
    graphs overwrite it. From there it goes to the host in blocks: `send` starts one copy into
    pinned memory without waiting for it, `take` reads the blocks that have arrived. Losses recorded
    between two optimizer steps (gradient accumulation) count as one, their mean.

    A hook before each step of the optimizer reads the learning rate in use, and a hook after it
    counts the step, so a loss computed by a closure comes before the step. A step that a gradient
    scaler skips calls neither hook. A step that a fused optimizer skips on the device is detected
    by the next read and no longer counted.
    """

    def __init__(self, optimizer: Any, group: int = 0) -> None:
        self.steps = 0
        """Optimizer steps taken, including those that the device has skipped since `take`."""
        self.calls = 0
        """Calls of the optimizer, including all steps skipped on the device."""
        self._group = group
        self._failure: Exception | None = None  # in a hook, where raising would end the training
        # recorded and not sent yet
        self._at: list[int] = []
        self._losses: list[Any] = []
        self._rates: list[Any] = []  # of the steps from `_rates_from` on
        self._skipped: dict[int, Any] = {}  # by index: above 0 if the device skipped the step
        self._rates_from = 1
        self._sent: list[_Block] = []
        # on the host and not taken yet
        self._host_at = np.empty(0, np.int64)
        self._host_losses = np.empty(0)
        self._host_rates = np.empty(0)  # of the steps from `_host_from` on
        self._host_from = 1
        self._last_rate: float | None = None
        self._rate: Any = None  # of the present step; None between steps
        self._optimizer = innermost(optimizer)
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._note_rate),
            self._optimizer.register_step_post_hook(self._count),
        ]

    def keep(self, loss: Any, step: int | None = None, scale: float = 1.0) -> None:
        """Record a loss: a tensor of one element on any device, or a number.

        Compiled code must call `record` instead.

        Args:
            loss: the loss.
            step: optimizer steps taken before it was computed; default: the present count.
            scale: factor of the loss.
        """
        if isinstance(loss, torch.Tensor):
            if loss.numel() != 1:
                raise ConfigurationError(
                    f"the loss has shape {tuple(loss.shape)}; give one number, such as loss.mean()"
                )
            loss = loss.detach().clone() if scale == 1.0 else loss.detach() * scale
        else:
            loss = float(loss) * scale
        # a signal may interrupt after each call: the last one completes the change
        self._losses[len(self._at) :] = [loss]
        self._at.append(self.steps if step is None else step)
        if len(self._losses) >= _MAX_LOSSES_ON_DEVICE:
            self.send()

    record = uncompiled(keep)

    def send(self) -> bool:
        """Start copying the recorded losses to the host; return whether all are there already.

        If a hook of the optimizer failed before, its exception is raised here.
        """
        if self._failure is not None:
            raise self._failure
        if self._at or self._rates:
            block = _Block(
                at=np.array(self._at, dtype=np.int64),
                rates_from=self._rates_from,
                losses=Transfer(self._losses[: len(self._at)]),
                rates=Transfer(self._rates),
                skippable=list(self._skipped),
                skipped=Transfer(list(self._skipped.values())),
            )
            self._at, self._losses, self._rates, self._skipped = [], [], [], {}
            self._rates_from = self.steps + 1
            self._sent.append(block)
        return not any(block.pending for block in self._sent)

    def take(self, before: int | None = None) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """Take the losses of finished steps: steps, losses, learning rates (nan if unknown), (n,).

        Args:
            before: take only losses before this step, all of which have been sent. Default: all
                losses but those of the present step, to which more may be added.
        """
        if before is None:
            self.send()
        before = self._receive(before)
        cut = self.steps if before is None else before
        late = np.flatnonzero(self._host_at >= cut)
        return self._read(int(late[0]) if late.size else self._host_at.size)

    def take_all(self) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """Take all losses, as `take` does, including those of the present step."""
        self.send()
        self._receive()
        return self._read(self._host_at.size)

    def present_rate(self) -> float:
        """Return the learning rate of the next step, after `close` too."""
        return max(float(self._present()), 0.0)

    def ask_rate(self) -> Callable[[], float]:
        """Start copying the `present_rate` to the host; return a function that reads it."""
        transfer = Transfer([self._present()])
        return lambda: max(float(transfer.read()[0]), 0.0)

    def last_rate(self) -> float | None:
        """Return the learning rate of the last step; None before the first."""
        self.send()
        self._receive()
        return float(self._host_rates[-1]) if self._host_rates.size else self._last_rate

    def forget(self) -> None:
        """Drop all losses and rates that were not taken; steps are still counted."""
        self._at, self._losses, self._rates, self._skipped = [], [], [], {}
        self._host_at, self._host_losses = self._host_at[:0], self._host_losses[:0]
        self._host_rates = self._host_rates[:0]
        self._sent = []
        self._rates_from = self._host_from = self.steps + 1
        self._last_rate = self._failure = None

    def close(self) -> None:
        """Remove the hooks from the optimizer and drop the reference to it."""
        if self._optimizer is not None:
            for hook in self._hooks:
                hook.remove()
            self._rate, self._optimizer = self._present(), None

    def state_dict(self) -> dict[str, Any]:
        """Return the count and the last learning rate; call `take` first."""
        last = self.last_rate()
        return {"steps": self.steps, "last_rate": last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved count."""
        steps, rate = self.checked_state(state)
        self.steps = self.calls = steps
        self.forget()
        self._last_rate = rate

    @staticmethod
    def checked_state(state: dict[str, Any]) -> tuple[int, float | None]:
        """Return the optimizer steps and the last learning rate of a saved state.

        Raises:
            KeyError, TypeError, StateError: the state is damaged.
        """
        steps, rate = whole("steps", state["steps"], StateError, least=0), state["last_rate"]
        rate = None if rate is None else number("last_rate", rate, StateError)
        if rate is not None and rate < 0:
            raise StateError(f"last_rate is {rate}; it must not be negative")
        return steps, rate

    # ------------------------------------------------------------------ inside

    def _present(self) -> Any:
        if self._optimizer is None:
            return self._rate
        return self._optimizer.param_groups[self._group]["lr"]

    @uncompiled
    def _note_rate(self, *_: Any) -> None:
        try:
            self._rate = copied(self._present())
        except Exception as error:
            if is_from_signal(error):
                raise
            self._rate, self._failure = np.nan, error  # the step is still counted

    @uncompiled
    def _count(self, optimizer: Any, *_: Any) -> None:
        if self._rate is None:
            return  # counted already, in a step() that called the step() of its base class
        skipped = vars(optimizer).get("found_inf")  # set by a gradient scaler for this step
        try:
            if skipped is not None:
                self._skipped[len(self._rates)] = copied(skipped)
        except Exception as error:
            if is_from_signal(error):
                raise
            self._failure = error
        finally:
            rate, self._rate = self._rate, None
            self.steps += 1
            self.calls += 1
            self._rates.append(rate)  # last: a signal may interrupt after a call

    def _receive(self, before: int | None = None) -> int | None:
        """Read the sent blocks in order, up to the first that begins at step `before` or later.

        Returns:
            `before`, reduced by the number of steps that turn out to have been skipped.
        """
        while self._sent:
            block = self._sent[0]
            if before is not None and block.at.size and block.at[0] >= before:
                break
            at, rates = block.at, np.maximum(block.rates.read(), 0.0)  # some schedules end below 0
            losses, skipped = block.losses.read(), np.zeros(rates.size, dtype=bool)
            skipped[block.skippable] = block.skipped.read() > 0
            is_skipped = bool(skipped.any())
            if is_skipped:
                n_skipped = np.concatenate([[0], np.cumsum(skipped)])  # before each step
                at = at - n_skipped[np.clip(at - block.rates_from + 1, 0, None)]
                rates = rates[~skipped]
            host = np.append(self._host_at, at), np.append(self._host_losses, losses)
            host_rates = np.append(self._host_rates, rates)
            del self._sent[0]  # nothing was changed before
            (self._host_at, self._host_losses), self._host_rates = host, host_rates
            if is_skipped:
                self._uncount(int(n_skipped[-1]))
                before = None if before is None else before - int(n_skipped[-1])
        return before

    def _uncount(self, n_skipped: int) -> None:
        """Subtract steps that the device skipped from the count and from all later steps."""
        self.steps -= n_skipped
        self._at = [at - n_skipped for at in self._at]
        self._rates_from -= n_skipped
        for block in self._sent:
            block.at = block.at - n_skipped
            block.rates_from -= n_skipped

    def _read(self, count: int) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """Take the first `count` losses on the host, averaged by step, with their rates."""
        at, losses = self._host_at[:count], self._host_losses[:count]
        self._host_at, self._host_losses = self._host_at[count:], self._host_losses[count:]
        steps, which = np.unique(at, return_inverse=True)
        with np.errstate(over="ignore", invalid="ignore"):
            means = np.bincount(which, losses) / np.bincount(which)
        known = np.append(np.nan if self._last_rate is None else self._last_rate, self._host_rates)
        index = steps - (self._host_from - 1)
        inside = (index >= 0) & (index < known.size)
        used = np.where(inside, known[np.clip(index, 0, known.size - 1)], np.nan)
        # the remaining losses may belong to the last step with a rate or to later steps
        last = self._host_from + self._host_rates.size - 1
        left = int(self._host_at.min(initial=last))
        dropped = max(left - self._host_from + 1, 0)
        if dropped:
            last_rate = float(self._host_rates[dropped - 1])
            self._last_rate = last_rate
            self._host_rates = self._host_rates[dropped:]
            self._host_from += dropped
        return steps, means, used


def innermost(optimizer: Any) -> Any:
    """Return the torch optimizer inside wrappers (of accelerate, Fabric, Lightning).

    Raises:
        ConfigurationError: no torch optimizer is inside.
    """
    given, inner = optimizer, None
    for _ in range(_MAX_WRAPPERS):
        if hasattr(optimizer, "register_step_pre_hook"):
            inner = optimizer  # a wrapper may inherit the method without the state it needs
        optimizer = getattr(optimizer, "optimizer", None)
    if inner is None:
        raise ConfigurationError(
            f"cannot count the steps of {type(given).__name__}: give a torch.optim.Optimizer"
        )
    return inner
