"""`generators_restored`: call the user's functions without affecting random number generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["generators_restored"]


@contextmanager
def generators_restored() -> Iterator[None]:
    """Provide a context that restores the global random number generators at its end.

    They are those of Python, numpy, torch on the CPU, and torch on each CUDA device in use. This
    does not wait for any device, because the state of its generator is kept on the host.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cpu = torch.get_rng_state()
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if in_use else range(0)
    cuda = {device: torch.cuda.get_rng_state(device) for device in devices}
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        for device, state in cuda.items():
            if not torch.equal(torch.cuda.get_rng_state(device), state):
                torch.cuda.set_rng_state(state, device)
