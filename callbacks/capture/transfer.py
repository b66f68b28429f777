"""`Transfer`: copies values on their device and reads them on the host in blocks."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from lossforecast.arrays import FloatArray

__all__ = ["FloatArray", "P", "R", "Transfer", "uncompiled"]


P = ParamSpec("P")


R = TypeVar("R")


def uncompiled(method: Callable[P, R]) -> Callable[P, R]:
    """Run as plain Python inside what ``torch.compile`` compiles.

    Traced, a growing list would have the user's code compiled anew at every step.
    """
    plain: Callable[P, R] = torch.compiler.disable(method)  # type: ignore[no-untyped-call]
    return plain


class Transfer:
    """Numbers and tensors on their way to the host, in one copy for each device and dtype."""

    def __init__(self, values: list[Any]) -> None:
        self._size = len(values)
        self._parts: list[tuple[Any, Any, Any]] = []  # where, block on the host, event
        types = set(map(type, values))
        if types <= {float, int}:
            self._parts.append((slice(None), np.array(values, dtype=np.float64), None))
            return
        if types == {torch.Tensor}:
            with suppress(RuntimeError):  # not all of one device or shape
                block = torch.stack(values)
                if block.dtype == values[0].dtype:
                    self._start(slice(None), block.reshape(-1))
                    return
        kinds: dict[Any, list[int]] = {}
        for i, value in enumerate(values):
            kind = (value.device, value.dtype) if isinstance(value, torch.Tensor) else None
            kinds.setdefault(kind, []).append(i)
        for kind, where in kinds.items():
            mine = [values[i] for i in where]
            if kind is None:
                self._parts.append((where, np.array(mine, dtype=np.float64), None))
            else:
                self._start(where, torch.stack([value.reshape(()) for value in mine]))

    def _start(self, where: Any, block: torch.Tensor) -> None:
        if block.device.type != "cuda":
            self._parts.append((where, block, None))
            return
        pinned = torch.empty(block.shape, dtype=block.dtype, pin_memory=True)
        pinned.copy_(block, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(block.device))
        self._parts.append((where, pinned, event))

    @property
    def travels(self) -> bool:
        """Whether some of it is not on the host yet."""
        return any(event is not None for _, _, event in self._parts)

    def read(self) -> FloatArray:
        """The numbers, (n,); waits for the copies."""
        out = np.empty(self._size)
        for where, block, event in self._parts:
            if event is not None:
                event.synchronize()
            if isinstance(block, torch.Tensor):
                block = block.cpu().to(torch.float64).numpy()
            out[where] = block
        return out


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
