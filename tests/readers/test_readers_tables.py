"""Logs as CSV, JSON lines and exports of W&B; columns, steps and plans found in them."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.log_files import STEPS, loss_at, rate_at, rows_of, seen

from lossforecast import Caveat, ConfigurationError, LRSchedule
from lossforecast.readers import read_log


def write_csv(path: Path, header: str, rows: Iterable[Sequence[object]]) -> Path:
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


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
    path.write_text("ticks,score,eta,n\n" + "\n".join(lines) + "\n")
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "no column of optimizer steps or epochs.*ticks, score, eta, n"),
        ({"step_column": "ticks"}, "is named like a loss.*score"),
        ({"step_column": "ticks", "column": "cost"}, "no values of 'cost'"),
        ({"step_column": "batch"}, "no column 'batch'"),
    ]
    for options, missing in cases:
        with pytest.raises(ConfigurationError, match=missing):
            read_log(path, **options)
    log = read_log(path, step_column="ticks", column="score", rate_column="eta")
    assert seen(log) == {i: loss_at(i) for i in range(STEPS)}
    assert log.plan(STEPS).lr([100])[0] == pytest.approx(rate_at(100))
    without = read_log(path, step_column="ticks", column="score")
    assert without.plan(STEPS).caveats == {Caveat.LR_UNKNOWN}


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
    assert read_log(path).steps_taken == STEPS


@pytest.mark.parametrize(
    ("steps", "taken"),
    [((1, 2, 3), 3), ((10, 20, 30), 30), ((0, 10, 20), 21), ((9, 19, 29), 30), ((7, 8, 9), 10)],
)
def test_the_first_steps_tell_from_where_they_are_numbered(
    tmp_path: Path, steps: tuple[int, ...], taken: int
) -> None:
    path = write_csv(tmp_path / "log.csv", "step,train_loss", [[i, loss_at(i)] for i in steps])
    assert read_log(path).steps_taken == taken


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
    assert any("using 'lr-large'" in note and "'lr-small'" in note for note in log.notes)


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


# ---------------------------------------------------------------------- the plan


def test_the_plan_of_a_run_in_progress(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    lines = [f"{i},{loss_at(i)},{rate_at(i)}\n" for i in range(80)]
    path.write_text("step,train_loss,lr\n" + "".join(lines))
    log = read_log(path)
    told = log.plan(STEPS)  # by the rates so far
    assert (told.caveats, told.lr([STEPS])[0]) == (frozenset(), 0.0)
    cosine = LRSchedule.cosine(STEPS, 0.1)
    plan = log.plan(planned=cosine)
    assert plan.total_steps == STEPS
    assert plan.caveats == frozenset()
    np.testing.assert_allclose(plan.lr(np.arange(1, STEPS + 1)), cosine.lr(np.arange(1, STEPS + 1)))
    assert log.plan().total_steps == STEPS, "where the logged rates reach 0"
    assert log.plan().caveats == frozenset()


# ------------------------------------------------------------- tables of other programs


def test_a_download_from_tensorboard_is_named_after_its_tag(tmp_path: Path) -> None:
    rows = [[1.7e9 + i, 10 * i, loss_at(i)] for i in range(50)]
    for name, column in (("run-a_b-tag-train_loss.csv", "train_loss"), ("loss.csv", "loss")):
        path = write_csv(tmp_path / name, "Wall time,Step,Value", rows)
        log = read_log(path, column=column)
        assert (log.format, log.column) == ("TensorBoard CSV", column)
        assert seen(log) == {10 * i: loss_at(i) for i in range(50)}
    assert read_log(tmp_path / "run-a_b-tag-train_loss.csv").column == "train_loss"


def test_the_table_of_a_notebook_has_cells_without_a_log(tmp_path: Path) -> None:
    lines = [f"{500 * i}\t{loss_at(i)}\t{'No log' if i % 2 else 2.5}" for i in range(1, 20)]
    path = tmp_path / "table.txt"
    path.write_text("Step\tTraining Loss\tValidation Loss\n" + "\n".join(lines) + "\n")
    assert seen(read_log(path)) == {500 * i: loss_at(i) for i in range(1, 20)}
    assert list(seen(read_log(path, metric="val"))) == list(range(1_000, 10_000, 1_000))


def test_decimal_commas_between_semicolons(tmp_path: Path) -> None:
    lines = [f"{i};{loss_at(i)}".replace(".", ",") for i in range(50)]
    (tmp_path / "a.csv").write_text("step;loss\n" + "\n".join(lines) + "\n")
    assert seen(read_log(tmp_path / "a.csv")) == {i: loss_at(i) for i in range(50)}


@pytest.mark.parametrize("column", ["time/batch", "charts/global_step", "progress/step"])
def test_a_counter_may_have_a_prefix(tmp_path: Path, column: str) -> None:
    rows = [[i // 20, 10 * i, loss_at(i), 64.0] for i in range(60)]
    log = read_log(write_csv(tmp_path / "a.csv", f"epoch,{column},loss,loss_scale", rows))
    assert (list(seen(log)), log.notes) == (list(range(0, 600, 10)), ())
    assert (log.column, log.others) == ("loss", ()), "a scale of the loss is none"
