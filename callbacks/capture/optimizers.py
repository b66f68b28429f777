"""Finds the torch optimizer that takes the steps, inside wrappers."""

from typing import Any

from torch.optim import Optimizer

from lossforecast.errors import ConfigurationError

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
        if hasattr(layer, "register_step_pre_hook"):
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
        inside = getattr(layer, name, None)
        if inside is not None:
            return inside
    attributes = getattr(layer, "__dict__", {}).values()
    optimizers = {id(value): value for value in attributes if isinstance(value, Optimizer)}
    return next(iter(optimizers.values())) if len(optimizers) == 1 else None
