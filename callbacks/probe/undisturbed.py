"""`undisturbed`: evaluate a model during training without affecting the training."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["undisturbed"]

_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_RUNNING_STATISTICS = ("running_mean", "running_var")


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Provide a context of evaluation mode without gradients that restores everything at its end.

    The training mode of every module, its buffers and the random number generators of Python, numpy
    and torch are restored. Compiled code runs as plain Python in the context, so nothing is
    recompiled. BatchNorm modules in training mode normalise by the batch, in this process alone and
    without updating running statistics: those belong to the present weights and would raise the
    loss of averaged weights.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = sorted({t.device.index for t in model.parameters() if t.device.type == "cuda"})
    norms = [m._buffers for m, training in modes if training and isinstance(m, _BATCH_NORM)]
    running = [{name: norm[name] for name in _RUNNING_STATISTICS} for norm in norms]
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), _eager():
            model.eval()
            for norm in norms:
                norm.update(dict.fromkeys(_RUNNING_STATISTICS))
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        for norm, before in zip(norms, running, strict=True):
            norm.update(before)
        for module, mode in modes:
            module.training = mode
        for buffer, values in buffers:
            buffer.data.copy_(values)


def _eager() -> Any:
    """Return a context in which compiled code runs as plain Python."""
    stance = getattr(torch.compiler, "set_stance", None)  # torch 2.6 and later
    return nullcontext() if stance is None else stance("force_eager")
