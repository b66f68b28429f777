"""Losses and learning rates on their way from the device to the host, in blocks."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossforecast.errors import ConfigurationError

__all__ = ["LossCapture"]

FloatArray = NDArray[np.float64]


class LossCapture:
    """Counts the steps of an optimizer and keeps the losses between two reads.

    A loss is copied on its own device when recorded, because users scale it in place and CUDA
    graphs overwrite it; nothing is read on the host before `take`. Several losses recorded between
    two optimizer steps (gradient accumulation) count as one, their mean.

    The step is counted, and the learning rate really used is read, in a hook that runs before each
    step of the optimizer. A step that a gradient scaler skips never calls the hook.
    """

    def __init__(self, optimizer: Any, group: int = 0) -> None:
        self.steps = 0
        """Optimizer steps taken so far."""
        self._group = group
        self._at: list[int] = []
        self._losses: list[Any] = []
        self._rates: list[Any] = []  # of the steps since `_rates_from`
        self._rates_from = 1
        self._last_rate: float | None = None
        self._optimizer = _innermost(optimizer)
        self._hook = self._optimizer.register_step_pre_hook(self._count)

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
        done = next((i for i, at in enumerate(self._at) if at >= self.steps), len(self._at))
        return self._read(done)

    def take_all(self) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """The same, with the losses since the last optimizer step."""
        return self._read(len(self._at))

    def present_rate(self) -> float:
        """Learning rate of the next step."""
        return float(self._optimizer.param_groups[self._group]["lr"])

    def last_rate(self) -> float | None:
        """Learning rate of the last step; None before the first."""
        return float(self._rates[-1]) if self._rates else self._last_rate

    def close(self) -> None:
        """Take the hook off the optimizer."""
        self._hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """The count and the last learning rate; call `take_all` before."""
        self._read_rates()
        return {"steps": self.steps, "last_rate": self._last_rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved count."""
        self.steps = int(state["steps"])
        self._at, self._losses, self._rates = [], [], []
        self._rates_from, self._last_rate = self.steps + 1, state["last_rate"]

    def _count(self, optimizer: Any, *_: Any) -> None:
        rate = optimizer.param_groups[self._group]["lr"]
        self._rates.append(rate.detach().clone() if isinstance(rate, torch.Tensor) else rate)
        self.steps += 1

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
        rates = _on_host(self._rates)
        self._rates, self._rates_from = [], self.steps + 1
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


def _innermost(optimizer: Any) -> Any:
    """The torch optimizer inside a wrapper (accelerate, DeepSpeed, Lightning)."""
    seen = 0
    while not hasattr(optimizer, "register_step_pre_hook") and seen < 5:
        inner = getattr(optimizer, "optimizer", None)
        if inner is None:
            break
        optimizer, seen = inner, seen + 1
    if not hasattr(optimizer, "register_step_pre_hook"):
        raise ConfigurationError(
            f"cannot count the steps of {type(optimizer).__name__}: give a torch.optim.Optimizer"
        )
    return optimizer
