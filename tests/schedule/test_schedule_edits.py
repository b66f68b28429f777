"""Edits of a schedule against the same edits of a plain array."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lossforecast.errors import ScheduleError
from lossforecast.schedule.lr_schedule import DECAY_SHAPES, LRSchedule
from lossforecast.status import Caveat

Model = tuple[LRSchedule, NDArray[np.float64], float]
"""A schedule, the rates it must have and the largest rate it was made from.

A decay cut down to its end is as exact as where it came from, and not as its own small rates.
"""

rates = st.floats(1e-6, 1.0)
totals = st.integers(1, 300)


def test_extended_holds_the_last_rate() -> None:
    schedule = LRSchedule.linear(10, 1.0, end=0.25).extended_to(13)
    assert schedule.lr([10, 11, 13]).tolist() == [0.25, 0.25, 0.25]
    assert schedule.extended_to(13) == schedule


def test_truncated_is_the_beginning() -> None:
    whole = LRSchedule.cosine(100, 1.0, warmup=10)
    assert whole.truncated_to(37).to_array().tolist() == whole.to_array()[:37].tolist()
    assert whole.truncated_to(100) == whole


def test_a_decay_may_be_shorter_or_longer_than_what_is_left() -> None:
    plan = LRSchedule.constant(100, 1.0)
    assert plan.with_decay(start=60).total_steps == 100
    assert plan.with_decay(start=60, steps=4).lr([60, 61, 64]).tolist() == [1.0, 0.75, 0.0]
    assert plan.with_decay(start=100, steps=50).total_steps == 150
    assert plan.with_decay(start=0, steps=4).to_array().tolist() == [0.75, 0.5, 0.25, 0.0]


def test_an_exponential_decay_ends_at_a_hundredth() -> None:
    plan = LRSchedule.constant(100, 1.0).with_decay(start=50, shape="exp")
    assert plan.lr([50, 75, 100]).tolist() == pytest.approx([1.0, 0.1, 0.01], rel=1e-12)


@pytest.mark.parametrize("shape", DECAY_SHAPES)
def test_a_decay_to_where_it_began_is_constant(shape: str) -> None:
    plan = LRSchedule.constant(20, 0.3).with_decay(start=5, shape=shape, end=0.3)
    assert plan.to_array().tolist() == [0.3] * 20
    assert plan.s1(20) == pytest.approx(6.0, rel=1e-14)


@pytest.mark.parametrize("shape", DECAY_SHAPES)
def test_a_rate_scaled_to_0_is_0(shape: str) -> None:
    stopped = LRSchedule.wsd(20, 1.0, decay_fraction=0.5, shape=shape).scaled_from(12, 0.0)
    assert stopped.lr([13, 20]).tolist() == [0.0, 0.0]
    assert stopped.s1(20) == stopped.s1(12) > 0


def test_joined_again_and_again_keeps_the_rates_and_no_more() -> None:
    rng = np.random.default_rng(0)
    plan = LRSchedule.from_array(rng.uniform(0.1, 1.0, 200))
    rates = plan.to_array()
    for step in range(5, 200, 5):
        fresh = rng.uniform(0.1, 1.0, 200)
        rates[step:] = fresh[step:]
        plan = plan.joined(step, plan.joined(step, LRSchedule.from_array(fresh)))
    np.testing.assert_array_equal(plan.to_array(), rates)
    steps = np.arange(1, 201)
    np.testing.assert_allclose(plan.s1(steps), np.cumsum(rates), rtol=1e-12)
    assert plan._values.size <= 2 * 200


def test_joined_takes_over_after_the_step() -> None:
    first, second = LRSchedule.constant(10, 1.0), LRSchedule.from_array(np.arange(20.0))
    joined = first.joined(5, second)
    assert joined.to_array().tolist() == [1.0] * 5 + list(range(5, 20))
    assert first.joined(0, second).to_array().tolist() == second.to_array().tolist()


def test_edits_leave_the_original_alone() -> None:
    plan = LRSchedule.from_array([1.0, 2.0, 3.0, 2.0])
    before = plan.to_dict()
    plan.scaled_from(1, 0.5)
    plan.with_decay(start=2)
    plan.joined(2, LRSchedule.constant(9, 1.0))
    plan.truncated_to(2)
    plan.extended_to(20)
    assert plan.to_dict() == before


def test_caveats_are_carried_through_edits() -> None:
    assumed = LRSchedule.from_array([1.0, 2.0, 3.0], caveats=[Caveat.LR_ASSUMED])
    approximated = LRSchedule.from_points(
        [0, 9], [1.0, 0.0], total_steps=9, caveats=[Caveat.SCHEDULE_APPROXIMATED]
    )
    for edited in (
        assumed.extended_to(9),
        assumed.truncated_to(2),
        assumed.with_decay(start=2),
        assumed.scaled_from(2, 0.5),
    ):
        assert edited.caveats == {Caveat.LR_ASSUMED}
    # caveats are about the future, and that is the other schedule's
    assert assumed.joined(3, approximated).caveats == {Caveat.SCHEDULE_APPROXIMATED}
    assert LRSchedule.constant(9, 1.0).caveats == frozenset()


@st.composite
def originals(draw: st.DrawFn) -> Model:
    """Any named shape, some points or an array, with the rates it reports."""
    total, peak = draw(totals), draw(rates)
    warmup = draw(st.integers(0, 40))
    kind = draw(st.sampled_from(["named", "points", "array"]))
    if kind == "array":
        values = draw(st.lists(rates | st.just(0.0), min_size=1, max_size=60))
        return LRSchedule.from_array(values), np.array(values), max(values)
    if kind == "points":
        steps = sorted(draw(st.sets(st.integers(0, 400), min_size=1, max_size=6)))
        lrs = draw(st.lists(rates, min_size=len(steps), max_size=len(steps)))
        schedule = LRSchedule.from_points(steps, lrs, total_steps=total)
        return schedule, np.interp(np.arange(1, total + 1), steps, lrs), max(lrs)
    makers: list[Callable[[], LRSchedule]] = [
        lambda: LRSchedule.constant(total, peak, warmup=warmup),
        lambda: LRSchedule.linear(total, peak, end=peak / 7, warmup=warmup),
        lambda: LRSchedule.cosine(total, peak, warmup=warmup),
        lambda: LRSchedule.wsd(total, peak, decay_fraction=0.3, shape="sqrt", warmup=warmup),
        lambda: LRSchedule.wsd(total, peak, decay_fraction=0.8, shape="exp", warmup=warmup),
        lambda: LRSchedule.inverse_sqrt(total, peak, warmup=warmup + 1),
        lambda: LRSchedule.one_cycle(total + 1, peak),
    ]
    schedule = draw(st.sampled_from(makers))()
    return schedule, schedule.to_array(), peak  # compared with its formula in test_schedule.py


@st.composite
def edited(draw: st.DrawFn) -> Model:
    """A chain of edits, applied to a schedule and to its array."""
    schedule, array, largest = draw(originals())
    for _ in range(draw(st.integers(0, 6))):
        total = array.size
        edit = draw(st.sampled_from(["extend", "truncate", "decay", "scale", "join"]))
        step = draw(st.integers(0, total))
        match edit:
            case "extend":
                schedule = schedule.extended_to(total + step)
                array = np.append(array, np.full(step, array[-1]))
            case "truncate" if step:
                schedule, array = schedule.truncated_to(step), array[:step]
            case "decay":
                shape, steps = draw(st.sampled_from(sorted(DECAY_SHAPES))), draw(totals)
                begin, end = float(array[max(step, 1) - 1]), draw(rates)
                if shape == "exp" and begin == 0:
                    continue
                schedule = schedule.with_decay(start=step, steps=steps, shape=shape, end=end)
                u = np.arange(1, steps + 1) / steps
                tail = {
                    "linear": begin + (end - begin) * u,
                    "cosine": end + (begin - end) * (1 + np.cos(np.pi * u)) / 2,
                    "sqrt": begin + (end - begin) * np.sqrt(u),
                    "exp": begin * (end / max(begin, 1e-300)) ** u,
                }
                array = np.append(array[:step], tail[shape])
                largest = max(largest, end)
            case "scale" if step < total:
                factor = draw(st.sampled_from([0.0, 0.1, 0.5, 3.0]))
                schedule = schedule.scaled_from(step, factor)
                array = np.append(array[:step], factor * array[step:])
                largest *= max(factor, 1.0)
            case "join":
                other, others, their_largest = draw(originals())
                if step < others.size:
                    schedule = schedule.joined(step, other)
                    array = np.append(array[:step], others[step:])
                    largest = max(largest, their_largest)
    return schedule, array, largest


@settings(max_examples=300, deadline=None)
@given(model=edited())
def test_any_chain_of_edits_is_that_of_the_array(model: Model) -> None:
    schedule, array, largest = model
    assert schedule.total_steps == array.size
    atol = 1e-14 * largest
    np.testing.assert_allclose(schedule.to_array(), array, rtol=1e-12, atol=atol)
    assert schedule.peak == pytest.approx(array.max(), rel=1e-12, abs=atol)
    sums = [0.0, *(math.fsum(array[:step]) for step in range(1, array.size + 1))]
    np.testing.assert_allclose(
        schedule.s1(np.arange(array.size + 1)), sums, rtol=1e-12, atol=10 * atol
    )
    knots, values = schedule.knots
    np.testing.assert_allclose(values, array[knots - 1], rtol=1e-12, atol=atol)
    assert LRSchedule.from_dict(schedule.to_dict()) == schedule


PLAN = LRSchedule.cosine(10, 1e-3)
ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "shortened by extending": (
        lambda: PLAN.extended_to(5),
        r"cannot extend a schedule of 10 steps to 5: use truncated_to\(\) to end early",
    ),
    "extended by truncating": (
        lambda: PLAN.truncated_to(20),
        r"cannot truncate a schedule of 10 steps to 20: use extended_to\(\)",
    ),
    "truncated to nothing": (
        lambda: PLAN.truncated_to(0),
        r"total_steps is 0; it must be at least 1",
    ),
    "extended by a string": (
        lambda: PLAN.extended_to("20"),  # type: ignore[arg-type]
        r"total_steps must be a number, not '20' \(str\)",
    ),
    "decay after the end": (
        lambda: PLAN.with_decay(start=11),
        r"starts at step 11, after the end of the schedule \(10\): use extended_to\(11\) first",
    ),
    "decay at the end": (
        lambda: PLAN.with_decay(start=10),
        r"starts at step 10, the end of the schedule: give its length, steps",
    ),
    "decay of no steps": (
        lambda: PLAN.with_decay(start=5, steps=0),
        r"steps of the decay is 0; it must be at least 1",
    ),
    "decay before the start": (
        lambda: PLAN.with_decay(start=-1),
        r"start is -1; it must be at least 0",
    ),
    "decay to less than 0": (
        lambda: PLAN.with_decay(start=5, end=-1e-9),
        r"end is -1e-09: it must be finite and 0 or more",
    ),
    "exponential decay to 0": (
        lambda: PLAN.with_decay(start=5, shape="exp", end=0),
        r"an exponential decay from .* to 0.0 is impossible: give rates above 0",
    ),
    "exponential decay from 0": (
        lambda: PLAN.with_decay(start=10, steps=5, shape="exp", end=1e-4),
        r"an exponential decay from 0.0 to 0.0001 is impossible: give rates above 0",
    ),
    "unknown shape": (
        lambda: PLAN.with_decay(start=5, shape="Linear"),
        r"unknown decay shape 'Linear': one of \['cosine', 'exp', 'linear', 'sqrt'\]",
    ),
    "nothing to scale": (
        lambda: PLAN.scaled_from(10, 0.5),
        r"no step after 10 in a schedule of 10: nothing to scale",
    ),
    "scaled below 0": (
        lambda: PLAN.scaled_from(5, -0.5),
        r"factor is -0.5: it must be finite and 0 or more",
    ),
    "scaled by nan": (lambda: PLAN.scaled_from(5, math.nan), r"factor is nan: it must be finite"),
    "scaled out of the numbers": (
        lambda: LRSchedule.constant(10, 1e3).scaled_from(5, 1e308),
        r"factor is 1e\+308: no learning rate is that large",
    ),
    "joined after the end": (
        lambda: PLAN.joined(11, LRSchedule.constant(20, 1.0)),
        r"cannot join at step 11: this schedule has 10 steps, the other 20; join at an earlier one",
    ),
    "joined to what is over": (
        lambda: PLAN.joined(5, LRSchedule.constant(5, 1.0)),
        r"cannot join at step 5: this schedule has 10 steps, the other 5; join at an earlier one",
    ),
    "joined to a list": (
        lambda: PLAN.joined(5, [1.0]),  # type: ignore[arg-type]
        r"other must be an LRSchedule, not \[1.0\]",
    ),
}


@pytest.mark.parametrize(("misuse", "message"), ERRORS.values(), ids=ERRORS)
def test_misuse_is_told_what_was_given_and_what_to_do(
    misuse: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ScheduleError, match=message):
        misuse()
