import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import approx_fprime, minimize
from support.laws import annealing, annealing_area, flat_warmup, lr_sum, multi_power, power

from lossforecast import LRSchedule
from lossforecast.backtest.baselines import (
    SeenRun,
    annealing_clock,
    drop_pairs,
    fit_annealing_law,
    fit_multi_power,
    fit_power_law,
)
from lossforecast.backtest.published_laws import (
    DropPairs,
    LinearLaw,
    MultiPowerLaw,
    fit_linear_law,
    linear_objective,
    multi_power_objective,
)

PLANS = {
    "wsd": LRSchedule.wsd(6_000, 1e-3, warmup=300, decay_fraction=0.4),
    "cosine": LRSchedule.cosine(5_000, 3e-4, warmup=200, end=3e-5),
    "step": LRSchedule.step_decay(4_000, 1e-3, milestones=[1_500, 3_000], factor=0.3),
    "rise": LRSchedule.constant(4_000, 1e-3, warmup=100)
    .scaled_from(1_000, 0.2)
    .scaled_from(2_500, 4.0),
    "no warm-up": LRSchedule.linear(3_000, 2e-3),
}
ANNEALING = {"L0": 2.6, "A": 0.5, "alpha": 0.5, "C": 0.3, "lambda_": 0.999}
MULTI_POWER = {
    "L0": 3.0, "A": 0.5, "alpha": 0.5, "B": 350.0, "C": 2.0, "beta": 0.6, "gamma": 0.6
}  # fmt: skip


def points(plan: LRSchedule, n: int = 120) -> NDArray[np.int64]:
    first = plan.warmup_steps + 20
    return np.unique(np.linspace(first, plan.total_steps, n).astype(np.int64))


def seen(plan: LRSchedule, losses: NDArray[np.float64]) -> SeenRun:
    at = points(plan)
    return SeenRun(at, losses[at - 1], plan)


def annealing_losses(plan: LRSchedule) -> NDArray[np.float64]:
    rates = flat_warmup(plan.to_array(), plan.warmup_steps)
    return annealing(rates, **ANNEALING)


def noisy(losses: NDArray[np.float64], size: float, seed: int = 0) -> NDArray[np.float64]:
    return losses * np.exp(size * np.random.default_rng(seed).normal(size=losses.shape))


@pytest.mark.parametrize("name", sorted(PLANS))
def test_the_clocks_are_those_of_the_law_step_by_step(name: str) -> None:
    plan, at = PLANS[name], points(PLANS[name])
    rates = flat_warmup(plan.to_array(), plan.warmup_steps)
    s1, s2 = annealing_clock(plan, at)
    np.testing.assert_allclose(s1, lr_sum(rates)[at - 1], rtol=1e-9)
    expected = annealing_area(rates, 0.999)
    np.testing.assert_allclose(s2, expected[at - 1], atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name", sorted(PLANS))
def test_the_grouped_sum_is_that_of_the_law(name: str) -> None:
    plan, at = PLANS[name], points(PLANS[name])
    law = MultiPowerLaw(**MULTI_POWER)
    found = law.loss(plan.s1(at), drop_pairs(plan, at))
    exact = multi_power(plan.to_array(), **MULTI_POWER)[at - 1]
    # eta_0 is the first rate, in both
    error = np.abs(found - exact) / (350 * plan.peak)
    assert error.max() < 0.01
    assert error.mean() < 0.002


def test_the_gradient_of_the_linear_laws() -> None:
    rng = np.random.default_rng(0)
    clock, column, target = rng.uniform(-2, 1, 40), rng.uniform(0, 1, 40), rng.normal(1, 0.1, 40)
    at = np.array([1.5, 0.7, 0.6, 0.3])

    def value(p: NDArray[np.float64]) -> float:
        return linear_objective(p, clock, column, target)[0]

    slope = approx_fprime(at, value, 1e-8)
    np.testing.assert_allclose(linear_objective(at, clock, column, target)[1], slope, rtol=1e-4)


def test_the_gradient_of_the_multi_power_law() -> None:
    plan = PLANS["wsd"]
    at = points(plan, 40)
    pairs, log_s1 = drop_pairs(plan, at), np.log(plan.s1(at))
    target = np.log(noisy(multi_power(plan.to_array(), **MULTI_POWER)[at - 1], 0.01))
    here = np.array([2.9, 0.5, 0.5, 300.0, 1.5, 0.5, 0.55])

    def value(p: NDArray[np.float64]) -> float:
        return multi_power_objective(p, log_s1, pairs, target)[0]

    slope = approx_fprime(here, value, 1e-7 * here)
    found = multi_power_objective(here, log_s1, pairs, target)[1]
    np.testing.assert_allclose(found, slope, rtol=1e-3)


def test_a_multi_power_sum_that_cannot_be_is_infinite() -> None:
    plan = PLANS["wsd"]
    at = points(plan, 10)
    here = np.array([2.9, 0.5, 0.5, 300.0, -1e4, 0.5, 0.55])
    assert np.isinf(
        multi_power_objective(here, np.log(plan.s1(at)), drop_pairs(plan, at), np.log(at))[0]
    )


@pytest.mark.parametrize("names", [("wsd",), ("cosine",), ("wsd", "cosine", "step")])
def test_the_annealing_law_is_recovered(names: tuple[str, ...]) -> None:
    runs = [seen(PLANS[name], annealing_losses(PLANS[name])) for name in names]
    law = fit_annealing_law(runs)
    assert law.gain == pytest.approx(0.3, rel=0.05)
    assert law.alpha == pytest.approx(0.5, rel=0.05)
    assert pytest.approx(2.6, rel=0.01) == law.L0
    unseen = PLANS["no warm-up"]
    predicted = law.loss(*annealing_clock(unseen, points(unseen)))
    actual = annealing_losses(unseen)[points(unseen) - 1]
    assert np.abs(predicted / actual - 1).max() < 0.01


def test_the_power_law_is_recovered() -> None:
    plan = PLANS["cosine"]
    losses = power(plan.to_array(), L0=2.0, A=30.0, alpha=0.4)
    law = fit_power_law([seen(plan, losses)])
    assert (law.L0, law.alpha) == pytest.approx((2.0, 0.4), rel=1e-2)
    end = law.loss(np.array([5_000.0]), np.zeros(1))
    assert end[0] == pytest.approx(losses[-1], rel=1e-4)


def test_the_multi_power_law_predicts_an_unseen_schedule() -> None:
    plans = [PLANS["wsd"], PLANS["cosine"], PLANS["no warm-up"]]
    every = [multi_power(plan.to_array(), **MULTI_POWER) for plan in plans]
    law = fit_multi_power([seen(p, losses) for p, losses in zip(plans, every, strict=True)])
    unseen = PLANS["step"]
    at = points(unseen)
    actual = multi_power(unseen.to_array(), **MULTI_POWER)[at - 1]
    predicted = law.loss(unseen.s1(at), drop_pairs(unseen, at))
    assert np.abs(predicted / actual - 1).mean() < 0.01


def best_of_all_starts(run: SeenRun) -> float:
    """Lowest objective of L-BFGS-B from each of the authors' 54 starts."""
    s1, s2 = annealing_clock(run.schedule, run.steps)
    starts = itertools.product(
        np.linspace(0.1, 2.1, 2), np.linspace(1, 22, 3), np.linspace(0, 0.8, 3), [1, 11.5, 22]
    )
    values = [
        minimize(
            linear_objective,
            start,
            args=(np.log(s1), s2, np.log(run.losses)),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, None), (0, None), (0, 20), (0, None)],
            options={"maxiter": 100_000, "ftol": 1e-9, "gtol": 1e-6},
        ).fun
        for start in starts
    ]
    assert len(values) == 54
    return float(min(values))


@pytest.mark.parametrize("share", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("noise", [0.001, 0.02])
def test_no_start_of_the_authors_finds_a_lower_objective(share: float, noise: float) -> None:
    plan = PLANS["wsd"]
    whole = seen(plan, noisy(annealing_losses(plan), noise))
    cut = whole.steps <= share * plan.total_steps
    run = SeenRun(whole.steps[cut], whole.losses[cut], plan)
    law = fit_annealing_law([run])
    s1, s2 = annealing_clock(plan, run.steps)
    ours, _ = linear_objective(
        np.array([law.L0, law.A, law.alpha, law.gain]),
        np.log(s1 / law.unit),
        s2,
        np.log(run.losses),
    )
    assert ours <= best_of_all_starts(run) * (1 + 1e-3) + 1e-9


def as_curve(slow: ModuleType, run: SeenRun) -> Any:
    return slow.Curve(run.schedule.to_array(), run.steps, run.losses)


def test_no_start_of_the_memoryless_grid_finds_a_lower_objective(
    reference: Callable[[str], ModuleType],
) -> None:
    pytest.importorskip("torch")
    slow = reference("multi_power_fit")
    plan = PLANS["cosine"]
    run = seen(plan, noisy(annealing_losses(plan), 0.005))
    assert len(slow.memoryless_starts([as_curve(slow, run)])) == 135
    _, theirs = slow.fit_memoryless([as_curve(slow, run)])
    s1, below = plan.s1(run.steps), plan.peak - plan.lr(run.steps)
    law = fit_linear_law(s1, below, run.losses, 100.0)
    at = np.array([law.L0, law.A, law.alpha, law.gain])
    ours, _ = linear_objective(at, np.log(s1 / law.unit), below, np.log(run.losses))
    assert ours <= theirs * (1 + 1e-3)


@pytest.mark.slow
def test_the_multi_power_fit_follows_the_slow_reference(
    reference: Callable[[str], ModuleType],
) -> None:
    pytest.importorskip("torch")
    slow = reference("multi_power_fit")
    plan = LRSchedule.wsd(400, 1e-2, warmup=40, decay_fraction=0.5, end=1e-3)
    at = np.arange(50, 401, 20)
    truth = {**MULTI_POWER, "B": 30.0, "C": 1.0}
    losses = noisy(multi_power(plan.to_array(), **truth)[at - 1], 0.003)
    run = SeenRun(at, losses, plan)
    theirs, lowest = slow.fit_multi_power([as_curve(slow, run)])
    law = fit_multi_power([run])
    found = np.array([law.L0, law.A, law.alpha, law.B, law.C, law.beta, law.gamma])
    pairs = drop_pairs(plan, at)
    ours, _ = multi_power_objective(found, np.log(plan.s1(at)), pairs, np.log(losses))
    assert ours == pytest.approx(lowest, rel=0.02)
    np.testing.assert_allclose(found, theirs, rtol=0.03)


def test_before_the_decay_the_gains_stay_where_the_authors_start() -> None:
    plan = PLANS["wsd"]
    whole = seen(plan, annealing_losses(plan))
    stable = whole.steps <= 3_000
    run = SeenRun(whole.steps[stable], whole.losses[stable], plan)
    assert fit_annealing_law([run]).gain == 1.0
    assert pytest.approx(100.0, abs=10.0) == fit_multi_power([run]).B


def test_runs_joined_in_one_fit_keep_their_own_sums() -> None:
    one, two = (drop_pairs(PLANS[name], points(PLANS[name], 9)) for name in ("wsd", "cosine"))
    law = MultiPowerLaw(**MULTI_POWER)
    s1 = np.concatenate([PLANS[n].s1(points(PLANS[n], 9)) for n in ("wsd", "cosine")])
    together = law.loss(s1, DropPairs.joined([one, two]))
    np.testing.assert_array_equal(together[:9], law.loss(s1[:9], one))
    np.testing.assert_array_equal(together[9:], law.loss(s1[9:], two))


def test_a_linear_law_in_its_own_units() -> None:
    law = LinearLaw(L0=1.0, A=2.0, alpha=0.5, gain=3.0, unit=4.0)
    assert law.loss(np.array([16.0]), np.array([0.1]))[0] == pytest.approx(1 + 2 / 2 - 0.3)


def published_plan(run: dict[str, object]) -> LRSchedule:
    """The schedule of one of the multi-power authors' runs, its warm-up included."""
    shape = run["schedule"]
    assert isinstance(shape, dict)
    total, peak = int(str(run["total_steps"])), 3e-4
    held = LRSchedule.constant(total, peak, warmup=2_160)
    match shape["type"]:
        case "constant":
            return held
        case "cosine":
            return LRSchedule.cosine(total, peak, end=shape["end_lr"], warmup=2_160)
        case "two_stage":
            return held.scaled_from(shape["switch_step"], shape["lr_b"] / peak)
    kind = "linear" if shape["decay"] == "linear" else "exp"
    return held.with_decay(start=shape["decay_start"], shape=kind, end=shape["end_lr"])


@pytest.mark.parametrize(
    ("size", "published", "L0", "B"),
    [("25M", 0.00110, 3.040, 363.8), ("100M", 0.00142, 2.651, 437.9)],
)
def test_the_published_errors_of_the_multi_power_law(
    curves_dir: Path, size: str, published: float, L0: float, B: float
) -> None:
    """Three whole runs fitted, six unseen ones predicted: the table of the authors' repository."""
    curves = pytest.importorskip("lossforecast.backtest")
    runs = [
        run
        for run in curves.load_curves(curves_dir)
        if run.source == "multipowerlaw" and f"_{size}_" in run.run_id
    ]
    if not runs:
        pytest.skip(f"{curves_dir} has no multi-power logs")
    split: dict[str, list[SeenRun]] = {"train": [], "test": []}
    for run in runs:
        part = SeenRun(run.step, run.loss.astype(float), published_plan(dict(run.metadata)))
        split[run.metadata["authors_split"]].append(part)
    assert (len(split["train"]), len(split["test"])) == (3, 6)
    law = fit_multi_power(split["train"])
    assert pytest.approx((L0, B), rel=0.01) == (law.L0, law.B)
    errors = [
        np.abs(law.loss(r.schedule.s1(r.steps), drop_pairs(r.schedule, r.steps)) / r.losses - 1)
        for r in split["test"]
    ]
    assert np.mean([e.mean() for e in errors]) == pytest.approx(published, rel=0.2)
