"""The length of a run that its log does not name in steps."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.log_files import loss_at

from lossforecast import LRSchedule
from lossforecast.readers import Log, read_log

TOTAL = 2_000


def rows(upto: int, rate: Callable[[int], float] | None = None) -> str:
    lines = []
    for step in range(10, upto + 1, 10):
        row = {"step": step, "loss": loss_at(step)}
        lines.append(json.dumps(row if rate is None else {**row, "lr": rate(step)}) + "\n")
    return "".join(lines)


def written(path: Path, text: str) -> Log:
    path.write_text(text)
    return read_log(path)


def linear(step: int) -> float:
    return float(LRSchedule.linear(TOTAL, 1e-3, warmup=100).lr(np.array([step]))[0])


def cosine(step: int) -> float:
    return float(LRSchedule.cosine(TOTAL, 1e-3, warmup=100).lr(np.array([step]))[0])


def to_a_tenth(step: int) -> float:
    return float(LRSchedule.linear(TOTAL, 1e-3, end=1e-4).lr(np.array([step]))[0])


# -------------------------------------------------------------------- the rates that reach 0


@pytest.mark.parametrize("rate", [linear, cosine])
@pytest.mark.parametrize("upto", [800, 1_200])
def test_rates_tell_where_they_reach_0(
    tmp_path: Path, rate: Callable[[int], float], upto: int
) -> None:
    log = written(tmp_path / "a.jsonl", rows(upto, rate))
    assert log.total_steps == pytest.approx(TOTAL, abs=2)
    (note,) = (note for note in log.notes if "length" in note)
    assert f"where the logged rates reach 0 ({rate.__name__}, to 0.0" in note
    plan = log.plan()
    assert not plan.caveats
    ahead = range(upto + 1, TOTAL)
    assert plan.lr(list(ahead)).tolist() == pytest.approx([rate(t) for t in ahead], abs=5e-6)


@pytest.mark.parametrize("rate", [linear, cosine, to_a_tenth])
def test_rates_that_have_come_to_their_end_tell_of_no_more(
    tmp_path: Path, rate: Callable[[int], float]
) -> None:
    assert written(tmp_path / "a.jsonl", rows(TOTAL, rate)).total_steps is None


def test_a_length_that_is_given_counts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(rows(800, linear))
    log = read_log(tmp_path / "a.jsonl", total_steps=3_000)
    assert not [note for note in log.notes if "length" in note]
    assert log.plan(3_000).total_steps == 3_000


def test_other_rates_tell_no_end(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for rate in (
        lambda t: 1e-3,
        lambda t: 1e-3 * t**-0.5,
        lambda t: linear(t) * noise.normal(1, 0.02),
    ):
        assert written(tmp_path / "a.jsonl", rows(800, rate)).total_steps is None


# ----------------------------------------------------------------------- epochs times steps


def epochs_text(epochs: int, batches: int = 200) -> str:
    return "".join(
        f"epoch: [{epoch}/5], global_step: {t}, lr: 0.001, loss: {loss_at(t)}\n"
        for epoch in range(1, epochs + 1)
        for t in range(batches * (epoch - 1) + 10, batches * epoch + 1, 10)
    )


@pytest.mark.parametrize("epochs", [2, 3, 5])
def test_epochs_times_the_steps_of_one(tmp_path: Path, epochs: int) -> None:
    """As PaddleOCR prints."""
    log = written(tmp_path / "train.log", epochs_text(epochs))
    assert log.steps_taken == 200 * epochs
    assert log.total_steps == pytest.approx(1_000, rel=0.03)
    assert any("5 epochs of" in note for note in log.notes)


def test_a_column_of_the_number_of_epochs(tmp_path: Path) -> None:
    text = "".join(
        json.dumps({"step": t, "epoch": t / 200, "num_epochs": 5, "loss": loss_at(t)}) + "\n"
        for t in range(10, 601, 10)
    )
    assert written(tmp_path / "a.jsonl", text).total_steps == pytest.approx(1_000, rel=0.01)


# ---------------------------------------------------------------- an appended run that crashed


@pytest.mark.parametrize("lengths", [(TOTAL, 600), (600, TOTAL)])
def test_an_appended_run_that_ended_early_is_not_over(
    tmp_path: Path, lengths: tuple[int, int]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(map(rows, lengths)))
    for run, length in enumerate(lengths, 1):
        log = read_log(path, run=run)
        assert log.steps_taken == length
        assert log.history.n_observed == length // 10
        assert log.total_steps == (TOTAL if length < TOTAL else None)
    assert read_log(path).steps_taken == lengths[-1]


def test_appended_runs_of_about_one_length_are_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(rows(TOTAL) + rows(TOTAL - 20))
    assert read_log(path).total_steps is None


# ------------------------------------------------------------------------ the beginning of a log


@pytest.mark.parametrize("first", [0, 10, 20, 500])
def test_a_log_that_begins_in_the_middle_is_said_to(tmp_path: Path, first: int) -> None:
    text = "".join(rows(TOTAL).splitlines(keepends=True)[max(first // 10 - 1, 0) :])
    notes = written(tmp_path / "a.jsonl", text).notes
    said = "the log begins at step 500: what came before is not in it"
    assert (said in notes) == (first == 500)


def test_losses_far_apart_begin_where_they_are(tmp_path: Path) -> None:
    text = "".join(f'{{"step": {t}, "val_loss": {loss_at(t)}}}\n' for t in range(500, TOTAL, 500))
    assert not [n for n in written(tmp_path / "a.jsonl", text).notes if "begins" in n]
