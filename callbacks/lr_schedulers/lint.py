"""Lint of the user's scheduler and of how often it is stepped, once, early in a run."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
from torch.optim import lr_scheduler as torch_lr

from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.lr_schedulers.clone import clone_of
from lossforecast.callbacks.lr_schedulers.from_torch import schedule_from_torch
from lossforecast.callbacks.lr_schedulers.stepping import (
    Positions,
    every,
    position_of,
    steps_per_call,
    unwrapped,
)
from lossforecast.log import logger
from lossforecast.schedule import Finding, Flaw, LRSchedule, climbs_again, falls_once, lint
from lossforecast.signals import contained
from lossforecast.status import Caveat

__all__ = [
    "Alternative",
    "LoopLint",
    "Stepping",
    "harmless",
    "inspect",
    "is_schedule_free",
    "per_process",
    "warn",
    "warn_if_assumed",
]

_LOOKAHEAD_RUNS = 4  # multiple of the run's length over which the end of a decay is sought
_HARDLY_DECAYED = 0.8  # of the peak: with a higher rate at the end, a decay has hardly begun
_LOW_END = 0.05  # of the peak: with a lower rate at the end, the decay is over
_MIN_OPTIMIZER_STEPS = 10  # in which the pace of a scheduler is measured
_MIN_SCHEDULER_STEPS = 3  # planned for these optimizer steps
_FAST_PACE = 1.8  # of the planned pace; the steps that a gradient scaler skips explain less
_SLOW_PACE = 0.5  # of the planned pace
_STEPPED_TOO_OFTEN_FLAWS = (Flaw.HORIZON_SHORT, Flaw.MANY_CYCLES, Flaw.RISES_AT_END, Flaw.OVERRUN)
"""Flaws that go away if the scheduler is stepped less often."""
_EVERY_STEP_HINT = (
    " (It is stepped after every optimizer step; if its lengths are in epochs, step it once per "
    "epoch and set steps_per_scheduler_step.)"
)
_MAX_WRAPPERS = 6  # around an optimizer; bounds the search where wrappers form a circle

P = ParamSpec("P")


def harmless(function: Callable[P, None]) -> Callable[P, None]:
    """Decorate a check to log its exceptions instead of raising them."""

    def report(error: Exception) -> None:
        logger.exception("the schedule could not be checked; training and forecasts go on")

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        with contained(report):
            function(*args, **kwargs)

    return call


def warn(findings: Iterable[Finding]) -> None:
    """Log each finding as a warning, with the name of its flaw."""
    for finding in findings:
        logger.warning("schedule lint, %s: %s", finding.flaw, finding.message)


def warn_if_assumed(scheduler: Any, plan: LRSchedule) -> None:
    """Warn if a scheduler's future could not be read at all, unless it follows a metric.

    Args:
        scheduler: the scheduler, or a wrapper of it.
        plan: the plan that was read from it.
    """
    inner, rates = unwrapped(scheduler)[0], plan.knots[1]
    if Caveat.LR_ASSUMED not in plan.caveats or (rates != rates[0]).any():
        return
    if not isinstance(inner, torch_lr.ReduceLROnPlateau):
        logger.warning(
            "the future learning rates of %s cannot be read: the present rate, %.4g, is assumed to "
            "be held. Give the planned rates as schedule=",
            type(inner).__name__,
            rates[0],
        )


def is_schedule_free(optimizer: Any) -> bool:
    """Return whether an optimizer, or one that it wraps, averages weights instead of annealing.

    Recognised by a class name such as ``AdamWScheduleFree``, by its package, or by the keys
    ``weight_sum`` and ``lr_max`` in its parameter groups.
    """
    for _ in range(_MAX_WRAPPERS):
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
    """How often a scheduler will be stepped in a run that begins now.

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
        """Return the rates of the run.

        Args:
            positions: replaces the positions of this object.
            ahead: the result is for a run `ahead` times as long.
        """
        return schedule_from_torch(
            self.scheduler,
            total_steps=ahead * self.total_steps,
            group=self.group,
            scheduler_steps=positions or self.positions,
        )

    @property
    def calls(self) -> int:
        """Scheduler steps in the whole run, including the one after its last optimizer step."""
        return int(self.positions(np.array([self.total_steps + 1]))[0])


@dataclass(frozen=True)
class Alternative:
    """Another way to step a scheduler: presumably the intended one, if it yields a usual schedule.

    Attributes:
        positions: `scheduler_steps` of `schedule_from_torch`.
        finding: reported if this way was presumably intended.
    """

    positions: Positions
    finding: Finding


def inspect(
    plan: LRSchedule,
    optimizer: Any,
    stepping: Stepping | None = None,
    alternatives: Sequence[Alternative] = (),
    hint: str = "",
) -> tuple[Finding, ...]:
    """Find flaws in the plan of a run that begins now, and in the stepping of its scheduler.

    Assumed rates are not checked. Neither is a scheduler that has been stepped before, because its
    past is unknown. The scheduler is only read.

    Args:
        plan: the learning rate of every step.
        optimizer: the torch optimizer.
        stepping: the scheduler that the plan was read from, if any.
        alternatives: ways to step it that are often confused with this one.
        hint: appended to the findings that go away if the scheduler is stepped less often.
    """
    return tuple(
        replace(finding, message=finding.message + hint)
        if finding.flaw in _STEPPED_TOO_OFTEN_FLAWS
        else finding
        for finding in _findings(plan, optimizer, stepping, alternatives)
    )


def _findings(
    plan: LRSchedule,
    optimizer: Any,
    stepping: Stepping | None,
    alternatives: Sequence[Alternative],
) -> tuple[Finding, ...]:
    known = Caveat.LR_ASSUMED not in plan.caveats
    if stepping is not None:
        scheduler, _ = unwrapped(stepping.scheduler)
        if (position_of(scheduler) or 0) > 0:
            return ()
        overrun = _overrun(scheduler, stepping.calls)
        if overrun is not None and _stops_by_itself(stepping.scheduler):
            known = True  # the wrapper holds the last rate
        elif overrun is not None:
            return (_overrun_finding(*overrun),)
    if is_schedule_free(optimizer):
        return lint(plan, optimizer=f"{type(optimizer).__name__} (schedule-free)")
    if not known:
        return ()
    beyond = None
    if stepping is not None and plan.lr(plan.total_steps) > _LOW_END * plan.peak:
        beyond = stepping.plan(ahead=_LOOKAHEAD_RUNS)
    findings = lint(plan, beyond=beyond)
    if stepping is not None:
        for alternative in alternatives:
            suspicious = _is_suspicious(plan, findings, alternative)
            if suspicious and _is_usual(stepping.plan(alternative.positions)):
                return (alternative.finding,)
    return findings


def _is_suspicious(plan: LRSchedule, findings: Sequence[Finding], alternative: Alternative) -> bool:
    """Return whether the plan suggests that the scheduler should be stepped in another way."""
    if alternative.finding.flaw is Flaw.STEPPED_TOO_SELDOM:
        return bool(plan.lr(plan.total_steps) >= _HARDLY_DECAYED * plan.peak)
    return bool(findings) or climbs_again(plan)


def _is_usual(plan: LRSchedule) -> bool:
    """Return whether the rate falls once, to a low value, as in most schedules."""
    return Caveat.LR_ASSUMED not in plan.caveats and falls_once(plan) and not lint(plan)


def _overrun_finding(allowed: int, calls: int) -> Finding:
    return Finding(
        Flaw.OVERRUN,
        f"OneCycleLR is made for {allowed:,} steps, but this run will step it {calls:,} times: "
        f"it will raise ValueError at step {allowed + 1:,} and end the training. Create it with "
        f"total_steps={calls}.",
    )


class LoopLint:
    """Checks the scheduler of a hand-written loop and its pace, once, early in a run.

    The pace is measured over at least ten optimizer steps after the first few, which a gradient
    scaler may skip. A plan that assumes the default pace is checked only when the scheduler turns
    out to be stepped at that pace. Only rank 0 checks. A resumed run is not checked again.

    Args:
        optimizer: the torch optimizer.
        plan: the learning rate of every step.
        scheduler: the scheduler that the plan was read from, if any.
        pace: optimizer steps between two calls of the scheduler's ``step()``.
        group: index of the parameter group.
    """

    def __init__(
        self, optimizer: Any, plan: LRSchedule, scheduler: Any, pace: int, group: int
    ) -> None:
        self._given: tuple[Any, LRSchedule] | None = (optimizer, plan)
        self._stepping: Stepping | None = None
        self._pace = pace
        self._pace_start: tuple[int, int] | None = None  # steps of optimizer and scheduler
        # checks the plan of a scheduler that is stepped as assumed, from its state at the start
        self._check_plan: Callable[[], None] | None = None
        if scheduler is not None:
            positions = every(pace, times=steps_per_call(scheduler))
            self._stepping = Stepping(scheduler, positions, plan.total_steps, group)

    @harmless
    def check(self, steps: int) -> None:
        """Check the plan before the first optimizer step, and the pace after `steps` of them."""
        given, stepping, check_plan = self._given, self._stepping, self._check_plan
        self.close()  # set again below if there is more to check
        if given is not None and steps == 0 and processes()[0] == 0:
            self._check_plan = self._at_start(*given, stepping)
            self._stepping = stepping
        elif given is None and stepping is not None:
            as_planned = self._is_stepped_as_planned(stepping, steps)
            if as_planned is None:
                self._stepping, self._check_plan = stepping, check_plan
            elif as_planned and check_plan is not None:
                check_plan()

    def close(self) -> None:
        """Drop the references to optimizer and scheduler; nothing is checked after this."""
        self._given = self._stepping = self._check_plan = None

    def _at_start(
        self, optimizer: Any, plan: LRSchedule, stepping: Stepping | None
    ) -> Callable[[], None] | None:
        """Check the plan, or return its check if it depends on a pace still to be measured."""
        if stepping is None:
            warn(inspect(plan, optimizer))
            return None
        warn_if_assumed(stepping.scheduler, plan)
        inner, times = unwrapped(stepping.scheduler)[0], steps_per_call(stepping.scheduler)
        alternatives = list[Alternative]()
        if times > 1:
            name = type(inner).__name__
            alternatives.append(per_process(name, times, self._pace, plan.total_steps))
        if self._pace > 1:
            alternatives.append(self._every_step(stepping))
        if times == self._pace == 1 and position_of(inner) is not None:
            with contained():  # a scheduler that cannot be copied is checked now
                copied = replace(stepping, scheduler=clone_of(inner))
                return lambda: warn(inspect(plan, optimizer, copied, hint=_EVERY_STEP_HINT))
        warn(inspect(plan, optimizer, stepping, alternatives))
        return None

    def _every_step(self, stepping: Stepping) -> Alternative:
        """Return the alternative to stepping the scheduler at the declared pace."""
        name, total = type(unwrapped(stepping.scheduler)[0]).__name__, stepping.total_steps
        message = (
            f"{name} seems made for {total:,} optimizer steps, but with "
            f"steps_per_scheduler_step={self._pace} it is stepped {stepping.calls:,} times: step "
            "it after every optimizer step and omit that argument."
        )
        return Alternative(every(1), Finding(Flaw.STEPPED_TOO_SELDOM, message))

    def _is_stepped_as_planned(self, stepping: Stepping, steps: int) -> bool | None:
        """Compare the pace of the scheduler with the plan; None while it is being measured."""
        position = position_of(unwrapped(stepping.scheduler)[0])
        if position is None:
            return False
        if self._pace_start is None:
            self._pace_start = steps, position
            return None
        first_step, first_position = self._pace_start
        before, now = stepping.positions(np.array([first_step, steps]) + 1).tolist()
        taken, moved, planned = steps - first_step, position - first_position, now - before
        if taken < _MIN_OPTIMIZER_STEPS or planned < _MIN_SCHEDULER_STEPS:
            return None
        measured = (
            f"in {taken:,} optimizer steps the scheduler moved by {moved:,} steps instead of the "
            f"planned {planned:,}, so the forecasts expect the wrong learning rate: "
        )
        if moved >= _FAST_PACE * planned:
            advice = (
                "step it once after each optimizer step, not once for each micro-batch or process, "
                "or give the intended rates as schedule=."
            )
            warn([Finding(Flaw.STEPPED_TOO_OFTEN, measured + advice)])
            return False
        if moved <= _SLOW_PACE * planned - 1:
            advice = (
                "if it is stepped once per epoch, set steps_per_scheduler_step= to the optimizer "
                "steps of an epoch; otherwise call its step() after every optimizer step."
            )
            warn([Finding(Flaw.STEPPED_TOO_SELDOM, measured + advice)])
            return False
        return True


def per_process(name: str, times: int, pace: int, total: int) -> Alternative:
    """Return the alternative to accelerate stepping a scheduler once for each process."""
    return Alternative(
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


def _overrun(scheduler: Any, calls: int) -> tuple[int, int] | None:
    """Return the steps that a ``OneCycleLR`` inside allows and those it will take, if more."""
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
    overruns = (_overrun(child, given) for child, given in parts)
    return next((overrun for overrun in overruns if overrun is not None), None)


def _stops_by_itself(scheduler: Any) -> bool:
    """Return whether this is accelerate's wrapper, which steps no ``OneCycleLR`` past its end."""
    with_optimizer = getattr(scheduler, "step_with_optimizer", False)
    inner = getattr(scheduler, "scheduler", None)
    return bool(with_optimizer and not scheduler.split_batches and hasattr(inner, "total_steps"))
