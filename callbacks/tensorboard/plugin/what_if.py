"""What-if questions: the forecast of a run under another schedule."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lossforecast.advice import SHAPES
from lossforecast.callbacks.monitor import fan, short
from lossforecast.callbacks.tensorboard.plugin.codes import codes
from lossforecast.callbacks.tensorboard.plugin.record import FAN_STEPS
from lossforecast.errors import ConfigurationError, LossForecastError, StateError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.schedule import LRSchedule

__all__ = ["answer", "schedule_points"]

_MAX_LENGTH_RATIO = 20  # of the length in a question to the planned length
_MAX_END_LR_RATIO = 10  # of the last learning rate in a question to the peak
_MAX_SAMPLED_STEPS = 257  # of a schedule; beside them as many of its knots


class _Decay(NamedTuple):
    """The decay that a question is about: first step, length of the run, last rate and shape."""

    start: int
    total_steps: int
    end_lr: float
    shape: str


def answer(forecaster: Forecaster, now: int, question: Mapping[str, Any]) -> dict[str, Any]:
    """Forecast a run as planned and under another schedule.

    Args:
        forecaster: the forecaster of the run.
        now: optimizer steps taken.
        question: "decay_start" and "total_steps" in steps; "end_lr", the last learning rate; and
            "shape", one of `SHAPES`. Because the run goes on meanwhile, a decay that would start in
            the past starts now, and one that would end in the past ends one step later.

    Raises:
        ConfigurationError, ScheduleError: the schedule of the question is impossible.
        StateError: the saved state of the run does not allow a forecast.
    """
    try:
        forecasts = _forecasts(forecaster, now, _decay(forecaster, now, question))
        json.dumps(forecasts, allow_nan=False)
    except LossForecastError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise StateError(f"its numbers do not allow a forecast: {error!r:.200}") from error
    return forecasts


def schedule_points(schedule: LRSchedule) -> dict[str, list[Any]]:
    """Points through which a schedule can be drawn, at most 514: lists "steps" and "lr"."""
    last = schedule.total_steps
    even = np.rint(np.linspace(1, last, min(_MAX_SAMPLED_STEPS, last))).astype(np.int64)
    knots = schedule.knots[0]
    steps = np.unique(np.concatenate([even, knots[knots >= 1][:_MAX_SAMPLED_STEPS]]))
    return {"steps": steps.tolist(), "lr": [short(x) for x in schedule.lr(steps).tolist()]}


def _forecasts(forecaster: Forecaster, now: int, decay: _Decay) -> dict[str, Any]:
    """The forecasts under the plan and with another decay, and the gain by the latter."""
    plan, start = forecaster.schedule, decay.start
    before = plan.extended_to(start) if start > plan.total_steps else plan
    steps = decay.total_steps - start
    other = before.with_decay(start=start, steps=steps, shape=decay.shape, end=decay.end_lr)
    planned, what_if = forecaster.forecast(), forecaster.forecast(schedule=other)
    gain = planned.gain(other)
    lines = {"fan": fan(what_if, FAN_STEPS), "schedule": schedule_points(what_if.schedule)}
    return {
        "plan": _forecast_dict(planned),
        "what_if": {**_forecast_dict(what_if), **lines},
        "gain": {"median": short(gain), "lower80": short(gain.lower), "upper80": short(gain.upper)},
        "code": codes(other, start, decay.shape, max(forecaster.history.last_step, now)),
    }


def _forecast_dict(forecast: Forecast) -> dict[str, Any]:
    return {**forecast.to_dict(), "total_steps": forecast.schedule.total_steps}


def _decay(forecaster: Forecaster, now: int, question: Mapping[str, Any]) -> _Decay:
    """The decay of a question, moved out of the past.

    Raises:
        ConfigurationError: a value is missing, has the wrong type or is out of range.
    """
    now, planned = max(forecaster.history.last_step, now), forecaster.schedule.total_steps
    start, total = (_whole(question, name) for name in ("decay_start", "total_steps"))
    end_lr, shape = _end_lr(question, forecaster.schedule.peak), question.get("shape")
    start, total = max(start, now), max(total, now + 1)
    if start >= total:
        raise ConfigurationError(f"total_steps is {total}: it must be after decay_start, {start}")
    if total > _MAX_LENGTH_RATIO * planned:
        raise ConfigurationError(
            f"total_steps is {total}: give at most {_MAX_LENGTH_RATIO} times the planned {planned}"
        )
    if not isinstance(shape, str) or shape not in SHAPES:
        raise ConfigurationError(f"shape is {shape!r:.40}: give one of {', '.join(SHAPES)}")
    return _Decay(start, total, end_lr, shape)


def _end_lr(question: Mapping[str, Any], peak: float) -> float:
    rate: Any = question.get("end_lr")
    if type(rate) not in (int, float) or not 0 <= rate <= _MAX_END_LR_RATIO * peak:
        raise ConfigurationError(
            f"end_lr is {rate!r:.40}: it must be a learning rate from 0 to {_MAX_END_LR_RATIO} "
            f"times the peak, {peak:g}"
        )
    return float(rate)


def _whole(question: Mapping[str, Any], name: str) -> int:
    value = question.get(name)
    if type(value) is not int:
        raise ConfigurationError(f"{name} is {value!r:.40}: it must be a whole number of steps")
    return value
