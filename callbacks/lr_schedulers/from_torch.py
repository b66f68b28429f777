"""The future learning rate of any torch scheduler, read off a clone that has no parameters.

The user's scheduler and optimizer are only read. A clone of the scheduler drives a stand-in
optimizer of the same groups with one number each for parameters. A short future is stepped
through, so it is exact to the bit. A long one is evaluated at some thousand steps, placed where
the rate bends, by formulas that jump ahead.
"""

import copy
import functools
import math
import types
import warnings
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.optim import lr_scheduler as torch_lr

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.lr_schedulers.steerable import SteerableLR
from lossforecast.checks import whole, wholes
from lossforecast.errors import ConfigurationError, ScheduleError
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["Positions", "every", "schedule_from_torch", "steps_per_call", "unwrapped"]

Positions = Callable[[IntArray], IntArray]
Rate = Callable[[int], float]  # after k >= 0 further scheduler steps; raises where there is none

_EXACT = 100_000  # scheduler steps taken one by one, so exact to the bit
_AFFORDABLE = 1_000_000  # taken one by one where no formula jumps ahead; some seconds
_POINTS = 12_000  # kept at most: half a megabyte
_GRID = 1_000  # parts of the way ahead in which the search for bends begins
_CORNERS = 1_000  # of one scheduler that the search is told of
_PROBES = (0.31, 0.63)  # uneven, so that no regular staircase passes through both
_TOLERANCE = 0.7e-6  # at the probes; between them the error may be 1.43 times as large
_UNKNOWN = -1.0  # a rate to the search, so that the end of the known is a jump like any other


def schedule_from_torch(
    scheduler: Any,
    *,
    total_steps: int,
    step: int = 0,
    group: int | None = None,
    scheduler_steps: Positions | None = None,
) -> LRSchedule:
    """What the scheduler will do to the learning rate, as a schedule; nothing of it is touched.

    The rate eta_i of optimizer step i > `step` is that of the scheduler after
    ``scheduler_steps(i)`` further calls of its ``step()``. A scheduler does not know its past: for
    i <= `step` the present rate is held, for the observed one to replace.

    Up to 100,000 scheduler steps ahead the result equals stepping, bit by bit. Beyond, it carries
    `SCHEDULE_APPROXIMATED` and is good to 1e-6 of the local rate (of the peak, where the rate is
    below 1e-6 of it), with corners at their very step. Three limits. At most 12,000 points are kept
    and so many restarts or stairs are followed more coarsely: a thousand cosines to about 1% of the
    peak. A user's function is called at some arguments only, so what lasts less than 1/2,500 of the
    way ahead may be missed; not so with ``MultiplicativeLR``, which calls it for every step. The
    rounding that torch accumulates over so many steps in a float32 tensor rate is not followed.

    The present rate is held, with `LR_ASSUMED`, where the future is unknown: for
    ``ReduceLROnPlateau``, for what cannot be cloned or stepped, for classes other than torch's
    beyond 1,000,000 steps, and from the step on at which the scheduler raises (``OneCycleLR`` past
    its end) or yields nan. A negative rate counts as 0.

    A callable object given as ``lr_lambda`` is copied, as torch counts it as state. Functions,
    methods and partials of them are called as they are, so one that remembers its calls or draws
    random numbers notices.

    Args:
        scheduler: a torch ``LRScheduler``, nested or resumed; an object with ``optimizer`` and
            ``step()``; or a wrapper with ``scheduler``, such as accelerate's.
        total_steps: length of the run in optimizer steps.
        step: optimizer steps already taken, in 0..total_steps.
        group: index of the parameter group; by default the first with the largest rate, present
            or initial.
        scheduler_steps: for optimizer steps i > `step`, increasing, of shape (n,): how often the
            scheduler is stepped between now and the beginning of optimizer step i, shape (n,). By
            default ``i - 1 - step``: once after each optimizer step. See `every` and, for
            accelerate's wrapper, `steps_per_call`.

    Raises:
        ConfigurationError: no optimizer behind `scheduler`, no such `group`, or `scheduler_steps`
            that are negative or decrease.
        ScheduleError: `total_steps` or `step` is not a number of steps.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        >>> schedule_from_torch(scheduler, total_steps=5).to_array().tolist()
        [0.1, 0.1, 0.05, 0.05, 0.025]
    """
    scheduler, groups = unwrapped(scheduler)
    total_steps = whole("total_steps", total_steps, ScheduleError, least=1)
    step = whole("step", step, ScheduleError, least=0)
    if step > total_steps:
        raise ScheduleError(f"step {step} is beyond total_steps, {total_steps}: give a longer run")
    chosen = _chosen(groups, group)
    now = max(float(groups[chosen]["lr"]), 0.0)
    positions = _checked(every(1, step=step) if scheduler_steps is None else scheduler_steps)
    before = [(options["lr"], float(options["lr"])) for options in groups]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no optimizer steps between those of the clone
            steps, lrs, caveats = _traced(scheduler, chosen, positions, step, total_steps)
    finally:
        touched = _put_back(groups, before)
    if touched:  # through a closure: the clone moved the original, so it tells nothing
        steps, lrs, caveats = steps[:1], np.full(steps[:1].shape, np.nan), set()
    steps, lrs = np.append(step, steps), np.append(now, lrs)
    unknown = np.flatnonzero(np.isnan(lrs))
    if unknown.size:
        lrs[unknown[0] :] = lrs[unknown[0] - 1]
        caveats = caveats | {Caveat.LR_ASSUMED}
    if total_steps <= _EXACT and steps.size == total_steps - step + 1:
        return LRSchedule.from_array(np.append(np.full(step, now), lrs[1:]), caveats=caveats)
    same = np.concatenate([[False], lrs[1:] == lrs[:-1], [True]])  # the last rate is held anyway
    needless = same[:-1] & same[1:]
    return LRSchedule.from_points(
        steps[~needless], lrs[~needless], total_steps=total_steps, caveats=caveats
    )


def every(n_steps: int, *, step: int = 0, times: int = 1) -> Positions:
    """`scheduler_steps` of a scheduler stepped after every `n_steps` optimizer steps of the run.

    ``times * ((i - 1) // n_steps - step // n_steps)`` for optimizer step i, where `step` are taken
    already.

    Args:
        n_steps: optimizer steps between two scheduler steps, say those of an epoch; at least 1.
        step: optimizer steps already taken.
        times: scheduler steps taken at a time; see `steps_per_call`.

    Raises:
        ConfigurationError: `n_steps`, `step` or `times` is not a number of steps.

    Example:
        >>> import numpy as np
        >>> every(3)(np.array([1, 3, 4, 7])).tolist()
        [0, 0, 1, 2]
    """
    n_steps = whole("n_steps", n_steps, ConfigurationError, least=1)
    already = whole("step", step, ConfigurationError, least=0) // n_steps
    times = whole("times", times, ConfigurationError, least=1)
    return lambda steps: times * ((steps - 1) // n_steps - already)


def steps_per_call(scheduler: Any) -> int:
    """How often the scheduler inside a wrapper is stepped for each ``step()`` of the wrapper.

    Once; accelerate's ``AcceleratedScheduler`` does it once for each process, unless its batches
    are split among them or it was told not to step with the optimizer.
    """
    once = getattr(scheduler, "split_batches", True)
    return processes()[1] if getattr(scheduler, "step_with_optimizer", False) and not once else 1


# ---------------------------------------------------------------------- what is given


def unwrapped(scheduler: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The scheduler itself, inside wrappers such as accelerate's, and the groups of its optimizer.

    Raises:
        ConfigurationError: there is no optimizer behind it.
    """
    given = scheduler
    while not hasattr(scheduler, "optimizer") and hasattr(scheduler, "scheduler"):
        scheduler = scheduler.scheduler
    groups = getattr(getattr(scheduler, "optimizer", None), "param_groups", None)
    if not groups:
        raise ConfigurationError(
            f"no optimizer is known to {given!r:.60} ({type(given).__name__}): give a scheduler "
            "that has one as .optimizer, or describe the schedule with LRSchedule"
        )
    return scheduler, groups


def _chosen(groups: list[dict[str, Any]], group: int | None) -> int:
    if group is None:
        largest = [max(float(o["lr"]), float(o.get("initial_lr", o["lr"]))) for o in groups]
        return largest.index(max(largest))
    index = whole("group", group, ConfigurationError, least=0)
    if index >= len(groups):
        raise ConfigurationError(
            f"group is {index}, but the optimizer has {len(groups)}: give 0..{len(groups) - 1}"
        )
    return index


def _checked(scheduler_steps: Positions) -> Positions:
    def positions(steps: IntArray) -> IntArray:
        at = wholes("scheduler_steps(i)", scheduler_steps(steps), ConfigurationError)
        if at.shape != steps.shape or np.any(at < 0) or np.any(np.diff(at) < 0):
            raise ConfigurationError(
                f"scheduler_steps gave {at.ravel()[:3]}..., shape {at.shape}, for steps "
                f"{steps[:3]}..., shape {steps.shape}: give one number for each step, 0 or more "
                "and never decreasing"
            )
        return at

    return positions


def _put_back(groups: list[dict[str, Any]], before: list[tuple[Any, float]]) -> bool:
    """Whether a rate of the user's optimizer was changed after all; it is put back."""
    changed = False
    for options, (lr, value) in zip(groups, before, strict=True):
        if options["lr"] is not lr or float(lr) != value:
            changed, options["lr"] = True, lr
            if isinstance(lr, torch.Tensor):
                lr.fill_(value)
    return changed


# ---------------------------------------------------------------------- the clone


def _clone(scheduler: Any) -> Any:
    """The scheduler in its present state, on a stand-in optimizer with one number a group."""
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
            continue  # a method patched on the object may well step the original
        if name == "_schedulers":
            clone.__dict__[name] = [_cloned(child, memo) for child in value]
        else:
            clone.__dict__[name] = _copied(value, memo)
    return clone


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    for item in value if type(value) in (list, tuple) else [value]:
        called = item.func if isinstance(item, functools.partial) else item
        if isinstance(item, torch.Tensor):  # to the CPU, as reading it must not wait for a GPU
            memo.setdefault(id(item), item.detach().to("cpu", copy=True))
        elif isinstance(called, types.MethodType) and id(called.__self__) not in memo:
            memo[id(item)] = item  # a copy would take along its owner, often the whole model
    return copy.deepcopy(value, memo)


# ---------------------------------------------------------------------- the way ahead


def _traced(
    scheduler: Any, group: int, positions: Positions, step: int, total_steps: int
) -> tuple[IntArray, FloatArray, set[Caveat]]:
    """Steps after `step` that tell all, shape (n,), their rates, nan where unknown, and caveats."""
    first, nothing = step + 1, np.zeros(0, dtype=np.int64)
    if first > total_steps:
        return nothing, np.zeros(0), set()
    ahead = int(positions(np.array([total_steps]))[0])
    rate, corners = None, list[int]()
    if ahead > _EXACT:
        with suppress(Exception):
            corners = _corners(scheduler, ahead)
            rate = _rate(_clone(scheduler), group, ahead)
    if rate is None and ahead <= _AFFORDABLE:
        with suppress(Exception):
            rate = _stepped(_clone(scheduler), group, ahead)
    if rate is None or math.isnan(_read(rate, min(ahead, 1))):
        return np.array([first]), np.full(1, np.nan), set()

    def rates(steps: IntArray) -> FloatArray:
        return np.array([_read(rate, k) for k in positions(steps).tolist()])

    if ahead > _EXACT:
        near = {k + side for k in corners for side in (-1, 0, 1) if 0 <= k + side <= ahead}
        at = np.array(sorted(near), dtype=np.int64)
        seeds = _first_steps(positions, at, first, total_steps)
        return *_sampled(rates, seeds, first, total_steps), {Caveat.SCHEDULE_APPROXIMATED}
    if total_steps <= _EXACT:
        steps = np.arange(first, total_steps + 1)
    else:  # both ends of each stretch without a scheduler step
        starts = _first_steps(positions, np.arange(ahead + 1), first, total_steps)
        steps = np.unique(np.concatenate([starts, starts[starts > first] - 1, [total_steps]]))
    return steps, rates(steps), set()


def _read(rate: Rate, k: int) -> float:
    """The rate after k scheduler steps, nan where there is none."""
    try:
        lr = float(rate(k))
    except Exception:  # as the scheduler will raise in the run, once it gets there
        return math.nan
    return max(lr, 0.0) if math.isfinite(lr) else math.nan


def _stepped(scheduler: Any, group: int, ahead: int) -> Rate:
    """The rate after each of `ahead` real steps of the clone, nan from where it raises."""
    groups, rates = scheduler.optimizer.param_groups, np.full(ahead + 1, np.nan)
    rates[0] = float(groups[group]["lr"])
    with suppress(Exception):
        for k in range(1, ahead + 1):
            scheduler.step()
            rates[k] = float(groups[group]["lr"])
    return rates.item


def _first_steps(positions: Positions, at: IntArray, first: int, last: int) -> IntArray:
    """For each position in `at`, increasing and reached by `last`, the first step there."""
    low, high = np.full(at.shape, first), np.full(at.shape, last)
    while np.any(low < high):
        middle = (low + high) // 2
        reached = positions(middle) >= at
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
        low = np.minimum(low, high)
    return low


def _sampled(
    rates: Callable[[IntArray], FloatArray], seeds: IntArray, first: int, last: int
) -> tuple[IntArray, FloatArray]:
    """Steps, `seeds` among them, between which the rate is straight to `_TOLERANCE`; the rates.

    An interval is looked at in two places and cut there if the rate is off the chord; the worst
    ones first, so that a rate that needs more than `_POINTS` is followed evenly well.
    """

    def known(steps: FloatArray) -> FloatArray:
        each, back = np.unique(steps.astype(np.int64), return_inverse=True)
        return np.nan_to_num(rates(each), nan=_UNKNOWN)[back].reshape(steps.shape)

    def probed(ends: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rows left, probes, right and their rates; the error where it is not tolerable, or 0."""
        left, right, at_left, at_right = ends[:, ends[1] - ends[0] > 1]
        probes = left + np.rint(np.outer(_PROBES, right - left)).clip(min=1)
        values = known(probes)
        off = np.abs(values - at_left - (at_right - at_left) * (probes - left) / (right - left))
        highest = np.maximum(values.max(axis=0), np.maximum(at_left, at_right))
        scale = np.where(highest > low, np.maximum(values, low), peak)
        rows = np.vstack([left, probes, right, at_left, values, at_right])
        return rows, np.where((off > _TOLERANCE * scale).any(axis=0), off.max(axis=0), 0.0)

    at = np.unique(np.append(np.rint(np.linspace(first, last, _GRID + 1)), seeds))
    lrs = known(at)
    peak = max(lrs.max(), np.finfo(float).tiny)
    low, room, found = 1e-6 * peak, _POINTS - at.size, [np.stack([at, lrs])]
    rows, error = probed(np.stack([at[:-1], at[1:], lrs[:-1], lrs[1:]]))
    while room > 1 and error.any():
        bent = np.flatnonzero(error > 0.1 * error.max())
        bent = bent[np.argsort(-error[bent], kind="stable")][: room // 2]
        room -= 2 * bent.size
        found += [rows[[1, 5]][:, bent], rows[[2, 6]][:, bent]]
        parts = [rows[[i, i + 1, i + 4, i + 5]][:, bent] for i in range(3)]
        new_rows, new_error = probed(np.hstack(parts))
        rows = np.hstack([np.delete(rows, bent, axis=1), new_rows])
        error = np.append(np.delete(error, bent), new_error)
    at, lrs = np.hstack(found)
    at, where = np.unique(at, return_index=True)
    return at.astype(np.int64), np.where(lrs == _UNKNOWN, np.nan, lrs)[where]


# ---------------------------------------------------------------------- jumping ahead


def _rate(s: Any, group: int, ahead: int) -> Rate | None:
    """The rate as a formula in the number of further steps, None where there is none.

    Classes are compared exactly, as a subclass may do anything.
    """
    now, present = getattr(s, "last_epoch", 0), float(s.optimizer.param_groups[group]["lr"])
    if now < 0:  # torch leaves it so where a scheduler is in a SequentialLR twice
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
    """What the next k steps multiply the rate by, None for schedulers that do anything else."""
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
    """In proportion above ``eta_min``; torch begins anew one step after each trough."""
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
    """A chain of which one child goes on when the others, warm-ups mostly, have come to rest."""
    resting = (torch_lr.ConstantLR, torch_lr.LinearLR, torch_lr.PolynomialLR)
    lasting = [child for child in s._schedulers if type(child) not in resting]
    rests = [c.total_iters - c.last_epoch for c in s._schedulers if type(c) in resting]
    begin = max(0, *rests, 0)
    if len(lasting) != 1 or begin > _EXACT:
        return None
    early = _stepped(s, group, begin)
    late = _rate(lasting[0], group, ahead - begin)
    return late and (lambda k: early(k) if k <= begin else late(k - begin))


def _sequential(s: Any, group: int, ahead: int) -> Rate | None:
    """The rate of the child in charge; the clone itself takes the steps onto the milestones."""
    now, options, marks = s.last_epoch, s.optimizer.param_groups[group], s._milestones
    part = _rate(s._schedulers[bisect_right(marks, now)], group, ahead)
    starts, parts = [0], [part]
    for mark in sorted(m for m in set(marks) if now < m <= now + ahead):
        if part is None:
            return None
        lr, s.last_epoch = _read(part, mark - 1 - now - starts[-1]), mark - 1
        if isinstance(options["lr"], torch.Tensor):
            options["lr"].fill_(lr)
        else:
            options["lr"] = lr
        try:
            s.step()
            part = _rate(s._schedulers[bisect_right(marks, mark)], group, ahead)
        except Exception:  # as it will in the run: torch cannot begin some nested schedulers
            part = _ended
        starts.append(mark - now)
        parts.append(part)
    known = [part for part in parts if part is not None]

    def rate(k: int) -> float:
        index = bisect_right(starts, k) - 1
        return known[index](k - starts[index])

    return rate if len(known) == len(parts) else None


def _ended(k: int) -> float:
    return math.nan


def _corners(s: Any, ahead: int, counter: int | None = None) -> list[int]:
    """Steps ahead at which the formula changes, for each scheduler the first thousand."""
    if type(s) is torch_lr.ChainedScheduler:
        return [k for child in s._schedulers for k in _corners(child, ahead)]
    now = getattr(s, "last_epoch", 0) if counter is None else counter
    if type(s) is not torch_lr.SequentialLR:
        return [math.floor(at) - now for at in islice(_turns(s, now), _CORNERS)]
    corners = _corners(s._schedulers[bisect_right(s._milestones, now)], ahead)
    for mark, child in zip(s._milestones, s._schedulers[1:], strict=True):
        if 0 < mark - now <= ahead:
            corners += [mark - now, *(mark - now + k for k in _corners(child, ahead, 0))]
    return corners


def _turns(s: Any, now: int) -> Iterator[float]:
    """Values of the scheduler's counter, from `now` on, at which its formula changes."""
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
