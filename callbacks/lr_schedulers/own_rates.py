"""Rates of schedulers that need a time as an argument and compute them from it, such as timm's."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from lossforecast.callbacks.lr_schedulers.clone import Rate, clone_of
from lossforecast.signals import contained

__all__ = ["own_rates"]

_NAMES = ("_get_lr", "get_epoch_values", "get_update_values")  # functions of a time, in timm
_MAX_DISTANCE = 5  # scheduler steps between the present time and the one expected
_SAME_RATE_TOLERANCE = 1e-6


def own_rates(scheduler: Any, group: int, expected: int) -> Rate | None:
    """Return the rate after k further steps by a function of the scheduler; None without one.

    Such a scheduler does not count its steps, so the present time is taken to be the one near the
    expected time at which the function gives the present rate.

    Args:
        scheduler: the scheduler; only a copy of it is called.
        group: index of the parameter group.
        expected: scheduler steps presumably taken so far.
    """
    groups = scheduler.optimizer.param_groups
    present, clone = float(groups[group]["lr"]), None
    with contained():
        clone = clone_of(scheduler)
    for name in _NAMES:
        with contained():
            at = _rate_at(getattr(clone, name), group, len(groups))
            for now in _nearest(expected):
                if math.isclose(at(now), present, rel_tol=_SAME_RATE_TOLERANCE):
                    return partial(_later, at, now)
    return None


def _nearest(expected: int) -> list[int]:
    """Return the times near the expected one, the nearest first."""
    around = range(max(expected - _MAX_DISTANCE, 0), expected + _MAX_DISTANCE + 1)
    return sorted(around, key=lambda time: abs(time - expected))


def _later(at: Callable[[int], float], now: int, k: int) -> float:
    """Return the rate k steps after the present time."""
    return at(now + k)


def _rate_at(function: Callable[[int], Any], group: int, n_groups: int) -> Callable[[int], float]:
    """Return the rate of a group as a function of the time."""

    def at(time: int) -> float:
        rates = list(function(time))
        if len(rates) != n_groups:
            raise ValueError(f"{len(rates)} rates for {n_groups} groups")
        return float(rates[group])

    return at
