"""Columns that number the rows of a log: steps, iterations within epochs, epochs, episodes."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.log_files import loss_at

from lossforecast import ConfigurationError
from lossforecast.errors import NothingLoggedError
from lossforecast.readers import Log, read_log

EPOCHS_NOTE = "no optimizer steps logged: counting epochs"


def write_csv(path: Path, header: str, rows: list[list[Any]]) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def steps_of(log: Log) -> list[int]:
    steps: list[int] = log.history.bins().last.tolist()
    return steps


# ------------------------------------------------------------------------------ epochs


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    ("header", "loss"),
    [
        ("epoch,accuracy,learning_rate,loss,val_loss", "loss"),  # Keras' CSVLogger
        ("                  epoch,   train/acc,   lr/pg0,   train/box_loss,   val/box_loss", ""),
        (",acc,lr,loss,val_loss", "loss"),  # pandas
        ("Unnamed: 0,acc,lr,loss,val_loss", "loss"),
        ("index,acc,lr,loss,val_loss", "loss"),
        ("Epoch,acc,lr,train_loss,val_loss", "train_loss"),
        ("epoch,step,lr,loss,val_loss", "loss"),  # a step that does not move
    ],
)
def test_epochs_alone(tmp_path: Path, header: str, loss: str, first: int) -> None:
    rows: list[list[Any]] = [[i + first, 0.5, 0.1, loss_at(i), 2.5] for i in range(100)]
    log = read_log(write_csv(tmp_path / "results.csv", header, rows))
    assert (log.column, log.metric) == (loss or "train/box_loss", "train")
    assert log.notes == (EPOCHS_NOTE,)
    assert steps_of(log) == list(range(100))
    assert (log.steps_taken, log.steps_per_epoch) == (100, None)
    assert log.plan().total_steps == 100
    validation = read_log(tmp_path / "results.csv", metric="val")
    assert steps_of(validation) == list(range(1, 101)), "after each epoch"


def test_epochs_named_by_the_user_are_counted_alike(tmp_path: Path) -> None:
    rows: list[list[Any]] = [[i + 1, 0.1, loss_at(i)] for i in range(100)]
    log = read_log(write_csv(tmp_path / "a.csv", "epoch,lr,loss", rows), step_column="epoch")
    assert (log.steps_taken, log.notes) == (100, (EPOCHS_NOTE,))


def test_the_number_of_epochs_tells_that_they_are_numbered_from_1(tmp_path: Path) -> None:
    rows: list[list[Any]] = [[i, loss_at(i)] for i in range(51, 101)]  # resumed
    path = write_csv(tmp_path / "a.csv", "epoch,loss", rows)
    assert read_log(path).steps_taken == 101
    assert read_log(path, total_steps=100).steps_taken == 100


def test_rows_within_epochs(tmp_path: Path) -> None:
    rows: list[list[Any]] = [[i // 25, loss_at(i)] for i in range(100)]
    log = read_log(write_csv(tmp_path / "a.csv", "epoch,loss", rows))
    assert steps_of(log) == list(range(100))
    assert log.steps_per_epoch == pytest.approx(25)
    assert log.notes == ("no optimizer steps logged: counting rows",)


def test_fractions_of_epochs(tmp_path: Path) -> None:
    rows: list[list[Any]] = [[round(i * 0.02, 2), loss_at(i)] for i in range(1, 101)]
    log = read_log(write_csv(tmp_path / "a.csv", "epoch,loss", rows))
    assert steps_of(log) == list(range(2, 201, 2))
    assert log.steps_per_epoch == pytest.approx(100)
    assert log.notes == ("no optimizer steps logged: counting 0.01 epochs as one step",)


def test_an_unnamed_column_that_does_not_count_is_no_counter(tmp_path: Path) -> None:
    rows: list[list[Any]] = [[i * i, loss_at(i), 0.5] for i in range(100)]
    log = read_log(write_csv(tmp_path / "a.csv", ",loss,acc", rows))
    assert steps_of(log) == list(range(100))
    assert log.notes == ("no column counts steps or epochs: counting rows",)


def test_without_a_loss_rows_are_not_counted(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", "x,y", [[i * i, 2.0] for i in range(100)])
    with pytest.raises(ConfigurationError, match="no column of optimizer steps or epochs"):
        read_log(path)


def test_all_columns_are_listed(tmp_path: Path) -> None:
    names = [f"metric_{i}" for i in range(40)]
    path = write_csv(tmp_path / "a.csv", ",".join(names), [[1] * 40])
    with pytest.raises(ConfigurationError, match=", ".join(names)):
        read_log(path)
    names = [f"metric_{i}" for i in range(99)]
    path = write_csv(tmp_path / "a.csv", ",".join(names), [[1] * 99])
    with pytest.raises(ConfigurationError, match="metric_59 and 39 more"):
        read_log(path)


@pytest.mark.parametrize("name", ["it", "iters", "Iteration"])
def test_short_names_of_iterations_count(tmp_path: Path, name: str) -> None:
    rows = [[10 * i, loss_at(i)] for i in range(1, 60)]
    log = read_log(write_csv(tmp_path / "a.csv", f"{name},loss", rows))
    assert steps_of(log)[-1] in (589, 590)
    assert log.steps_taken == 590


# ----------------------------------------------------------- columns that do not count


@pytest.mark.parametrize("counter", ["episode", "episodes", "Epoch"])
def test_a_column_that_jumps_about_is_no_counter(tmp_path: Path, counter: str) -> None:
    lengths = random.Random(0)
    rows: list[list[Any]] = [[i, lengths.randint(10, 99), loss_at(i)] for i in range(1, 301)]
    log = read_log(write_csv(tmp_path / "a.csv", f"{counter},steps,loss", rows))
    assert (log.steps_taken, log.history.n_observed) == (300, 300)
    kind = "episodes" if "episode" in counter else "epochs"
    assert log.notes == (f"no optimizer steps logged: counting {kind}",)


def test_a_surer_name_that_jumps_about_gives_way(tmp_path: Path) -> None:
    rows = [{"step": i % 7, "iteration": i, "loss": loss_at(i)} for i in range(200)]
    log = read_log(write_lines(tmp_path / "a.jsonl", rows))
    assert steps_of(log) == list(range(200))


def test_steps_of_validation_may_be_others(tmp_path: Path) -> None:
    """As mmengine writes: its validation rows have the number of the epoch as their step."""
    rows: list[dict[str, Any]] = []
    for epoch in range(1, 13):
        for i in range(10, 101, 10):
            step = 100 * (epoch - 1) + i
            rows.append({"lr": 0.1, "loss": loss_at(step), "epoch": epoch, "iter": i, "step": step})
        rows.append({"coco/bbox_mAP": 0.3, "data_time": 0.1, "step": epoch})
    log = read_log(write_lines(tmp_path / "scalars.json", rows))
    assert steps_of(log) == list(range(10, 1201, 10))


# ---------------------------------------------------------- iterations within an epoch


def detection(epochs: int = 12, per_epoch: int = 366) -> list[dict[str, Any]]:
    """As mmdetection 2 writes, with a validation after each epoch."""
    rows: list[dict[str, Any]] = [{"env_info": "sys.platform: linux", "seed": 0}]
    for epoch in range(1, epochs + 1):
        for i in range(50, per_epoch + 1, 50):
            loss = loss_at(per_epoch * (epoch - 1) + i)
            row = {"mode": "train", "epoch": epoch, "iter": i, "lr": 0.02, "loss_cls": 0.5}
            rows.append({**row, "loss": loss})
        rows.append({"mode": "val", "epoch": epoch, "iter": 5000, "lr": 0.02, "loss": 3.0})
    return rows


def test_iterations_that_begin_anew_in_each_epoch(tmp_path: Path) -> None:
    log = read_log(write_lines(tmp_path / "a.log.json", detection()))
    assert (log.column, log.metric, log.history.n_observed) == ("loss", "train", 84)
    expected = [350 * epoch + i for epoch in range(12) for i in range(50, 351, 50)]
    assert steps_of(log) == expected
    assert log.steps_per_epoch == pytest.approx(350, rel=0.02)
    validation = read_log(tmp_path / "a.log.json", metric="val")
    assert validation.column == "val/loss"
    assert steps_of(validation) == [350 * epoch for epoch in range(1, 13)]


def test_in_a_table_too_and_after_a_restart(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        [epoch, i, loss_at(100 * epoch + i)]
        for epoch in [*range(4), 2, 3, 4, 5]
        for i in range(0, 100, 4)
    ]
    log = read_log(write_csv(tmp_path / "a.csv", "epoch,iter,loss", rows))
    assert steps_of(log)[-1] == 596
    assert any("go back once" in note for note in log.notes)
    np.testing.assert_array_equal(np.diff(steps_of(log)) <= 4, True)


def test_steps_that_go_on_are_left_alone(tmp_path: Path) -> None:
    rows: list[list[Any]] = [[t // 50, t, loss_at(t)] for t in [*range(300), *range(180, 400)]]
    log = read_log(write_csv(tmp_path / "a.csv", "epoch,step,loss", rows))
    assert steps_of(log) == list(range(400))


# ------------------------------------------------------------------- lengths, and kinds


def test_a_log_that_names_its_length(tmp_path: Path) -> None:
    """As LLaMA-Factory writes; its losses are means, as those of the Trainer."""
    rows = [
        {"current_steps": t, "total_steps": 3000, "loss": loss_at(t), "lr": 0.1, "epoch": t / 1000}
        for t in range(5, 125, 5)
    ]
    log = read_log(write_lines(tmp_path / "trainer_log.jsonl", rows))
    assert (log.total_steps, log.steps_taken) == (3000, 120)
    assert log.steps_per_epoch == pytest.approx(1000)
    assert steps_of(log)[-1] == 117
    rows[-1]["total_steps"] = 4000  # no length, but something that counts
    assert read_log(write_lines(tmp_path / "b.jsonl", rows)).total_steps is None
    rows = [{**row, "total_steps": 60} for row in rows]
    assert read_log(write_lines(tmp_path / "c.jsonl", rows)).total_steps is None


def test_a_run_appended_to_another(tmp_path: Path) -> None:
    """As detectron2 appends to its metrics.json."""
    rows = [
        {"iteration": t, "loss_cls": 0.5, "loss_box": 0.5, "total_loss": loss_at(t) + i, "lr": 0.1}
        for i in range(2)
        for t in range(19, 400, 20)
    ]
    log = read_log(write_lines(tmp_path / "metrics.json", rows))
    assert (log.column, log.history.n_observed) == ("total_loss", 20)
    assert log.history.bins().mean[-1] == pytest.approx(loss_at(399) + 1)


@pytest.mark.parametrize("name", ["split", "phase", "type", "Mode"])
def test_a_column_that_tells_training_from_validation(tmp_path: Path, name: str) -> None:
    rows: list[list[Any]] = [
        [t, kind, loss_at(t) + (kind != "train"), 0.1]
        for t in range(100)
        for kind in ("train", "valid")
    ]
    path = write_csv(tmp_path / "a.csv", f"step,{name},loss,lr", rows)
    log = read_log(path)
    assert (log.column, log.metric, log.others) == ("loss", "train", ("val/loss",))
    assert log.history.bins().mean.tolist() == [loss_at(t) for t in range(100)]
    log = read_log(path, metric="val")
    assert log.history.bins().mean.tolist() == [loss_at(t) + 1 for t in range(100)]


def test_objects_in_objects(tmp_path: Path) -> None:
    rows = [{"step": t, "train": {"loss": loss_at(t), "lr": 0.1}} for t in range(50)]
    log = read_log(write_lines(tmp_path / "a.jsonl", rows))
    assert (log.column, log.rate_column) == ("train/loss", "train/lr")


# ---------------------------------------------------------------------- whole documents

HISTORY = {"loss": [loss_at(t) for t in range(40)], "val_loss": [loss_at(t) + 1 for t in range(40)]}
BY_INDEX = {name: {str(i): y for i, y in enumerate(values)} for name, values in HISTORY.items()}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "document",
    [
        HISTORY,
        {**HISTORY, "note": "best", "classes": ["a", "b"]},
        {"params": {"epochs": 40}, "history": HISTORY, "epoch": list(range(40))},
        BY_INDEX,
        [{"epoch": i, "loss": y} for i, y in enumerate(HISTORY["loss"])],
        [{"epoch": i + 1, "loss": y} for i, y in enumerate(HISTORY["loss"])],
        {**HISTORY, "epoch": list(range(1, 41))},
    ],
)
def test_json_of_columns_or_rows(tmp_path: Path, document: Any, indent: int | None) -> None:
    path = tmp_path / "history.json"
    path.write_text(json.dumps(document, indent=indent))
    log = read_log(path)
    assert (log.format, log.column, log.steps_taken) == ("JSON", "loss", 40)
    assert log.notes == (EPOCHS_NOTE,)
    assert log.history.bins().mean.tolist() == HISTORY["loss"]


def test_json_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text in ('{"a": [1, 2], "b": {"c": 3}}', "[1, 2]", "[\n[1, 2]\n]", '{"loss": ["a"]}'):
        path.write_text(text)
        with pytest.raises(
            ConfigurationError, match=r"no log_history|is text, not a table|named like a loss"
        ):
            read_log(path)
    path.write_text('{\n"loss": [2, 1')
    with pytest.raises(ConfigurationError, match="not valid JSON, or cut off"):
        read_log(path)
    path.write_text('{"loss": ' + "[" * 100_000)
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        read_log(path)
    path.write_text("[]")
    with pytest.raises(NothingLoggedError, match="holds no values"):
        read_log(path)
