"""Logs that hold several runs: appended ones, exports of W&B, downloads of MLflow."""

import csv
import json
from pathlib import Path

import pytest
from support.log_files import loss_at, seen

from lossforecast import ConfigurationError
from lossforecast.readers import Log, read_log

N = 30


def losses(log: Log) -> list[float]:
    return list(seen(log).values())


def curve(run: int, n: int = N) -> list[float]:
    return [loss_at(i) + run for i in range(n)]


# -------------------------------------------------------------------------- appended


def detectron2(run: int, n: int = N) -> list[str]:
    """The lines of a `metrics.json`: its writer appends to the file that is there."""
    rows = [
        {"data_time": 0.002, "iteration": 20 * i + 19, "loss_cls": 0.1, "lr": 0.02, "total_loss": y}
        for i, y in enumerate(curve(run, n))
    ]
    return [json.dumps(row) + "\n" for row in rows]


def mmdet(run: int, n: int = N) -> list[str]:
    rows = [
        {"mode": "train", "epoch": i // 10 + 1, "iter": 5 * (i % 10 + 1), "lr": 0.1, "loss": y}
        for i, y in enumerate(curve(run, n))
    ]
    for at in range(n - n % 10, 0, -10):
        rows.insert(at, {"mode": "val", "epoch": at // 10, "iter": 3, "lr": 0.1, "loss": 9.0})
    return [json.dumps(row) + "\n" for row in rows]


def keras(run: int, n: int = N) -> list[str]:
    return ["epoch,loss,val_loss\n", *(f"{i},{y},{y}\n" for i, y in enumerate(curve(run, n)))]


def text(run: int, n: int = N) -> list[str]:
    return [f"step {10 * i}: loss {y}\n" for i, y in enumerate(curve(run, n))]


def batches(run: int, n: int = N) -> list[str]:
    rows = [f"{i // 10 + 1},{y},0.1\n" for i, y in enumerate(curve(run, n))]
    return ["epoch,loss,lr\n", *rows]


APPENDED = [detectron2, mmdet, keras, text, batches]


@pytest.mark.parametrize("lines_of", APPENDED, ids=lambda each: each.__name__)
@pytest.mark.parametrize("lengths", [(N, N, N), (50, 13, N), (12, 12, 12, 12, 12, 12, N)])
def test_runs_that_were_appended(tmp_path: Path, lines_of, lengths: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "log.txt"
    parts = [lines_of(i, n) for i, n in enumerate(lengths)]
    path.write_text("".join(line for part in parts for line in part))
    numbers = tuple(str(i + 1) for i in range(len(lengths)))
    log = read_log(path)
    assert losses(log) == pytest.approx(curve(len(lengths) - 1, N))
    assert (log.run, log.runs) == (numbers[-1], numbers)
    assert any(f"{len(lengths)} runs in this log" in note for note in log.notes)
    (tmp_path / "alone.txt").write_text("".join(parts[-1]))
    alone = read_log(tmp_path / "alone.txt")
    assert (log.steps_taken, log.steps_per_epoch) == (alone.steps_taken, alone.steps_per_epoch)
    for i, n in enumerate(lengths):
        one = read_log(path, run=i + 1)
        assert losses(one) == pytest.approx(curve(i, n))
        assert not any("runs in this log" in note for note in one.notes)
    with pytest.raises(ConfigurationError, match=f"has no run 9: it holds {len(lengths)} runs"):
        read_log(path, run=9)
    for odd in ("0", "last", "-1", "1.5"):
        with pytest.raises(ConfigurationError, match="names no runs: give the number of a run"):
            read_log(path, run=odd)


def test_a_run_that_was_resumed_is_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    lines = detectron2(0, 20)[:14] + detectron2(0, N)[11:]
    path.write_text("".join(lines))
    log = read_log(path)
    assert (losses(log), log.runs) == (curve(0), ())
    assert log.notes == ("the steps go back once: assuming restarts, the later losses count",)
    with pytest.raises(ConfigurationError, match="has no run 2: it holds one run"):
        read_log(path, run=2)
    assert losses(read_log(path, run=1)) == curve(0)


def test_the_name_tells_which_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("".join(detectron2(0) + detectron2(1)))
    assert read_log(path, run=1).name == f"{tmp_path.name}/metrics.json, run 1"


# ------------------------------------------------------------------------ with names


def wandb(path: Path) -> Path:
    """A panel of the web page as it is exported: runs of different lengths, empty cells."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        header = ["Step"]
        for run in ("lake-7", "2", "long - name"):
            header += [f"{run} - train/loss{end}" for end in ("", "__MIN", "__MAX")]
        writer.writerow(header)
        for i in range(N):
            cells = [[loss_at(i) + run] * 3 if i < N - 5 * run else [""] * 3 for run in range(3)]
            writer.writerow([i, *(cell for part in cells for cell in part)])
    return path


def mlflow(path: Path, *, group: bool = False) -> Path:
    """The chart of a metric, or of several, of some runs."""
    runs = [("lake-7", "a1"), ("2", "b2"), ("long - name", "c3")]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(
            ["Group" if group else "Run", "Run ID", "metric", "step", "timestamp", "value"]
        )
        for metric in ("train/loss", "lr"):
            for run, (name, key) in enumerate(runs):
                for i in range(N - 5 * run):
                    value = loss_at(i) + run if metric == "train/loss" else 0.1 * (run + 1)
                    writer.writerow([name, key, metric, i, 1795956673809 + i, value])
    return path


@pytest.mark.parametrize("write", [wandb, mlflow])
def test_runs_with_names(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / "export.csv")
    log = read_log(path)
    names = ("lake-7", "2", "long - name")
    assert (log.run, log.runs, log.column) == ("lake-7", names, "lake-7 - train/loss")
    assert any("3 runs in this log: 'lake-7' is read" in note for note in log.notes)
    assert any("lake-7, 2, long - name" in note for note in log.notes)
    for run, name in enumerate(names):
        for each in (str(run + 1), name):
            one = read_log(path, run=each)
            assert (one.run, one.others) == (name, ())
            assert losses(one) == curve(run, N - 5 * run)
            assert one.steps_taken == N - 5 * run
            assert one.rate_column == (None if write is wandb else f"{name} - lr")
        assert losses(read_log(path, column=f"{name} - train/loss")) == curve(run, N - 5 * run)
        assert losses(read_log(path, column="train/loss", run=name)) == curve(run, N - 5 * run)
    for odd in ("0", "4", "lake"):
        with pytest.raises(ConfigurationError, match=f"has no run '{odd}'; it has lake-7, 2, long"):
            read_log(path, run=odd)
    with pytest.raises(ConfigurationError, match="has no values of 'cost'"):
        read_log(path, column="cost", run="2")


def test_other_downloads_of_mlflow(tmp_path: Path) -> None:
    assert read_log(mlflow(tmp_path / "group.csv", group=True)).runs == (
        "lake-7",
        "2",
        "long - name",
    )
    rows = [f"{run},train_loss,{loss_at(i)},{i},0\n" for run in ("a", "b") for i in range(N)]
    (tmp_path / "older.csv").write_text("run_id,key,value,step,timestamp\n" + "".join(rows))
    log = read_log(tmp_path / "older.csv", run="b")
    assert (losses(log), log.runs) == (curve(0), ("a", "b"))
    same = [f"x,{run},loss,{i},0,{loss_at(i)}\n" for run in ("a", "b") for i in range(N)]
    (tmp_path / "same.csv").write_text("Run,Run ID,metric,step,timestamp,value\n" + "".join(same))
    assert read_log(tmp_path / "same.csv").runs == ("x", "x (b)")
    (tmp_path / "one.csv").write_text(
        "metric,step,value\n" + "".join(f"loss,{i},{i}\n" for i in range(9))
    )
    log = read_log(tmp_path / "one.csv")
    assert (log.column, log.run, log.runs, log.history.n_observed) == ("loss", None, (), 9)


# -------------------------------------------------------------------------- restarts


def test_a_restart_of_one_column_is_one_of_all(tmp_path: Path) -> None:
    """A run that crashed at step 200 goes on from 100, and was last seen at 130."""
    rows: list[dict[str, float]] = []
    for begin, end, bad in ((0, 200, 5.0), (100, 130, 0.0)):
        for step in range(begin, end):
            rows.append({"step": step, "loss": loss_at(step) + bad * (begin == 0 and step > 100)})
            if step % 50 == 49:
                rows.append({"step": step, "val_loss": 3.0 + bad})
            rows.append({"step": step, "epoch": step // 25, "samples": 64 * step})
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = read_log(path)
    assert losses(log) == curve(0, 130)
    assert (log.steps_taken, log.steps_per_epoch) == (130, 25)
    assert list(seen(read_log(path, column="val_loss"))) == [49, 99]
    assert read_log(path, column="val_loss").steps_taken == 130
