"""The future of torch schedulers, compared with really stepping them and with plain formulas."""

import functools
import math
import random
import warnings
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from torch.optim import lr_scheduler as torch_lr
from torch.optim.swa_utils import SWALR

from lossforecast import LRSchedule
from lossforecast.callbacks.lr_schedulers import from_torch as module
from lossforecast.callbacks.lr_schedulers.from_torch import every, schedule_from_torch
from lossforecast.errors import ConfigurationError, ScheduleError
from lossforecast.status import Caveat

Factory = Callable[..., Any]
Array = NDArray[np.float64]

MILLION = 1_000_000
EXACT = 100_000


def optimizer_of(
    groups: int = 1, tensor: bool = False, device: str = "cpu", kind: Any = torch.optim.SGD
) -> torch.optim.Optimizer:
    rates = [0.1 / (1 + index) for index in range(groups)]
    options: dict[str, Any] = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    built: torch.optim.Optimizer = kind(
        [
            {
                "params": [torch.zeros(3, 2, device=device, requires_grad=True)],
                "lr": torch.tensor(rate, device=device) if tensor else rate,
            }
            for rate in rates
        ],
        **options,
    )
    return built


def lambdas(optimizer: torch.optim.Optimizer) -> list[Callable[[int], float]]:
    """A different function for each group."""

    def function(epoch: int, power: int) -> float:
        return (epoch + 1) / 10 if epoch < 10 else math.cos(epoch / 40) ** (2 * power)

    return [functools.partial(function, power=i + 1) for i in range(len(optimizer.param_groups))]


def factors(optimizer: torch.optim.Optimizer) -> list[Callable[[int], float]]:
    count = len(optimizer.param_groups)
    return [lambda epoch, i=i: 1 - 0.01 * (i + epoch % 3) for i in range(count)]  # type: ignore[misc]


SIMPLE: dict[str, Factory] = {
    "LambdaLR": lambda o, **kw: torch_lr.LambdaLR(o, lambdas(o), **kw),
    "MultiplicativeLR": lambda o, **kw: torch_lr.MultiplicativeLR(o, factors(o), **kw),
    "StepLR": lambda o, **kw: torch_lr.StepLR(o, 9, gamma=0.7, **kw),
    "MultiStepLR": lambda o, **kw: torch_lr.MultiStepLR(o, [8, 20, 20, 33], gamma=0.5, **kw),
    "ConstantLR": lambda o, **kw: torch_lr.ConstantLR(o, factor=0.3, total_iters=17, **kw),
    "LinearLR": lambda o, **kw: torch_lr.LinearLR(o, 0.2, 0.9, total_iters=25, **kw),
    "LinearLR without a way": lambda o, **kw: torch_lr.LinearLR(o, 0.2, total_iters=0, **kw),
    "ExponentialLR": lambda o, **kw: torch_lr.ExponentialLR(o, gamma=0.97, **kw),
    "PolynomialLR": lambda o, **kw: torch_lr.PolynomialLR(o, total_iters=40, power=1.7, **kw),
    "PolynomialLR without a way": lambda o, **kw: torch_lr.PolynomialLR(o, total_iters=0, **kw),
    "CosineAnnealingLR": lambda o, **kw: torch_lr.CosineAnnealingLR(o, 16, eta_min=0.004, **kw),
    "CosineAnnealingLR to zero": lambda o, **kw: torch_lr.CosineAnnealingLR(o, 100, **kw),
    "CosineAnnealingWarmRestarts": lambda o, **kw: torch_lr.CosineAnnealingWarmRestarts(
        o, 5, T_mult=2, eta_min=0.001, **kw
    ),
    "CosineAnnealingWarmRestarts even": lambda o, **kw: torch_lr.CosineAnnealingWarmRestarts(
        o, 7, **kw
    ),
    "OneCycleLR": lambda o, **kw: torch_lr.OneCycleLR(o, 0.5, total_steps=90, **kw),
    "OneCycleLR in three": lambda o, **kw: torch_lr.OneCycleLR(
        o, 0.5, total_steps=80, three_phase=True, anneal_strategy="linear", **kw
    ),
    "CyclicLR": lambda o, **kw: torch_lr.CyclicLR(
        o, 0.01, 0.2, step_size_up=6, step_size_down=9, mode="triangular2", **kw
    ),
    "CyclicLR scaled": lambda o, **kw: torch_lr.CyclicLR(
        o, 0.01, 0.2, step_size_up=8, mode="exp_range", gamma=0.99, cycle_momentum=False, **kw
    ),
    "SWALR": lambda o, **kw: SWALR(o, swa_lr=0.02, anneal_epochs=12, **kw),
}


def taking_turns(optimizer: torch.optim.Optimizer) -> Any:
    one = torch_lr.LinearLR(optimizer, 0.2, total_iters=8)
    other = torch_lr.CosineAnnealingWarmRestarts(optimizer, 4, T_mult=2)  # goes on where it was
    return torch_lr.SequentialLR(optimizer, [one, other, one, other], [4, 9, 20])


NESTED: dict[str, Factory] = {
    "SequentialLR of two in turn": taking_turns,
    "SequentialLR": lambda o: torch_lr.SequentialLR(
        o,
        [
            torch_lr.LinearLR(o, 0.1, total_iters=10),
            torch_lr.CosineAnnealingLR(o, 30, eta_min=0.001),
            torch_lr.ConstantLR(o, 0.5, total_iters=4),
        ],
        [10, 35],
    ),
    "SequentialLR of those that hold state": lambda o: torch_lr.SequentialLR(
        o,
        [
            torch_lr.CosineAnnealingWarmRestarts(o, 4, T_mult=2),
            torch_lr.MultiplicativeLR(o, factors(o)),
            torch_lr.CosineAnnealingWarmRestarts(o, 4, T_mult=2),
            torch_lr.LambdaLR(o, lambdas(o)),
        ],
        [13, 26, 40],
    ),
    "SequentialLR in front of a SequentialLR": lambda o: torch_lr.SequentialLR(
        o,
        [
            torch_lr.SequentialLR(
                o, [torch_lr.ConstantLR(o, 0.1, 5), torch_lr.ExponentialLR(o, 0.9)], [8]
            ),
            torch_lr.StepLR(o, 5),
        ],
        [21],
    ),
    "SequentialLR behind a StepLR": lambda o: torch_lr.SequentialLR(
        o,
        [
            torch_lr.StepLR(o, 5),
            torch_lr.SequentialLR(
                o, [torch_lr.ConstantLR(o, 0.1, 5), torch_lr.ExponentialLR(o, 0.9)], [8]
            ),
        ],
        [21],
    ),
    "ChainedScheduler": lambda o: torch_lr.ChainedScheduler(
        [torch_lr.LinearLR(o, 0.1, total_iters=10), torch_lr.CosineAnnealingLR(o, 100)]
    ),
    "ChainedScheduler above zero": lambda o: torch_lr.ChainedScheduler(
        [torch_lr.ConstantLR(o, 0.1, 12), torch_lr.CosineAnnealingLR(o, 30, eta_min=0.002)]
    ),
    "ChainedScheduler of all that multiply": lambda o: torch_lr.ChainedScheduler(
        [SIMPLE[name](o) for name in ("StepLR", "MultiStepLR", "LinearLR", "MultiplicativeLR")]
    ),
    "ChainedScheduler of a ChainedScheduler": lambda o: torch_lr.ChainedScheduler(
        [
            torch_lr.ChainedScheduler(
                [torch_lr.ExponentialLR(o, 0.99), torch_lr.PolynomialLR(o, 50, 0.5)]
            ),
            torch_lr.StepLR(o, 11),
        ]
    ),
    "ChainedScheduler of a SequentialLR": lambda o: torch_lr.ChainedScheduler(
        [
            torch_lr.SequentialLR(
                o, [torch_lr.ConstantLR(o, 0.1, 5), torch_lr.ExponentialLR(o, 0.9)], [8]
            ),
            torch_lr.ExponentialLR(o, 0.99),
        ]
    ),
    "SequentialLR of a ChainedScheduler": lambda o: torch_lr.SequentialLR(
        o,
        [
            torch_lr.ChainedScheduler([torch_lr.ConstantLR(o, 0.1, 5), torch_lr.StepLR(o, 3, 0.9)]),
            torch_lr.PolynomialLR(o, 30),
        ],
        [20],
    ),
}
ALL = SIMPLE | NESTED
HORIZON = 70


def quietly(factory: Factory, optimizer: torch.optim.Optimizer, **options: Any) -> Any:
    """Build a scheduler; torch warns of the order of steps while it builds nested ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return factory(optimizer, **options)


def walked(scheduler: Any, steps: int) -> Array:
    """The rates of all groups at 0..steps real steps, shape (steps + 1, groups), nan once raised.

    The slow, obvious reference.
    """
    groups = scheduler.optimizer.param_groups
    rates = np.full((steps + 1, len(groups)), np.nan)
    rates[0] = [float(group["lr"]) for group in groups]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in range(1, steps + 1):
            try:
                scheduler.step()
            except (ValueError, NotImplementedError, TypeError, ZeroDivisionError):
                break
            rates[k] = [float(group["lr"]) for group in groups]
    return rates


def held(rates: Array) -> Array:
    """A rate that ends is held, a negative one counts as 0."""
    known = np.isfinite(rates)
    last = rates.size if known.all() else int(np.argmin(known))
    followed = np.append(rates[:last], np.full(rates.size - last, rates[last - 1]))
    return followed.clip(min=0.0)


def check_future(make: Callable[[], Any], step: int, groups: int) -> None:
    """The schedule from `make()` on equals stepping what `make()` gives, bit by bit."""
    truth = walked(make(), HORIZON - 1)
    for group in range(groups):
        schedule = schedule_from_torch(make(), total_steps=step + HORIZON, step=step, group=group)
        lrs = schedule.to_array()
        assert lrs[step:].tolist() == held(truth[:, group]).tolist()
        assert set(lrs[:step]) <= {truth[0, group]}
        ends = bool(np.isnan(truth[:, group]).any())
        assert schedule.caveats == ({Caveat.LR_ASSUMED} if ends else set())


# ------------------------------------------------------------------ exact futures


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ALL)
def test_fresh(name: str, tensor: bool, groups: int) -> None:
    check_future(lambda: quietly(ALL[name], optimizer_of(groups, tensor)), 0, groups)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ALL)
def test_midway(name: str, tensor: bool, groups: int) -> None:
    def make() -> Any:
        scheduler = quietly(ALL[name], optimizer_of(groups, tensor))
        walked(scheduler, 12)
        return scheduler

    check_future(make, 12, groups)


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ALL)
def test_loaded(name: str, tensor: bool) -> None:
    def make() -> Any:
        old = quietly(ALL[name], optimizer_of(2, tensor))
        walked(old, 12)
        new = quietly(ALL[name], optimizer_of(2, tensor))
        new.optimizer.load_state_dict(old.optimizer.state_dict())
        new.load_state_dict(old.state_dict())
        return new

    check_future(make, 12, 2)


@pytest.mark.parametrize("name", SIMPLE)
def test_built_with_last_epoch(name: str) -> None:
    def make() -> Any:
        old = SIMPLE[name](optimizer_of(2))
        walked(old, 12)
        optimizer = optimizer_of(2)
        optimizer.load_state_dict(old.optimizer.state_dict())
        return SIMPLE[name](optimizer, last_epoch=11)

    check_future(make, 12, 2)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_momentum_is_cycled_on_the_clone_alone(name: str, kind: Any) -> None:
    scheduler = SIMPLE[name](optimizer_of(2, kind=kind))
    before = {k: v for k, v in scheduler.optimizer.param_groups[0].items() if k != "params"}
    schedule_from_torch(scheduler, total_steps=HORIZON)
    after = {k: v for k, v in scheduler.optimizer.param_groups[0].items() if k != "params"}
    assert before == after
    check_future(lambda: SIMPLE[name](optimizer_of(2, kind=kind)), 0, 2)


def test_rate_changed_by_hand() -> None:
    def make() -> Any:
        scheduler = SIMPLE["StepLR"](optimizer_of())
        walked(scheduler, 12)
        scheduler.optimizer.param_groups[0]["lr"] = 0.77
        return scheduler

    check_future(make, 12, 1)


def leaves() -> st.SearchStrategy[Factory]:
    return st.sampled_from([SIMPLE[name] for name in sorted(SIMPLE) if name != "SWALR"])


def chained(children: list[Factory]) -> Factory:
    return lambda o: torch_lr.ChainedScheduler([child(o) for child in children])


def sequential(children: list[Factory], gaps: list[int]) -> Factory:
    marks = np.cumsum(gaps[: len(children) - 1]).tolist()
    return lambda o: torch_lr.SequentialLR(o, [child(o) for child in children], marks)


def compositions(inner: st.SearchStrategy[Factory]) -> st.SearchStrategy[Factory]:
    several = st.lists(inner, min_size=1, max_size=3)
    gaps = st.lists(st.integers(1, 25), min_size=2, max_size=2)
    return st.builds(chained, several) | st.builds(sequential, several, gaps)


compositions_of_schedulers = st.recursive(leaves(), compositions, max_leaves=5)


@settings(max_examples=150, deadline=None)
@given(factory=compositions_of_schedulers, taken=st.integers(0, 30), tensor=st.booleans())
def test_any_composition(factory: Factory, taken: int, tensor: bool) -> None:
    def make() -> Any:
        scheduler = quietly(factory, optimizer_of(2, tensor))
        assume(np.isfinite(walked(scheduler, taken)).all())
        return scheduler

    try:
        make()
    except (ValueError, NotImplementedError, AttributeError, ZeroDivisionError):
        assume(False)  # torch refuses to build some
    if (walked(make(), HORIZON)[0] < 0).any():
        return  # the rate of a run is not negative
    check_future(make, taken, 2)


# ------------------------------------------------------------------ far futures


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
        patch.setattr(module, "_EXACT", 5)  # the search then looks at each of so few steps
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
    monkeypatch.setattr(module, "_EXACT", 20)
    monkeypatch.setattr(module, "_AFFORDABLE", HORIZON if name in WITHOUT_FORMULA else 0)

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
    monkeypatch.setattr(module, "_EXACT", 10_000)
    monkeypatch.setattr(module, "_AFFORDABLE", LONG if name == "SWALR" else 0)  # by formulas
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


# ------------------------------------------------------------------ other intervals


def epochwise(scheduler: Any, total_steps: int, step: int, n_steps: int) -> list[float]:
    """The rate of each optimizer step after `step` in a loop that steps at the end of epochs."""
    lrs = []
    for i in range(step + 1, total_steps + 1):
        lrs.append(float(scheduler.optimizer.param_groups[0]["lr"]))
        if i % n_steps == 0:
            walked(scheduler, 1)
    return lrs


@pytest.mark.parametrize("step", [0, 1, 30, 31, 59, 399, 400])
def test_stepped_every_epoch(step: int) -> None:
    def make() -> Any:
        scheduler = NESTED["SequentialLR"](optimizer_of())
        walked(scheduler, step // 30)
        return scheduler

    schedule = schedule_from_torch(
        make(), total_steps=400, step=step, scheduler_steps=every(30, step=step)
    )
    assert schedule.to_array()[step:].tolist() == epochwise(make(), 400, step, 30)
    assert schedule.caveats == set()


def test_epochs_of_a_long_run_are_exact_and_small() -> None:
    n_steps, step = 30_001, 30_500
    total_steps = 100 * n_steps + 1  # the last step begins an epoch

    def make() -> Any:
        scheduler = SIMPLE["CosineAnnealingLR"](optimizer_of())
        walked(scheduler, 1)
        return scheduler

    schedule = schedule_from_torch(
        make(), total_steps=total_steps, step=step, scheduler_steps=every(n_steps, step=step)
    )
    rates = walked(make(), 100)[:, 0]
    assert schedule.caveats == set()
    assert len(schedule.to_dict()["pieces"]["stop"]) <= 220
    steps = np.arange(step + 1, total_steps + 1)
    assert np.array_equal(schedule.lr(steps), rates[(steps - 1) // n_steps - 1])
    assert schedule.lr([1, step]).tolist() == [rates[0]] * 2


def test_stepped_several_times_a_step() -> None:
    """As accelerate does, once for each process."""
    make = functools.partial(SIMPLE["PolynomialLR"], optimizer_of())
    schedule = schedule_from_torch(make(), total_steps=20, scheduler_steps=lambda i: 4 * (i - 1))
    scheduler = SIMPLE["PolynomialLR"](optimizer_of())
    assert schedule.to_array().tolist() == walked(scheduler, 76)[::4, 0].tolist()


def test_far_future_at_another_interval() -> None:
    scheduler = torch_lr.StepLR(optimizer_of(), 77_777, gamma=0.5)
    schedule = schedule_from_torch(scheduler, total_steps=MILLION, scheduler_steps=every(4))
    steps = np.arange(1, MILLION + 1)
    assert np.array_equal(schedule.lr(steps), 0.1 * 0.5 ** ((steps - 1) // 4 // 77_777))


def test_nothing_ahead() -> None:
    scheduler = SIMPLE["StepLR"](optimizer_of())
    schedule = schedule_from_torch(scheduler, total_steps=5, step=5)
    assert schedule.to_array().tolist() == [0.1] * 5
    assert schedule.caveats == set()


# ------------------------------------------------------------------ what is not touched


def frozen(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """All there is to see of an object: identities, values, in-place versions of tensors."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return id(value)
    match value:
        case torch.Tensor():
            return "tensor", id(value), value._version, value.tolist()
        case bool() | int() | float() | str() | None:
            return type(value), repr(value)
    seen[id(value)] = value
    match value:
        case Mapping():
            return id(value), [(k, frozen(v, seen)) for k, v in value.items()]
        case list() | tuple():
            return id(value), [frozen(v, seen) for v in value]
        case _:
            return id(value), frozen(getattr(value, "__dict__", {}), seen)


def surroundings() -> Any:
    generator = np.random.get_state(legacy=False)  # noqa: NPY002 (the global one is meant)
    return (
        torch.get_rng_state().tolist(),
        repr(generator),
        random.getstate(),
        list(warnings.filters),
        torch.optim.SGD.step,
    )


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ALL)
def test_nothing_is_touched(
    name: str, tensor: bool, far: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if far:
        monkeypatch.setattr(module, "_EXACT", 5)
    scheduler = quietly(ALL[name], optimizer_of(2, tensor))
    walked(scheduler, 3)
    before = frozen(scheduler), frozen(scheduler.state_dict()), surroundings()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        schedule_from_torch(scheduler, total_steps=HORIZON, step=3)
    assert not raised
    assert (frozen(scheduler), surroundings()) == (before[0], before[2])
    truth = walked(quietly(ALL[name], optimizer_of(2, tensor)), HORIZON)[3:]
    assert np.array_equal(walked(scheduler, HORIZON - 3), truth, equal_nan=True)


class Warmup:
    """A schedule that remembers."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, epoch: int) -> float:
        self.calls += 1
        return self.calls / 1_000

    def method(self, epoch: int) -> float:
        return 1 / (1 + epoch)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_callable_object_is_copied(groups: int) -> None:
    function = Warmup()
    scheduler = torch_lr.LambdaLR(optimizer_of(groups), function)
    walked(scheduler, 4)
    calls = function.calls
    lrs = schedule_from_torch(scheduler, total_steps=50).to_array()
    assert function.calls == calls == 5 * groups
    assert lrs.tolist() == walked(scheduler, 49)[:, 0].tolist()


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def rate(self, epoch: int) -> float:
        return 1 / (1 + epoch)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Model":
        raise AssertionError("the model must not be copied")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_method_is_shared_and_its_model_never_copied(wrapped: bool) -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    function = functools.partial(model.rate) if wrapped else model.rate
    scheduler = torch_lr.LambdaLR(optimizer, function)
    schedule = schedule_from_torch(scheduler, total_steps=3)
    assert schedule.to_array().tolist() == [0.1, 0.1 * (1 / 2), 0.1 * (1 / 3)]


def test_parameters_are_never_copied() -> None:
    class Knowing(torch_lr.ExponentialLR):
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.parameters = list(optimizer.param_groups[0]["params"])
            self.addresses = [parameter.data_ptr() for parameter in self.parameters]
            super().__init__(optimizer, 0.5)

        def get_lr(self) -> list[float | torch.Tensor]:
            copied = [parameter.data_ptr() for parameter in self.parameters] != self.addresses
            return [math.nan] if copied else super().get_lr()

    schedule = schedule_from_torch(Knowing(optimizer_of()), total_steps=3)
    assert schedule.to_array().tolist() == [0.1, 0.05, 0.025]


# ------------------------------------------------------------------ unknown futures


class Custom:
    """Not torch's, but with an optimizer; each subclass fails in its own way, or not."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.5


class NeedsAnArgument(Custom):
    def step(self, epoch: int) -> None:  # type: ignore[override]
        raise AssertionError


class CannotBeCopied(Custom):
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        self.stream = (number for number in range(9))


class ReachesThroughAClosure(Custom):
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        self.halve: Callable[[], None] = lambda: Custom.step(self)

    def step(self) -> None:
        self.halve()


class Slotted:
    __slots__ = ("optimizer",)

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


def test_a_scheduler_may_look_at_the_options_of_its_optimizer() -> None:
    class Careful(torch_lr.LRScheduler):
        def get_lr(self) -> list[float | torch.Tensor]:
            decay = self.optimizer.defaults["weight_decay"]
            return [
                group["lr"] * group["betas"][0] * decay for group in self.optimizer.param_groups
            ]

    def make() -> Any:
        return Careful(optimizer_of(2, kind=torch.optim.AdamW))

    check_future(make, 0, 2)


def test_an_object_that_can_be_cloned_is_stepped() -> None:
    schedule = schedule_from_torch(Custom(optimizer_of()), total_steps=3)
    assert schedule.to_array().tolist() == [0.1, 0.05, 0.025]
    assert schedule.caveats == set()


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize(
    "make",
    [
        torch_lr.ReduceLROnPlateau,
        NeedsAnArgument,
        CannotBeCopied,
        ReachesThroughAClosure,
        Slotted,
    ],
)
def test_present_rate_is_held(make: Factory, tensor: bool, far: bool) -> None:
    optimizer = optimizer_of(2, tensor)
    scheduler = make(optimizer)
    before = [(id(group["lr"]), float(group["lr"])) for group in optimizer.param_groups]
    total_steps = EXACT + 9 if far else 20
    schedule = schedule_from_torch(scheduler, total_steps=total_steps, step=3)
    assert schedule == LRSchedule.from_points(
        [3], [before[0][1]], total_steps=total_steps, caveats={Caveat.LR_ASSUMED}
    )
    assert [(id(group["lr"]), float(group["lr"])) for group in optimizer.param_groups] == before


def test_one_cycle_past_its_end() -> None:
    scheduler = torch_lr.OneCycleLR(optimizer_of(), 0.5, total_steps=20)
    schedule = schedule_from_torch(scheduler, total_steps=50)
    truth = walked(scheduler, 20)[:, 0]
    assert schedule.to_array().tolist() == truth.tolist() + [truth[-1]] * 29
    assert schedule.caveats == {Caveat.LR_ASSUMED}


@pytest.mark.parametrize("total_steps", [100, 200_000])
def test_a_rate_that_is_nan_or_negative(total_steps: int) -> None:
    def function(epoch: int) -> float:
        return math.nan if epoch >= 60 else 1 - epoch / 30

    scheduler = torch_lr.LambdaLR(optimizer_of(), function)
    schedule = schedule_from_torch(scheduler, total_steps=total_steps)
    assert Caveat.LR_ASSUMED in schedule.caveats
    want = np.maximum(0.1 * (1 - np.arange(60) / 30), 0)
    assert schedule.to_array()[:60] == pytest.approx(want, abs=1e-12)
    assert not schedule.to_array()[60:].any()
    walked(scheduler, 45)  # the present rate is negative now
    assert not schedule_from_torch(scheduler, total_steps=total_steps).to_array().any()


def test_a_step_patched_onto_the_object_is_not_called() -> None:
    scheduler: Any = SIMPLE["ExponentialLR"](optimizer_of())
    original, calls = scheduler.step, 0

    def patched() -> None:
        nonlocal calls
        calls += 1
        original()

    scheduler.step = patched
    want = 0.1 * 0.97
    assert schedule_from_torch(scheduler, total_steps=2).to_array().tolist() == [0.1, want]
    assert calls == 0
    assert scheduler.optimizer.param_groups[0]["lr"] == 0.1


# ------------------------------------------------------------------ choices and misuse


class Wrapper:
    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler


def test_wrappers_are_opened() -> None:
    make = functools.partial(SIMPLE["PolynomialLR"])
    wrapped = Wrapper(Wrapper(make(optimizer_of())))
    assert schedule_from_torch(wrapped, total_steps=30) == schedule_from_torch(
        make(optimizer_of()), total_steps=30
    )


def test_the_group_of_the_largest_rate_is_followed() -> None:
    rates = [1.0, 3.0, 2.0, 3.0]
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": lr} for lr in rates])
    functions: list[Callable[[int], float]] = [
        functools.partial(lambda n, i: 1 / (1 + n * i), n) for n in range(4)
    ]
    scheduler = torch_lr.LambdaLR(optimizer, functions)
    assert schedule_from_torch(scheduler, total_steps=2).to_array().tolist() == [3, 1.5]
    walked(scheduler, 9)  # the rates are now 1, 0.3, ...: the initial ones still tell
    assert schedule_from_torch(scheduler, total_steps=1).to_array().tolist() == [3 * (1 / 10)]
    assert schedule_from_torch(scheduler, total_steps=1, group=0).to_array().tolist() == [1]


@pytest.mark.parametrize("given", [None, object(), Wrapper(None), lambda epoch: 1.0])
def test_no_optimizer(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="no optimizer"):
        schedule_from_torch(given, total_steps=5)


@pytest.mark.parametrize("group", [2, -1, 0.5, "0"])
def test_no_such_group(group: Any) -> None:
    with pytest.raises(ConfigurationError, match="group"):
        schedule_from_torch(SIMPLE["StepLR"](optimizer_of(2)), total_steps=5, group=group)


@pytest.mark.parametrize(
    "options", [{"total_steps": 0}, {"total_steps": 2.5}, {"total_steps": 5, "step": 6}]
)
def test_impossible_steps(options: dict[str, Any]) -> None:
    with pytest.raises(ScheduleError, match="step"):
        schedule_from_torch(SIMPLE["StepLR"](optimizer_of()), **options)


@pytest.mark.parametrize(
    "function", [lambda i: -i, lambda i: 9 - i, lambda i: i / 2, lambda i: i[:0], lambda i: "no"]
)
def test_impossible_positions(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="scheduler_steps"):
        schedule_from_torch(
            SIMPLE["StepLR"](optimizer_of()), total_steps=5, scheduler_steps=function
        )


@pytest.mark.parametrize(("n_steps", "step"), [(0, 0), (1.5, 0), (3, -1)])
def test_impossible_interval(n_steps: Any, step: int) -> None:
    with pytest.raises(ConfigurationError, match="step"):
        every(n_steps, step=step)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_rates_on_a_gpu(name: str) -> None:
    """The clone computes on the CPU, to the same bits."""
    check_future(lambda: quietly(ALL[name], optimizer_of(2, tensor=True, device="cuda")), 0, 2)
    scheduler = quietly(ALL[name], optimizer_of(2, tensor=True, device="cuda"))
    before = frozen(scheduler)
    schedule_from_torch(scheduler, total_steps=HORIZON)
    assert frozen(scheduler) == before
