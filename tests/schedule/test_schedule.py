"""Named shapes, points and arrays: their values, sums, peaks, memory and errors."""

import itertools
import math
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from lossforecast.errors import ScheduleError
from lossforecast.schedule.lr_schedule import DECAY_SHAPES, LRSchedule
from lossforecast.status import Caveat

T, PEAK, WARMUP = 1_000, 3e-3, 100

Rate = Callable[[int], float]


def warmed(after: Rate) -> Rate:
    return lambda i: PEAK * i / WARMUP if i <= WARMUP else after(i)


def decay(shape: str, begin: float, end: float, u: float) -> float:
    """The four decays as their papers and users write them."""
    match shape:
        case "linear":
            return begin + (end - begin) * u
        case "cosine":
            return end + (begin - end) * 0.5 * (1 + math.cos(math.pi * u))
        case "sqrt":
            return end + (begin - end) * (1 - math.sqrt(u))
    return begin * math.pow(end / begin, u)


def wsd(shape: str, end: float) -> Rate:
    return warmed(lambda i: PEAK if i <= 750 else decay(shape, PEAK, end, (i - 750) / 250))


NAMED: dict[str, tuple[LRSchedule, Rate]] = {
    "constant": (LRSchedule.constant(T, PEAK), lambda i: PEAK),
    "constant with warm-up": (
        LRSchedule.constant(T, PEAK, warmup=WARMUP),
        warmed(lambda i: PEAK),
    ),
    "linear": (LRSchedule.linear(T, PEAK), lambda i: PEAK * (1 - i / T)),
    "linear with warm-up": (
        LRSchedule.linear(T, PEAK, end=1e-4, warmup=WARMUP),
        warmed(lambda i: decay("linear", PEAK, 1e-4, (i - 100) / 900)),
    ),
    "cosine": (LRSchedule.cosine(T, PEAK), lambda i: decay("cosine", PEAK, 0, i / T)),
    "cosine with warm-up": (
        LRSchedule.cosine(T, PEAK, end=1e-4, warmup=WARMUP),
        warmed(lambda i: decay("cosine", PEAK, 1e-4, (i - 100) / 900)),
    ),
    **{
        f"wsd {shape}": (
            LRSchedule.wsd(T, PEAK, decay_fraction=0.25, shape=shape, warmup=WARMUP),
            wsd(shape, PEAK / 100 if shape == "exp" else 0.0),
        )
        for shape in DECAY_SHAPES
    },
    **{
        f"wsd {shape} to a rate": (
            LRSchedule.wsd(T, PEAK, decay_fraction=0.25, shape=shape, end=1e-4, warmup=WARMUP),
            wsd(shape, 1e-4),
        )
        for shape in DECAY_SHAPES
    },
    "step decay": (
        LRSchedule.step_decay(T, PEAK, milestones=[300, 600, 5_000], factor=0.3, warmup=WARMUP),
        warmed(lambda i: PEAK * 0.3 ** ((i > 300) + (i > 600))),
    ),
    "inverse sqrt": (
        LRSchedule.inverse_sqrt(T, PEAK, warmup=WARMUP),
        warmed(lambda i: PEAK * math.sqrt(WARMUP / i)),
    ),
    "inverse sqrt from step 1": (
        LRSchedule.inverse_sqrt(T, PEAK, warmup=1),
        lambda i: PEAK / math.sqrt(i),
    ),
    "warm-up longer than the run": (
        LRSchedule.cosine(T, PEAK, warmup=4_000),
        lambda i: PEAK * i / 4_000,
    ),
    "warm-up into the decay": (
        LRSchedule.wsd(T, PEAK, decay_fraction=1.0, warmup=WARMUP),
        warmed(lambda i: decay("linear", PEAK, 0, (i - 100) / 900)),
    ),
    "all zero": (LRSchedule.cosine(T, 0.0, warmup=WARMUP), lambda i: 0.0),
}


@pytest.mark.parametrize(("schedule", "rate"), NAMED.values(), ids=NAMED)
def test_a_named_shape_is_its_formula_at_every_step(schedule: LRSchedule, rate: Rate) -> None:
    expected = [rate(i) for i in range(1, T + 1)]
    assert schedule.total_steps == T
    np.testing.assert_allclose(schedule.to_array(), expected, rtol=1e-12, atol=1e-15 * PEAK)
    assert schedule.to_array().min() >= 0
    assert schedule.peak == pytest.approx(max(expected), rel=1e-12)


@pytest.mark.parametrize("schedule", [s for s, _ in NAMED.values()], ids=NAMED)
def test_s1_is_the_running_sum_of_the_rates(schedule: LRSchedule) -> None:
    sums = np.concatenate([[0.0], np.cumsum(schedule.to_array())])
    np.testing.assert_allclose(schedule.s1(np.arange(T + 1)), sums, rtol=1e-12)


@pytest.mark.parametrize(("total", "fraction"), [(10, 0.3), (100, 0.3), (997, 0.25), (64, 0.999)])
def test_one_cycle_is_that_of_torch(total: int, fraction: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PEAK, total_steps=total, pct_start=fraction
    )
    rates = []
    for _ in range(total):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if len(rates) < total:
            scheduler.step()
    schedule = LRSchedule.one_cycle(total, PEAK, warmup_fraction=fraction)
    np.testing.assert_allclose(schedule.to_array(), rates, rtol=1e-10)
    np.testing.assert_allclose(schedule.s1(np.arange(1, total + 1)), np.cumsum(rates), rtol=1e-12)


def test_a_decay_always_has_a_step_to_end_on() -> None:
    assert LRSchedule.wsd(10, 1.0, decay_fraction=1e-9).to_array().tolist() == [1.0] * 9 + [0.0]
    assert LRSchedule.wsd(1, 1.0).to_array().tolist() == [0.0]
    assert LRSchedule.wsd(10, 1.0, warmup=40, end=0.5).lr([9, 10]).tolist() == [9 / 40, 0.5]


def test_an_array_is_taken_as_it_is() -> None:
    rates = np.random.default_rng(0).random(5_000)
    schedule = LRSchedule.from_array(rates)
    given = rates.copy()
    rates[:] = 7.0  # the schedule must have its own copy
    assert schedule.to_array().tolist() == given.tolist()
    assert schedule.peak == given.max()
    np.testing.assert_allclose(schedule.s1(np.arange(1, 5_001)), np.cumsum(given), rtol=1e-12)


@pytest.mark.parametrize(
    ("steps", "lrs", "total"),
    [
        ([0, 10, 30], [0.0, 1.0, 0.25], 40),  # a point at step 0, the last value held
        ([5, 10], [1.0, 2.0], 12),  # the first value held
        ([0], [0.5], 3),
        ([20], [0.5], 3),
        ([1, 2, 3], [3.0, 1.0, 2.0], 3),
        ([4, 100], [1.0, 0.0], 10),  # points beyond the end shape the lines
        ([50, 100], [1.0, 0.0], 10),
        ([0.0, 4.0], [1.0, 0.0], 10),  # whole numbers as floats, as loggers write them
    ],
)
def test_points_are_joined_by_straight_lines(
    steps: list[float], lrs: list[float], total: int
) -> None:
    schedule = LRSchedule.from_points(steps, lrs, total_steps=total)
    expected = np.interp(np.arange(1, total + 1), steps, lrs)
    np.testing.assert_allclose(schedule.to_array(), expected, rtol=1e-12)
    np.testing.assert_allclose(
        schedule.s1(np.arange(1, total + 1)), np.cumsum(expected), rtol=1e-12
    )


def test_any_shape_of_steps_may_be_asked_for() -> None:
    schedule = LRSchedule.linear(10, 1.0)
    assert schedule.lr(10).shape == ()
    assert schedule.s1(0) == 0
    assert schedule.lr(np.ones((2, 3))).shape == (2, 3)
    assert schedule.lr([]).shape == (0,)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (LRSchedule.constant(T, PEAK), 0),
        (LRSchedule.linear(T, PEAK), 0),
        (LRSchedule.constant(T, PEAK, warmup=1), 0),  # step 1 has the peak already
        (LRSchedule.constant(10**7, PEAK, warmup=1_234), 1_234),
        (LRSchedule.cosine(T, PEAK, warmup=WARMUP), WARMUP),
        (LRSchedule.inverse_sqrt(10**6, PEAK, warmup=777), 777),
        (LRSchedule.one_cycle(1_000, PEAK), 300),
        (LRSchedule.step_decay(T, PEAK, milestones=[100], warmup=100), 100),
        (LRSchedule.cosine(T, PEAK, warmup=4_000), T),  # it rises to the end
        (LRSchedule.from_array([1.0, 2.0, 2.0, 3.0]), 4),  # in stairs
        (LRSchedule.from_array(LRSchedule.cosine(10**5, PEAK, warmup=1_003).to_array()), 1_003),
    ],
)
def test_warmup_steps(schedule: LRSchedule, expected: int) -> None:
    assert schedule.warmup_steps == expected


def test_ten_million_steps_are_small() -> None:
    total = 10**7
    makers: list[Callable[[], LRSchedule]] = [
        lambda: LRSchedule.constant(total, PEAK, warmup=2_000),
        lambda: LRSchedule.linear(total, PEAK, warmup=2_000),
        lambda: LRSchedule.cosine(total, PEAK, warmup=2_000),
        *(
            partial(LRSchedule.wsd, total, PEAK, shape=shape, warmup=2_000)
            for shape in DECAY_SHAPES
        ),
        lambda: LRSchedule.step_decay(total, PEAK, milestones=range(10**5, total, 10**5)),
        lambda: LRSchedule.inverse_sqrt(total, PEAK, warmup=2_000),
        lambda: LRSchedule.one_cycle(total, PEAK),
        lambda: LRSchedule.from_points(
            np.arange(10_000) * 1_000, np.linspace(PEAK, 0, 10_000), total_steps=total
        ),
    ]
    for make in makers:
        tracemalloc.start()
        try:
            schedule = make()
            assert schedule.s1(total) > 0
            assert schedule.lr(np.linspace(1, total, 1_000).astype(int)).max() <= PEAK
            assert schedule.knots[0][-1] == total
            assert schedule.peak == pytest.approx(PEAK)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 10e6, f"{schedule}: {most / 1e6:.1f} MB"


@pytest.mark.parametrize("shape", DECAY_SHAPES)
def test_sums_stay_exact_over_a_million_steps(shape: str) -> None:
    schedule = LRSchedule.wsd(10**6, PEAK, decay_fraction=0.5, shape=shape, warmup=2_000)
    steps = np.array([1_999, 500_000, 500_001, 765_432, 10**6])
    rates = schedule.to_array()
    exact = [math.fsum(rates[:step]) for step in steps]
    np.testing.assert_allclose(schedule.s1(steps), exact, rtol=1e-12)


def test_schedules_are_equal_when_their_pieces_are() -> None:
    one, same = (LRSchedule.cosine(100, 1e-3, warmup=10) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    others = [
        LRSchedule.cosine(101, 1e-3, warmup=10),
        LRSchedule.cosine(100, 1e-3, warmup=11),
        LRSchedule.linear(100, 1e-3, warmup=10),
        LRSchedule.from_array([1.0]),
        LRSchedule.from_array([2.0]),
        LRSchedule.from_array([1.0], caveats=[Caveat.LR_ASSUMED]),
    ]
    assert len({one, same, *others}) == 1 + len(others)
    assert all(a != b for a, b in itertools.combinations([one, *others], 2))
    assert one != "a schedule"


def test_the_repr_says_what_it_is() -> None:
    schedule = LRSchedule.cosine(100, 1e-3, warmup=10)
    assert repr(schedule) == "LRSchedule(total_steps=100, peak=0.001, pieces=[linear, cosine])"
    staircase = LRSchedule.step_decay(100, 1e-3, milestones=range(10, 60, 10))
    assert repr(staircase).endswith("pieces=[linear, linear, linear, linear, ...])")


ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "negative peak": (
        lambda: LRSchedule.constant(10, -1e-3),
        r"peak is -0.001: it must be finite and 0 or more",
    ),
    "nan peak": (lambda: LRSchedule.cosine(10, math.nan), r"peak is nan: it must be finite"),
    "infinite peak": (lambda: LRSchedule.one_cycle(10, math.inf), r"peak is inf: it must be fin"),
    "negative end": (
        lambda: LRSchedule.linear(10, 1e-3, end=-1e-9),
        r"end is -1e-09: it must be finite and 0 or more",
    ),
    "negative end out of sight": (
        lambda: LRSchedule.linear(10, 1e-3, end=-1, warmup=10),
        r"end is -1: it must be finite and 0 or more",
    ),
    "a string for a rate": (
        lambda: LRSchedule.linear(10, "1e-3"),  # type: ignore[arg-type]
        r"peak must be a number, not '1e-3' \(str\)",
    ),
    "no steps": (lambda: LRSchedule.linear(0, 1e-3), r"total_steps is 0; it must be at least 1"),
    "half a step": (lambda: LRSchedule.linear(2.5, 1e-3), r"steps is 2.5; it must be a whole"),  # type: ignore[arg-type]
    "a bool of steps": (lambda: LRSchedule.linear(True, 1e-3), r"total_steps must .*, not True"),
    "a string of steps": (
        lambda: LRSchedule.wsd("100", 1e-3),  # type: ignore[arg-type]
        r"total_steps must be a number, not '100' \(str\)",
    ),
    "too many steps": (lambda: LRSchedule.linear(2**63, 1e-3), r"too large for a number of steps"),
    "negative warm-up": (
        lambda: LRSchedule.linear(10, 1e-3, warmup=-2),
        r"warmup is -2; it must be at least 0",
    ),
    "a string of warm-up": (
        lambda: LRSchedule.wsd(10, 1e-3, warmup="2"),  # type: ignore[arg-type]
        r"warmup must be a number, not '2' \(str\)",
    ),
    "no decay": (
        lambda: LRSchedule.wsd(10, 1e-3, decay_fraction=0),
        r"decay_fraction is 0; give the share of the run that decays, above 0 and at most 1",
    ),
    "decay in steps": (
        lambda: LRSchedule.wsd(10, 1e-3, decay_fraction=5),
        r"decay_fraction is 5; give the share of the run that decays",
    ),
    "nan decay": (
        lambda: LRSchedule.wsd(10, 1e-3, decay_fraction=math.nan),
        r"decay_fraction is nan; give the share",
    ),
    "decay fraction of the wrong type": (
        lambda: LRSchedule.wsd(10, 1e-3, decay_fraction="0.2"),  # type: ignore[arg-type]
        r"decay_fraction must be a number, not '0.2'",
    ),
    "unknown shape": (
        lambda: LRSchedule.wsd(10, 1e-3, shape="cubic"),
        r"unknown decay shape 'cubic': one of \['cosine', 'exp', 'linear', 'sqrt'\]",
    ),
    "shape of the wrong type": (
        lambda: LRSchedule.wsd(10, 1e-3, shape=["exp"]),  # type: ignore[arg-type]
        r"unknown decay shape \['exp'\]: one of",
    ),
    "exp to 0": (
        lambda: LRSchedule.wsd(10, 1e-3, shape="exp", end=0),
        r"an exponential decay from 0.001 to 0.0 is impossible: give rates above 0",
    ),
    "exp from 0": (
        lambda: LRSchedule.wsd(10, 0, shape="exp"),
        r"an exponential decay from 0.0 to 0.0 is impossible: give rates above 0",
    ),
    "unsorted milestones": (
        lambda: LRSchedule.step_decay(10, 1e-3, milestones=[6, 3]),
        r"milestones are \[6, 3\]; give increasing steps",
    ),
    "milestones in the warm-up": (
        lambda: LRSchedule.step_decay(10, 1e-3, milestones=[3], warmup=4),
        r"milestones are \[3\]; give increasing steps after the warm-up of 4",
    ),
    "one number for milestones": (
        lambda: LRSchedule.step_decay(10, 1e-3, milestones=3),  # type: ignore[arg-type]
        r"milestones must be a list of steps, not 3",
    ),
    "infinite factor": (
        lambda: LRSchedule.step_decay(10, 1e-3, milestones=[3], factor=math.inf),
        r"factor is inf: it must be finite and 0 or more",
    ),
    "inverse sqrt without warm-up": (
        lambda: LRSchedule.inverse_sqrt(10, 1e-3, warmup=0),
        r"warmup is 0; it must be at least 1",
    ),
    "one cycle of one step": (
        lambda: LRSchedule.one_cycle(1, 1e-3),
        r"total_steps is 1; it must be at least 2",
    ),
    "one cycle that only rises": (
        lambda: LRSchedule.one_cycle(10, 1e-3, warmup_fraction=1.0),
        r"warmup_fraction is 1.0; it must be in \(0, 1\)",
    ),
    "a string in one cycle": (
        lambda: LRSchedule.one_cycle(10, 1e-3, warmup_fraction="a"),  # type: ignore[arg-type]
        r"warmup_fraction must be a number, not 'a'",
    ),
    "negative in an array": (
        lambda: LRSchedule.from_array([1e-3, -2e-3]),
        r"lrs\[1\] is -0.002: it must be finite and 0 or more",
    ),
    "nan in an array": (lambda: LRSchedule.from_array([math.nan]), r"lrs\[0\] is nan: it must be"),
    "empty array": (
        lambda: LRSchedule.from_array([]),
        r"lrs is empty; give the learning rate of each step 1..total_steps",
    ),
    "a table": (
        lambda: LRSchedule.from_array([[1e-3]]),
        r"lrs must have one dimension, not shape \(1, 1\)",
    ),
    "ragged": (
        lambda: LRSchedule.from_array([[1e-3], [1e-3, 1e-3]]),
        r"lrs must be an array of numbers, not \[\[0.001\], \[0.001, 0.001\]\]",
    ),
    "strings of numbers": (
        lambda: LRSchedule.from_array(["1e-3"]),
        r"lrs must be numbers, not <U4 \(\['1e-3'\]\)",
    ),
    "bools": (lambda: LRSchedule.from_array([True]), r"lrs must be numbers, not bool"),
    "complex": (lambda: LRSchedule.from_array([1j]), r"lrs must be numbers, not complex128"),
    "no points": (
        lambda: LRSchedule.from_points([], [], total_steps=5),
        r"no points given; give at least one \(step, learning rate\)",
    ),
    "a step given twice": (
        lambda: LRSchedule.from_points([0, 5, 5], [1, 2, 3], total_steps=9),
        r"step 5 is not: sort the points and drop duplicates",
    ),
    "steps going back": (
        lambda: LRSchedule.from_points([7, 3], [1, 2], total_steps=9),
        r"strictly increasing; step 3 is not: sort the points",
    ),
    "a point before the start": (
        lambda: LRSchedule.from_points([-1, 3], [1, 2], total_steps=9),
        r"steps must be 0 or more and strictly increasing; step -1 is not",
    ),
    "a point between steps": (
        lambda: LRSchedule.from_points([0, 1.5], [1, 2], total_steps=9),
        r"steps has 1.5; it must be whole and finite: round it",
    ),
    "more steps than rates": (
        lambda: LRSchedule.from_points([0, 5], [1], total_steps=9),
        r"steps has shape \(2,\) and lrs \(1,\); give one rate for each step",
    ),
    "unknown caveat": (
        lambda: LRSchedule.from_array([1e-3], caveats=["hearsay"]),  # type: ignore[list-item]
        r"caveats must be members of Caveat: 'hearsay'",
    ),
    "step 0": (lambda: LRSchedule.linear(10, 1.0).lr(0), r"step 0 is outside 1..10"),
    "a step after the end": (lambda: LRSchedule.linear(10, 1.0).s1([3, 11]), r"step 11 is outside"),
    "a negative step": (lambda: LRSchedule.linear(10, 1.0).s1(-1), r"step -1 is outside 0..10"),
    "a fraction of a step": (
        lambda: LRSchedule.linear(10, 1.0).lr([1, 2.5]),
        r"steps has 2.5; it must be whole and finite: round it",
    ),
    "a word for a step": (
        lambda: LRSchedule.linear(10, 1.0).lr("last"),
        r"steps must be numbers, not <U4 \('last'\)",
    ),
}


@pytest.mark.parametrize(("misuse", "message"), ERRORS.values(), ids=ERRORS)
def test_misuse_is_told_what_was_given_and_what_to_do(
    misuse: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ScheduleError, match=message):
        misuse()
