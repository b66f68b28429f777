"""Torch schedulers of every kind, and how to step them."""

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.optim import lr_scheduler as torch_lr
from torch.optim.swa_utils import SWALR

from lossforecast.callbacks.lr_schedulers.from_torch import schedule_from_torch
from lossforecast.status import Caveat

Factory = Callable[..., Any]
Array = NDArray[np.float64]


MILLION = 1_000_000


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
