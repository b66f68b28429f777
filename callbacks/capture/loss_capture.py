"""Losses and learning rates on their way from the device to the host, in blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.callbacks.capture.transfer import Transfer, _kept, uncompiled
from lossforecast.checks import number, whole
from lossforecast.errors import ConfigurationError, StateError

__all__ = [
    "LossCapture",
    "innermost",
]

_FULL = 1024  # losses after which a block is sent, so that few wait on the device


@dataclass
class _Block:
    """What was recorded between two sendings."""

    at: NDArray[np.int64]
    rates_from: int
    losses: "Transfer"
    rates: "Transfer"
    perhaps: list[int]  # which of the steps may have been skipped on the device
    skipped: "Transfer"  # above 0 where they were

    @property
    def travels(self) -> bool:
        """Whether some of it is not on the host yet."""
        return self.losses.travels or self.rates.travels or self.skipped.travels


class LossCapture:
    """Counts the steps of an optimizer and keeps the losses between two reads.

    A loss is copied on its own device when recorded, because users scale it in place and CUDA
    graphs overwrite it. From there it goes to the host in blocks: `send` starts one copy into
    pinned memory without waiting for it, `take` reads what has arrived. Several losses recorded
    between two optimizer steps (gradient accumulation) count as one, their mean.

    The learning rate really used is read in a hook before each step of the optimizer, and the step
    is counted in one after it, so a loss computed by a closure comes before the step. A step that a
    gradient scaler skips calls neither; one that a fused optimizer skips on the device is found
    out, and uncounted, by the next read.
    """

    def __init__(self, optimizer: Any, group: int = 0) -> None:
        self.steps = 0
        """Optimizer steps taken so far; too high by those skipped on the device since `take`."""
        self.calls = 0
        """The same, with all those that were skipped on the device."""
        self._group = group
        self._failure: Exception | None = None  # of a hook, which must not end the training
        # recorded, and not on their way yet
        self._at: list[int] = []
        self._losses: list[Any] = []
        self._rates: list[Any] = []  # of the steps since `_rates_from`
        self._skipped: dict[int, Any] = {}  # which of them, if above 0, were skipped on the device
        self._rates_from = 1
        self._sent: list[_Block] = []
        # arrived, and not taken yet
        self._host_at = np.empty(0, np.int64)
        self._host_losses = np.empty(0)
        self._host_rates = np.empty(0)  # of the steps since `_host_from`
        self._host_from = 1
        self._last_rate: float | None = None
        self._rate: Any = None  # of the step under way; None when there is none
        self._optimizer = innermost(optimizer)
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._note_rate),
            self._optimizer.register_step_post_hook(self._count),
        ]

    def keep(self, loss: Any, step: int | None = None, scale: float = 1.0) -> None:
        """Record a loss: a tensor of one element on any device, or a number.

        Not to be called from code that is compiled: `record` is.

        Args:
            loss: the loss.
            step: optimizer steps taken before it was computed; by default the present count.
            scale: what to multiply it with.
        """
        if isinstance(loss, torch.Tensor):
            if loss.numel() != 1:
                raise ConfigurationError(
                    f"the loss has shape {tuple(loss.shape)}; give one number, such as loss.mean()"
                )
            loss = loss.detach().clone() if scale == 1.0 else loss.detach() * scale
        else:
            loss = float(loss) * scale
        self._at.append(self.steps if step is None else step)
        self._losses.append(loss)
        if len(self._losses) >= _FULL:
            self.send()

    record = uncompiled(keep)

    def send(self) -> bool:
        """Start what was recorded on its way to the host; whether all of it is there already.

        Raises what went wrong in a hook of the optimizer, where it was kept.
        """
        if self._failure is not None:
            raise self._failure
        if self._at or self._rates:
            block = _Block(
                np.array(self._at, dtype=np.int64),
                self._rates_from,
                Transfer(self._losses),
                Transfer(self._rates),
                list(self._skipped),
                Transfer(list(self._skipped.values())),
            )
            self._sent.append(block)
            self._at, self._losses, self._rates, self._skipped = [], [], [], {}
            self._rates_from = self.steps + 1
        return not any(block.travels for block in self._sent)

    def take(self, before: int | None = None) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """Steps, losses and learning rates (nan where unknown) of finished steps, (n,) each.

        Args:
            before: the losses after fewer optimizer steps than these, all of them sent; by default
                all but those since the last step: more of that one may come.
        """
        if before is None:
            self.send()
        before = self._receive(before)
        cut = self.steps if before is None else before
        late = np.flatnonzero(self._host_at >= cut)
        return self._read(int(late[0]) if late.size else self._host_at.size)

    def take_all(self) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """The same, with the losses since the last optimizer step."""
        self.send()
        self._receive()
        return self._read(self._host_at.size)

    def present_rate(self) -> float:
        """Learning rate of the next step; once closed, of the one that would have been next."""
        return max(float(self._present()), 0.0)

    def ask_rate(self) -> Callable[[], float]:
        """The same, on its way to the host: to be read when it will have arrived."""
        transfer = Transfer([self._present()])
        return lambda: max(float(transfer.read()[0]), 0.0)

    def last_rate(self) -> float | None:
        """Learning rate of the last step; None before the first."""
        self.send()
        self._receive()
        return float(self._host_rates[-1]) if self._host_rates.size else self._last_rate

    def forget(self) -> None:
        """Drop all that was recorded and not taken; go on counting."""
        self._at, self._losses, self._rates, self._skipped = [], [], [], {}
        self._host_at, self._host_losses = self._host_at[:0], self._host_losses[:0]
        self._host_rates = self._host_rates[:0]
        self._sent = []
        self._rates_from = self._host_from = self.steps + 1
        self._last_rate = self._failure = None

    def close(self) -> None:
        """Take the hooks off the optimizer and let go of it."""
        if self._optimizer is not None:
            for hook in self._hooks:
                hook.remove()
            self._rate, self._optimizer = self._present(), None

    def state_dict(self) -> dict[str, Any]:
        """The count and the last learning rate; call `take` before."""
        last = self.last_rate()
        return {"steps": self.steps, "last_rate": last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved count."""
        steps, rate = whole("steps", state["steps"], StateError, least=0), state["last_rate"]
        rate = None if rate is None else number("last_rate", rate, StateError)
        self.steps = self.calls = steps
        self.forget()
        self._last_rate = rate

    # ------------------------------------------------------------------ inside

    def _present(self) -> Any:
        if self._optimizer is None:
            return self._rate
        return self._optimizer.param_groups[self._group]["lr"]

    @uncompiled
    def _note_rate(self, *_: Any) -> None:
        try:
            self._rate = _kept(self._present())
        except Exception as error:
            self._rate, self._failure = np.nan, error  # the step is counted nevertheless

    @uncompiled
    def _count(self, optimizer: Any, *_: Any) -> None:
        if self._rate is None:
            return  # counted before: a subclass called its parent's step, which has hooks, too
        skipped = vars(optimizer).get("found_inf")  # set by a gradient scaler for this one step
        try:
            if skipped is not None:
                self._skipped[len(self._rates)] = _kept(skipped)
        except Exception as error:
            self._failure = error
        self._rates.append(self._rate)
        self._rate = None
        self.steps += 1
        self.calls += 1

    def _receive(self, before: int | None = None) -> int | None:
        """Read the blocks that were sent, in order, as long as they have losses `before` a step.

        Returns that step, less those now known to have been skipped on the device.
        """
        while self._sent:
            block = self._sent[0]
            if before is not None and block.at.size and block.at[0] >= before:
                break
            del self._sent[0]
            at, rates = block.at, np.maximum(block.rates.read(), 0.0)  # some end below 0
            losses, skipped = block.losses.read(), np.zeros(rates.size, dtype=bool)
            skipped[block.perhaps] = block.skipped.read() > 0
            if skipped.any():
                gone = np.concatenate([[0], np.cumsum(skipped)])
                at = at - gone[np.clip(at - block.rates_from + 1, 0, None)]
                rates = rates[~skipped]
                self._shift(int(gone[-1]))
                before = None if before is None else before - int(gone[-1])
            self._host_at = np.append(self._host_at, at)
            self._host_losses = np.append(self._host_losses, losses)
            self._host_rates = np.append(self._host_rates, rates)
        return before

    def _shift(self, gone: int) -> None:
        """Uncount steps that were skipped on the device: the later ones came sooner."""
        self.steps -= gone
        self._at = [at - gone for at in self._at]
        self._rates_from -= gone
        for block in self._sent:
            block.at = block.at - gone
            block.rates_from -= gone

    def _read(self, count: int) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        at, losses = self._host_at[:count], self._host_losses[:count]
        self._host_at, self._host_losses = self._host_at[count:], self._host_losses[count:]
        steps, which = np.unique(at, return_inverse=True)
        with np.errstate(over="ignore", invalid="ignore"):
            means = np.bincount(which, losses) / np.bincount(which)
        known = np.append(np.nan if self._last_rate is None else self._last_rate, self._host_rates)
        index = steps - (self._host_from - 1)
        inside = (index >= 0) & (index < known.size)
        used = np.where(inside, known[np.clip(index, 0, known.size - 1)], np.nan)
        # what is left may be of the last step counted here, or of later ones
        last = self._host_from + self._host_rates.size - 1
        left = int(self._host_at.min(initial=last))
        dropped = max(left - self._host_from + 1, 0)
        if dropped:
            self._last_rate = float(self._host_rates[dropped - 1])
            self._host_rates = self._host_rates[dropped:]
            self._host_from += dropped
        return steps, means, used


def innermost(optimizer: Any) -> Any:
    """The torch optimizer inside wrappers (of accelerate, Fabric, Lightning)."""
    given, found = optimizer, None
    for _ in range(6):
        if hasattr(optimizer, "register_step_pre_hook"):
            found = optimizer  # a wrapper may inherit the method, but not what it needs
        optimizer = getattr(optimizer, "optimizer", None)
    if found is None:
        raise ConfigurationError(
            f"cannot count the steps of {type(given).__name__}: give a torch.optim.Optimizer"
        )
    return found
