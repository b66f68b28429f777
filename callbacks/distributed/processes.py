"""Rank and world size of the processes that train together."""

from typing import Any

import torch

__all__ = ["dist", "processes"]

dist: Any = torch.distributed  # mostly untyped


def processes() -> tuple[int, int]:
    """Return this process's rank and the world size; (0, 1) if torch.distributed is not in use."""
    if not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()
