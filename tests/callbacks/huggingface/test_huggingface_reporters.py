"""The reporters of the Hugging Face ``Trainer`` write forecasts, and nothing else changes."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from support.hf_processes import TOTAL, train
from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from lossforecast.callbacks import TransformersLossForecast
from lossforecast.callbacks.huggingface.reporters import ReporterLog

NAMES = ("final_loss", "lower", "upper", "anneal_gain")


class Seen(TrainerCallback):
    """A callback of the user's: what it gets in logs, and the events it gets."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []
        self.begun = self.ended = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun += 1

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended += 1

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))


def series(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every chart that TensorBoard has."""
    module = import_module("tensorboard.backend.event_processing.event_accumulator")
    (log,) = folder.rglob("events.*")
    events = module.EventAccumulator(str(log)).Reload()
    return {
        tag: [(each.step, each.value) for each in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def timeless(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Logs without what differs from run to run."""
    return [
        {name: log[name] for name in log if "runtime" not in name and "_per_" not in name}
        for log in logs
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    return tmp_path


def test_forecasts_are_in_tensorboard_beside_the_trainers_own_logs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, callback = Seen(), TransformersLossForecast(every_n_steps=6)
    trainer, _ = train(folder / "with", [callback], first=[seen], report_to="tensorboard")
    printed = capsys.readouterr().out
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(folder / "plain"))
    bare, alone = Seen(), capsys.readouterr()
    plain, _ = train(folder / "without", [], first=[bare], report_to="tensorboard")
    ours, theirs = series(folder / "logs"), series(folder / "plain")
    assert set(ours) - set(theirs) == {f"train/forecast/{name}" for name in NAMES}
    for tag in set(theirs) - {"train/train_runtime"}:
        if "_per_" not in tag and "runtime" not in tag:
            assert ours[tag] == theirs[tag]
    steps = [step for step, _ in ours["train/forecast/final_loss"]]
    assert len(steps) >= TOTAL // 6 - 2
    assert set(steps) <= {step for step, _ in ours["train/loss"]}
    assert timeless(trainer.state.log_history) == timeless(plain.state.log_history)
    assert timeless(seen.logs) == timeless(bare.logs)
    assert "forecast/" not in printed + alone.out
    assert (seen.begun, seen.ended) == (1, 1)
    last = [value for _, value in ours["train/forecast/final_loss"]][-1]
    low, high = (ours[f"train/forecast/{name}"][-1][1] for name in ("lower", "upper"))
    assert low < last < high


def test_each_forecast_is_written_once_also_when_trained_again(folder: Path) -> None:
    callback = TransformersLossForecast("eval_loss", every_n_steps=10)
    trainer, _ = train(
        folder / "run", [callback], report_to="tensorboard", eval_strategy="steps", eval_steps=10
    )
    first = [type(each).__name__ for each in trainer.callback_handler.callbacks]
    trainer.train()
    again = [type(each).__name__ for each in trainer.callback_handler.callbacks]
    assert again == first
    place = first.index("TensorBoardCallback")
    assert first[place - 1 : place + 2] == [
        "TransformersLossForecast", "TensorBoardCallback", "_Remover",
    ]  # fmt: skip


def test_a_trainer_without_reporters_is_left_alone(folder: Path) -> None:
    callback = TransformersLossForecast()
    trainer, _ = train(folder / "run", [callback])
    kinds = [type(each).__name__ for each in trainer.callback_handler.callbacks]
    assert "_Remover" not in kinds
    assert kinds.index("TransformersLossForecast") == kinds.index("Watch") + 1


def test_outside_of_a_trainer_there_is_no_log() -> None:
    reporter: Any = TensorBoardCallback
    assert ReporterLog.of(reporter()) is None


def test_they_are_in_wandb_in_rows_of_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    for name, value in (("MODE", "offline"), ("DIR", str(tmp_path)), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    callback = TransformersLossForecast(every_n_steps=6)
    trainer, _ = train(tmp_path / "run", [callback], report_to="wandb")
    assert {f"train/forecast/{name}" for name in NAMES} <= set(wandb.run.summary.keys())
    assert wandb.run.step == len(trainer.state.log_history)
    wandb.finish()


@pytest.mark.filterwarnings("default")  # of its own
def test_they_are_in_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'runs.db'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    train(tmp_path / "run", [TransformersLossForecast(every_n_steps=6)], report_to="mlflow")
    run, client = mlflow.last_active_run(), mlflow.MlflowClient()
    rows = {
        name: [each.step for each in client.get_metric_history(run.info.run_id, name)]
        for name in ("loss", *(f"forecast/{name}" for name in NAMES))
    }
    assert all(steps and set(steps) <= set(rows["loss"]) for steps in rows.values())
