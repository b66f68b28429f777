"""The optimizer steps of an epoch, from the epochs that a log has beside its steps."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.log_files import loss_at

from lossforecast import ConfigurationError
from lossforecast.readers import read_log
from lossforecast.readers.columns import is_epoch
from lossforecast.readers.epochs import EpochColumn

EPOCH = 405


def column(steps: Iterable[int], epoch_at: Callable[[int], float]) -> EpochColumn:
    counted = EpochColumn()
    for step in steps:
        counted.add(step, epoch_at(step))
    return counted


FRACTIONS: dict[str, tuple[Iterable[int], Callable[[int], float], float]] = {
    "rounded to four digits": (range(6, 1_215, 6), lambda t: round(t / EPOCH, 4), 0.001),
    "rounded to two": (range(6, 1_215, 6), lambda t: round(t / EPOCH, 2), 0.003),
    "rounded to two, young": (range(10, 90, 10), lambda t: round(t / EPOCH, 2), 0.02),
    "the first epoch is number 1": (range(0, 900, 3), lambda t: 1 + t / EPOCH, 0.001),
    "of a resumed run": (range(900, 1_200, 7), lambda t: t / EPOCH, 0.001),
    "a million rows": (range(0, 1_000_000, 10), lambda t: t / EPOCH, 0.001),
    "steps without an epoch of their own": (range(1_000), lambda t: round(t / EPOCH, 1), 0.03),
    "one row": ([30], lambda t: t / EPOCH, 0.001),
}


@pytest.mark.parametrize("name", FRACTIONS)
def test_fractional_epochs(name: str) -> None:
    steps, epoch_at, tolerance = FRACTIONS[name]
    assert column(steps, epoch_at).steps_per_epoch() == pytest.approx(EPOCH, rel=tolerance)


WHOLE: dict[str, tuple[Iterable[int], Callable[[int], float], float]] = {
    "every step": (range(1_500), lambda t: t // EPOCH, 0.001),
    "every step, in the second epoch": (range(450), lambda t: t // EPOCH, 0.001),
    "every tenth step": (range(10, 1_500, 10), lambda t: t // EPOCH, 0.02),
    "every fiftieth, in the second epoch": (range(0, 500, 50), lambda t: t // EPOCH, 0.1),
    "numbered from 1": (range(0, 1_500, 5), lambda t: 1 + t // EPOCH, 0.01),
    "a row at the end of each epoch": (range(EPOCH - 1, 2_100, EPOCH), lambda t: t // EPOCH, 0),
    "two of them": (range(EPOCH - 1, 810, EPOCH), lambda t: t // EPOCH, 0),
    "a row at the start of each epoch": (range(0, 1_300, EPOCH), lambda t: t // EPOCH, 0),
    "ten thousand epochs": (range(0, 10_000 * EPOCH, 200), lambda t: t // EPOCH, 0.001),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_epochs(name: str) -> None:
    steps, epoch_at, tolerance = WHOLE[name]
    found = column(steps, epoch_at).steps_per_epoch()
    assert found == pytest.approx(EPOCH, rel=tolerance)


def test_losses_of_both_kinds_are_logged_by_their_own_rhythm() -> None:
    """As Lightning logs: every 50th step of training, and the last of an epoch for validation."""
    rows = sorted([*range(49, 1_215, 50), *range(EPOCH - 1, 1_215, EPOCH)])
    found = column(rows, lambda t: t // EPOCH).steps_per_epoch()
    assert found == pytest.approx(EPOCH, rel=0.05)


@pytest.mark.parametrize(
    ("steps", "epochs"),
    [
        ([], []),
        ([10, 20, 30], [0, 0, 0]),
        ([10, 20, 30], [1, 1, 1]),
        ([10, 20, 30, 40], [2, 2, 1, 1]),
        ([700, 710, 720, 730], [1, 1, 2, 2]),  # nobody knows when the first began
        ([10, 20], [float("nan"), float("inf")]),
        ([0, 0, 0], [0.1, 0.2, 0.3]),
    ],
)
def test_what_does_not_tell(steps: list[int], epochs: list[float]) -> None:
    counted = EpochColumn()
    for step, epoch in zip(steps, epochs, strict=True):
        counted.add(step, epoch)
    assert counted.steps_per_epoch() is None


def test_a_restart_counts_again() -> None:
    for whole in (False, True):
        counted = EpochColumn()
        for step in [*range(0, 1_000, 5), *range(600, 1_500, 5), *range(100, 1_300, 5)]:
            counted.add(step, step // EPOCH if whole else step / EPOCH)
        assert counted.steps_per_epoch() == pytest.approx(EPOCH, rel=0.01)


def test_memory_does_not_grow() -> None:
    counted = column(range(100_000), lambda t: t / EPOCH)
    assert len(counted._points) <= 4096


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("epoch", True),
        ("Epoch", True),
        ("epochs", True),
        ("train/epoch", True),
        ("trainer/epoch", True),
        ("current_epoch", True),
        ("currentEpoch", True),
        ("run - train/epoch", True),
        ("train_loss_epoch", False),
        ("acc_epoch", False),
        ("steps_per_epoch", False),
        ("epoch_time", False),
        ("epoch/loss", False),
    ],
)
def test_columns_of_epochs(name: str, known: bool) -> None:
    assert is_epoch(name) is known


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_a_log_with_epochs(tmp_path: Path, name: str) -> None:
    def rows(epoch_at: Callable[[int], object]) -> list[dict[str, Any]]:
        return [{"step": t, "epoch": epoch_at(t), "loss": loss_at(t)} for t in range(0, 1_200, 5)]

    log = read_log(write(tmp_path / name, rows(lambda t: t / EPOCH)))
    assert log.steps_per_epoch == pytest.approx(EPOCH)
    assert (log.column, log.others) == ("loss", ())
    log = read_log(write(tmp_path / name, rows(lambda t: t // EPOCH)))
    assert log.steps_per_epoch == pytest.approx(EPOCH, rel=0.01)
    log = read_log(write(tmp_path / name, rows(lambda t: f"{t // EPOCH}/3")))
    assert log.steps_per_epoch == pytest.approx(EPOCH, rel=0.01)
    assert log.total_steps == 1_196, "three epochs, which are nearly over"
    log = read_log(write(tmp_path / name, rows(lambda t: f"{t // EPOCH} of 3")))
    assert (log.steps_per_epoch, log.history.n_observed) == (None, 240)
    with pytest.raises(ConfigurationError, match="epoch is '0 of 3', not a number"):
        read_log(tmp_path / name, step_column="epoch")


def state(rows: list[dict[str, Any]], **facts: Any) -> str:
    return json.dumps({"max_steps": 1_215, "num_train_epochs": 3, "log_history": rows, **facts})


def test_the_trainer_counts_epochs_from_the_length_of_its_data_alone(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    rows = [
        {"step": t, "epoch": round(t / EPOCH, 2), "loss": loss_at(t), "learning_rate": 1e-4}
        for t in range(5, 1_216, 5)
    ]
    path.write_text(state(rows))
    assert read_log(path).steps_per_epoch == pytest.approx(EPOCH, rel=2e-3)
    path.write_text(state(rows[:10]))
    assert read_log(path).steps_per_epoch == pytest.approx(EPOCH, rel=0.03)
    path.write_text(state([{**row, "epoch": 1.0} for row in rows[80:81]]))
    assert read_log(path).steps_per_epoch == EPOCH, "one log an epoch"
    share = [{**row, "epoch": row["step"] / 1_215} for row in rows]
    path.write_text(state(share, num_train_epochs=9_223_372_036_854_775_807))
    assert read_log(path).steps_per_epoch is None, "a stream has no epochs"
    path.write_text(state([{**row, "epoch": "first"} for row in rows]))
    assert read_log(path).steps_per_epoch is None
    path.write_text(state([{k: v for k, v in row.items() if k != "epoch"} for row in rows]))
    assert read_log(path).steps_per_epoch is None


def test_runs_of_one_export_have_epochs_of_their_own(tmp_path: Path) -> None:
    rows = [
        {
            "Step": t,
            "a - train/epoch": t / 100,
            "a - train/loss": loss_at(t),
            "b - train/epoch": t / 250,
            "b - train/loss": loss_at(t),
        }
        for t in np.arange(0, 600, 10).tolist()
    ]
    path = write(tmp_path / "export.csv", rows)
    for run, steps in (("a", 100), ("b", 250)):
        log = read_log(path, column=f"{run} - train/loss")
        assert log.steps_per_epoch == pytest.approx(steps)
