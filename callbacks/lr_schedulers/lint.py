"""How the user's scheduler is made and stepped: looked at when a run starts, warned about once."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
from torch.optim import lr_scheduler as torch_lr

from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.lr_schedulers.from_torch import (
    Positions,
    every,
    schedule_from_torch,
    steps_per_call,
    unwrapped,
)
from lossforecast.log import logger
from lossforecast.schedule import Finding, Flaw, LRSchedule, climbs_again, falls_once, lint
from lossforecast.status import Caveat

__all__ = [
    "LoopLint",
    "Otherwise",
    "Stepping",
    "harmless",
    "inspect",
    "is_schedule_free",
    "per_process",
    "warn",
]

_AHEAD = 4  # times the run that a scheduler is followed, to see where its decay would have ended
_UNMOVED = 0.8  # of the peak at the end of a run: the decay, if there is one, has hardly begun
_WORTH = 0.05  # of the peak: an end that is lower leaves nothing to look for
_STEPS, _MOVES = 10, 3  # of the optimizer and, as planned, of the scheduler: enough to tell a pace
_FAST, _SLOW = 1.8, 0.5  # of the planned pace; steps that a gradient scaler skips are few
_HURRIED = (Flaw.HORIZON_SHORT, Flaw.MANY_CYCLES, Flaw.RISES_AT_END, Flaw.OVERRUN)

P = ParamSpec("P")


def harmless(function: Callable[P, None]) -> Callable[P, None]:
    """Let no exception out of a check: log it; training and forecasts go on."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception:
            logger.exception("the schedule could not be checked; training and forecasts go on")

    return call


def warn(findings: Iterable[Finding]) -> None:
    """Log each finding as a warning, with the name of its flaw."""
    for finding in findings:
        logger.warning("schedule lint, %s: %s", finding.flaw, finding.message)


def is_schedule_free(optimizer: Any) -> bool:
    """Whether an optimizer, or one that it wraps, averages weights instead of annealing.

    Known by the name of a class, such as ``AdamWScheduleFree``, by its package, or by what such
    optimizers keep in their parameter groups: ``weight_sum`` and ``lr_max``.
    """
    for _ in range(6):
        if optimizer is None:
            return False
        kinds = type(optimizer).__mro__
        if any("schedulefree" in kind.__name__.lower().replace("_", "") for kind in kinds):
            return True
        if any(kind.__module__.partition(".")[0] == "schedulefree" for kind in kinds):
            return True
        groups = getattr(optimizer, "param_groups", None)
        if groups and {"weight_sum", "lr_max"} <= set(groups[0]):
            return True
        optimizer = getattr(optimizer, "optimizer", None) or getattr(optimizer, "base", None)
    return False


@dataclass(frozen=True)
class Stepping:
    """How a scheduler will be stepped in a run that begins now.

    Attributes:
        scheduler: a torch scheduler, or a wrapper of one.
        positions: `scheduler_steps` of `schedule_from_torch`.
        total_steps: length of the run in optimizer steps.
        group: index of the parameter group.
    """

    scheduler: Any
    positions: Positions
    total_steps: int
    group: int

    def plan(self, positions: Positions | None = None, ahead: int = 1) -> LRSchedule:
        """The rates of the run, or of one `ahead` times as long, if it is stepped like that."""
        return schedule_from_torch(
            self.scheduler,
            total_steps=ahead * self.total_steps,
            group=self.group,
            scheduler_steps=positions or self.positions,
        )

    @property
    def calls(self) -> int:
        """Scheduler steps in the whole run, the one after its last optimizer step among them."""
        return int(self.positions(np.array([self.total_steps + 1]))[0])


@dataclass(frozen=True)
class Otherwise:
    """Another way to step a scheduler: meant, if it makes sense of a schedule that has none.

    Attributes:
        positions: `scheduler_steps` of that way.
        finding: what to say then.
    """

    positions: Positions
    finding: Finding


def inspect(
    plan: LRSchedule,
    optimizer: Any,
    stepping: Stepping | None = None,
    otherwise: Sequence[Otherwise] = (),
    hint: str = "",
) -> tuple[Finding, ...]:
    """What is wrong with the plan of a run that begins now, and with the way it is stepped.

    Nothing is said of rates that are only assumed, nor of a scheduler that has been stepped before:
    its past is not known. Nothing of it is touched.

    Args:
        plan: the learning rate of every step.
        optimizer: the torch optimizer.
        stepping: the scheduler that the plan was read from, if any.
        otherwise: the ways to step it that are often confused with this one.
        hint: added to findings that would not be if the scheduler were stepped less often.
    """
    found = _found(plan, optimizer, stepping, otherwise)
    return tuple(
        replace(each, message=each.message + hint) if each.flaw in _HURRIED else each
        for each in found
    )


def _found(
    plan: LRSchedule,
    optimizer: Any,
    stepping: Stepping | None,
    otherwise: Sequence[Otherwise],
) -> tuple[Finding, ...]:
    known = Caveat.LR_ASSUMED not in plan.caveats
    if stepping is not None:
        scheduler, _ = unwrapped(stepping.scheduler)
        if (_position(scheduler) or 0) > 0:
            return ()
        overrun = _overrun(scheduler, stepping.calls)
        if overrun is not None and _stops_by_itself(stepping.scheduler):
            known = True  # the last rate is held
        elif overrun is not None:
            return (_overrunning(*overrun),)
    if is_schedule_free(optimizer):
        return lint(plan, optimizer=f"{type(optimizer).__name__} (schedule-free)")
    if not known:
        return ()
    beyond = None
    if stepping is not None and plan.lr(plan.total_steps) > _WORTH * plan.peak:
        beyond = stepping.plan(ahead=_AHEAD)
    found = lint(plan, beyond=beyond)
    if stepping is not None:
        for other in otherwise:
            if _suspicious(plan, found, other) and _sensible(stepping.plan(other.positions)):
                return (other.finding,)
    return found


def _suspicious(plan: LRSchedule, found: Sequence[Finding], other: Otherwise) -> bool:
    """Whether the plan may be due to a scheduler that was made to be stepped in another way."""
    if other.finding.flaw is Flaw.STEPPED_TOO_SELDOM:
        return bool(plan.lr(plan.total_steps) >= _UNMOVED * plan.peak)
    return bool(found) or climbs_again(plan)


def _sensible(plan: LRSchedule) -> bool:
    """Whether a plan is one fall to a low rate, as most are."""
    return Caveat.LR_ASSUMED not in plan.caveats and falls_once(plan) and not lint(plan)


def _overrunning(allowed: int, calls: int) -> Finding:
    return Finding(
        Flaw.OVERRUN,
        f"OneCycleLR is made for {allowed:,} steps, but this run will step it {calls:,} times: "
        f"it will raise ValueError at step {allowed + 1:,} of them and end the training. Make it "
        f"with total_steps={calls}.",
    )


class LoopLint:
    """Checks the scheduler of a loop that its user writes: at its start, and its pace soon after.

    The pace is measured once, over ten optimizer steps or more after the first few, which a
    gradient scaler may skip. Only the first of several processes looks. A run that is resumed is
    not checked again.

    Args:
        optimizer: the torch optimizer.
        plan: the learning rate of every step.
        scheduler: what the plan was read from, if it was.
        pace: optimizer steps between two calls of the scheduler's ``step()``.
        group: index of the parameter group.
    """

    def __init__(
        self, optimizer: Any, plan: LRSchedule, scheduler: Any, pace: int, group: int
    ) -> None:
        self._given: tuple[Any, LRSchedule] | None = (optimizer, plan)
        self._stepping: Stepping | None = None
        self._pace = pace
        self._since: tuple[int, int] | None = None  # steps of the optimizer and of the scheduler
        if scheduler is not None:
            positions = every(pace, times=steps_per_call(scheduler))
            self._stepping = Stepping(scheduler, positions, plan.total_steps, group)

    @harmless
    def look(self, steps: int) -> None:
        """Check what can be checked after this many optimizer steps."""
        given, stepping = self._given, self._stepping
        self.close()  # unless there is more to see
        if given is not None and steps == 0 and processes()[0] == 0:
            warn(self._at_start(*given, stepping))
            self._stepping = stepping
        elif given is None and stepping is not None and self._watch(stepping, steps):
            self._stepping = stepping

    def close(self) -> None:
        """Let go of optimizer and scheduler."""
        self._given = self._stepping = None

    def _at_start(
        self, optimizer: Any, plan: LRSchedule, stepping: Stepping | None
    ) -> tuple[Finding, ...]:
        if stepping is None:
            return inspect(plan, optimizer)
        otherwise, times = list[Otherwise](), steps_per_call(stepping.scheduler)
        name, total = type(unwrapped(stepping.scheduler)[0]).__name__, plan.total_steps
        if times > 1:
            otherwise.append(per_process(name, times, self._pace, total))
        if self._pace > 1:
            otherwise.append(
                Otherwise(
                    every(1),
                    Finding(
                        Flaw.STEPPED_TOO_SELDOM,
                        f"{name} seems made for {total:,} optimizer steps, but by "
                        f"steps_per_scheduler_step={self._pace} it is stepped {stepping.calls:,} "
                        "times: step it after every optimizer step and leave that argument out.",
                    ),
                )
            )
        hint = (
            " (It is taken to be stepped after every optimizer step; if it is stepped once an "
            "epoch, give steps_per_scheduler_step.)"
        )
        alone = times == self._pace == 1
        return inspect(plan, optimizer, stepping, otherwise, hint if alone else "")

    def _watch(self, stepping: Stepping, steps: int) -> bool:
        """Compare the pace of the scheduler with the plan; whether to go on watching."""
        position = _position(unwrapped(stepping.scheduler)[0])
        if position is None:
            return False
        if self._since is None:
            self._since = steps, position
            return True
        since, begin = self._since
        before, now = stepping.positions(np.array([since, steps]) + 1).tolist()
        taken, moved, planned = steps - since, position - begin, now - before
        if taken < _STEPS or planned < _MOVES:
            return True
        seen = f"in {taken:,} optimizer steps the scheduler moved by {moved:,}, planned were "
        seen += f"{planned:,}, so the forecasts expect the wrong learning rate: "
        if moved >= _FAST * planned:
            advice = (
                "step it once after each optimizer step, not once for each micro-batch or process, "
                "or give the rates that are meant as schedule=."
            )
            warn([Finding(Flaw.STEPPED_TOO_OFTEN, seen + advice)])
        elif moved <= _SLOW * planned - 1:
            advice = (
                "if it is stepped once an epoch, give steps_per_scheduler_step=, the optimizer "
                "steps of an epoch; if not, call its step() after every optimizer step."
            )
            warn([Finding(Flaw.STEPPED_TOO_SELDOM, seen + advice)])
        return False


def per_process(name: str, times: int, pace: int, total: int) -> Otherwise:
    """What is said of a scheduler that is stepped once for each process, and not made for it."""
    return Otherwise(
        every(pace),
        Finding(
            Flaw.STEPPED_PER_PROCESS,
            f"accelerate steps {name} {times} times after each optimizer step, once for each "
            f"process, but it seems made for the {total:,} optimizer steps of the run: multiply "
            "its steps by accelerator.num_processes, or use "
            "Accelerator(step_scheduler_with_optimizer=False).",
        ),
    )


# ---------------------------------------------------------------------- torch's schedulers


def _position(scheduler: Any) -> int | None:
    """Steps that a scheduler has counted; None if it keeps no count, or steps on losses."""
    if isinstance(scheduler, torch_lr.ReduceLROnPlateau):
        return None
    if isinstance(scheduler, torch_lr.ChainedScheduler):
        scheduler = scheduler._schedulers[0]
    counted = getattr(scheduler, "last_epoch", None)
    return math.floor(counted) if isinstance(counted, int | float) else None


def _overrun(scheduler: Any, calls: int) -> tuple[int, int] | None:
    """Steps that a ``OneCycleLR`` in there allows, and is going to get, if those are more."""
    if isinstance(scheduler, torch_lr.OneCycleLR):
        return (scheduler.total_steps, calls) if calls > scheduler.total_steps else None
    parts: list[tuple[Any, int]] = []
    if isinstance(scheduler, torch_lr.ChainedScheduler):
        parts = [(child, calls) for child in scheduler._schedulers]
    elif isinstance(scheduler, torch_lr.SequentialLR):
        starts = [0, *scheduler._milestones]
        ends = [*(mark - 1 for mark in scheduler._milestones), calls]
        parts = [
            (child, min(end, calls) - start)
            for child, start, end in zip(scheduler._schedulers, starts, ends, strict=True)
        ]
    found = (_overrun(child, given) for child, given in parts)
    return next((each for each in found if each is not None), None)


def _stops_by_itself(scheduler: Any) -> bool:
    """Whether this is accelerate's wrapper where it does not step a ``OneCycleLR`` past its end."""
    with_optimizer = getattr(scheduler, "step_with_optimizer", False)
    inner = getattr(scheduler, "scheduler", None)
    return bool(with_optimizer and not scheduler.split_batches and hasattr(inner, "total_steps"))
