"""Folders with a file for each metric, in the layouts of MLflow 3 and DVCLive 3."""

from pathlib import Path

import pytest
from support.log_files import loss_at

from lossforecast import ConfigurationError
from lossforecast.readers import Log, read_log

N = 60


def write_mlflow(run: Path) -> Path:
    for name, every in (("train/loss", 1), ("val_loss", 10), ("lr", 1)):
        path = run / "metrics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        value = (lambda t: 0.1) if name == "lr" else loss_at
        rows = [f"{1795956673809 + t} {value(t)} {t}\n" for t in range(0, N, every)]
        path.write_text("".join(rows))
    (run / "tags").mkdir()
    (run / "meta.yaml").write_text("run_id: 1\n")
    return run


def write_dvclive(run: Path, *, times: bool = False) -> Path:
    for name in ("train/loss", "val_loss", "lr"):
        path = run / "plots" / "metrics" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ["timestamp\t" * times + f"step\t{path.stem}"]
        for t in range(N):
            value = 0.1 if name == "lr" else loss_at(t)
            lines.append(f"{1795956673809 + t}\t" * times + f"{t}\t{value}")
        path.write_text("\n".join(lines) + "\n")
    return run


def check(log: Log, form: str) -> None:
    assert (log.format, log.column, log.rate_column) == (form, "train/loss", "lr")
    assert log.others == ("val_loss",)
    assert log.history.bins().last.tolist() == list(range(N))
    assert log.steps_taken == N


def test_mlflow(tmp_path: Path) -> None:
    run = write_mlflow(tmp_path / "mlruns" / "0" / "a1")
    check(read_log(run), "MLflow")
    check(read_log(run / "metrics"), "MLflow")
    assert read_log(run / "metrics" / "val_loss").history.n_observed == N // 10
    write_mlflow(tmp_path / "mlruns" / "0" / "b2")
    with pytest.raises(ConfigurationError, match="there are logs below, name one: 0/a1, 0/b2"):
        read_log(tmp_path / "mlruns")


@pytest.mark.parametrize("times", [False, True])
def test_dvclive(tmp_path: Path, times: bool) -> None:
    run = write_dvclive(tmp_path / "dvclive", times=times)
    check(read_log(run), "DVCLive")
    check(read_log(tmp_path), "DVCLive")
    assert read_log(run / "plots" / "metrics" / "train" / "loss.tsv").history.n_observed == N


def test_damaged_files(tmp_path: Path) -> None:
    run = write_mlflow(tmp_path / "run")
    with (run / "metrics" / "lr").open("a") as file:
        file.write("1795956673809 0.1\n")
    with pytest.raises(ConfigurationError, match="lr, line 61 has no step and value"):
        read_log(run)
    run = write_dvclive(tmp_path / "other")
    (run / "plots" / "metrics" / "lr.tsv").write_text("time\tlr\n1\t2\n")
    with pytest.raises(ConfigurationError, match=r"lr\.tsv, line 2 has no step and value"):
        read_log(run)
