"""Logs written by the tools themselves, where they are installed."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.log_files import loss_at, seen

from lossforecast.readers import read_log

N = 40
pytestmark = pytest.mark.filterwarnings("ignore")


def test_keras(tmp_path: Path) -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-2), loss="mse", metrics=["mae"])
    inputs = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: 1e-2 * (1 - epoch / 12))
    losses = []
    for append in (False, True):
        history = model.fit(
            inputs,
            inputs.sum(1),
            epochs=12,
            validation_split=0.25,
            verbose=0,
            callbacks=[rate, keras.callbacks.CSVLogger(str(tmp_path / "log.csv"), append=append)],
        ).history
        losses.append(history["loss"])
    (tmp_path / "history.json").write_text(json.dumps(history))
    for log in (read_log(tmp_path / "log.csv"), read_log(tmp_path / "history.json")):
        assert list(seen(log).values()) == pytest.approx(losses[1], rel=1e-5)
        assert (log.column, log.others, log.steps_taken) == ("loss", ("val_loss",), 12)
        assert log.rate_column in (None, "learning_rate", "lr")
    first = read_log(tmp_path / "log.csv", run=1)
    assert list(seen(first).values()) == pytest.approx(losses[0], rel=1e-5)


def test_ultralytics(tmp_path: Path) -> None:
    trainer = pytest.importorskip("ultralytics.engine.trainer", exc_type=ImportError).BaseTrainer
    names = ["train/box_loss", "train/cls_loss", "metrics/mAP50(B)", "val/box_loss", "val/cls_loss"]
    for epoch in range(N):
        state = SimpleNamespace(
            csv=tmp_path / "run" / "results.csv", epoch=epoch, train_time_start=time.time()
        )
        rates = {f"lr/pg{i}": 0.01 * (1 - epoch / N) for i in range(3)}
        trainer.save_metrics(state, dict.fromkeys(names, loss_at(epoch)) | rates)
    log = read_log(tmp_path / "run")
    assert (log.column, log.rate_column, log.steps_taken) == ("train/box_loss", "lr/pg0", N)
    assert seen(log) == pytest.approx({i: loss_at(i) for i in range(N)}, rel=1e-5)
    assert log.notes == ("no optimizer steps logged: counting epochs",)


def check_folder(log: Any, form: str) -> None:
    assert (log.format, log.column, log.rate_column) == (form, "train/loss", "lr")
    assert seen(log) == pytest.approx({i: loss_at(i) for i in range(N)})
    assert (log.others, log.steps_taken) == (("val_loss",), N)


def test_dvclive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.chdir(tmp_path)
    dvclive = pytest.importorskip("dvclive")
    with dvclive.Live("live", save_dvc_exp=False, dvcyaml=None) as live:
        for i in range(N):
            live.log_metric("train/loss", loss_at(i))
            live.log_metric("lr", 1e-3 * (1 - i / N))
            if i % 10 == 9:
                live.log_metric("val_loss", 2.5)
            live.next_step()
    check_folder(read_log(tmp_path / "live"), "DVCLive")


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    with mlflow.start_run() as run:
        for i in range(N):
            mlflow.log_metrics({"train/loss": loss_at(i), "lr": 1e-3 * (1 - i / N)}, step=i)
            if i % 10 == 9:
                mlflow.log_metric("val_loss", 2.5, step=i)
    check_folder(read_log(tmp_path / "mlruns" / "0" / run.info.run_id), "MLflow")


@pytest.mark.parametrize("by_epoch", [True, False])
def test_mmengine(tmp_path: Path, by_epoch: bool) -> None:
    evaluators: Any = pytest.importorskip("mmengine.evaluator")
    models: Any = pytest.importorskip("mmengine.model")
    runners: Any = pytest.importorskip("mmengine.runner")

    class Model(models.BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def forward(self, x: Any, mode: str = "loss") -> Any:
            out = self.layer(x)
            losses = {"loss_cls": out.square().mean(), "loss_box": out.abs().mean()}
            return losses if mode == "loss" else [out]

    class Metric(evaluators.BaseMetric):  # type: ignore[misc]
        def process(self, data_batch: Any, data_samples: Any) -> None:
            self.results.append(1.0)

        def compute_metrics(self, results: Any) -> dict[str, float]:
            return {"val_loss": 2.0}

    loader = {
        "batch_size": 4,
        "dataset": [{"x": torch.randn(4)} for _ in range(160)],
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "collate_fn": {"type": "default_collate"},
    }
    length = {"max_epochs": 5, "val_interval": 1} if by_epoch else {"max_iters": 200}
    runners.Runner(
        model=Model(),
        work_dir=str(tmp_path),
        train_dataloader=loader,
        val_dataloader=loader,
        val_cfg={},
        val_evaluator=evaluators.Evaluator(Metric()),
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01}},
        train_cfg={"by_epoch": by_epoch, "val_interval": 40, **length},
        log_processor={"by_epoch": by_epoch},
        default_hooks={"logger": {"type": "LoggerHook", "interval": 10}},
    ).train()
    (values,) = tmp_path.rglob("scalars.json")
    (text,) = tmp_path.rglob("*.log")
    told = {row["iter"]: row for row in map(json.loads, values.open()) if "iter" in row}
    assert list(told) == list(range(10, 201, 10))
    for path, digits in ((values, 1e-9), (values.parent, 1e-9), (text, 1e-4)):
        log = read_log(path, total_steps=200)
        assert (log.column, log.rate_column, log.steps_taken) == ("loss", "lr", 200)
        truth = {step - 1: row["loss"] for step, row in told.items()}
        assert seen(log) == pytest.approx(truth, rel=digits, abs=digits)
        assert log.steps_per_epoch == (40 if by_epoch else None)
        assert not log.runs
    if not by_epoch:
        assert read_log(text).total_steps == 200
