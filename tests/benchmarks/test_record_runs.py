"""record_runs.py on two short runs."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("record_runs.py")
SMALL = ("--width=32", "--depth=1", "--length=16", "--batch=4", "--steps=100")


@pytest.mark.slow
def test_two_short_runs_are_recorded(run_python: Callable[..., str], tmp_path: Path) -> None:
    names = ["wsd-0.001", "step_decay-0.003"]
    output = run_python(
        str(SCRIPT),
        *SMALL,
        f"--out={tmp_path}",
        "--only",
        *names,
        cwd=tmp_path,
        OMP_NUM_THREADS="1",
    )
    for name in names:
        with (tmp_path / f"{name}.curve.csv").open() as file:
            curve = list(csv.DictReader(file))
        with (tmp_path / f"{name}.forecasts.csv").open() as file:
            forecasts = list(csv.DictReader(file))
        assert [int(row["step"]) for row in curve] == list(range(1, 101))
        assert float(curve[-1]["val_loss"]) < float(curve[0]["val_loss"])
        assert int(forecasts[-1]["step"]) == 100
        assert all(float(row["lower80"]) <= float(row["upper80"]) for row in forecasts)
        assert f"{name}: 100 steps on " in output
    assert output.splitlines()[-6].startswith("seen   runs  median |error|")
    assert " 90%      2" in output
