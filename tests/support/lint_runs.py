"""Schedulers and loops for tests of the schedule lint."""

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lossforecast.callbacks import TorchLossForecast

torch_lr = torch.optim.lr_scheduler


IGNORED_WARNINGS = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore:A .OneCycleLR. scheduler is using 'interval':RuntimeWarning"
    ),
]


Make = Callable[[torch.optim.Optimizer], Any]
N = 200  # optimizer steps of a run


EPOCHS, BATCHES = 10, 20  # the same in epochs


def warnings_without_error(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [record for record in caplog.records if record.name == "lossforecast"]
    assert all(record.exc_info is None for record in ours)
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def sgd(lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=lr)


def cosine_with_warmup(step: int, *, warmup: int, total: int) -> float:
    """As transformers' get_cosine_schedule_with_warmup has it, in a partial of a function."""
    if step < warmup:
        return step / max(1, warmup)
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


def linear_with_warmup(step: int, *, warmup: int, total: int) -> float:
    """As transformers' get_linear_schedule_with_warmup has it."""
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


def like_transformers(rule: Any, warmup: int, total: int) -> Make:
    function = functools.partial(rule, warmup=warmup, total=total)
    return lambda o: torch_lr.LambdaLR(o, function)


def warmed_up(o: torch.optim.Optimizer, warmup: int, total: int) -> Any:
    parts = [torch_lr.LinearLR(o, 0.01, 1, warmup), torch_lr.CosineAnnealingLR(o, total - warmup)]
    return torch_lr.SequentialLR(o, parts, [warmup])


def one_cycle_after(o: torch.optim.Optimizer, warmup: int, total: int) -> Any:
    parts = [
        torch_lr.ConstantLR(o, 1.0, warmup),
        torch_lr.OneCycleLR(o, 0.1, total_steps=total - warmup),
    ]
    return torch_lr.SequentialLR(o, parts, [warmup])


def of_length(total: int) -> dict[str, Make]:
    """Schedulers that are right for so many steps, whatever those are."""
    third, two_thirds = total // 3, 2 * total // 3
    return {
        "constant": lambda o: torch_lr.ConstantLR(o, 1 / 3, 5),
        "warm-up": lambda o: torch_lr.LinearLR(o, 0.01, 1, max(total // 10, 1)),
        "cosine": lambda o: torch_lr.CosineAnnealingLR(o, total),
        "cosine to 10%": lambda o: torch_lr.CosineAnnealingLR(o, total, eta_min=0.01),
        "cosine after a warm-up": lambda o: warmed_up(o, max(total // 10, 1), total),
        "one cycle": lambda o: torch_lr.OneCycleLR(o, 0.1, total_steps=total),
        "one cycle after a warm-up": lambda o: one_cycle_after(o, max(total // 10, 1), total),
        "polynomial": lambda o: torch_lr.PolynomialLR(o, total),
        "linear": lambda o: torch_lr.LinearLR(o, 1, 0.01, total),
        "drops": lambda o: torch_lr.MultiStepLR(o, [third, two_thirds]),
        "steps": lambda o: torch_lr.StepLR(o, max(third, 1)),
        "exponential": lambda o: torch_lr.ExponentialLR(o, 0.02 ** (1 / total)),
        "restarts": lambda o: torch_lr.CosineAnnealingWarmRestarts(o, total // 2),
        "transformers' cosine": like_transformers(cosine_with_warmup, total // 10, total),
        "transformers' linear": like_transformers(linear_with_warmup, total // 10, total),
        "plateau": lambda o: torch_lr.ReduceLROnPlateau(o, patience=1),
    }


def loop(
    make: Make | None,
    *,
    steps: int = N,
    optimizer: Any = None,
    calls: Callable[[int], int] = lambda taken: 1,
    micro_batches: int = 1,
    **options: Any,
) -> TorchLossForecast:
    """Train; `calls` says how often the scheduler is stepped after so many optimizer steps."""
    optimizer = optimizer or sgd()
    scheduler: Any = None if make is None else make(optimizer)
    weight = optimizer.param_groups[0]["params"][0]
    given = options if "schedule" in options else {"scheduler": scheduler, **options}
    given = {"total_steps": steps, "every_n_steps": 10, **given}
    with TorchLossForecast(optimizer, **given) as monitor:
        for taken in range(1, steps + 1):
            for _ in range(micro_batches):
                loss = (weight - weight.detach()).sum() + 2 + 3 / taken
                monitor.step(loss)
                loss.backward()
            optimizer.step()
            for _ in range(calls(taken) if scheduler is not None else 0):
                if isinstance(scheduler, torch_lr.ReduceLROnPlateau):
                    scheduler.step(3 / taken)
                else:
                    scheduler.step()
            optimizer.zero_grad()
    assert not monitor.switched_off
    return monitor


def a_third(total: int, first: int) -> list[Any]:
    """The schedulers of so many steps; all but a third of them are for the full tests."""
    return [
        pytest.param(name, marks=() if i % 3 == first else pytest.mark.slow)
        for i, name in enumerate(of_length(total))
    ]


def faulty(total: int) -> dict[str, tuple[Make, str, tuple[str, ...]]]:
    """Schedulers that are wrong for so many steps: what they are called and told."""
    half, double = total // 2, 2 * total
    return {
        "cosine for twice the run": (
            lambda o: torch_lr.CosineAnnealingLR(o, double),
            "horizon_long",
            ("until about step 40", f": make it for {total}"),
        ),
        "one cycle for twice the run": (
            lambda o: torch_lr.OneCycleLR(o, 0.1, total_steps=double),
            "horizon_long",
            ("until about step 40",),
        ),
        "transformers' linear for twice the run": (
            like_transformers(linear_with_warmup, 10, double),
            "horizon_long",
            ("until about step 40",),
        ),
        "transformers' linear for half of the run": (
            like_transformers(linear_with_warmup, 10, half),
            "horizon_short",
            (f"after {half + 1} of {total} steps", "last 50%"),
        ),
        "polynomial for half of the run": (
            lambda o: torch_lr.PolynomialLR(o, half),
            "horizon_short",
            (f"make the schedule for {total} steps",),
        ),
        "cosine that climbs again": (
            lambda o: torch_lr.CosineAnnealingLR(o, total * 3 // 4),
            "rises_at_end",
            (f"after step {total * 3 // 4 + 1}",),
        ),
        "a restart at the very end": (
            lambda o: torch_lr.CosineAnnealingWarmRestarts(o, total - 2),
            "rises_at_end",
            (f"after step {total - 2}", "100% of its peak"),
        ),
        "an exponential that hardly falls": (
            lambda o: torch_lr.ExponentialLR(o, 0.5 ** (1 / total)),
            "never_low",
            ("50% of its peak",),
        ),
    }


class AdamWScheduleFree(torch.optim.SGD):
    """Only its name matters."""
