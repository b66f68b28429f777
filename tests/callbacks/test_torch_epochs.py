"""The optimizer steps of an epoch in plain loops and those of Fabric, as their users give them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from support.torch_runs import Bench, run

from lossforecast import Action, Caveat, ConfigurationError, RunInfo
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.monitor.update import Update
from lossforecast.policies import no_room

STATES = Path(__file__).parents[1] / "states"
TOTAL, EPOCH = 200, 120


def monitor_of(bench: Bench, **options: Any) -> TorchLossForecast:
    return TorchLossForecast(bench.optimizer, None, TOTAL, every_n_steps=5, **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"steps_per_epoch": EPOCH}, EPOCH),
        ({"steps_per_epoch": 12.5, "run": RunInfo(task="toy")}, 12.5),
        ({"steps_per_epoch": EPOCH, "run": RunInfo(steps_per_epoch=7)}, 7),
        ({"run": RunInfo(steps_per_epoch=7)}, 7),
    ],
)
def test_it_is_as_given(options: dict[str, Any], expected: float | None) -> None:
    with monitor_of(Bench(), **options) as monitor:
        for metric in ("train", "val"):
            facts = monitor.forecaster_of(metric).run
            assert (facts.metric, facts.steps_per_epoch) == (metric, expected)


@pytest.mark.parametrize("given", [0, -3, float("nan"), "many", True])
def test_an_epoch_has_steps(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="steps_per_epoch"):
        monitor_of(Bench(), steps_per_epoch=given)
    with pytest.raises(ConfigurationError, match="run must be of type RunInfo"):
        monitor_of(Bench(), steps_per_epoch=EPOCH, run="toy")


def test_nothing_is_stopped_before_the_data_is_seen_again() -> None:
    bench, updates = Bench(), list[Update]()
    options: dict[str, Any] = {"stop": True, "policy": no_room(100.0), "sinks": [updates.append]}
    with monitor_of(bench, steps_per_epoch=EPOCH, **options) as monitor:
        taken = run(bench, monitor, range(TOTAL))
    warned = {u.step for u in updates if Caveat.REPEATED_DATA in u.forecast.caveats}
    assert warned == set(range(5, 135, 5))
    advice = {u.step: u.recommendation.action for u in updates}
    assert advice[130] is Action.ABSTAIN
    assert EPOCH < taken < TOTAL
    bench = Bench()
    with monitor_of(bench, **options) as monitor:
        assert run(bench, monitor, range(TOTAL)) < EPOCH


def test_a_resumed_run_has_what_is_given_or_else_what_was_saved() -> None:
    bench = Bench()
    with monitor_of(bench, steps_per_epoch=EPOCH) as monitor:
        run(bench, monitor, range(20))
        state = monitor.state_dict()
    assert json.loads(json.dumps(state))["forecasters"]["val"]["run"]["steps_per_epoch"] == EPOCH
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, EPOCH),
        ({"steps_per_epoch": 33}, 33),
        ({"run": RunInfo(steps_per_epoch=22)}, 22),
    ]
    for options, expected in cases:
        with monitor_of(Bench(), **options) as again:
            again.load_state_dict(state)
            assert again.forecaster.run.steps_per_epoch == expected


def test_a_state_of_an_earlier_version_has_no_epochs() -> None:
    saved = json.loads((STATES / "torch-0.1.0.json").read_text())
    state = saved.get("monitor", saved)
    assert "steps_per_epoch" not in state["forecasters"]["train"]["run"]
    bench = Bench()
    cases: list[tuple[dict[str, Any], int | None]] = [({}, None), ({"steps_per_epoch": 40}, 40)]
    for options, expected in cases:
        with monitor_of(bench, **options) as monitor:
            monitor.load_state_dict(state)
            assert monitor.forecaster.run.steps_per_epoch == expected


def test_a_network_that_memorises_random_labels_is_given_its_time() -> None:
    """Its loss stays near chance for long, and then falls by two orders of magnitude."""
    torch.manual_seed(0)
    images, labels = torch.randn(1_024, 1, 16, 16), torch.randint(0, 10, (1_024,))
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total, updates, losses = 12 * 32, list[Update](), list[float]()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total + 1)
    options: dict[str, Any] = {"target": 0.01, "stop": True, "sinks": [updates.append]}
    with TorchLossForecast(
        optimizer, scheduler, total, steps_per_epoch=32, every_n_steps=24, **options
    ) as monitor:
        for _ in range(12):
            order = torch.randperm(1_024)
            for start in range(0, 1_024, 32):
                batch = order[start : start + 32]
                loss: Any = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
                losses.append(loss.item())
                monitor.step(loss)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
    young = [update for update in updates if update.step < total / 2]
    assert sum(losses[total // 2 - 10 : total // 2]) / 10 > 20 * losses[-1]
    assert young
    for update in young:
        assert update.recommendation.action is Action.ABSTAIN
        assert update.step < 35 or Caveat.MEMORISING in update.forecast.caveats


def test_a_fabric_loop() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    model = torch.nn.Linear(4, 1)
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.01))
    rows: Any = torch.randn(48, 4)
    data = torch.utils.data.DataLoader(rows, batch_size=4)
    loader = fabric.setup_dataloaders(data)
    total = 3 * len(loader)
    with TorchLossForecast(
        optimizer, total_steps=total, every_n_steps=1, steps_per_epoch=len(loader)
    ) as monitor:
        for epoch in range(3):
            for batch in loader:
                loss = model(batch).square().mean()
                monitor.step(loss)
                fabric.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            forecast = monitor.forecast
            assert forecast is not None
            assert (Caveat.REPEATED_DATA in forecast.caveats) is (epoch == 0)
    assert monitor.forecaster.run.steps_per_epoch == 12
