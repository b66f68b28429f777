"""Rank and world size of the processes that train together."""

import sys
from typing import Any

__all__ = ["processes", "torch_distributed"]


def torch_distributed() -> Any:
    """Return the module ``torch.distributed``, mostly untyped; None if torch is not imported."""
    return getattr(sys.modules.get("torch"), "distributed", None)


def processes() -> tuple[int, int]:
    """Return this process's rank and the world size; (0, 1) if torch.distributed is not in use."""
    dist = torch_distributed()
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()
