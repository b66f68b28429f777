"""Rank and number of the processes that train together."""

from typing import Any

import torch

__all__ = ["dist", "processes"]

dist: Any = torch.distributed  # most of what is needed here has no types


def processes() -> tuple[int, int]:
    """Rank of this process and number of processes, by torch.distributed; (0, 1) without it."""
    if not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()
