"""Forecasts in the trackers of an ``Accelerator``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.tracking import GeneralTracker  # type: ignore[import-untyped]
from accelerate.utils.dataclasses import ProjectConfiguration  # type: ignore[import-untyped]

from lossforecast.callbacks import AccelerateSink, TorchLossForecast
from lossforecast.readers import read_log

STEPS, EVERY = 120, 10
NAMES = {"forecast/final_loss", "forecast/lower", "forecast/upper", "forecast/anneal_gain"}


class Mine(GeneralTracker):  # type: ignore[misc]
    """A tracker of the user's."""

    name = "mine"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, Any]]] = []

    @property
    def tracker(self) -> Any:
        return self.rows

    def store_init_configuration(self, values: Any) -> None: ...

    def log(self, values: Any, step: int | None = None, **kwargs: Any) -> None:
        self.rows.append((step, values))


def train(accelerator: Accelerator) -> TorchLossForecast:
    """A loop as its users write it, whose loss follows a script."""
    weight = torch.ones(1, requires_grad=True)
    optimizer = accelerator.prepare(torch.optim.SGD([weight], lr=0.1))
    sinks = [AccelerateSink(accelerator)]
    with TorchLossForecast(
        optimizer, None, STEPS, every_n_steps=EVERY, sinks=sinks, store=False
    ) as monitor:
        for step in range(STEPS):
            loss = 2 + 3 * (step + 5.0) ** -0.5 + 0 * weight.sum()
            monitor.step(loss)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            accelerator.log({"loss": loss.item()}, step=step + 1)
    return monitor


def test_every_tracker_gets_forecasts(tmp_path: Path) -> None:
    mine = Mine()
    accelerator = Accelerator(
        cpu=True,
        log_with=["tensorboard", mine],
        project_config=ProjectConfiguration(tmp_path, tmp_path / "logs"),
    )
    accelerator.init_trackers("project")
    assert train(accelerator).forecast is not None
    accelerator.end_training()
    forecasts = [row for row in mine.rows if "forecast/final_loss" in row[1]]
    assert [step for step, _ in forecasts] == list(range(EVERY, STEPS + 1, EVERY))
    assert all(set(values) == NAMES for _, values in forecasts)
    assert len(mine.rows) == STEPS + len(forecasts)
    (folder,) = {path.parent for path in (tmp_path / "logs").rglob("events.*")}
    log = read_log(folder, column="forecast/final_loss")
    assert log.history.n_observed == len(forecasts)


def test_what_is_missing_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    monitor = train(Accelerator(cpu=True))
    assert monitor.forecast is not None
    assert caplog.text.count("AccelerateSink has no tracker: give Accelerator(log_with=...)") == 1


def test_wandb_has_the_axis_of_its_own_sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name, value in (("MODE", "offline"), ("DIR", str(tmp_path)), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    accelerator = Accelerator(cpu=True, log_with="wandb")
    accelerator.init_trackers("project")
    run = accelerator.get_tracker("wandb", unwrap=True)
    monitor = train(accelerator)
    accelerator.log({"last": 1})
    assert monitor.forecast is not None
    assert run.summary["forecast/final_loss"] == pytest.approx(monitor.forecast.median)
    assert {"loss", "forecast/picture"} <= set(run.summary.keys())
    accelerator.end_training()
