"""Runs whose store, threads or process fail them: training goes on, and what can be stored is."""

import copy
import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from support.logs import warnings_in
from support.processes import SUPPORT
from support.recorded import train
from support.warm import run_warm

from lossforecast import LRSchedule, RunInfo, RunStore
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.pipeline.recorder import RunRecorder

FULL = bool(os.environ.get("LOSSFORECAST_FULL"))
FORKS, KILLS = (40, 40) if FULL else (6, 1)


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., Any]:
    """Runs a script of `support` in a process of its own; returns the JSON of its last line."""

    def run(name: str, *arguments: object) -> Any:
        output = run_warm(SUPPORT / name, *arguments, output=tmp_path / "out.txt")
        return json.loads(output.splitlines()[-1])

    return run


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="lossforecast-"))
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


# ---------------------------------------------------------------------- without rights


@pytest.mark.parametrize(
    "what",
    [
        "in use",
        *(pytest.param(what, marks=pytest.mark.slow) for what in ("file", "folder", "both")),
    ],
)
def test_a_store_that_may_only_be_read_is_read(
    public: Path, what: str, told: Callable[..., Any]
) -> None:
    folder = public / "store"
    folder.mkdir()
    path = folder / "runs.db"
    train(path, run=RunInfo(project="read"))
    path.chmod(0o444 if what in ("file", "both", "in use") else 0o666)
    folder.chmod(0o555 if what in ("folder", "both", "in use") else 0o777)
    with closing(sqlite3.connect(path)) as raw:
        if what == "in use" and os.geteuid() == 0:  # by root, with changes that are not merged yet
            raw.execute("UPDATE lossforecast_runs SET project = 'read'")
            raw.commit()
        result = told("unprivileged.py", "read_only", path)
    folder.chmod(0o777)
    warnings = result.pop("warnings")
    assert "cannot be written" in result.pop("write")
    assert result.pop("name")
    assert result == {"losses": 400, "forecasts": 20, "past": True, "finite": True}
    assert len(warnings) == 2  # and that the end could not be written
    assert "readonly" in warnings[0]


def test_a_run_without_threads_is_stored_when_it_ends(
    public: Path, told: Callable[..., Any]
) -> None:
    result = told("unprivileged.py", "without_threads", public / "runs.db")
    assert not result["can_start"]
    assert not result["switched_off"]
    assert result["runs"] == [["finished", 20]]
    (warning,) = result["warnings"]
    assert "thread" in warning


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a home")
def test_a_user_without_a_home_is_told_to_name_a_store(told: Callable[..., Any]) -> None:
    result = told("unprivileged.py", "without_home", "-")
    for name in ("settings", "store"):
        assert result[name].startswith("ConfigurationError: ")
        assert "$LOSSFORECAST_STORE" in result[name]
    assert "absolute path" in result["path"]


# ---------------------------------------------------------------------- other processes


def test_a_forked_child_ends_and_writes_nothing(tmp_path: Path, told: Callable[..., Any]) -> None:
    path = tmp_path / "runs.db"
    codes = told("forked.py", path, FORKS)
    endings = {"exit": 3, "now": 3, "error": 1, "end": 0, "close": 0, "train": 0}
    assert codes == [[*endings.values()][i % len(endings)] for i in range(FORKS)]
    (run,) = RunStore(path).runs()
    total = 20 * FORKS
    assert (run.state, run.step, run.schedule.total_steps) == ("finished", total - 1, total)
    made = [row["made_at"] for row in RunStore(path).forecasts(run.key)]
    assert made == list(range(1, total, 2))
    assert RunStore(path).history(run.key).n_observed == total


def test_a_killed_run_is_whole_and_loses_at_most_one_flush(tmp_path: Path) -> None:
    """Killed at any moment after it said that a flush is enqueued, and all before are written."""
    path = tmp_path / "runs.db"
    for i in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, str(SUPPORT / "recorded.py"), str(path), "flushes"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT.parent), *sys.path])},
        )
        with writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline().strip() for _ in range(5 + i % 7)]
            time.sleep(0.003 * (i % 11))
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.read().split()
        key, *said = lines
        store = RunStore(path)
        run = store.run(key)
        made = [row["made_at"] for row in store.forecasts(run.key)]
        assert run.state == "running"
        assert made == [20 * n - 1 for n in range(1, len(made) + 1)]
        assert len(said) - 1 <= len(made) <= len(said) + 1
        assert store.history(run.key).n_observed == 20 * len(made)
        with closing(sqlite3.connect(path)) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(RunStore(path).runs()) == KILLS


# ---------------------------------------------------------------------- models, copies


def test_a_model_with_lazy_parameters_has_an_unknown_size(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.LazyLinear(4), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with TorchLossForecast(optimizer, None, 100, store=tmp_path / "runs.db") as monitor:
        for _ in range(100):
            loss = model(torch.ones(2, 3)).square().mean()
            monitor.step(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    (run,) = RunStore(tmp_path / "runs.db").runs()
    assert (run.state, run.run.n_params) == ("finished", None)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("opened", [False, True], ids=["path", "store"])
def test_a_copy_of_a_recorder_is_another_run(tmp_path: Path, copied: Any, opened: bool) -> None:
    path = tmp_path / "runs.db"
    place = RunStore(path) if opened else path
    before = RunRecorder(place, "before", RunInfo(), LRSchedule.constant(10, 1.0))
    assert copied(before).run == before.run
    monitor = train(place, until=200)
    recorder: Any = monitor._pipeline.monitor.recorder
    while not RunStore(path).runs():
        time.sleep(0.01)
    during = copied(recorder)
    during.close(monitor.forecaster, 200)  # has recorded nothing
    assert [run.state for run in RunStore(path).runs()] == ["running"]
    during.record(200, monitor.forecaster, monitor.recommendation)
    during.close(monitor.forecaster, 200)
    monitor.close()
    runs = {run.key: run for run in RunStore(path).runs()}
    assert {key: run.state for key, run in runs.items()} == {
        during.key: "stopped",
        recorder.key: "stopped",
    }
    assert len(RunStore(path).forecasts(recorder.key)) == 10
    copied(recorder).close(monitor.forecaster, 400)
    assert len(RunStore(path).runs()) == 2


def test_a_working_directory_that_is_gone_is_no_matter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "train.py", raising=False)
    monitor = train(tmp_path / "runs.db")
    assert monitor.forecast is not None
    assert [run.state for run in RunStore(tmp_path / "runs.db").runs()] == ["finished"]
    assert warnings_in(caplog) == []
