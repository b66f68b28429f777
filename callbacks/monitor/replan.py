"""Keeps the plan of a forecaster in step with the run: rates that change, runs that are resumed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.forecaster import Forecaster
from lossforecast.log import logger
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = ["adopt", "assumed", "follow"]


def follow(forecaster: Forecaster, step: int, present_rate: float) -> None:
    """Hold the present rate from `step` on, where the plan assumes that another one is held."""
    plan = forecaster.schedule
    if Caveat.LR_ASSUMED not in plan.caveats or step >= plan.total_steps:
        return
    ahead = _ahead(plan, step)
    if ahead[0] != present_rate and _held(ahead):
        held = LRSchedule.constant(plan.total_steps, present_rate)
        forecaster.replan(assumed(plan.joined(step, held)))


def adopt(forecaster: Forecaster, planned: LRSchedule, step: int, *, warn: bool = True) -> None:
    """On resume: keep the saved plan if the new one goes on alike, else replan and say so.

    The new plan knows nothing of the time before `step`, so the saved one stands there.
    """
    saved = forecaster.schedule
    if step >= planned.total_steps or _same_future(saved, planned, step):
        return
    if warn:
        logger.warning(
            "resumed at step %d with another schedule (%r, before: %r): the plan is changed",
            step,
            planned,
            saved,
        )
    forecaster.replan(saved.joined(step, planned) if step <= saved.total_steps else planned)


def assumed(schedule: LRSchedule) -> LRSchedule:
    """The same schedule, marked as assumed."""
    state: Mapping[str, Any] = schedule.to_dict()
    return LRSchedule.from_dict({**state, "caveats": [*state["caveats"], Caveat.LR_ASSUMED]})


def _same_future(saved: LRSchedule, planned: LRSchedule, step: int) -> bool:
    if saved.total_steps != planned.total_steps:
        return False
    before, after = _ahead(saved, step), _ahead(planned, step)
    if Caveat.LR_ASSUMED in saved.caveats & planned.caveats and _held(before) and _held(after):
        return True  # `follow` will see to the rate
    ahead = planned.knots[0]
    ahead = ahead[ahead > step]
    return bool((abs(saved.lr(ahead) - planned.lr(ahead)) <= 1e-6 * planned.peak).all())


def _ahead(plan: LRSchedule, step: int) -> NDArray[np.float64]:
    steps, rates = plan.knots
    return rates[steps > step]


def _held(rates: NDArray[np.float64]) -> bool:
    return bool((rates == rates[0]).all())
