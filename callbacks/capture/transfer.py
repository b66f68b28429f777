"""`Transfer`: copies values on their device and reads them on the host in blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray
from lossforecast.signals import contained

try:
    from torch._C._dynamo.eval_frame import get_eval_frame_callback
except ImportError:
    get_eval_frame_callback = bool  # older torch: assume that compiled code is running

__all__ = ["Block", "Transfer", "copied", "uncompiled"]

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method to run as plain Python inside code compiled by ``torch.compile``.

    If the compiler traced it, a growing list would recompile the user's code at every step. Where
    no compiled code is running, the method is called without the compiler's own wrapper, which
    takes as long as the recording of a loss.
    """
    plain: Callable[P, R] = torch.compiler.disable(method)  # type: ignore[no-untyped-call]

    @wraps(plain)  # keeps the marks that tell the compiler to trace neither
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return (method if get_eval_frame_callback() is None else plain)(*args, **kwargs)

    return call


class Transfer:
    """Copies numbers and tensors to the host, one copy for each device and dtype.

    Args:
        values: numbers and tensors of one element.
    """

    def __init__(self, values: list[Any]) -> None:
        self._size = len(values)
        # indices of values, the values as one array or tensor, event that marks the end of its copy
        self._parts: list[tuple[Any, Any, Any]] = []
        types = set(map(type, values))
        if types <= {float, int}:
            self._parts.append((slice(None), np.array(values, dtype=np.float64), None))
            return
        if types == {torch.Tensor}:
            with contained():  # fails if devices or shapes differ
                block = torch.stack(values)
                if block.dtype == values[0].dtype:
                    self._start(slice(None), block.reshape(-1))
                    return
        groups: dict[Any, list[int]] = {}  # indices by device and dtype; None for numbers
        for i, value in enumerate(values):
            key = (value.device, value.dtype) if isinstance(value, torch.Tensor) else None
            groups.setdefault(key, []).append(i)
        for key, where in groups.items():
            group = [values[i] for i in where]
            if key is None:
                self._parts.append((where, np.array(group, dtype=np.float64), None))
            else:
                self._start(where, torch.stack([value.reshape(()) for value in group]))

    def _start(self, where: Any, block: torch.Tensor) -> None:
        """Start the copy of a block to pinned memory, without waiting for it."""
        if block.device.type != "cuda":
            self._parts.append((where, block, None))
            return
        pinned = torch.empty(block.shape, dtype=block.dtype, pin_memory=True)
        pinned.copy_(block, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(block.device))
        self._parts.append((where, pinned, event))

    @property
    def pending(self) -> bool:
        """True if `read` has to wait for a copy to pinned memory."""
        return any(event is not None for _, _, event in self._parts)

    def read(self) -> FloatArray:
        """Wait for the copies and return the values, (n,)."""
        out = np.empty(self._size)
        for where, block, event in self._parts:
            if event is not None:
                event.synchronize()
            if isinstance(block, torch.Tensor):
                block = block.cpu().to(torch.float64).numpy()
            out[where] = block
        return out


def copied(value: Any, scale: float = 1.0) -> Any:
    """Return ``scale * value``: a number if that is on the host, else a tensor of its own.

    Args:
        value: a tensor of one element, or a number.
        scale: a factor, applied in the precision of the tensor.
    """
    if not isinstance(value, torch.Tensor):
        return value if scale == 1.0 else value * scale
    scaled = value if scale == 1.0 else value.detach() * scale
    if type(scaled) is torch.Tensor and scaled.is_cpu:
        return scaled.item()  # does not wait, and takes a tenth of the time of a copy
    return scaled.detach().clone() if scaled is value else scaled


@dataclass
class Block:
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
