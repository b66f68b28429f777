"""Formulas of torch's schedulers: the rate after any number of further steps, and its corners.

All functions take a clone `s` of a torch scheduler, whose state they may change. A corner is a step
at which the formula of the rate changes.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import torch
from torch.optim import lr_scheduler as torch_lr

from lossforecast.callbacks.lr_schedulers.clone import Rate, read_rate, stepped
from lossforecast.callbacks.lr_schedulers.steerable import SteerableLR
from lossforecast.signals import contained

__all__ = ["corners_of", "rate_formula"]

_MAX_WARMUP_STEPS = 100_000  # of a chain; they are taken one by one
_MAX_CORNERS_PER_SCHEDULER = 1_000


def rate_formula(s: Any, group: int, ahead: int) -> Rate | None:
    """Return the rate as a function of the number of further steps; None without a formula.

    Classes are compared exactly, because a subclass may behave differently.
    """
    now, present = getattr(s, "last_epoch", 0), float(s.optimizer.param_groups[group]["lr"])
    if now < 0:  # torch leaves this in a scheduler that is in a SequentialLR twice
        return None
    factor = _factor(s, group, ahead)
    if factor is not None:
        return lambda k: present * factor(k)
    match type(s):
        case torch_lr.SequentialLR:
            return _sequential(s, group, ahead)
        case torch_lr.ChainedScheduler:
            return _chained(s, group, ahead)
        case torch_lr.CosineAnnealingLR:
            return _cosine(s, group, present)
        case torch_lr.LambdaLR:
            base, function = s.base_lrs[group], s.lr_lambdas[group]
            return lambda k: base * function(now + k) if k else present
        case _ if type(s) is SteerableLR:
            return lambda k: float(s.base_lrs[group]) * s.share(now + k + 1) if k else present
        case torch_lr.CosineAnnealingWarmRestarts:
            return _restarting(s, group, present)
        case torch_lr.OneCycleLR | torch_lr.CyclicLR:

            def rate(k: int) -> float:
                s.last_epoch = now + k
                return float(s.get_lr()[group]) if k else present

            return rate
    return None


def _factor(s: Any, group: int, ahead: int) -> Rate | None:
    """Return the factor of the next k steps, if `s` only multiplies the rate; else None."""
    now = getattr(s, "last_epoch", 0)
    match type(s):
        case torch_lr.ChainedScheduler:
            factors = [_factor(child, group, ahead) for child in s._schedulers]
            known = [factor for factor in factors if factor is not None]
            if len(known) == len(factors):
                return lambda k: math.prod(factor(k) for factor in known)
        case torch_lr.MultiplicativeLR:
            return _running_product(s.lr_lambdas[group], now)
        case torch_lr.ExponentialLR:
            return lambda k: s.gamma**k
        case torch_lr.StepLR:
            return lambda k: s.gamma ** ((now + k) // s.step_size - now // s.step_size)
        case torch_lr.MultiStepLR:
            marks = sorted(s.milestones.elements())
            passed = bisect_right(marks, now)
            return lambda k: s.gamma ** (bisect_right(marks, now + k) - passed)
        case torch_lr.ConstantLR:
            return lambda k: 1 / s.factor if now < s.total_iters <= now + k else 1.0
        case torch_lr.LinearLR:
            slope = (s.end_factor - s.start_factor) / max(s.total_iters, 1)
            return _relative(lambda t: s.start_factor + slope * min(t, s.total_iters), now)
        case torch_lr.PolynomialLR:
            end = max(s.total_iters, 1)
            return _relative(lambda t: (1 - min(t, s.total_iters) / end) ** s.power, now)
        case torch_lr.CosineAnnealingLR if s.eta_min == 0 and now + ahead <= s.T_max:
            return _relative(lambda t: 1 + math.cos(math.pi * t / s.T_max), now)
    return None


def _relative(level: Rate, now: int) -> Rate:
    """Return the factor of the next k steps, ``level(now + k) / level(now)``."""
    begin = level(now)
    return lambda k: level(now + k) / begin if begin else 1.0


def _running_product(function: Callable[[int], float], now: int) -> Rate:
    products = array("d", [1.0])

    def factor(k: int) -> float:
        while len(products) <= k:
            products.append(products[-1] * function(now + len(products)))
        return products[k]

    return factor


def _cosine(s: Any, group: int, present: float) -> Rate:
    """Return the solution of torch's recursion for ``CosineAnnealingLR``.

    ``eta(t) = eta_min + (eta(s) - eta_min) (1 + cos(pi t / T)) / (1 + cos(pi s / T))``, with
    ``T = T_max`` and any earlier step s since the last trough. One step after a trough torch starts
    again with the first rate of a rise.
    """
    start, half, low = s.last_epoch, s.T_max, s.eta_min
    first_rise = (float(s.base_lrs[group]) - low) * (1 - math.cos(math.pi / half)) / 2

    def rate(k: int) -> float:
        now, since, lr = start + k, start, present
        begun = half + 1 + (now - 1 - half) // (2 * half) * (2 * half)
        if begun > start and begun % 1 == 0:
            since, lr = begun, (present if begun - 1 == start else low) + first_rise
        if now == since:
            return lr
        height = (1 + math.cos(math.pi * now / half)) / (1 + math.cos(math.pi * since / half))
        return float(low + (lr - low) * height)

    return rate


def _restarting(s: Any, group: int, present: float) -> Rate:
    begun, first = s.T_cur, s.T_i

    def rate(k: int) -> float:
        s.T_cur, s.T_i = begun + k, first
        if s.T_mult == 1:
            s.T_cur %= first
        while s.T_cur >= s.T_i:
            s.T_cur, s.T_i = s.T_cur - s.T_i, s.T_i * s.T_mult
        return float(s.get_lr()[group]) if k else present

    return rate


def _chained(s: Any, group: int, ahead: int) -> Rate | None:
    """Return the rate of a chain in which one child continues after the others (warm-ups) end.

    Steps before the end of the others are taken one by one.
    """
    resting = (torch_lr.ConstantLR, torch_lr.LinearLR, torch_lr.PolynomialLR)
    lasting = [child for child in s._schedulers if type(child) not in resting]
    rests = [c.total_iters - c.last_epoch for c in s._schedulers if type(c) in resting]
    begin = max(0, *rests, 0)
    if len(lasting) != 1 or begin > _MAX_WARMUP_STEPS:
        return None
    early = stepped(s, group, begin)
    late = rate_formula(lasting[0], group, ahead - begin)
    return late and (lambda k: early(k) if k <= begin else late(k - begin))


def _sequential(s: Any, group: int, ahead: int) -> Rate | None:
    """Return the rate of the child in charge; the clone is stepped onto each milestone."""
    now, options, marks = s.last_epoch, s.optimizer.param_groups[group], s._milestones
    part = rate_formula(s._schedulers[bisect_right(marks, now)], group, ahead)
    starts, parts = [0], [part]
    for mark in sorted(m for m in set(marks) if now < m <= now + ahead):
        if part is None:
            return None
        lr, s.last_epoch = read_rate(part, mark - 1 - now - starts[-1]), mark - 1
        if isinstance(options["lr"], torch.Tensor):
            options["lr"].fill_(lr)
        else:
            options["lr"] = lr
        part = _ended
        with contained():  # also fails in the run: torch cannot start some nested schedulers
            s.step()
            part = rate_formula(s._schedulers[bisect_right(marks, mark)], group, ahead)
        starts.append(mark - now)
        parts.append(part)
    known = [part for part in parts if part is not None]

    def rate(k: int) -> float:
        index = bisect_right(starts, k) - 1
        return known[index](k - starts[index])

    return rate if len(known) == len(parts) else None


def _ended(k: int) -> float:
    return math.nan


def corners_of(s: Any, ahead: int, counter: int | None = None) -> list[int]:
    """Return further steps at which the formula of the rate changes, up to 1,000 per scheduler."""
    if type(s) is torch_lr.ChainedScheduler:
        return [k for child in s._schedulers for k in corners_of(child, ahead)]
    now = getattr(s, "last_epoch", 0) if counter is None else counter
    if type(s) is not torch_lr.SequentialLR:
        changes = islice(_formula_changes(s, now), _MAX_CORNERS_PER_SCHEDULER)
        return [math.floor(at) - now for at in changes]
    corners = corners_of(s._schedulers[bisect_right(s._milestones, now)], ahead)
    for mark, child in zip(s._milestones, s._schedulers[1:], strict=True):
        if 0 < mark - now <= ahead:
            corners += [mark - now, *(mark - now + k for k in corners_of(child, ahead, 0))]
    return corners


def _formula_changes(s: Any, now: int) -> Iterator[float]:
    """Yield the values of the scheduler's counter, from `now` on, at which its formula changes."""
    match type(s):
        case torch_lr.StepLR:
            yield from count(now // s.step_size * s.step_size, s.step_size)
        case torch_lr.MultiStepLR:
            yield from (mark for mark in sorted(s.milestones) if mark > now)
        case torch_lr.ConstantLR | torch_lr.LinearLR | torch_lr.PolynomialLR:
            yield s.total_iters
        case torch_lr.CosineAnnealingLR:
            yield from count(now // s.T_max * s.T_max, s.T_max)
        case torch_lr.CosineAnnealingWarmRestarts:
            end, period = now - s.T_cur, s.T_i
            while True:
                end, period = end + period, period * s.T_mult
                yield end
        case _ if type(s) is SteerableLR:
            yield from (step - 1 for step in s.schedule.knots[0].tolist())
        case torch_lr.OneCycleLR:
            yield from (phase["end_step"] for phase in s._schedule_phases)
        case torch_lr.CyclicLR:
            for cycle in count(now // s.total_size):
                yield cycle * s.total_size
                yield (cycle + s.step_ratio) * s.total_size
