"""Forecasts in trackers: real runs of each library without a network, read back from their files.

The tests of a library are skipped where it is not installed: ``pip install wandb mlflow trackio``.
"""

import csv
import json
import os
import pickle
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.hf_processes import TOTAL

from lossforecast import ConfigurationError
from lossforecast.callbacks import (
    CSVSink,
    MLflowSink,
    TensorBoardSink,
    TorchLossForecast,
    TrackioSink,
    WandbSink,
)
from lossforecast.callbacks.monitor import Sink
from lossforecast.readers import find_log, read_log

STEPS, EVERY, TARGET = 400, 20, 2.2
FORECASTS = list(range(EVERY, STEPS + 1, EVERY))
NAMES = {"final_loss", "lower", "upper", "anneal_gain", "prob_target"}


def train(sink: Sink, log: Callable[[int], Any] = lambda step: None, until: int = STEPS) -> Any:
    """A run whose own values are logged every ten steps; returns the last forecast."""
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
    monitor = TorchLossForecast(
        optimizer, None, STEPS, every_n_steps=EVERY, sinks=[sink], target=TARGET, store=False
    )
    with monitor:
        for step in range(until):
            monitor.step(2 + 3 * (step + 5.0) ** -0.5)
            optimizer.step()
            if step % 10 == 0:
                log(step)
    assert monitor.settings.sinks == [sink]
    assert monitor._pipeline.monitor.sinks == [sink], "the sink has failed"
    return monitor.forecast


def train_without_a_run(sink: Sink, message: str, caplog: pytest.LogCaptureFixture) -> None:
    """The sink says what is missing, and the training goes on."""
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
    with TorchLossForecast(optimizer, None, 40, sinks=[sink], store=False) as monitor:
        for step in range(40):
            monitor.step(2 + 3 * (step + 5.0) ** -0.5)
            optimizer.step()
    assert monitor.forecast is not None
    assert "a sink failed and gets no more forecasts" in caplog.text
    assert message in caplog.text


def wandb_records(path: Path) -> list[Any]:
    """The records of an offline run that has ended; its service may still be writing them."""
    ends = time.monotonic() + 30
    while True:
        records = list(records_in(path))
        if any(each.WhichOneof("record_type") == "exit" for each in records):
            return records
        assert time.monotonic() < ends, "the run was not written to its end"
        time.sleep(0.1)


def records_in(path: Path) -> Iterator[Any]:
    """The records in a file of W&B: a log of LevelDB after a header of 7 bytes."""
    parser = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32_768 - at % 32_768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            parsed = parser()
            parsed.ParseFromString(record)
            yield parsed
            record = b""


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    rows = [r.history.item for r in wandb_records(path) if r.WhichOneof("record_type") == "history"]
    return [
        {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in row} for row in rows
    ]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("numbered", [True, False], ids=["with step=", "without"])
def test_wandb(numbered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", project="p", dir=tmp_path) as run:
        final = train(
            WandbSink(), lambda step: run.log({"mine": step}, step=step if numbered else None)
        )
    rows = wandb_rows(tmp_path)
    ours = [row for row in rows if "forecast/step" in row]
    assert [row["forecast/step"] for row in ours] == FORECASTS
    assert ours[-1]["forecast/final_loss"] == pytest.approx(final.median)
    assert {f"forecast/{name}" for name in NAMES} <= ours[-1].keys()
    mine = [row for row in rows if "mine" in row]
    assert [row["mine"] for row in mine] == list(range(0, STEPS, 10))  # none was refused
    axis = "mine" if numbered else "_step"
    assert [row["_step"] for row in mine] == [row[axis] for row in mine]
    if not numbered:
        assert [row["_step"] for row in mine] == list(range(len(mine)))  # forecasts count no step
    pictures = [row for row in ours if "forecast/picture/path" in row]
    assert [row["forecast/step"] for row in pictures] == [40 * tenth for tenth in range(1, 11)]
    (files,) = tmp_path.glob("wandb/offline-run-*/files")
    assert all((files / row["forecast/picture/path"]).exists() for row in pictures)


@pytest.mark.filterwarnings("default")
def test_wandb_has_forecasts_on_an_axis_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train_without_a_run(WandbSink(), "WandbSink has no run: call wandb.init() before", caplog)
    with wandb.init(mode="offline", project="p", dir=tmp_path) as run:
        train(WandbSink(run, pictures=False))
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    axes = {
        record.metric.glob_name: record.metric.step_metric
        for record in wandb_records(path)
        if record.WhichOneof("record_type") == "metric"
    }
    assert axes["forecast/*"] == "forecast/step"
    (row,) = wandb_rows(tmp_path)  # nobody else logs: the last forecast
    assert row["forecast/step"] == STEPS
    assert "forecast/picture/path" not in row


@pytest.mark.filterwarnings("default")
def test_a_sink_joins_the_run_that_the_trainer_of_hugging_face_begins(
    tmp_path: Path, run_python: Callable[..., str]
) -> None:
    pytest.importorskip("wandb")
    code = """
import os
os.environ.pop("WANDB_SERVICE", None)  # that of the tests before, which would not end the run
from pathlib import Path
from support.hf_processes import train
from lossforecast.callbacks import TransformersLossForecast, WandbSink

callback = TransformersLossForecast(every_n_steps=4, sinks=[WandbSink(pictures=False)])
train(Path("."), [callback], report_to=["wandb"])
assert callback._pipeline.monitor.sinks, "the sink has failed"
import wandb
wandb.finish()
"""
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join(map(str, (tests, tests.parent)))
    offline = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}
    run_python("-c", code, cwd=tmp_path, PYTHONPATH=paths, **offline)
    rows = wandb_rows(tmp_path)
    at = [row["forecast/step"] for row in rows if "forecast/step" in row]
    assert at[-1] == TOTAL, at
    assert at == sorted(set(at))
    assert [row for row in rows if "train/loss" in row]


@pytest.mark.filterwarnings("default")
def test_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    train_without_a_run(MLflowSink(), "MLflowSink has no run: call mlflow.start_run()", caplog)
    with mlflow.start_run() as run:
        final = train(MLflowSink(), lambda step: mlflow.log_metric("mine", step, step=step))
    client = mlflow.MlflowClient()
    for name in NAMES:
        history = client.get_metric_history(run.info.run_id, f"forecast/{name}")
        assert sorted(each.step for each in history) == FORECASTS
    assert client.get_run(run.info.run_id).data.metrics["forecast/final_loss"] == final.median
    pictures = {each.path for each in client.list_artifacts(run.info.run_id, "forecast")}
    assert pictures == {f"forecast/step_{40 * tenth:03d}.png" for tenth in range(1, 11)}
    train(MLflowSink(run.info.run_id, pictures=False))  # a run that is not active


@pytest.mark.filterwarnings("default")
def test_trackio(tmp_path: Path, run_python: Callable[..., str]) -> None:
    pytest.importorskip("trackio")
    code = """
import trackio
from test_trackers import train
from lossforecast.callbacks import TrackioSink

run = trackio.init("p", name="r", embed=False)
final = train(TrackioSink(), lambda step: trackio.log({"mine": step}, step=step))
trackio.finish()
from trackio.sqlite_storage import SQLiteStorage
import json
print(json.dumps([final.median, SQLiteStorage.get_logs("p", "r")]))
"""
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    out = run_python("-c", code, cwd=tmp_path, TRACKIO_DIR=str(tmp_path), PYTHONPATH=paths)
    median, rows = json.loads(out.splitlines()[-1])
    ours = [row for row in rows if "forecast/final_loss" in row]
    assert [row["step"] for row in ours] == FORECASTS
    assert ours[-1]["forecast/final_loss"] == median
    assert {f"forecast/{name}" for name in NAMES} <= ours[-1].keys()
    assert [row["step"] for row in rows if "mine" in row] == list(range(0, STEPS, 10))


def test_a_table_has_a_row_for_every_forecast_and_goes_on_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "forecasts.csv"
    train(CSVSink(path), until=200)
    final = train(CSVSink(str(path)))
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["at"]) for row in rows] == FORECASTS[:10] + FORECASTS
    last = rows[-1]
    assert float(last["median"]) == final.median
    assert (last["status"], last["target"], int(last["step"])) == (final.status, "2.2", STEPS)
    assert 0 <= float(last["prob_target"]) <= 1
    assert last["message"].startswith("go on: ")


def test_a_table_of_something_else_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,2\n")
    with pytest.raises(ConfigurationError, match=r"metrics\.csv is not a table of forecasts"):
        CSVSink(path)
    assert path.read_text() == "step,loss\n1,2\n"


def test_a_table_of_forecasts_is_not_taken_for_the_log_of_the_run(tmp_path: Path) -> None:
    train(CSVSink(tmp_path / "forecasts.csv"))
    with pytest.raises(ConfigurationError, match=r"forecasts\.csv"):
        read_log(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,loss,lr\n" + "1,2,0.1\n2,1,0.1\n3,1,0.1\n")
    assert find_log(tmp_path).name == "metrics.csv"


@pytest.mark.parametrize("sink", [MLflowSink, TrackioSink, WandbSink])
def test_a_library_that_is_missing_is_named(sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = sink.__name__.removesuffix("Sink").lower()
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ConfigurationError, match=f"{sink.__name__} needs {name}: pip install"):
        sink()


def test_a_sink_is_any_function() -> None:
    seen: list[int] = []
    train(lambda update: seen.append(update.step))
    assert seen == FORECASTS


def test_a_table_can_be_pickled_with_its_callback(tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(CSVSink(tmp_path / "f.csv"))).path == tmp_path / "f.csv"
    assert TensorBoardSink is not None
