"""Formulas for the far future of torch schedulers, and the cost of a million steps."""

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from support.torch_schedulers import (
    ALL,
    HORIZON,
    MILLION,
    Array,
    Factory,
    compositions_of_schedulers,
    held,
    optimizer_of,
    quietly,
    walked,
)
from torch.optim import lr_scheduler as torch_lr
from torch.optim.swa_utils import SWALR

from lossforecast import LRSchedule
from lossforecast.callbacks.lr_schedulers import from_torch as module
from lossforecast.callbacks.lr_schedulers.from_torch import schedule_from_torch
from lossforecast.status import Caveat


def tolerable(got: ArrayLike, want: ArrayLike) -> bool:
    """Within 1e-6 of the local rate, or of the peak where the rate is below 1e-6 of it."""
    got, want = np.asarray(got, dtype=float), np.asarray(want, dtype=float)
    scale = np.where(want > 1e-6 * want.max(), want, want.max())
    return bool(np.all(np.abs(got - want) <= 1e-6 * scale))


@settings(max_examples=150, deadline=None)
@given(factory=compositions_of_schedulers, taken=st.integers(0, 30))
def test_formulas_of_any_composition_agree_with_stepping(factory: Factory, taken: int) -> None:
    def make() -> Any:
        scheduler = quietly(factory, optimizer_of(2))
        assume(np.isfinite(walked(scheduler, taken)).all())
        return scheduler

    try:
        truth = walked(make(), HORIZON - 1)
    except (ValueError, NotImplementedError, AttributeError, ZeroDivisionError):
        assume(False)
    assume((truth[0] >= 0).all())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "_MAX_EXACT_STEPS", 5
        )  # the search then looks at each of so few steps
        for group in range(2):
            schedule = schedule_from_torch(
                make(), total_steps=taken + HORIZON, step=taken, group=group
            )
            known_at_all = not np.isnan(truth[1, group])
            assert (Caveat.SCHEDULE_APPROXIMATED in schedule.caveats) == known_at_all
            want = held(truth[:, group])
            np.testing.assert_allclose(
                schedule.to_array()[taken:], want, rtol=1e-9, atol=1e-12 * want.max()
            )


WITHOUT_FORMULA = {
    "SWALR",
    "ChainedScheduler of a SequentialLR",
    "SequentialLR of two in turn",
}


@pytest.mark.parametrize("by_hand", [False, True], ids=["own rate", "rate set by hand"])
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ALL)
def test_formulas_from_every_turn(
    name: str, tensor: bool, by_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_EXACT_STEPS", 20)
    by_steps = HORIZON if name in WITHOUT_FORMULA else 0
    monkeypatch.setattr(module, "_MAX_STEPS_WITHOUT_FORMULA", by_steps)

    def make(taken: int) -> Any:
        scheduler = quietly(ALL[name], optimizer_of(1, tensor))
        walked(scheduler, taken)
        if by_hand:
            scheduler.optimizer.param_groups[0]["lr"] *= 0.9
            scheduler.optimizer.param_groups[0]["lr"] += 0.001
        return scheduler

    alive = np.isfinite(walked(make(0), HORIZON)[:, 0]).sum()
    turns = [0, 7, 8, 10, 15, 16, 17, 20, 25, 40, 45, 48]
    for taken in turns[: bisect_right(turns, alive - 1)]:
        truth = walked(make(taken), HORIZON - 1)[:, 0]
        schedule = schedule_from_torch(make(taken), total_steps=HORIZON)
        want = held(truth)
        rtol, atol = (1e-5, 1e-6 * want.max()) if tensor else (1e-9, 1e-15)
        np.testing.assert_allclose(schedule.to_array(), want, rtol=rtol, atol=atol)
        assert (Caveat.LR_ASSUMED in schedule.caveats) == bool(np.isnan(truth).any())


LONG = 40_000


LONG_SCHEDULERS: dict[str, Factory] = {
    "LambdaLR": lambda o: torch_lr.LambdaLR(o, lambda i: min(1, i / 999) * (1 - i / LONG) ** 2),
    "MultiplicativeLR": lambda o: torch_lr.MultiplicativeLR(o, lambda i: 1 - 3e-5 * (i > 14_444)),
    "StepLR": lambda o: torch_lr.StepLR(o, 3_456, gamma=0.5),
    "MultiStepLR": lambda o: torch_lr.MultiStepLR(o, [20_001, 20_002, 33_113], gamma=0.3),
    "ConstantLR": lambda o: torch_lr.ConstantLR(o, 0.2, total_iters=31_101),
    "LinearLR": lambda o: torch_lr.LinearLR(o, 0.2, 0.7, total_iters=33_303),
    "ExponentialLR": lambda o: torch_lr.ExponentialLR(o, 1 - 3e-4),
    "PolynomialLR": lambda o: torch_lr.PolynomialLR(o, 37_011, power=0.9),
    "CosineAnnealingLR": lambda o: torch_lr.CosineAnnealingLR(o, 15_001, eta_min=0.002),
    "CosineAnnealingWarmRestarts": lambda o: torch_lr.CosineAnnealingWarmRestarts(
        o, 13_007, T_mult=2, eta_min=0.01
    ),
    "OneCycleLR": lambda o: torch_lr.OneCycleLR(o, 0.5, total_steps=39_119),
    "CyclicLR": lambda o: torch_lr.CyclicLR(o, 0.01, 0.2, 1_501, 3_003, mode="triangular2"),
    "SWALR": lambda o: SWALR(o, swa_lr=0.02, anneal_epochs=37_110),
    "SequentialLR": lambda o: torch_lr.SequentialLR(
        o,
        [
            torch_lr.LinearLR(o, 0.1, total_iters=500),
            torch_lr.ConstantLR(o, 1.0),
            torch_lr.ConstantLR(o, 0.1, total_iters=3),  # so short that no sample hits it by chance
            torch_lr.StepLR(o, 20_000),
        ],
        [500, 10_003, 10_006],
    ),
    "ChainedScheduler": lambda o: torch_lr.ChainedScheduler(
        [torch_lr.LinearLR(o, 0.1, total_iters=777), torch_lr.CosineAnnealingLR(o, LONG, 0.001)]
    ),
}


@pytest.mark.parametrize("name", LONG_SCHEDULERS)
def test_far_future_agrees_with_stepping(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_EXACT_STEPS", 10_000)
    by_steps = LONG if name == "SWALR" else 0  # the others by formulas
    monkeypatch.setattr(module, "_MAX_STEPS_WITHOUT_FORMULA", by_steps)
    scheduler = LONG_SCHEDULERS[name](optimizer_of())
    schedule = schedule_from_torch(scheduler, total_steps=LONG)
    assert Caveat.SCHEDULE_APPROXIMATED in schedule.caveats
    assert (Caveat.LR_ASSUMED in schedule.caveats) == (name == "OneCycleLR")
    assert len(schedule.to_dict()["pieces"]["stop"]) <= 12_001
    assert tolerable(schedule.to_array(), held(walked(scheduler, LONG - 1)[:, 0]))


def passed(marks: list[int], k: Array) -> Array:
    return np.searchsorted(marks, k, side="right").astype(np.float64)


def half_cosine(t: Array) -> Array:
    return (1 + np.cos(np.pi * t)) / 2


def restarts(k: Array) -> Array:
    ends = np.cumsum([0, 100_003, 200_006, 400_012, 800_024])
    cycle = np.searchsorted(ends, k, side="right") - 1
    return 0.01 + 0.09 * half_cosine((k - ends[cycle]) / np.diff(ends)[cycle])


def one_cycle(k: Array) -> Array:
    top, end = 0.3 * MILLION - 1, MILLION - 1
    up = 0.5 + (0.02 - 0.5) * half_cosine(k / top)
    return np.where(k <= top, up, 2e-6 + (0.5 - 2e-6) * half_cosine((k - top) / (end - top)))


def warmed_up_cosine(k: Array) -> Array:
    return np.where(
        k < 2_000, 0.01 + 0.09 * k / 2_000, 1e-4 + 0.0999 * half_cosine((k - 2_000) / 998_000)
    )


def triangles(k: Array) -> Array:
    place = (k % 300_000) / 100_000
    return 0.01 + 0.19 * np.where(place <= 1, place, (3 - place) / 2) / 2 ** (k // 300_000)


# each: the scheduler, its rate after k steps as a formula of its own, steps where it turns
FORMULAS: dict[str, tuple[Factory, Callable[[Array], Array], list[int]]] = {
    "LambdaLR": (
        lambda o: torch_lr.LambdaLR(o, lambda k: math.exp(-k / 2e5)),
        lambda k: 0.1 * np.exp(-k / 2e5),
        [],
    ),
    "LambdaLR with drops": (
        lambda o: torch_lr.LambdaLR(o, lambda k: 0.4 ** bisect_right([1_234, 1_240, 777_777], k)),
        lambda k: 0.1 * 0.4 ** passed([1_234, 1_240, 777_777], k),
        [1_234, 1_240, 777_777],
    ),
    "LambdaLR warmed up, stable, decayed": (
        lambda o: torch_lr.LambdaLR(o, lambda k: min(1.0, k / 3_001, (MILLION - k) / 99_999)),
        lambda k: 0.1 * np.minimum(1, np.minimum(k / 3_001, (MILLION - k) / 99_999)),
        [3_001, 900_001],
    ),
    "MultiplicativeLR": (
        lambda o: torch_lr.MultiplicativeLR(o, lambda k: 1 - 2e-6 * (k > 500_000)),
        lambda k: 0.1 * (1 - 2e-6) ** np.maximum(k - 500_000, 0),
        [500_000],
    ),
    "StepLR": (
        lambda o: torch_lr.StepLR(o, 77_777, gamma=0.6),
        lambda k: 0.1 * 0.6 ** (k // 77_777),
        [77_777, 77_777 * 12],
    ),
    "MultiStepLR": (
        lambda o: torch_lr.MultiStepLR(o, [5, 333_333, 999_990]),
        lambda k: 0.1 * 0.1 ** passed([5, 333_333, 999_990], k),
        [5, 333_333, 999_990],
    ),
    "ConstantLR": (
        lambda o: torch_lr.ConstantLR(o, 0.25, total_iters=654_321),
        lambda k: np.where(k < 654_321, 0.025, 0.1),
        [654_321],
    ),
    "LinearLR": (
        lambda o: torch_lr.LinearLR(o, 1.0, 0.1, total_iters=654_321),
        lambda k: 0.1 - 0.09 * np.minimum(k / 654_321, 1),
        [654_321],
    ),
    "ExponentialLR": (
        lambda o: torch_lr.ExponentialLR(o, 1 - 1e-5),
        lambda k: 0.1 * (1 - 1e-5) ** k,
        [],
    ),
    "PolynomialLR": (
        lambda o: torch_lr.PolynomialLR(o, 900_000, power=3),
        lambda k: 0.1 * (1 - np.minimum(k / 900_000, 1)) ** 3,
        [900_000],
    ),
    "CosineAnnealingLR": (
        lambda o: torch_lr.CosineAnnealingLR(o, 400_000, eta_min=0.001),
        lambda k: 0.001 + 0.099 * half_cosine(k / 400_000),
        [400_000, 800_000],
    ),
    "CosineAnnealingWarmRestarts": (
        lambda o: torch_lr.CosineAnnealingWarmRestarts(o, 100_003, T_mult=2, eta_min=0.01),
        restarts,
        [100_003, 300_009, 700_021],
    ),
    "OneCycleLR": (
        lambda o: torch_lr.OneCycleLR(o, 0.5, total_steps=MILLION),
        one_cycle,
        [299_999],
    ),
    "CyclicLR": (
        lambda o: torch_lr.CyclicLR(o, 0.01, 0.2, 100_000, 200_000, mode="triangular2"),
        triangles,
        [100_000, 300_000, 400_000, 900_000],
    ),
    "SequentialLR": (
        lambda o: torch_lr.SequentialLR(
            o,
            [
                torch_lr.LinearLR(o, 0.1, total_iters=2_000),
                torch_lr.CosineAnnealingLR(o, 998_000, eta_min=1e-4),
            ],
            [2_000],
        ),
        warmed_up_cosine,
        [2_000],
    ),
    "ChainedScheduler": (
        lambda o: torch_lr.ChainedScheduler(
            [torch_lr.ConstantLR(o, 0.5, total_iters=5_555), torch_lr.ExponentialLR(o, 1 - 2e-6)]
        ),
        lambda k: np.where(k < 5_555, 0.05, 0.1) * (1 - 2e-6) ** k,
        [5_555],
    ),
}


KEEP_MORE_STATE = {"CosineAnnealingWarmRestarts", "SequentialLR", "ChainedScheduler"}


@pytest.mark.parametrize(
    ("name", "step"),
    [(name, 0) for name in FORMULAS]
    + [(name, 250_000) for name in FORMULAS if name not in KEEP_MORE_STATE],
)
def test_a_million_steps(name: str, step: int) -> None:
    factory, formula, turns = FORMULAS[name]
    scheduler = factory(optimizer_of())
    if step:  # as load_state_dict would set it
        scheduler.last_epoch = step
        scheduler.optimizer.param_groups[0]["lr"] = float(formula(np.array([step]))[0])
    schedule = schedule_from_torch(scheduler, total_steps=MILLION, step=step)
    assert schedule.caveats == {Caveat.SCHEDULE_APPROXIMATED}
    assert len(schedule.to_dict()["pieces"]["stop"]) <= 12_001
    near = [turn + side for turn in turns for side in range(-3, 4)]
    sample = np.random.default_rng(0).integers(step, MILLION, 20_000)
    after = np.unique([step, MILLION - 1, *sample, *(k for k in near if step <= k < MILLION)])
    assert tolerable(schedule.lr(after + 1), formula(after.astype(float)))


@pytest.mark.parametrize("total_steps", [MILLION, 100 * MILLION])
@pytest.mark.parametrize(
    "function",
    [
        lambda u: min(1.0, 500 * u) * (1 + math.cos(math.pi * u)) / 2,
        lambda u: 0.5 ** bisect_right([0.1234567, 0.12346, 0.5, 0.777777, 0.99], u),
        lambda u: 1.0,
        lambda u: 0.97 ** (1_000 * u // 1),
    ],
    ids=["cosine", "drops", "constant", "stairs"],
)
def test_a_far_future_costs_few_calls(function: Callable[[float], float], total_steps: int) -> None:
    calls = 0

    def counted(epoch: int) -> float:
        nonlocal calls
        calls += 1
        return function(epoch / total_steps)

    scheduler = torch_lr.LambdaLR(optimizer_of(), counted)
    schedule = schedule_from_torch(scheduler, total_steps=total_steps)
    assert calls < 35_000
    assert len(schedule.to_dict()["pieces"]["stop"]) <= 12_001


def test_more_corners_than_points_are_followed_evenly() -> None:
    scheduler = torch_lr.CosineAnnealingWarmRestarts(optimizer_of(), 1_000)
    schedule = schedule_from_torch(scheduler, total_steps=MILLION)
    assert len(schedule.to_dict()["pieces"]["stop"]) <= 12_001
    want = 0.1 * half_cosine(np.arange(MILLION) % 1_000 / 1_000)
    assert np.abs(schedule.to_array() - want).mean() < 0.01 * 0.1


def test_a_class_of_the_users_is_stepped_a_million_times_at_most() -> None:
    class Halving(torch_lr.LRScheduler):
        def get_lr(self) -> list[float | torch.Tensor]:
            drop = 0.5 if self.last_epoch in (60_000, 120_000) else 1.0
            return [group["lr"] * drop for group in self.optimizer.param_groups]

    schedule = schedule_from_torch(Halving(optimizer_of()), total_steps=150_000)
    want = np.repeat([0.1, 0.05, 0.025], [60_000, 60_000, 30_000])
    assert schedule.to_array().tolist() == want.tolist()
    schedule = schedule_from_torch(Halving(optimizer_of()), total_steps=MILLION + 2)
    assert schedule == LRSchedule.from_points(
        [0], [0.1], total_steps=MILLION + 2, caveats={Caveat.LR_ASSUMED}
    )


def test_a_lambda_that_fails_far_ahead_is_followed_to_its_last_step() -> None:
    def function(epoch: int) -> float:
        if epoch >= 345_678:
            raise IndexError(epoch)
        return 1 - epoch / MILLION

    scheduler = torch_lr.LambdaLR(optimizer_of(), function)
    schedule = schedule_from_torch(scheduler, total_steps=MILLION)
    assert schedule.caveats == {Caveat.LR_ASSUMED, Caveat.SCHEDULE_APPROXIMATED}
    last = 0.1 * (1 - 345_677 / MILLION)
    assert schedule.lr([345_678, 345_679, MILLION]).tolist() == [last] * 3
    assert schedule.lr(345_000) == pytest.approx(0.1 * (1 - 344_999 / MILLION), rel=1e-9)
