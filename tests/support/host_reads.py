"""A mode that notes every call that waits for a device, on any machine."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class OnDevice(torch.Tensor):
    """A tensor that is not plainly on the host, so that it is treated as one on a device."""


def on_device(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same tensor, with its gradient, to be treated as one on a device."""
    return tensor.as_subclass(OnDevice)


HOST_READS = {"item", "tolist", "numpy", "cpu", "to", "equal", "nonzero", "is_nonzero", "allclose"}
HOST_READS |= {f"__{name}__" for name in ("array", "float", "int", "bool", "index", "contains")}
HOST_READS |= {"__repr__", "__format__"}


class HostReads(TorchFunctionMode):
    """Notes calls that read a tensor's value on the host (`test_capture_device` tests it).

    Attributes:
        now: The step that the test is at; set by the test.
        seen: Names of the calls.
        at: The value of `now` at each of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.seen: list[str] = []
        self.at: list[int] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__name__", "") in HOST_READS:
            self.seen.append(function.__name__)
            self.at.append(self.now)
        return function(*args, **(kwargs or {}))
