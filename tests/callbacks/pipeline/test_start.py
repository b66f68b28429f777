"""Arguments that all callbacks share are checked alike, and a start that fails leaves nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lossforecast import LRSchedule
from lossforecast.callbacks import (
    AnnealingProbe,
    LightningLossForecast,
    TorchLossForecast,
    TransformersLossForecast,
)
from lossforecast.callbacks.pipeline import Settings
from lossforecast.errors import ConfigurationError


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)


def torch_callback(**arguments: Any) -> TorchLossForecast:
    if "schedule" not in arguments:
        arguments["total_steps"] = 100
    return TorchLossForecast(optimizer(), **arguments)


@pytest.mark.parametrize(
    "create",
    [Settings, torch_callback, LightningLossForecast, TransformersLossForecast],
    ids=["settings", "torch", "lightning", "huggingface"],
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stop": "yes"}, "stop must be of type bool, not 'yes'"),
        ({"apply": 1}, "apply must be of type bool, not 1"),
        ({"run": "adamw"}, "run must be of type RunInfo, not 'adamw'"),
        ({"probe": print}, "probe must be of type AnnealingProbe"),
        ({"target": float("inf")}, "target is inf; it must be a finite loss"),
        ({"laws": "moore"}, "unknown laws"),
        ({"every_n_steps": 0}, "every_n_steps is 0; it must be at least 1"),
        ({"policy": "stop"}, "policy must be one or more policies"),
        ({"sinks": print}, "sinks must be functions of an update"),
        ({"store": 7}, "store must be True, a path, a database URL or a RunStore, not of type int"),
        ({"schedule": [0.1] * 10}, "schedule must be an LRSchedule, not list"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_all_callbacks_refuse_the_same(
    create: Callable[..., object], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create(**arguments)


def test_settings_are_clean_values() -> None:
    def policy(situation: object) -> None:
        return None

    settings = Settings(
        laws=iter(["power"]), policy=iter([policy]), sinks=iter([print]), total_steps=10
    )
    assert settings.laws == ("power",)
    assert settings.policies == [policy]
    assert settings.sinks == [print]
    assert settings.place is None
    assert Settings().policies is None
    assert len(Settings(apply=True).policies or []) == 3
    with pytest.raises(ConfigurationError, match="total_steps is 10, but the schedule has 20"):
        Settings(total_steps=10, schedule=LRSchedule.constant(20, 0.1))
    with pytest.raises(ConfigurationError, match="monitor must be the name of a metric"):
        Settings(metric="val", monitor="")


def test_a_start_that_fails_leaves_no_hooks() -> None:
    trained: Any = optimizer()
    probe = AnnealingProbe(lambda model, batch: model(batch))  # of no model
    with pytest.raises(ConfigurationError, match="the probe needs the model"):
        TorchLossForecast(trained, total_steps=1_000, probe=probe)
    assert not trained._optimizer_step_pre_hooks
    assert not trained._optimizer_step_post_hooks
