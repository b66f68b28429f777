"""$LOSSFORECAST_STORE switches the store on for every callback; without one, a run says so once."""

import builtins
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lossforecast import RunInfo, RunStore
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.pipeline import Settings, loop_callback

HINT = "the next run like this one could be forecast from this one: store=True"


@pytest.fixture(autouse=True)
def first_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("LOSSFORECAST_STORE", raising=False)
    loop_callback._suggest_store.cache_clear()
    yield
    loop_callback._suggest_store.cache_clear()


def train(steps: int = 100, **arguments: Any) -> TorchLossForecast:
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
    info = RunInfo(project="p")
    with TorchLossForecast(optimizer, None, 100, run=info, **arguments) as monitor:
        for step in range(steps):
            monitor.step(2 + 3 * (step + 5.0) ** -0.5)
            optimizer.step()
    return monitor


@pytest.mark.parametrize("how", ["path", "url", "1"])
def test_the_variable_switches_the_store_on(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place = tmp_path / "users.db"
    named = {"path": str(place), "url": f"sqlite:///{place}", "1": "1"}[how]
    monkeypatch.setenv("LOSSFORECAST_STORE", named)
    for variable in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path))
    train()
    second = train()
    assert second.forecaster.prior.past  # the first run
    assert second.forecast is not None
    where = place if how != "1" else tmp_path / "lossforecast" / "runs.db"
    assert [run.state for run in RunStore(where).runs()] == ["finished"] * 2
    assert HINT not in caplog.text


@pytest.mark.parametrize(
    ("value", "arguments"),
    [(None, {}), ("", {}), ("0", {}), ("1", {"store": False}), ("users.db", {"store": False})],
)
def test_no_store_is_made_where_nobody_asks_for_one(
    value: str | None, arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if value is not None:
        monkeypatch.setenv("LOSSFORECAST_STORE", value)
    assert Settings(**arguments).place is None
    train(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_variable_that_names_no_store_ends_no_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LOSSFORECAST_STORE", "sqlite:///:memory:")
    assert train().forecast is not None
    assert "$LOSSFORECAST_STORE is set, but no run is recorded: sqlite" in caplog.text


def test_a_run_without_a_store_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train()
    train()
    assert caplog.text.count(HINT) == 1


def test_nothing_is_said_after_an_error_or_without_a_loss(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train(steps=0)
    train(store=False)
    assert HINT not in caplog.text


def test_what_a_store_needs_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(loop_callback, "find_spec", lambda name: None)
    train()
    assert f'{HINT}, after pip install "lossforecast[store]"' in caplog.text


def test_the_variable_without_the_library_is_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "sqlalchemy":
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setenv("LOSSFORECAST_STORE", "1")
    monkeypatch.setattr(builtins, "__import__", absent)
    assert Settings().place is None
    assert 'a store needs SQLAlchemy: pip install "lossforecast[store]"' in caplog.text
