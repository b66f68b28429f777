"""`arrived` over knots against the sum over every step."""

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lossforecast.laws.relaxation import LAWS, Relaxation, arrived
from lossforecast.schedule.lr_schedule import DECAY_SHAPES, LRSchedule

PEAK = 1e-3
RELAXATIONS = (
    Relaxation("annealing", lag=0.02),
    Relaxation("annealing", lag=0.12),
    Relaxation("multi-power", lag=0.02, beta=0.5, gamma=0.5),
    Relaxation("multi-power", lag=0.05, beta=1.0, gamma=0.5),
    Relaxation("multi-power", lag=0.05, beta=0.7, gamma=0.0),
    Relaxation("memoryless"),
)


def schedules(total: int) -> dict[str, LRSchedule]:
    warm = total // 20
    named = {
        "cosine": LRSchedule.cosine(total, PEAK, warmup=warm),
        "linear": LRSchedule.linear(total, PEAK, end=PEAK / 10, warmup=warm),
        **{
            f"wsd {shape}": LRSchedule.wsd(total, PEAK, shape=shape, warmup=warm)
            for shape in DECAY_SHAPES
        },
        "step decay": LRSchedule.step_decay(
            total, PEAK, milestones=[total // 2, 3 * total // 4], warmup=warm
        ),
        "inverse sqrt": LRSchedule.inverse_sqrt(total, PEAK, warmup=warm),
        "one cycle": LRSchedule.one_cycle(total, PEAK),
        "drop to 0": LRSchedule.constant(total, PEAK, warmup=warm).scaled_from(total // 2, 0.0),
        "no warm-up": LRSchedule.cosine(total, PEAK),
    }
    for name in ("cosine", "wsd sqrt", "step decay"):
        named[f"{name}, array"] = LRSchedule.from_array(named[name].to_array())
    return named


NAMES = list(schedules(100))


def share(g: Relaxation, total_steps: int, total_s1: float) -> Callable[..., float]:
    """G of the law in its own units; the lag is a share of the run."""
    if g.law == "annealing":
        lambda_ = math.exp(-1 / (g.lag * total_steps))
        return lambda age, _distance, _rate: 1 - lambda_**age
    if g.law == "multi-power":
        C = 1 / (g.lag * total_s1)
        return lambda _age, distance, rate: (
            1 - (1 + C * max(rate, 1e-6) ** -g.gamma * distance) ** -g.beta
        )
    return lambda _age, _distance, _rate: 1.0


def per_step(
    laws: ModuleType,
    schedule: LRSchedule,
    steps: NDArray[np.int64],
    total_steps: int,
    total_s1: float,
) -> NDArray[np.float64]:
    rates = schedule.to_array().tolist()
    warmup = schedule.warmup_steps
    return np.array(
        [
            laws.arrived(rates, warmup, steps.tolist(), share(g, total_steps, total_s1))
            for g in RELAXATIONS
        ]
    )


@pytest.mark.parametrize("total", [20, 400, 1_000])
@pytest.mark.parametrize("name", NAMES)
def test_arrived_is_the_sum_over_every_step(
    reference: Callable[[str], ModuleType], name: str, total: int
) -> None:
    schedule = schedules(total)[name]
    s1 = float(schedule.s1(total))
    steps = np.unique(np.linspace(0, total, 41).astype(np.int64))
    got = arrived(schedule, steps, RELAXATIONS, total_steps=total, total_s1=s1)
    expected = per_step(reference("laws"), schedule, steps, total, s1)
    # up to 512 steps every step is a knot
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 if total <= 512 else 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_long_schedule_is_as_exact(name: str) -> None:
    """The same sum over all of 100,000 steps, in numpy for speed."""
    total = 100_000
    schedule = schedules(total)[name]
    s1 = float(schedule.s1(total))
    steps = np.array([total // 2 + 1, total // 2 + 50, 81_000, 90_000, 97_000, total])
    got = arrived(schedule, steps, RELAXATIONS, total_steps=total, total_s1=s1)
    rates = schedule.to_array()
    running = np.concatenate([[0.0], np.cumsum(rates)])
    changes = np.arange(max(schedule.warmup_steps, 1) + 1, total + 1)  # k
    weight = (rates[changes - 2] - rates[changes - 1]) / rates.max()
    changes, weight = changes[weight != 0], weight[weight != 0]
    rate = rates[changes - 1] / rates.max()
    for column, t in enumerate(steps):
        done = changes <= t
        k, w = changes[done], weight[done]
        age, distance = (t - k + 1) / total, (running[t] - running[k - 1]) / s1
        for row, g in enumerate(RELAXATIONS):
            if g.law == "annealing":
                G = 1 - np.exp(-age / g.lag)
            elif g.law == "multi-power":
                speed = np.maximum(rate[done], 1e-6) ** -g.gamma / g.lag
                G = 1 - (1 + speed * distance) ** -g.beta
            else:
                G = np.ones(k.size)
            assert got[row, column] == pytest.approx(float(w @ G), abs=1e-3), (g, int(t))


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_that_never_rises_brings_between_0_and_1(name: str) -> None:
    schedule = schedules(3_000)[name]
    steps = np.arange(0, 3_001, 60)
    got = arrived(
        schedule, steps, RELAXATIONS, total_steps=3_000, total_s1=float(schedule.s1(3_000))
    )
    assert got.min() >= 0
    assert got.max() <= 1 + 1e-12
    assert (got[:, steps <= schedule.warmup_steps] == 0).all()
    memoryless = 1 - schedule.lr(steps[1:]) / schedule.peak
    after = steps[1:] > schedule.warmup_steps
    np.testing.assert_allclose(got[-1, 1:][after], memoryless[after], atol=1e-3)


def test_a_full_anneal_that_has_settled_is_1() -> None:
    plan = LRSchedule.wsd(1_000, PEAK).extended_to(10_000)
    got = arrived(plan, np.array([10_000]), RELAXATIONS[:1], total_steps=1_000, total_s1=1.0)
    assert got.item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    "plan",
    [
        LRSchedule.constant(5_000, PEAK),
        LRSchedule.constant(5_000, PEAK, warmup=700),
        LRSchedule.constant(1, PEAK),
        LRSchedule.constant(5_000, 0.0),
        LRSchedule.cosine(5_000, PEAK, warmup=9_000),  # all of it warm-up
    ],
    ids=repr,
)
def test_without_a_decay_nothing_arrives(plan: LRSchedule) -> None:
    steps = np.array([0, 1, plan.total_steps // 2, plan.total_steps])
    got = arrived(plan, steps, RELAXATIONS, total_steps=plan.total_steps, total_s1=1.0)
    assert got.tolist() == [[0.0] * 4] * len(RELAXATIONS)


def test_a_what_if_keeps_the_lags_of_its_own_run(
    reference: Callable[[str], ModuleType],
) -> None:
    """Lags are shares of the run that is under way, however long the plan asked about is."""
    run = LRSchedule.cosine(400, PEAK, warmup=20)
    s1 = float(run.s1(400))
    longer = run.truncated_to(300).extended_to(350).with_decay(start=350, steps=150)
    steps = np.array([100, 300, 349, 350, 351, 420, 500])
    got = arrived(longer, steps, RELAXATIONS, total_steps=400, total_s1=s1)
    expected = per_step(reference("laws"), longer, steps, 400, s1)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert arrived(run, steps[:2], RELAXATIONS, total_steps=400, total_s1=s1) == pytest.approx(
        got[:, :2], abs=1e-12
    )  # what both plans share is the same under both


def test_a_restart_takes_back_what_had_arrived() -> None:
    up_and_down = LRSchedule.cosine(200, PEAK).joined(199, LRSchedule.cosine(400, PEAK))
    steps = np.array([199, 200, 210])
    got = arrived(up_and_down, steps, RELAXATIONS, total_steps=400, total_s1=0.2)
    assert (got[:, 1] < got[:, 0]).all()
    assert (got[:, 2] < got[:, 0]).all()
    assert got[-1, 1] == pytest.approx(0.5, abs=1e-3)  # memoryless: halfway down again


B = 250.0
LAG = 0.1
LAWS_IN_PAPER_UNITS: dict[str, tuple[Relaxation, Callable[[LRSchedule], dict[str, float]]]] = {
    "annealing": (
        Relaxation("annealing", lag=LAG),
        lambda plan: {
            "C": B * (1 - math.exp(-1 / (LAG * plan.total_steps))),
            "lambda_": math.exp(-1 / (LAG * plan.total_steps)),
        },
    ),
    "multi-power": (
        Relaxation("multi-power", lag=LAG, beta=0.6, gamma=0.5),
        lambda plan: {
            "B": B,
            "C": plan.peak**0.5 / (LAG * float(plan.s1(plan.total_steps))),
            "beta": 0.6,
            "gamma": 0.5,
        },
    ),
    "memoryless": (Relaxation("memoryless"), lambda _: {"B": B}),
}


def test_every_law_with_a_drop_is_compared_with_its_paper() -> None:
    assert {*LAWS_IN_PAPER_UNITS, "power"} == set(LAWS)


@pytest.mark.parametrize("law", LAWS_IN_PAPER_UNITS)
@pytest.mark.parametrize("name", ["cosine", "wsd linear", "step decay", "no warm-up"])
def test_it_is_the_drop_of_the_published_law(
    reference: Callable[[str], ModuleType], law: str, name: str
) -> None:
    """``L0 - L = D arrived`` where the power term is off, D = B eta_peak, from the warm-up on."""
    schedule = schedules(300)[name]
    relaxation, parameters = LAWS_IN_PAPER_UNITS[law]
    # from the warm-up on, and at rates where the multi-power law is not cut
    annealed = LRSchedule.from_array(np.maximum(schedule.to_array()[schedule.warmup_steps :], 1e-5))
    steps = np.arange(1, annealed.total_steps + 1)
    s1 = float(annealed.s1(annealed.total_steps))
    total = annealed.total_steps
    found = arrived(annealed, steps, (relaxation,), total_steps=total, total_s1=s1)[0]
    slow = getattr(reference("laws"), law.replace("-", "_"))
    published = slow(
        annealed.to_array().tolist(),
        L0=3.0,
        A=0.0,
        alpha=0.5,
        **parameters(annealed),
    )
    np.testing.assert_allclose(3.0 - B * annealed.peak * found, published, rtol=1e-9)


@settings(max_examples=300, deadline=None)
@given(
    rates=st.lists(st.floats(1e-3, 1.0) | st.just(0.0), min_size=1, max_size=40),
    extra=st.integers(0, 20),
)
@example(rates=[1.0, 0.0, 0.5], extra=0)
def test_any_short_schedule_is_summed_exactly(
    reference: Callable[[str], ModuleType], rates: list[float], extra: int
) -> None:
    assume(max(rates) > 0)
    schedule = LRSchedule.from_array(rates).extended_to(len(rates) + extra)
    total, s1 = schedule.total_steps, float(schedule.s1(schedule.total_steps))
    steps = np.arange(total + 1)
    got = arrived(schedule, steps, RELAXATIONS, total_steps=total, total_s1=s1)
    expected = per_step(reference("laws"), schedule, steps, total, s1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
