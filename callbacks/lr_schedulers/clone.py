"""Clones of torch schedulers that can be stepped without touching the user's."""

import copy
import functools
import math
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lossforecast.signals import contained, ends

__all__ = ["Rate", "clone_of", "read_rate", "stepped"]

Rate = Callable[[int], float]
"""Function that returns the rate after k >= 0 further scheduler steps, or raises without one."""


def clone_of(scheduler: Any) -> Any:
    """Return a copy of the scheduler in its present state.

    It drives a stand-in optimizer with the groups of the user's, each with one number in place of
    the parameters.
    """
    optimizer = scheduler.optimizer
    stand_in = torch.optim.SGD([torch.zeros(1, device="cpu")], lr=0.0)
    memo: dict[int, Any] = {id(optimizer): stand_in}
    for options in optimizer.param_groups:
        memo.update({id(parameter): parameter for parameter in options["params"]})  # never copied
    stand_in.defaults = dict(optimizer.defaults)
    stand_in.param_groups = [
        {name: _copied(value, memo) for name, value in options.items() if name != "params"}
        | {"params": [torch.zeros(1, device="cpu")]}
        for options in optimizer.param_groups
    ]
    return _cloned(scheduler, memo)


def _cloned(scheduler: Any, memo: dict[int, Any]) -> Any:
    if id(scheduler) in memo:
        return memo[id(scheduler)]
    clone = memo[id(scheduler)] = object.__new__(type(scheduler))
    for name, value in vars(scheduler).items():
        if isinstance(getattr(type(scheduler), name, None), types.FunctionType):
            continue  # a method patched onto the object may step the original
        if name == "_schedulers":
            clone.__dict__[name] = [_cloned(child, memo) for child in value]
        else:
            clone.__dict__[name] = _copied(value, memo)
    return clone


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    for item in value if type(value) in (list, tuple) else [value]:
        called = item.func if isinstance(item, functools.partial) else item
        if isinstance(item, torch.Tensor):  # on the CPU, so that reading it does not wait for a GPU
            memo.setdefault(id(item), item.detach().to("cpu", copy=True))
        elif isinstance(called, types.MethodType) and id(called.__self__) not in memo:
            memo[id(item)] = item  # copying a method copies its owner, often the whole model
    return copy.deepcopy(value, memo)


def stepped(scheduler: Any, group: int, ahead: int) -> Rate:
    """Return the rates of the next `ahead` steps of a clone; nan from a step that raises on."""
    groups, rates = scheduler.optimizer.param_groups, np.full(ahead + 1, np.nan)
    rates[0] = float(groups[group]["lr"])
    with contained():
        for k in range(1, ahead + 1):
            scheduler.step()
            rates[k] = float(groups[group]["lr"])
    return rates.item


def read_rate(rate: Rate, k: int) -> float:
    """Return the rate after k further scheduler steps; nan if it raises or returns no number."""
    handled = sys.exception()
    try:  # like `with contained()`, which takes longer than computing most rates
        lr = float(rate(k))
    except Exception as error:  # the scheduler will also raise in the run
        if not ends(error, handled):
            raise
        return math.nan
    return max(lr, 0.0) if math.isfinite(lr) else math.nan
