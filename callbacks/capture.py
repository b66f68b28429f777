"""Losses and learning rates on their way from the device to the host, in blocks."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lossforecast.checks import number, whole
from lossforecast.errors import ConfigurationError, StateError

__all__ = ["LossCapture", "innermost", "uncompiled"]

FloatArray = NDArray[np.float64]
P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(method: Callable[P, R]) -> Callable[P, R]:
    """Run as plain Python inside what ``torch.compile`` compiles.

    Traced, a growing list would have the user's code compiled anew at every step.
    """
    plain: Callable[P, R] = torch.compiler.disable(method)  # type: ignore[no-untyped-call]
    return plain


class LossCapture:
    """Counts the steps of an optimizer and keeps the losses between two reads.

    A loss is copied on its own device when recorded, because users scale it in place and CUDA
    graphs overwrite it; nothing is read on the host before `take`. Several losses recorded between
    two optimizer steps (gradient accumulation) count as one, their mean.

    The learning rate really used is read in a hook before each step of the optimizer, and the step
    is counted in one after it, so a loss computed by a closure comes before the step. A step that a
    gradient scaler skips calls neither; one that a fused optimizer skips on the device is found
    out, and uncounted, by the next read.
    """

    def __init__(self, optimizer: Any, group: int = 0) -> None:
        self.steps = 0
        """Optimizer steps taken so far; too high by those skipped on the device since `take`."""
        self._group = group
        self._at: list[int] = []
        self._losses: list[Any] = []
        self._rates: list[Any] = []  # of the steps since `_rates_from`
        self._skipped: list[Any] = []  # for each of them, above 0 if it was skipped on the device
        self._rates_from = 1
        self._last_rate: float | None = None
        self._rate: Any = None  # of the step under way; None when there is none
        self._optimizer = innermost(optimizer)
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._note_rate),
            self._optimizer.register_step_post_hook(self._count),
        ]

    @uncompiled
    def record(self, loss: Any, step: int | None = None, scale: float = 1.0) -> None:
        """Keep a loss: a tensor of one element on any device, or a number.

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

    def take(self) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """Steps, losses and learning rates (nan where unknown) of all finished steps, (n,) each.

        The losses since the last optimizer step stay: more of that step may come.
        """
        self._uncount_skipped()
        done = next((i for i, at in enumerate(self._at) if at >= self.steps), len(self._at))
        return self._read(done)

    def take_all(self) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """The same, with the losses since the last optimizer step."""
        self._uncount_skipped()
        return self._read(len(self._at))

    def present_rate(self) -> float:
        """Learning rate of the next step; once closed, of the one that would have been next."""
        return max(float(self._present()), 0.0)

    def last_rate(self) -> float | None:
        """Learning rate of the last step; None before the first."""
        return max(float(self._rates[-1]), 0.0) if self._rates else self._last_rate

    def forget(self) -> None:
        """Drop all that was recorded and not taken; go on counting."""
        self._at, self._losses, self._rates, self._skipped = [], [], [], []
        self._rates_from, self._last_rate = self.steps + 1, None

    def close(self) -> None:
        """Take the hooks off the optimizer and let go of it."""
        if self._optimizer is not None:
            for hook in self._hooks:
                hook.remove()
            self._rate, self._optimizer = self._present(), None

    def state_dict(self) -> dict[str, Any]:
        """The count and the last learning rate; call `take` before."""
        self._uncount_skipped()
        self._read_rates()
        return {"steps": self.steps, "last_rate": self._last_rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved count."""
        steps, rate = whole("steps", state["steps"], StateError, least=0), state["last_rate"]
        rate = None if rate is None else number("last_rate", rate, StateError)
        self.steps = steps
        self.forget()
        self._last_rate = rate

    # ------------------------------------------------------------------ inside

    def _present(self) -> Any:
        if self._optimizer is None:
            return self._rate
        return self._optimizer.param_groups[self._group]["lr"]

    @uncompiled
    def _note_rate(self, *_: Any) -> None:
        self._rate = _kept(self._present())

    @uncompiled
    def _count(self, optimizer: Any, *_: Any) -> None:
        if self._rate is None:
            return  # counted before: a subclass called its parent's step, which has hooks, too
        self._rates.append(self._rate)
        self._rate = None
        skipped = getattr(optimizer, "found_inf", None)
        self._skipped.append(0.0 if skipped is None else _kept(skipped))
        self.steps += 1

    def _uncount_skipped(self) -> None:
        """Take back the steps that a gradient scaler let a fused optimizer skip on the device."""
        skipped = _on_host(self._skipped) > 0
        if skipped.any():
            before = np.concatenate([[0], np.cumsum(skipped)]).tolist()
            since = self._rates_from - 1
            self._at = [at - before[max(at - since, 0)] for at in self._at]
            self._rates = [self._rates[i] for i in np.flatnonzero(~skipped)]
            self.steps -= before[-1]
        self._skipped = [0.0] * len(self._rates)

    def _read(self, count: int) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        at = np.array(self._at[:count], dtype=np.int64)
        losses = _on_host(self._losses[:count])
        del self._at[:count], self._losses[:count]
        before, rates_from = self._last_rate, self._rates_from
        rates = self._read_rates()
        steps, which = np.unique(at, return_inverse=True)
        with np.errstate(over="ignore", invalid="ignore"):
            means = np.bincount(which, losses) / np.bincount(which)
        known = np.concatenate([[np.nan if before is None else before], rates])
        index = steps - (rates_from - 1)
        inside = (index >= 0) & (index < known.size)
        used = np.where(inside, known[np.clip(index, 0, known.size - 1)], np.nan)
        return steps, means, used

    def _read_rates(self) -> FloatArray:
        rates = np.maximum(_on_host(self._rates), 0.0)  # some schedules end below 0
        self._rates, self._skipped, self._rates_from = [], [], self.steps + 1
        if rates.size:
            self._last_rate = float(rates[-1])
        return rates


def _on_host(values: list[Any]) -> FloatArray:
    """Numbers and one-element tensors as floats, with one transfer for each device and dtype."""
    out = np.empty(len(values))
    groups: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        kind = (value.device, value.dtype) if isinstance(value, torch.Tensor) else None
        groups.setdefault(kind, []).append(i)
    for kind, where in groups.items():
        if kind is None:
            out[where] = [values[i] for i in where]
        else:
            block = torch.stack([values[i].reshape(()) for i in where]).cpu()
            out[where] = block.to(torch.float64).numpy()
    return out


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


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
