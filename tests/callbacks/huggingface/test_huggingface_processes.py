"""`TransformersLossForecast` in two processes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hf_processes import (
    TOTAL,
    apart,
)
from support.processes import SUPPORT, answers, torchrun

from lossforecast import RunStore


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("trainers")
    torchrun(SUPPORT / "hf_processes.py", folder, limit=900)
    return folder, answers(folder)


def test_only_the_first_process_forecasts_the_mean_of_both_and_writes(found: Any) -> None:
    folder, results = found
    first, other = (each["whole"] for each in results)
    assert sorted({step for step, _ in first["forecasts"]}) == list(range(10, TOTAL + 1, 10))
    assert other["forecasts"] == []
    assert (first["log"], other["log"]) == ([], [])
    assert (first["off"], other["off"]) == (False, False)
    assert first["epoch"] == other["epoch"] == 3  # of 48 rows, 8 at a time in each process
    assert first["seen"] == other["seen"]
    assert first["logged"] == other["logged"]
    np.testing.assert_allclose(
        list(first["logged"].values()),
        [
            np.mean([apart(step, rank) for step in (at, at + 1) for rank in range(2)])
            for at in range(0, TOTAL, 2)
        ],
        rtol=1e-6,
    )
    store = RunStore(folder / "whole.db")
    (run,) = store.runs()
    assert run.state == "finished"
    made = [row["made_at"] for row in store.forecasts(run.key)]
    assert made == sorted({made_at for _, made_at in first["forecasts"]})


def test_every_window_reaches_the_first_process(found: Any) -> None:
    for each in found[1]:
        whole = each["whole"]
        np.testing.assert_allclose(list(whole["seen"].values()), list(whole["logged"].values()))


def test_both_processes_stop_after_the_same_step(found: Any) -> None:
    folder, results = found
    first, other = (each["stopped"] for each in results)
    assert first["steps"] == other["steps"]
    assert 60 < first["steps"] < TOTAL
    assert first["log"] == ["step 70: stop: scripted"]
    assert other["log"] == []
    (run,) = RunStore(folder / "stopped.db").runs()
    assert run.state == "stopped"
