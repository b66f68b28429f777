"""The parameter group of an optimizer whose learning rate is forecast."""

from collections.abc import Mapping, Sequence
from typing import Any

from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError

__all__ = ["parameter_group", "widest_group"]

Groups = Sequence[Mapping[str, Any]]
"""The ``param_groups`` of a torch optimizer."""


def widest_group(groups: Groups) -> int:
    """Return the index of the first group with the largest learning rate, initial or present."""
    rates = [
        max(float(group["lr"]), float(group.get("initial_lr", group["lr"]))) for group in groups
    ]
    return rates.index(max(rates))


def parameter_group(groups: Groups, group: int | None) -> int:
    """Return the index of the group whose learning rate counts, by default `widest_group`.

    Raises:
        ConfigurationError: there is no group with this index.
    """
    if group is None:
        return widest_group(groups)
    index = whole("group", group, ConfigurationError, least=0)
    if index >= len(groups):
        raise ConfigurationError(
            f"group is {index}, but the optimizer has {len(groups)}: give 0..{len(groups) - 1}"
        )
    return index
