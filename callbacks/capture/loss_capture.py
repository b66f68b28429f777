"""`LossCapture`: counts optimizer steps and brings losses and rates to the host in blocks."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.callbacks.capture.optimizers import innermost
from lossforecast.callbacks.capture.transfer import Block, Transfer, copied, uncompiled
from lossforecast.checks import non_negative, whole
from lossforecast.errors import ConfigurationError, StateError
from lossforecast.log import logger
from lossforecast.signals import is_from_signal

__all__ = ["LossCapture"]

_MAX_LOSSES_ON_DEVICE = 1024  # when there are this many, they are sent as a block, to bound memory
_MAX_RATES_ON_DEVICE = 16_384  # the same for learning rates that nobody reads
_MAX_LOSSES_BETWEEN_STEPS = 100  # or four times as many as between any two steps before
_MAX_LOSSES_BEFORE_FIRST_STEP = 1_000  # the accumulation is not known yet


class LossCapture:
    """Counts the steps of an optimizer and keeps the losses between two reads.

    A loss is copied on its own device when recorded, because users scale it in place and CUDA
    graphs overwrite it. From there it goes to the host in blocks: `send` starts one copy into
    pinned memory without waiting for it, `take` reads the blocks that have arrived. Losses recorded
    between two optimizer steps (gradient accumulation) count as one, their mean.

    A hook before each step of the optimizer reads the learning rate in use, and a hook after it
    counts the step, so a loss computed by a closure comes before the step. A step that a gradient
    scaler skips calls neither hook. A step that a fused optimizer skips on the device is detected
    by the next read and no longer counted. Of the losses that the closure of one step computes, the
    first counts: it belongs to the weights before the step.

    The hooks hold no reference to this object, and are removed when it is deleted.

    Args:
        optimizer: the optimizer, or a wrapper of it.
        group: index of the parameter group whose learning rate is kept.
    """

    def __init__(self, optimizer: Any, group: int = 0) -> None:
        self.steps = 0
        """Optimizer steps taken, including those that the device has skipped since `take`."""
        self.calls = 0
        """Calls of the optimizer, including all steps skipped on the device."""
        self._accumulated = 0  # most losses between two optimizer steps
        self._failure: Exception | None = None  # of a hook, to be raised outside it
        # recorded and not sent yet
        self._at: list[int] = []
        self._losses: list[Any] = []
        self._rates: list[Any] = []  # of the steps from `_rates_from` on
        self._skipped: dict[int, Any] = {}  # by index: above 0 if the device skipped the step
        self._rates_from = 1
        self._sent: list[Block] = []
        # on the host and not taken yet
        self._host_at = np.empty(0, np.int64)
        self._host_losses = np.empty(0)
        self._host_rates = np.empty(0)  # of the steps from `_host_from` on
        self._host_from = 1
        self._last_rate: float | None = None
        self._rate: Any = None  # of the present step; None between steps
        self._evaluated = False  # whether a closure has computed a loss in the present step
        self._since_step = 0  # losses since the latest step
        self._warned = False
        self._hooks: list[Any] = []
        self.watch(optimizer, group)
        weakref.finalize(self, _remove, self._hooks).atexit = False

    def watch(self, optimizer: Any, group: int = 0) -> None:
        """Count the steps of this optimizer from now on, in place of the previous one.

        Args:
            optimizer: the optimizer, or a wrapper of it.
            group: index of the parameter group whose learning rate is kept.
        """
        _remove(self._hooks)
        self._optimizer, self._group = innermost(optimizer), group
        self._hooks += [
            self._optimizer.register_step_pre_hook(_weak_hook(self, LossCapture._note_rate)),
            self._optimizer.register_step_post_hook(_weak_hook(self, LossCapture._count)),
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
        else:
            loss = float(loss)
        loss = copied(loss, scale)
        if self._rate is not None:  # in a closure that the optimizer calls
            if self._evaluated:
                return
            self._evaluated = True
        self._since_step += 1
        if self._since_step > _MAX_LOSSES_BETWEEN_STEPS:
            self.warn_if_not_stepped()
        # a signal may interrupt after each call: the last one completes the change
        self._losses[len(self._at) :] = [loss]
        self._at.append(self.steps if step is None else step)
        if len(self._losses) >= _MAX_LOSSES_ON_DEVICE:
            self.send()

    record = uncompiled(keep)

    def warn_if_not_stepped(self, *, at_end: bool = False) -> bool:
        """Warn once if many losses were recorded since the latest step; return whether it warned.

        Args:
            at_end: whether the run is over, so that fewer losses suffice for a warning.
        """
        many = max(4 * self._accumulated, 20 if at_end else _MAX_LOSSES_BETWEEN_STEPS)
        if not self._accumulated:
            many = 1 if at_end else _MAX_LOSSES_BEFORE_FIRST_STEP
        if self._since_step <= many or self._warned:
            return self._warned
        self._warned = True
        logger.warning(
            "no step of %s was seen in the last %d losses, after %d steps: if another optimizer "
            "trains the model now, create the callback for that one, and load the state of this",
            type(self._optimizer).__name__,
            self._since_step,
            self.steps,
        )
        return True

    def send(self) -> bool:
        """Start copying the recorded losses to the host; return whether all are there already.

        If a hook of the optimizer failed before, its exception is raised here.
        """
        if self._failure is not None:
            raise self._failure
        if self._at or self._rates:
            block = Block(
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
            _remove(self._hooks)
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
        return steps, None if rate is None else non_negative("last_rate", rate, StateError)

    # ------------------------------------------------------------------ inside

    def _present(self) -> Any:
        if self._optimizer is None:
            return self._rate
        groups = self._optimizer.param_groups
        return groups[min(self._group, len(groups) - 1)]["lr"]

    def _note_rate(self, optimizer: Any) -> None:
        self._evaluated = self._evaluated and self._rate is not None
        try:
            rate = self._present()
            self._rate = rate if type(rate) is float else copied(rate)
        except Exception as error:
            if is_from_signal(error):
                raise
            self._rate, self._failure = np.nan, error  # the step is still counted

    def _count(self, optimizer: Any) -> None:
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
            self._since_step, before = 0, self._since_step
            self._rates.append(rate)  # last: a signal may interrupt after a call
        self._accumulated = max(self._accumulated, before)
        if len(self._rates) >= _MAX_RATES_ON_DEVICE:
            self._bound_memory()

    def _bound_memory(self) -> None:
        """Drop the rates of steps without a loss where nobody reads losses, but not the last.

        The block just sent stays, because its skipped steps may not have arrived.
        """
        try:
            self.send()
            self._receive(n_left=1)
        except Exception as error:
            if is_from_signal(error):
                raise
            self.forget()
            self._failure = error
        needed = self._host_at.size and self._host_rates.size <= _MAX_RATES_ON_DEVICE
        if self._host_rates.size and not needed:
            self._drop_rates(self._host_rates.size)

    def _receive(self, before: int | None = None, n_left: int = 0) -> int | None:
        """Read the sent blocks in order, up to the first that begins at step `before` or later.

        Args:
            before: a step; None for all blocks.
            n_left: number of blocks that are left.

        Returns:
            `before`, reduced by the number of steps that turn out to have been skipped.
        """
        while len(self._sent) > n_left:
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
            self._drop_rates(dropped)
        return steps, means, used

    def _drop_rates(self, count: int) -> None:
        """Drop the first rates on the host, of which the last is remembered."""
        last_rate = float(self._host_rates[count - 1])
        self._last_rate = last_rate
        self._host_rates = self._host_rates[count:]
        self._host_from += count


def _remove(hooks: list[Any]) -> None:
    """Remove hooks from their optimizer, and from the list."""
    while hooks:
        hooks.pop().remove()


def _weak_hook(
    capture: LossCapture, method: Callable[[LossCapture, Any], None]
) -> Callable[[Any, Any, Any], None]:
    """Return a hook that calls a method with the optimizer, as long as the capture exists."""
    known = weakref.ref(capture)

    @uncompiled
    def hook(optimizer: Any, args: Any, kwargs: Any) -> None:
        alive = known()
        if alive is not None:
            method(alive, optimizer)

    return hook
