"""What-if questions: the forecast of a run under another schedule."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from lossforecast.advice import SHAPES
from lossforecast.callbacks.monitor import fan, short
from lossforecast.errors import ConfigurationError, LossForecastError, StateError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.schedule import LRSchedule, code_of

__all__ = ["answer", "drawn"]

_MAX_LENGTH_RATIO = 20  # of the length asked about to the planned length
_STOPS = 33  # steps of a fan
_POINTS = 257  # of a schedule that is drawn


def answer(forecaster: Forecaster, now: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Forecast a run as planned and under another schedule.

    Args:
        forecaster: the forecaster of the run.
        now: optimizer steps taken.
        asked: "decay_start" and "total_steps" in steps; "end_lr", the last learning rate; and
            "shape", one of `SHAPES`. Because the run goes on meanwhile, a decay that would start in
            the past starts now, and one that would end in the past ends one step later.

    Raises:
        ConfigurationError, ScheduleError: the schedule asked about is impossible.
        StateError: the saved state of the run does not allow a forecast.
    """
    try:
        answered = _answered(forecaster, now, asked)
        json.dumps(answered, allow_nan=False)
    except LossForecastError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise StateError(f"its numbers do not allow a forecast: {error!r:.200}") from error
    return answered


def drawn(schedule: LRSchedule) -> dict[str, list[Any]]:
    """Points of a schedule for a line, a few hundred at most: "steps" and "lr"."""
    last = schedule.total_steps
    even = np.rint(np.linspace(1, last, min(_POINTS, last))).astype(np.int64)
    bends = schedule.knots[0]
    steps = np.unique(np.concatenate([even, bends[bends >= 1][:_POINTS]]))
    return {"steps": steps.tolist(), "lr": [short(x) for x in schedule.lr(steps).tolist()]}


def _answered(forecaster: Forecaster, now: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    start, total, end, shape = _checked(forecaster, now, asked)
    plan = forecaster.schedule
    before = plan.extended_to(start) if start > plan.total_steps else plan
    other = before.with_decay(start=start, steps=total - start, shape=shape, end=end)
    planned, tried = forecaster.forecast(), forecaster.forecast(schedule=other)
    gain = planned.gain(other)
    lines = {"fan": fan(tried, _STOPS), "schedule": drawn(tried.schedule)}
    return {
        "plan": _forecast_dict(planned),
        "what_if": {**_forecast_dict(tried), **lines},
        "gain": {"median": short(gain), "lower80": short(gain.lower), "upper80": short(gain.upper)},
        "code": code_of(other),
    }


def _forecast_dict(forecast: Forecast) -> dict[str, Any]:
    return {**forecast.to_dict(), "total_steps": forecast.schedule.total_steps}


def _checked(
    forecaster: Forecaster, now: int, asked: Mapping[str, Any]
) -> tuple[int, int, float, str]:
    now, planned = max(forecaster.history.last_step, now), forecaster.schedule.total_steps
    start, total = (_whole(asked, name) for name in ("decay_start", "total_steps"))
    end, shape = _rate(asked, forecaster.schedule.peak), asked.get("shape")
    start, total = max(start, now), max(total, now + 1)
    if start >= total:
        raise ConfigurationError(f"total_steps is {total}: it must be after decay_start, {start}")
    if total > _MAX_LENGTH_RATIO * planned:
        raise ConfigurationError(
            f"total_steps is {total}: give at most {_MAX_LENGTH_RATIO} times the planned {planned}"
        )
    if not isinstance(shape, str) or shape not in SHAPES:
        raise ConfigurationError(f"shape is {shape!r:.40}: give one of {', '.join(SHAPES)}")
    return start, total, end, shape


def _rate(asked: Mapping[str, Any], peak: float) -> float:
    rate: Any = asked.get("end_lr")
    if type(rate) not in (int, float) or not 0 <= rate <= 10 * peak:
        raise ConfigurationError(
            f"end_lr is {rate!r:.40}: it must be a learning rate from 0 to ten times the peak, "
            f"{peak:g}"
        )
    return float(rate)


def _whole(asked: Mapping[str, Any], name: str) -> int:
    value = asked.get(name)
    if type(value) is not int:
        raise ConfigurationError(f"{name} is {value!r:.40}: it must be a whole number of steps")
    return value
