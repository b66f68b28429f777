"""Logs that the real libraries write, whole and broken."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from lossforecast import Caveat, ConfigurationError, LRSchedule
from lossforecast.errors import NothingLoggedError
from lossforecast.readers import Log, read_log
from lossforecast.runs.windows import mean_step

STEPS = 200


def loss_at(step: int) -> float:
    return float(2 + 3 * (step + 5.0) ** -0.5)


def rate_at(step: int) -> float:
    return float(LRSchedule.cosine(STEPS, 0.1).lr(np.array([max(step, 1)]))[0])


def write_csv(path: Path, header: str, rows: Iterable[Sequence[object]]) -> Path:
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def seen(log: Log) -> dict[int, float]:
    bins = log.history.bins()
    return dict(zip(bins.last.tolist(), bins.mean.tolist(), strict=True))


# ---------------------------------------------------------------------- written by the libraries


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
    assert val.plan(STEPS).total_steps == STEPS


@pytest.fixture(scope="module")
def trainer_state(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A checkpoint of the Hugging Face Trainer, and what it logged."""
    folder = tmp_path_factory.mktemp("huggingface")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=17, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    row = {"input_ids": torch.arange(16), "labels": torch.arange(16)}
    events: Any = TensorBoardCallback(SummaryWriter(str(folder / "tb")))  # type: ignore
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=60,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            lr_scheduler_type="cosine",
            logging_steps=3,
            save_steps=30,
            eval_strategy="steps",
            eval_steps=10,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=[row] * 64,
        eval_dataset=[row] * 2,
        callbacks=[events],
    )
    trainer.train()
    return folder, trainer.state.log_history


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
    for total in (None, 60):  # the same from its event files
        events = read_log(folder / "tb", total_steps=total)
        assert (events.column, events.steps_taken) == ("train/loss", 60)
        assert events.rate_column == "train/learning_rate"
        assert seen(events) == pytest.approx(truth, rel=1e-6)
        assert any("Hugging Face Trainer" in note for note in events.notes)


def write_events(folder: Path, steps: range = range(STEPS), suffix: str = "") -> None:
    with SummaryWriter(str(folder), filename_suffix=suffix) as writer:
        for step in steps:
            writer.add_scalar("loss/train", loss_at(step), step)
            writer.add_scalar("accuracy", 0.5, step)
            writer.add_scalar("optim/lr", rate_at(step), step)
            writer.add_histogram("weights", torch.zeros(10), step) if step % 50 == 0 else None


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


def test_a_run_that_was_restarted_is_one_run(tmp_path: Path) -> None:
    write_events(tmp_path, range(120), ".1")
    write_events(tmp_path, range(100, STEPS), ".2")
    log = read_log(tmp_path)
    assert list(seen(log)) == list(range(STEPS))
    assert any("2 event files" in note for note in log.notes)
    assert any("go back once" in note for note in log.notes)


def rows_of(steps: range = range(STEPS)) -> list[dict[str, Any]]:
    return [{"step": i, "train_loss": loss_at(i), "lr": rate_at(i)} for i in steps]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv(tmp_path: Path, delimiter: str, encoding: str) -> None:
    path = tmp_path / "log.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, ["step", "train_loss", "lr", "note"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows({**row, "note": "größer"} for row in rows_of())
    log = read_log(path)
    assert (log.format, log.column, log.rate_column) == ("CSV", "train_loss", "lr")
    assert seen(log) == {i: loss_at(i) for i in range(STEPS)}


def test_csv_with_names_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    lines = [f"{i},{loss_at(i)},{rate_at(i)},{i}" for i in range(STEPS)]
    path.write_text("updates,objective,eta,n\n" + "\n".join(lines) + "\n")
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "no column of optimizer steps.*updates, objective, eta, n"),
        ({"step_column": "updates"}, "is named like a loss.*objective"),
        ({"step_column": "updates", "column": "cost"}, "no values of 'cost'"),
        ({"step_column": "batch"}, "no column 'batch'"),
    ]
    for options, missing in cases:
        with pytest.raises(ConfigurationError, match=missing):
            read_log(path, **options)
    log = read_log(path, step_column="updates", column="objective", rate_column="eta")
    assert seen(log) == {i: loss_at(i) for i in range(STEPS)}
    assert log.plan(STEPS).lr([100])[0] == pytest.approx(rate_at(100))
    without = read_log(path, step_column="updates", column="objective")
    with pytest.raises(ConfigurationError, match="--lr-column, or give --schedule"):
        without.plan(STEPS)


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [*rows_of(), {"step": STEPS, "val/loss": 2.5}, {"message": "done"}]
    path.write_text("\n".join(map(json.dumps, rows)))  # as most write it: no end after the last
    log = read_log(path)
    assert (log.format, log.column, log.others) == ("JSON lines", "train_loss", ("val/loss",))
    assert seen(log) == {i: loss_at(i) for i in range(STEPS)}


def test_a_panel_exported_from_wandb(tmp_path: Path) -> None:
    """The layout of the web page's export: a column for each run, with its extremes."""
    path = tmp_path / "export.csv"
    name = "bumbling-lake-7 - train/loss"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["train/global_step", name, name + "__MIN", name + "__MAX"])
        writer.writerows([i, loss_at(i), loss_at(i), loss_at(i)] for i in range(STEPS))
    log = read_log(path)
    assert (log.format, log.column, log.others) == ("W&B CSV", name, ())
    assert seen(log) == {i: loss_at(i) for i in range(STEPS)}
    two = path.read_text().replace("__MIN", "").replace("bumbling", "winter", 1)
    two = two.replace(f'"{name}",', '"winter-1 - train/loss",', 1)
    path.write_text(two)
    with pytest.raises(ConfigurationError, match="holds 2 runs: name one with --column"):
        read_log(path)


def test_a_history_downloaded_from_wandb(tmp_path: Path) -> None:
    """`run.history()` as a table: empty cells where something else was logged."""
    path = tmp_path / "history.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["", "_step", "_runtime", "train/loss", "eval/loss", "train/global_step", "lr"]
        )
        for i in range(STEPS):
            writer.writerow([2 * i, 2 * i, i, loss_at(i), "", i, rate_at(i)])
            writer.writerow([2 * i + 1, 2 * i + 1, i, "", loss_at(i), i, ""])
    log = read_log(path)
    assert (log.format, log.column, log.others) == ("W&B CSV", "train/loss", ("eval/loss",))
    assert seen(log) == {i: loss_at(i) for i in range(STEPS)}
    assert not log.notes
    (note,) = read_log(rename_column(path, "train/global_step", "other")).notes
    assert "using '_step' as the optimizer step" in note


def test_steps_that_are_numbered_from_1(tmp_path: Path) -> None:
    rows = [[i + 1, loss_at(i), rate_at(i)] for i in range(STEPS)]
    path = write_csv(tmp_path / "log.csv", "step,train_loss,lr", rows)
    log = read_log(path, total_steps=STEPS)
    assert seen(log) == {i: loss_at(i) for i in range(STEPS)}
    assert log.steps_taken == STEPS
    assert log.plan(STEPS).total_steps == STEPS
    assert any("assuming that steps are numbered from 1" in note for note in log.notes)
    assert read_log(path).steps_taken == STEPS + 1  # nothing tells


def test_a_run_that_is_nan_to_its_end_has_come_to_it(tmp_path: Path) -> None:
    rows = [[i, loss_at(i) if i < 50 else "nan"] for i in range(STEPS)]
    assert read_log(write_csv(tmp_path / "log.csv", "step,loss", rows)).steps_taken == STEPS
    rows += [[STEPS, "nan"]]  # a cell that is missing, beside a validation loss
    log = read_log(write_csv(tmp_path / "log.csv", "step,loss", rows), total_steps=STEPS)
    assert log.steps_taken == STEPS


def test_the_end_of_a_run_is_that_of_all_its_columns(tmp_path: Path) -> None:
    """A training loss every 50 steps, a validation loss after the last; samples beside them."""
    rows = [[i, loss_at(i), "", ""] for i in range(0, STEPS, 50)]
    rows += [[STEPS, "", 2.5, ""], [64 * STEPS, "", "", 2.5]]
    header = "step,train_loss,val_loss,loss vs samples"
    log = read_log(write_csv(tmp_path / "log.csv", header, rows))
    assert (log.column, log.steps_taken) == ("train_loss", STEPS)


def test_a_plan_that_the_logged_rates_contradict(tmp_path: Path) -> None:
    rows = [[i, loss_at(i), rate_at(i)] for i in range(100)]
    log = read_log(write_csv(tmp_path / "log.csv", "step,train_loss,lr", rows))
    held = LRSchedule.constant(STEPS, 0.1)
    plan = log.plan(STEPS, held)
    assert Caveat.LR_OFF_PLAN in plan.caveats
    at = np.array([10, 50, 99])  # as logged; what is planned comes after it
    np.testing.assert_allclose(plan.lr(at), [rate_at(int(i)) for i in at])
    np.testing.assert_allclose(plan.lr(np.array([101, STEPS])), 0.1)
    assert log.plan(STEPS, LRSchedule.cosine(STEPS, 0.1)).caveats == frozenset()


def test_what_is_logged_beside_the_rate_is_none(tmp_path: Path) -> None:
    others = ["lr_scale", "lr-mult", "lr/weight_decay", "lr-Adam-momentum", "lr_wd", "lr_beta1"]
    rows = [[i, loss_at(i), rate_at(i), *[1] * len(others)] for i in range(STEPS)]
    path = write_csv(tmp_path / "log.csv", ",".join(["step", "loss", "lr", *others]), rows)
    log = read_log(path)
    assert (log.rate_column, log.notes, log.others) == ("lr", (), ())


def test_of_several_rates_the_largest_is_taken_and_said(tmp_path: Path) -> None:
    rows = [[i, loss_at(i), rate_at(i) / 10, rate_at(i)] for i in range(STEPS)]
    log = read_log(write_csv(tmp_path / "log.csv", "step,loss,lr-small,lr-large", rows))
    assert log.rate_column == "lr-large"
    assert any("'lr-large' is taken" in note and "'lr-small'" in note for note in log.notes)


@pytest.mark.parametrize(
    ("header", "column", "metric"),
    [
        ("router_loss,train_loss", "train_loss", "train"),
        ("value_loss,loss", "loss", "train"),
        ("value_loss,val_loss", "value_loss", "train"),
        ("aux_loss,total_loss", "total_loss", "train"),
        ("valLoss,trainLoss", "trainLoss", "train"),
        ("accuracy,valLoss", "valLoss", "val"),
        ("accuracy,validation/loss", "validation/loss", "val"),
    ],
)
def test_the_commonest_name_is_taken_for_the_loss(
    tmp_path: Path, header: str, column: str, metric: str
) -> None:
    rows = [[i, 1.0, loss_at(i), 0.1] for i in range(STEPS)]
    log = read_log(write_csv(tmp_path / "log.csv", f"step,{header},lr", rows))
    assert (log.column, log.metric) == (column, metric)


def test_the_rate_of_another_run_is_none_of_this(tmp_path: Path) -> None:
    rows = [[i, loss_at(i), 0.1, loss_at(i), 9] for i in range(STEPS)]
    header = "Step,a-1 - loss,a-1 - lr,b-2 - loss,b-2 - lr"
    log = read_log(write_csv(tmp_path / "log.csv", header, rows), column="a-1 - loss")
    assert log.rate_column == "a-1 - lr"


def test_nan_in_a_missing_cell_erases_nothing(tmp_path: Path) -> None:
    rows = [row for i in range(STEPS) for row in ([i, loss_at(i), 0.1], [i, "NaN", "NaN"])]
    log = read_log(write_csv(tmp_path / "log.csv", "step,loss,lr", rows))
    assert seen(log) == {i: loss_at(i) for i in range(STEPS)}
    assert (log.notes, len(log.rates)) == ((), STEPS)


def rename_column(path: Path, old: str, new: str) -> Path:
    path.write_text(path.read_text().replace(old, new))
    return path


# ---------------------------------------------------------------------- large


def test_memory_does_not_grow_with_an_event_file(tmp_path: Path) -> None:
    """280 MB of pictures between the losses, as training of image models writes."""
    write_events(tmp_path / "losses")
    with SummaryWriter(str(tmp_path / "picture")) as writer:
        writer.add_image("sample", torch.randint(0, 255, (3, 700, 700), dtype=torch.uint8), 0)
    losses, picture = (
        next((tmp_path / name).glob("*tfevents*")).read_bytes() for name in ("losses", "picture")
    )
    start = 16 + int.from_bytes(picture[:8], "little")  # after what every file begins with
    path = tmp_path / "all.tfevents"
    with path.open("wb") as file:
        for _ in range(190):
            file.write(picture[start:])
        file.write(losses)
    assert path.stat().st_size > 250e6
    script = """
import resource, sys
from lossforecast.readers import read_log
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
log = read_log(sys.argv[1])
assert log.history.n_observed == 200
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120_000  # KiB, most of it the libraries


def test_memory_does_not_grow_with_the_number_of_points(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    with path.open("w") as file:
        file.write("step,loss,lr\n")
        file.writelines(f"{i},{loss_at(i):.6f},0.1\n" for i in range(300_000))
    log = read_log(path)
    assert len(log.history) <= 16_384
    assert log.history.n_observed == 300_000
    bins = log.history.bins()
    assert bins.mean[-1] == pytest.approx(loss_at(int(bins.step[-1])), abs=1e-4)


# ---------------------------------------------------------------------- broken


def refused(path: Path, match: str, **options: Any) -> None:
    with pytest.raises(ConfigurationError, match=match) as caught:
        read_log(path, **options)
    assert str(path.name) in str(caught.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "missing.csv", "cannot read .*No such file")
    refused(tmp_path, "no .tfevents., metrics.csv or trainer_state.json")
    write_events(tmp_path / "run-1")
    refused(tmp_path, "there are logs below, name one: run-1")


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "trainer_state.json", "x.tfevents.1"])
@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "is empty")


def test_wrong_encodings(tmp_path: Path) -> None:
    text = "step,train_loss,größe\n" + "".join(f"{i},{loss_at(i)},1\n" for i in range(STEPS))
    (tmp_path / "latin.csv").write_bytes(text.encode("latin-1"))
    refused(tmp_path / "latin.csv", "not in UTF-8")
    (tmp_path / "wide.csv").write_text(text, encoding="utf-16")
    refused(tmp_path / "wide.csv", "is UTF-16 text")
    late = text.encode("latin-1").replace("größe".encode("latin-1"), b"size")
    (tmp_path / "late.csv").write_bytes(late * 5 + "9,ö,1\n".encode("latin-1"))
    refused(tmp_path / "late.csv", "line")
    rows = [json.dumps(row) for row in rows_of()]
    (tmp_path / "late.jsonl").write_bytes("\n".join(rows).encode() + b'\n{"a": "\xf6"}\n')
    refused(tmp_path / "late.jsonl", "after line [0-9]+: 'utf-8' codec")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    refused(tmp_path / "picture.csv", "is binary")


def test_event_files_that_are_cut_off_or_damaged(tmp_path: Path) -> None:
    write_events(tmp_path)
    (path,) = tmp_path.glob("*tfevents*")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    log = read_log(path)  # as that of a run that still goes on
    assert 80 < log.history.n_observed < 120
    assert any("cut off or damaged after" in note for note in log.notes)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + b"\xff" * 50 + whole[middle + 50 :])
    log = read_log(path)
    assert any("cut off or damaged after" in note for note in log.notes)
    path.write_bytes(b"\xff" * 1_000)
    refused(path, "not an event file, or damaged at its beginning")
    path.write_bytes(whole[:20])
    refused(path, "not an event file, or damaged|named like a loss")
    path.write_text("step,loss\n1,2\n")
    refused(path, "not an event file")


def test_event_files_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    write_events(tmp_path, suffix=".2")
    (tmp_path / "events.out.tfevents.0").write_bytes(b"")
    (tmp_path / "profile.tfevents.1").write_text("something else, of more than a few bytes\n")
    log = read_log(tmp_path)
    assert list(seen(log)) == list(range(STEPS))
    assert sum(note.startswith("left out:") for note in log.notes) == 2
    for path in tmp_path.glob("*.2"):
        path.unlink()
    refused(tmp_path, "is empty|not an event file")


def test_the_folders_below_that_hold_losses_are_named(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("accuracy", 0.5, step)
            writer.add_scalars("loss", {"train": loss_at(step), "val": 2.0}, step)
    refused(tmp_path, "or give a log below: loss_train, loss_val")
    assert read_log(tmp_path / "loss_train").column == "loss"


def test_a_first_line_of_json_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows: list[dict[str, Any]] = [{"step": 0, "prompt": "a" * 10_000, "loss": 3.0}, *rows_of()[1:]]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_log(path).format == "JSON lines"


def test_a_table_without_values_yet(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for text, why in (
        ("step,loss,lr\n", "no column of .* has values yet; it has loss, lr"),
        ("step,loss,lr\n1,,0.1\n", "'loss' of .* has no values yet"),
    ):
        path.write_text(text)
        with pytest.raises(NothingLoggedError, match=why):
            read_log(path)


def test_tables_that_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    whole = "step,train_loss,lr\n" + "".join(f"{i},{loss_at(i)},0.1\n" for i in range(STEPS))
    path.write_text(whole[:-8])
    log = read_log(path)
    assert list(seen(log)) == list(range(STEPS - 1))  # the last number may not be whole
    assert any("last line is cut off" in note for note in log.notes)
    path.write_text(whole.replace("\n77,", "\n77\n77,"))
    refused(path, "line 79 has 1 cells, the header 3")
    lines = tmp_path / "log.jsonl"
    rows = [json.dumps(row) for row in rows_of()]
    lines.write_text("\n".join(rows)[:-5])
    assert read_log(lines).history.n_observed == STEPS - 1
    lines.write_text("\n".join([*rows[:50], rows[50][:9], *rows[51:]]))
    refused(lines, "line 51 is not valid JSON")


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_state_that_is_cut_off_or_something_else(
    tmp_path: Path, trainer_state: tuple[Path, list[dict[str, Any]]]
) -> None:
    text = (trainer_state[0] / "checkpoint-60" / "trainer_state.json").read_text()
    path = tmp_path / "trainer_state.json"
    path.write_text(text[: len(text) // 2])
    refused(path, "is not valid JSON, or cut off")
    path.write_text("{}")
    refused(path, "has no log_history")
    path.write_bytes(text.encode() + b"\xf6")
    refused(path, "'utf-8' codec")
    path.write_text('{\n"log_history": []\n}')
    refused(path, "no column of .* has values yet; it has no columns")
    path.write_text('[\n{"step": 1, "loss": 2}\n]')
    refused(path, "one object on each line")


def test_cells_that_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for line, why in (
        ("7,two,0.1", "line 2: train_loss is 'two', not a number"),
        ("7.5,2,0.1", "line 2: step is '7.5', not a whole number from 0 on"),
        ("-1,2,0.1", "line 2: step is '-1', not a whole number"),
        ("x,2,0.1", "line 2: step is 'x', not a number"),
        ('"7,2,0.1', "line 2|has no values yet"),
    ):
        path.write_text(f"step,train_loss,lr\n{line}\n")
        refused(path, why)
    path.write_text("step,train_loss,lr\n1,2,0.1\n2,nan,0.1\n3,inf,0.1\n4,,0.1\n5,1.9,0.1\n")
    log = read_log(path)
    assert (log.history.n_observed, log.history.n_non_finite) == (2, 2)
    assert any("2 losses are nan or infinite" in note for note in log.notes)


def test_several_runs_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = [f"{i},{loss_at(i) + shift},0.1\n" for i in range(STEPS) for shift in (0, 0.5)]
    runs = [f"{i},{loss_at(i)},0.1\n" for _ in range(30) for i in range(20)]
    path.write_text("step,train_loss,lr\n" + "".join(runs))
    refused(path, "several runs are mixed up")
    path.write_text("step,train_loss,lr\n" + "".join(rows))
    assert read_log(path).history.n_observed == STEPS  # the same step twice: the later one counts
    path.write_text("no header\n1 2 3\n")
    refused(path, "is in no known format")
    path.write_text("1,2\n3,4\n")
    refused(path, "its first line is '1,2")


# ---------------------------------------------------------------------- the plan


def test_the_plan_of_a_run_in_progress(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    lines = [f"{i},{loss_at(i)},{rate_at(i)}\n" for i in range(80)]
    path.write_text("step,train_loss,lr\n" + "".join(lines))
    log = read_log(path)
    held = log.plan(STEPS)
    assert Caveat.LR_ASSUMED in held.caveats
    assert held.lr([STEPS])[0] == pytest.approx(rate_at(79))
    cosine = LRSchedule.cosine(STEPS, 0.1)
    plan = log.plan(planned=cosine)
    assert plan.total_steps == STEPS
    assert plan.caveats == frozenset()
    np.testing.assert_allclose(plan.lr(np.arange(1, STEPS + 1)), cosine.lr(np.arange(1, STEPS + 1)))
    assert log.plan().total_steps == 80
    assert log.plan().caveats == frozenset()
