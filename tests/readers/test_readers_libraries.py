"""Logs that Lightning, Hugging Face and TensorBoard write."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from support.log_files import STEPS, loss_at, seen, write_events
from torch.utils.tensorboard import SummaryWriter

from lossforecast import ConfigurationError, LRSchedule
from lossforecast.readers import read_log
from lossforecast.runs.windows import mean_step


class Module(pl.LightningModule):
    """A scripted loss, under a cosine."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        still: torch.Tensor = (self.weight - self.weight.detach()).sum()
        loss = still + loss_at(self.global_step)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", loss_at(self.global_step))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


@pytest.fixture(scope="module")
def lightning_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `csv` and `tb`, of one run of the Trainer."""
    folder = tmp_path_factory.mktemp("lightning")
    data: Any = torch.utils.data.DataLoader(torch.zeros(50, 1))  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "ignore")
        trainer = pl.Trainer(
            max_steps=STEPS,
            logger=[
                CSVLogger(folder, name="csv", version=""),
                TensorBoardLogger(folder, name="tb", version=""),
            ],
            callbacks=[
                pl.callbacks.LearningRateMonitor("step", log_momentum=True, log_weight_decay=True)
            ],
            log_every_n_steps=5,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        trainer.fit(Module(), data, torch.utils.data.DataLoader(torch.zeros(1, 1)))  # type: ignore
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["csv", "csv/metrics.csv", "tb"])
def test_lightning(lightning_logs: Path, what: str) -> None:
    log = read_log(lightning_logs / what)
    assert log.format == ("TensorBoard events" if what == "tb" else "Lightning metrics.csv")
    assert (log.column, log.metric, log.rate_column) == ("train_loss", "train", "lr-SGD")
    assert set(seen(log)) == set(range(4, STEPS, 5))
    for step, loss in seen(log).items():
        assert loss == pytest.approx(loss_at(step), rel=1e-6)
    plan = log.plan(STEPS)
    truth = LRSchedule.cosine(STEPS, 0.1)
    at = np.arange(5, STEPS - 5)
    np.testing.assert_allclose(plan.lr(at), truth.lr(at), atol=2e-3)
    assert log.others == ("val_loss",)
    val = read_log(lightning_logs / what, metric="val")
    assert (val.column, val.metric) == ("val_loss", "val")
    assert set(seen(val)) == set(range(50, STEPS + 1, 50))  # written one step earlier
    for step, loss in seen(val).items():
        assert loss == pytest.approx(loss_at(step), rel=1e-6)
    assert log.steps_taken == val.steps_taken == STEPS
    assert log.steps_per_epoch == val.steps_per_epoch == 50
    assert val.plan(STEPS).total_steps == STEPS


@pytest.mark.filterwarnings("ignore")
def test_hugging_face(trainer_state: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = trainer_state
    log = read_log(folder)  # of its latest checkpoint
    assert log.path == folder / "checkpoint-60" / "trainer_state.json"
    assert (log.column, log.rate_column, log.total_steps) == ("loss", "learning_rate", 60)
    truth = {
        int(mean_step(row["step"] - 3, row["step"] - 1)): row["loss"]
        for row in rows
        if "loss" in row
    }
    assert seen(log) == truth
    at = np.arange(3, 58)  # the scheduler counts the steps before this one
    rates = 1e-2 * (1 + np.cos(np.pi * (at - 1) / 60)) / 2
    np.testing.assert_allclose(log.plan().lr(at), rates, atol=2e-5)
    val = read_log(folder / "checkpoint-60" / "trainer_state.json", column="eval_loss")
    assert val.metric == "val"
    assert seen(val) == {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    assert log.steps_taken == val.steps_taken == 60
    assert read_log(folder / "checkpoint-30").steps_taken == 30
    for checkpoint in ("checkpoint-30", "checkpoint-60"):  # in the first epoch, and after it
        assert read_log(folder / checkpoint).steps_per_epoch == pytest.approx(32)
    for total in (None, 60):  # the same from its event files
        events = read_log(folder / "tb", total_steps=total)
        assert (events.column, events.steps_taken) == ("train/loss", 60)
        assert events.rate_column == "train/learning_rate"
        assert events.steps_per_epoch == pytest.approx(32, rel=1e-3)
        assert seen(events) == pytest.approx(truth, rel=1e-6)
        assert any("Hugging Face Trainer" in note for note in events.notes)


def test_tensorboard(tmp_path: Path) -> None:
    write_events(tmp_path)
    for path in (tmp_path, *tmp_path.glob("*tfevents*")):
        log = read_log(path)
        assert (log.format, log.column, log.rate_column) == (
            "TensorBoard events",
            "loss/train",
            "optim/lr",
        )
        assert list(seen(log)) == list(range(STEPS))
        assert log.history.bins().mean == pytest.approx([loss_at(i) for i in range(STEPS)])
        assert log.notes == ()


def test_runs_that_were_begun_in_the_same_folder(tmp_path: Path) -> None:
    for run, n in enumerate((30, 20, 40, 10, 25, 30)):
        write_events(tmp_path, range(n), f".{run}")
    log = read_log(tmp_path)
    assert (list(seen(log)), log.runs) == (list(range(30)), tuple("123456"))
    assert list(seen(read_log(tmp_path, run=3))) == list(range(40))
    with pytest.raises(ConfigurationError, match="has no run 7: it holds 6 runs"):
        read_log(tmp_path, run=7)


def test_what_the_writer_withdraws_at_its_start_is_dropped(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path), filename_suffix=".1") as writer:
        for step in range(120):
            writer.add_scalar("loss", loss_at(step), step)
    with SummaryWriter(str(tmp_path), filename_suffix=".2", purge_step=100) as writer:
        writer.add_scalar("loss", loss_at(150), 150)
    assert list(seen(read_log(tmp_path))) == [*range(100), 150]


def test_event_files_of_one_second_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number, steps in ((9, range(120)), (10, range(100, STEPS))):
        write_events(tmp_path / "new", steps)
        (path,) = (tmp_path / "new").iterdir()
        path.rename(tmp_path / f"events.out.tfevents.1795956673.host.7.{number}")
    assert list(seen(read_log(tmp_path))) == list(range(STEPS))


def test_a_run_that_was_restarted_is_one_run(tmp_path: Path) -> None:
    write_events(tmp_path, range(120), ".1")
    write_events(tmp_path, range(100, STEPS), ".2")
    log = read_log(tmp_path)
    assert list(seen(log)) == list(range(STEPS))
    assert any("2 event files" in note for note in log.notes)
    assert any("go back once" in note for note in log.notes)
