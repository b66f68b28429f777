"""Logs of runs that see their data again: what is said before the second epoch is seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command_line import result_of, run

EPOCH, EPOCHS = 400, 3
LEVELS = np.array([1.1, 0.7, 0.4, 0.4])


def staircase(path: Path, until: int = EPOCH * EPOCHS, *, epochs: bool = True) -> Path:
    """A log of the Hugging Face Trainer: the loss is flat in an epoch, and falls at each end."""
    rng, total = np.random.default_rng(0), EPOCH * EPOCHS
    rows: list[dict[str, Any]] = []
    for step in range(5, until + 1, 5):
        rows.append(
            {
                "step": step,
                "loss": float(LEVELS[(step - 3) // EPOCH] * np.exp(0.03 * rng.normal())),
                "learning_rate": float(1e-5 * (1 + np.cos(np.pi * step / total))),
            }
            | ({"epoch": round(step / EPOCH, 2)} if epochs else {})
        )
    state = {"max_steps": total, "num_train_epochs": EPOCHS, "global_step": until}
    path.write_text(json.dumps({**state, "log_history": rows}, indent=1))
    return path


def test_no_run_is_stopped_before_it_sees_its_data_again(tmp_path: Path) -> None:
    log = staircase(tmp_path / "trainer_state.json")
    found = result_of("replay", log, "--target", 0.48)
    assert found["steps_per_epoch"] == pytest.approx(EPOCH, rel=5e-3)
    first = [moment for moment in found["moments"] if moment["made_at"] < 1.05 * EPOCH]
    assert len(first) > 30
    assert {moment["action"] for moment in first} == {"abstain"}
    said = "There is no advice up to step 4"
    assert said in run("replay", log, "--target", 0.48).stdout
    unknown = staircase(tmp_path / "unknown.json", epochs=False)
    late = result_of("replay", unknown, "--target", 0.48)["moments"][30]
    assert (late["made_at"] < EPOCH, late["action"]) == (True, "continue")
    assert said not in run("replay", unknown, "--target", 0.48).stdout


def test_the_steps_of_an_epoch_can_be_given(tmp_path: Path) -> None:
    log = staircase(tmp_path / "log.json", epochs=False)
    given = result_of("replay", log, "--target", 0.48, "--steps-per-epoch", EPOCH)
    assert given["steps_per_epoch"] == EPOCH
    assert given["moments"][30]["action"] == "abstain"
    one = result_of("replay", log, "--target", 0.48, "--steps-per-epoch", EPOCH * EPOCHS)
    assert one["moments"][30]["action"] == "continue", "data that is never seen again"
    done = run("replay", log, "--steps-per-epoch", 0)
    assert (done.returncode, "steps_per_epoch is 0.0" in done.stderr) == (2, True)
    with_epochs = staircase(tmp_path / "trainer_state.json")
    wins = result_of("replay", with_epochs, "--target", 0.48, "--steps-per-epoch", 50.5)
    assert wins["steps_per_epoch"] == 50.5


def test_a_run_in_its_first_epoch_is_forecast_with_a_caveat(tmp_path: Path) -> None:
    log = staircase(tmp_path / "trainer_state.json", until=300)
    found = result_of("forecast", log, "--target", 0.48)
    assert "repeated_data" in found["caveats"]
    assert (found["action"], found["reason"]) == ("abstain", "thin_evidence")
    done = run("forecast", log, "--target", 0.48)
    assert "no advice yet: the data will be seen again" in " ".join(done.stdout.split())
    one = result_of("what-if", log, "--try", f"truncate:to={EPOCH}", "--steps-per-epoch", EPOCH)
    assert len(one) == 2


def test_an_imported_run_is_known_again_with_epochs_and_without(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    log = staircase(tmp_path / "trainer_state.json")
    options = ("--project", "p", "--store", store)
    for more in ((), ("--steps-per-epoch", 123)):
        done = run("runs", "import", log, *options, *more)
        assert done.returncode == 0, done.stderr
    assert len(result_of("runs", "list", "--store", store)) == 1
