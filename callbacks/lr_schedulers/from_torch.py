"""The future learning rate of any torch scheduler, read from a clone without parameters.

The user's scheduler and optimizer are only read. A clone of the scheduler drives a stand-in
optimizer with the same groups, each with one number as its parameters. A short future is stepped
through, so it is exact to the bit. A long one is evaluated by formulas at some thousand steps,
placed where the rate bends.
"""

import math
import warnings
from typing import Any

import numpy as np
import torch

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.callbacks.lr_schedulers.clone import clone_of, read_rate, stepped
from lossforecast.callbacks.lr_schedulers.formulas import corners_of, rate_formula
from lossforecast.callbacks.lr_schedulers.generators import generators_restored
from lossforecast.callbacks.lr_schedulers.groups import parameter_group
from lossforecast.callbacks.lr_schedulers.own_rates import own_rates
from lossforecast.callbacks.lr_schedulers.stepping import Positions, every, first_steps, unwrapped
from lossforecast.checks import whole, wholes
from lossforecast.errors import ConfigurationError, ScheduleError
from lossforecast.schedule import LRSchedule, sampled
from lossforecast.signals import contained
from lossforecast.status import Caveat

__all__ = ["schedule_from_torch"]

_MAX_EXACT_STEPS = 100_000  # scheduler steps taken one by one, so that rates are exact to the bit
_MAX_STEPS_WITHOUT_FORMULA = 1_000_000  # scheduler steps taken one by one, in some seconds


def schedule_from_torch(
    scheduler: Any,
    *,
    total_steps: int,
    step: int = 0,
    group: int | None = None,
    scheduler_steps: Positions | None = None,
) -> LRSchedule:
    """Return the learning rates that a scheduler will set; the scheduler is only read.

    The rate eta_i of optimizer step i > `step` is that of the scheduler after
    ``scheduler_steps(i)`` further calls of its ``step()``. A scheduler does not record its past:
    for i <= `step` the present rate is held, and observed rates replace it.

    Up to 100,000 scheduler steps ahead the result equals stepping, bit by bit. Beyond, it has the
    caveat `SCHEDULE_APPROXIMATED` and a relative error of at most 1e-6 (relative to the peak where
    the rate is below 1e-6 of it), with corners at their exact step. There are three limits. At most
    12,000 points are kept, so many restarts or stairs are approximated more coarsely (a thousand
    cosines to about 1% of the peak). A user's function is called at some arguments only, so a
    feature shorter than 1/2,500 of the steps ahead may be missed, except with ``MultiplicativeLR``,
    whose function is called for every step. The rounding errors that torch accumulates in a float32
    tensor rate are not reproduced.

    A scheduler whose ``step()`` needs an argument, such as timm's, is sampled by its own function
    of the time, ``_get_lr(t)``. The present rate is held, with the caveat `LR_ASSUMED`, where the
    future is unknown: for ``ReduceLROnPlateau``, for a scheduler that cannot be cloned or stepped
    and has no such function, for classes other than
    torch's beyond 1,000,000 steps, and from the step at which the scheduler raises (``OneCycleLR``
    past its end) or yields nan. A negative rate counts as 0.

    A callable object given as ``lr_lambda`` is copied, because torch counts it as state. Functions,
    methods and partials of them are called themselves: one that counts its calls is affected. One
    that draws random numbers is not, because the global generators of Python, numpy and torch are
    restored; a generator of its own, such as a ``random.Random`` in a closure, is not restored.

    Args:
        scheduler: a torch ``LRScheduler``, nested or resumed; an object with ``optimizer`` and
            ``step()``; or a wrapper with ``scheduler``, such as accelerate's.
        total_steps: length of the run in optimizer steps.
        step: optimizer steps already taken, in 0..total_steps.
        group: index of the parameter group; default: the first with the largest rate, present or
            initial.
        scheduler_steps: function of optimizer steps i > `step`, increasing, (n,), that returns the
            number of scheduler steps between now and the beginning of optimizer step i, (n,).
            Default: ``i - 1 - step``, one after each optimizer step. See `every` and, for
            accelerate's wrapper, `steps_per_call`.

    Raises:
        ConfigurationError: `scheduler` has no optimizer, `group` does not exist, or
            `scheduler_steps` are negative or decrease.
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
    chosen = parameter_group(groups, group)
    now = max(float(groups[chosen]["lr"]), 0.0)
    positions = _checked(every(1, step=step) if scheduler_steps is None else scheduler_steps)
    before = [(options["lr"], float(options["lr"])) for options in groups]
    try:
        with warnings.catch_warnings(), generators_restored():
            warnings.simplefilter("ignore")  # torch misses optimizer steps between the clone's
            steps, lrs, caveats = _future(
                scheduler, chosen, positions, step=step, total_steps=total_steps
            )
    finally:
        touched = _restore(groups, before)
    if touched:  # through a closure the clone stepped the original, so its rates are worthless
        steps, lrs, caveats = steps[:1], np.full(steps[:1].shape, np.nan), set()
    steps, lrs = np.append(step, steps), np.append(now, lrs)
    unknown = np.flatnonzero(np.isnan(lrs))
    if unknown.size:
        lrs[unknown[0] :] = lrs[unknown[0] - 1]
        caveats = caveats | {Caveat.LR_ASSUMED}
    if total_steps <= _MAX_EXACT_STEPS and steps.size == total_steps - step + 1:
        return LRSchedule.from_array(np.append(np.full(step, now), lrs[1:]), caveats=caveats)
    same = np.concatenate([[False], lrs[1:] == lrs[:-1], [True]])  # the last rate is held
    redundant = same[:-1] & same[1:]
    return LRSchedule.from_points(
        steps[~redundant], lrs[~redundant], total_steps=total_steps, caveats=caveats
    )


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


def _restore(groups: list[dict[str, Any]], before: list[tuple[Any, float]]) -> bool:
    """Restore the rates of the user's optimizer; return whether any had been changed."""
    changed = False
    for options, (lr, value) in zip(groups, before, strict=True):
        if options["lr"] is not lr or float(lr) != value:
            changed, options["lr"] = True, lr
            if isinstance(lr, torch.Tensor):
                lr.fill_(value)
    return changed


def _future(
    scheduler: Any, group: int, positions: Positions, *, step: int, total_steps: int
) -> tuple[IntArray, FloatArray, set[Caveat]]:
    """Return points of the rate after `step`: steps (n,), rates (n,; nan if unknown), caveats."""
    first = step + 1
    if first > total_steps:
        return np.zeros(0, dtype=np.int64), np.zeros(0), set()
    ahead = int(positions(np.array([total_steps]))[0])
    rate, corners = None, list[int]()
    if ahead > _MAX_EXACT_STEPS:
        with contained():
            corners = corners_of(scheduler, ahead)
            rate = rate_formula(clone_of(scheduler), group, ahead)
    if rate is None and ahead <= _MAX_STEPS_WITHOUT_FORMULA:
        with contained():
            rate = stepped(clone_of(scheduler), group, ahead)
    if rate is None or math.isnan(read_rate(rate, min(ahead, 1))):
        taken = round((ahead + 1) * step / (total_steps - step))  # at the pace of the steps ahead
        rate = own_rates(scheduler, group, taken)
    if rate is None:
        return np.array([first]), np.full(1, np.nan), set()

    def rates(steps: IntArray) -> FloatArray:
        return np.array([read_rate(rate, k) for k in positions(steps).tolist()])

    if ahead > _MAX_EXACT_STEPS:
        near = {k + side for k in corners for side in (-1, 0, 1) if 0 <= k + side <= ahead}
        at = np.array(sorted(near), dtype=np.int64)
        seeds = first_steps(positions, at, first, total_steps)
        return *sampled(rates, seeds, first, total_steps), {Caveat.SCHEDULE_APPROXIMATED}
    if total_steps <= _MAX_EXACT_STEPS:
        steps = np.arange(first, total_steps + 1)
    else:  # both ends of each interval without a scheduler step
        starts = first_steps(positions, np.arange(ahead + 1), first, total_steps)
        steps = np.unique(np.concatenate([starts, starts[starts > first] - 1, [total_steps]]))
    return steps, rates(steps), set()
