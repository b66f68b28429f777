"""Any sequence of events: no exception but our own, a state that is plain, forecasts finite."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, find, given, settings
from hypothesis import strategies as st

from lossforecast import Forecaster, LossForecastError, LRSchedule, RunInfo, Status

EXAMPLES = 10_000 if os.environ.get("LOSSFORECAST_FULL") else 50
TOTAL = 300

usual = st.floats(0.1, 10.0)
losses = st.one_of(
    usual,
    usual,
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e30, -1e30, 1e-30, 1e308, 5e-324]),
    st.floats(-10, 10),
    st.floats(allow_nan=True, allow_infinity=True),
)
rates = st.one_of(st.none(), st.sampled_from([0.0, 1e-3, 1.0, math.nan]), st.floats(0, 1e3))
steps = st.integers(0, TOTAL)


@dataclass
class Run:
    """A forecaster, and what a run may do with it."""

    forecaster: Forecaster

    def observe(self, ahead: int, loss: float, rate: float | None) -> None:
        self.forecaster.observe(max(self.forecaster.history.last_step, 0) + ahead, loss, rate)

    def observe_block(self, size: int, start: float, slope: float, noise: float) -> None:
        first = self.forecaster.history.last_step + 1
        at = np.arange(first, first + size)
        jitter = noise * np.sin(37.0 * at)
        self.forecaster.observe_many(at, start * (at + 1.0) ** -slope + jitter)

    def rewind(self, step: int, loss: float) -> None:
        self.forecaster.observe(step, loss)

    def resume(self) -> None:
        before = self.forecaster
        text = json.dumps(before.state_dict(), allow_nan=False)
        self.forecaster = Forecaster.from_state_dict(json.loads(text))
        assert self.forecaster.state_dict() == before.state_dict()

    def replan(self, schedule: LRSchedule) -> None:
        self.forecaster.replan(schedule)

    def gap(self, step: int, gap: float, stderr: float) -> None:
        self.forecaster.observe_gap(step, gap, stderr, 100)

    def mark(self, ahead: int, name: str) -> None:
        self.forecaster.event(max(self.forecaster.history.last_step, 0) + ahead, name)

    def forecast(self, step: int | None) -> None:
        check(self.forecaster, step, None)

    def what_if(self, schedule: LRSchedule) -> None:
        check(self.forecaster, None, schedule)

    def recommend(self, target: float | None) -> None:
        self.forecaster.recommend(target).message.encode()


def check(forecaster: Forecaster, step: int | None, schedule: LRSchedule | None) -> None:
    forecast = forecaster.forecast(step, schedule)
    numbers = np.array([forecast.mean, forecast.std, *forecast.interval(0.8)])
    if forecast.status is Status.NO_DATA:
        assert np.isnan(numbers).all()
        return
    assert np.isfinite(numbers).all(), f"{numbers} from {forecast}"
    lower, upper = forecast.interval(0.95)
    rounding = 1e-9 * (abs(lower) + abs(upper))
    assert lower - rounding <= numbers[2] <= numbers[3] <= upper + rounding
    assert forecast.std >= 0
    curve = forecast.curve([0, forecast.made_at, forecast.step])
    assert np.isfinite([curve.mean, curve.lower, curve.upper]).all()
    assert 0 <= forecast.prob_below(0.0) <= 1


def schedules(total: int) -> st.SearchStrategy[LRSchedule]:
    peaks = st.sampled_from([0.0, 1e-8, 1e-3, 1.0, 1e3])
    return st.one_of(
        st.builds(LRSchedule.cosine, st.just(total), peaks.filter(bool), warmup=st.integers(0, 9)),
        st.builds(LRSchedule.constant, st.just(total), peaks),
        st.builds(
            LRSchedule.from_array,
            st.lists(st.sampled_from([0.0, 1e-4, 1e-3, 1e-2]), min_size=total, max_size=total),
        ),
        st.builds(
            LRSchedule.wsd,
            st.just(total),
            peaks.filter(bool),
            decay_fraction=st.sampled_from([0.01, 0.2, 1.0]),
        ),
    )


EVENTS: dict[Callable[..., None], tuple[st.SearchStrategy[object], ...]] = {
    Run.observe: (st.integers(0, 40), losses, rates),
    Run.observe_block: (st.integers(1, 60), usual, st.floats(-0.5, 1), st.sampled_from([0, 0.1])),
    Run.rewind: (steps, losses),
    Run.resume: (),
    Run.replan: (st.sampled_from([60, TOTAL, 500]).flatmap(schedules),),
    Run.gap: (steps, st.floats(-1, 1), st.floats(0, 1)),
    Run.mark: (st.integers(-50, 50), st.sampled_from(["longer sequences", "$", ""])),
    Run.forecast: (st.one_of(st.none(), steps),),
    Run.what_if: (st.sampled_from([60, TOTAL, 500]).flatmap(schedules),),
    Run.recommend: (st.one_of(st.none(), usual, losses),),
}
event = st.one_of([st.tuples(st.just(what), *given) for what, given in EVENTS.items()])


def refused(what: Callable[..., None], *arguments: object) -> bool:
    """Whether one of our own errors came, which must say something."""
    try:
        what(*arguments)
    except LossForecastError as error:
        return bool(str(error))
    return False


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    schedule=schedules(TOTAL),
    metric=st.sampled_from(["train", "val"]),
    optimizer=st.sampled_from(["adamw", None]),
    events=st.lists(event, min_size=1, max_size=12),
)
@example(  # a first loss that underflows when it is divided by the latest
    schedule=LRSchedule.constant(TOTAL, 0.0),
    metric="train",
    optimizer="adamw",
    events=[
        (Run.observe, 0, 0.0, None),
        (Run.observe, 1, 5e-324, None),
        (Run.observe_block, 8, 2.0, 0.0, 0),
    ],
)
@example(  # an observed rate that is next to 0, and a what-if whose rate is not
    schedule=LRSchedule.constant(TOTAL, 0.0),
    metric="train",
    optimizer="adamw",
    events=[
        (Run.observe, 1, 1.0, 5e-324),
        (Run.observe, 29, 1.0, None),
        (Run.what_if, LRSchedule.constant(60, 1e-8)),
    ],
)
@example(
    schedule=LRSchedule.constant(TOTAL, 5e-324),
    metric="train",
    optimizer="adamw",
    events=[
        (Run.observe_block, 8, 2.0, 0.5, 0),
        (Run.what_if, LRSchedule.constant(60, 1e3)),
    ],
)
def test_any_sequence_of_events(
    schedule: LRSchedule, metric: str, optimizer: str | None, events: list[tuple[object, ...]]
) -> None:
    run = Run(Forecaster(schedule, RunInfo(metric, optimizer)))
    for what, *arguments in events:
        assert callable(what)
        before = run.forecaster.history.state_dict(), run.forecaster.schedule
        if refused(what, run, *arguments):
            after = run.forecaster.history.state_dict(), run.forecaster.schedule
            assert after == before, "what is refused changes nothing"
    run.resume()
    check(run.forecaster, None, None)


@pytest.mark.parametrize("what", EVENTS)
def test_every_event_is_accepted_at_times(what: Callable[..., None]) -> None:
    """So that the test above is not about refusals."""

    def accepted(arguments: tuple[object, ...]) -> bool:
        run = Run(Forecaster(LRSchedule.cosine(TOTAL, 1e-3)))
        run.observe_block(40, 3.0, 0.2, 0.0)
        return not refused(what, run, *arguments)

    find(st.tuples(*EVENTS[what]), accepted, settings=settings(phases=[Phase.generate]))
