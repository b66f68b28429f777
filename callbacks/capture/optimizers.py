"""Finds the torch optimizer that takes the steps, inside wrappers."""

from typing import Any

from torch.optim import Optimizer

from lossforecast.errors import ConfigurationError
from lossforecast.signals import contained

__all__ = ["innermost"]

_MAX_WRAPPERS = 6  # around an optimizer; bounds the search where wrappers form a circle
_NAMES = ("optimizer", "base_optimizer", "original_optimizer")  # usual names of the wrapped one


def innermost(optimizer: Any) -> Any:
    """Return the torch optimizer inside wrappers, whose ``step()`` changes the weights.

    Wrappers are those of accelerate, Fabric, Lightning and Opacus, two-step optimizers such as SAM,
    Lookahead, and any other object with one torch optimizer among its attributes.

    Raises:
        ConfigurationError: no torch optimizer is inside.
    """
    layer, inner = optimizer, None
    for _ in range(_MAX_WRAPPERS):
        if _has(layer, "register_step_pre_hook"):
            inner = layer  # a wrapper may inherit the method without the state it needs
        layer = _wrapped(layer)
    if inner is None:
        raise ConfigurationError(
            f"cannot count the steps of {type(optimizer).__name__}: give a torch.optim.Optimizer"
        )
    return inner


def _wrapped(layer: Any) -> Any:
    """Return the optimizer in a wrapper; None if there is none, or more than one."""
    for name in _NAMES:
        if _has(layer, name):
            return getattr(layer, name)
    attributes = getattr(layer, "__dict__", {}).values()
    optimizers = {id(value): value for value in attributes if isinstance(value, Optimizer)}
    if len(optimizers) != 1:
        return None
    (inside,) = optimizers.values()
    if isinstance(layer, Optimizer) and not _trained(layer) <= _trained(inside):
        return None  # it has parameters of its own, and the other one trains the rest
    return inside


def _trained(optimizer: Any) -> set[int]:
    """Return the identities of the parameters of an optimizer."""
    return {id(weight) for group in optimizer.param_groups for weight in group["params"]}


def _has(layer: Any, name: str) -> bool:
    """Return whether an object has an attribute that is not None; reading it may raise anything."""
    with contained():
        return getattr(layer, name, None) is not None
    return False
