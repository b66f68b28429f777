"""Logs without learning rates, and logs whose rates tell the schedule."""

import json
from pathlib import Path

import pytest
from support.command_line import TOTAL, result_of, run, write_log

from lossforecast import LRSchedule


def write_state(folder: Path, upto: int, total: int = TOTAL) -> Path:
    """A `trainer_state.json` with a linear decay to 0 after a warm-up of 100 steps."""
    rows = [
        {
            "step": step,
            "loss": 1 + 3 * step**-0.4,
            "learning_rate": 1e-4 * min(step / 100, (total - step) / (total - 100)),
        }
        for step in range(25, upto + 1, 25)
    ]
    folder.mkdir(exist_ok=True)
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"log_history": rows, "max_steps": total, "global_step": upto}))
    return path


@pytest.mark.parametrize("command", ["forecast", "replay"])
def test_the_schedule_that_the_rates_tell_is_stated(tmp_path: Path, command: str) -> None:
    log = write_state(tmp_path / "log", 500)
    done = run(command, log)
    assert done.returncode == 0, done.stderr
    line = "note: learning rate taken for linear to 0 at 2,000, as the logged rates are (to 0.00%)"
    assert line in done.stderr
    assert "lr_assumed" not in done.stdout
    told = result_of("forecast", log)
    given = result_of("forecast", log, "--schedule", "linear:peak=1e-4,warmup=100")
    assert told["median"] == pytest.approx(given["median"], rel=1e-3)
    assert told["lower80"] == pytest.approx(given["lower80"], rel=1e-2)


def test_another_schedule_overrides_the_one_in_the_rates(tmp_path: Path) -> None:
    log = write_state(tmp_path / "log", 500)
    done = run("forecast", log, "--schedule", "constant:peak=1e-4,warmup=100")
    assert "learning rate taken for" not in done.stderr


def test_a_length_that_is_given_ends_the_decay(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.csv", 800)
    rows = [f"{s},{2 + 9 / s},{1e-3 * (1 - s / 3_000)}" for s in range(10, 801, 10)]
    path.write_text("\n".join(["step,loss,lr", *rows, ""]))
    done = run("forecast", path, "--total-steps", 3_000)
    assert "taken for linear to 0 at 3,000" in done.stderr
    other = run("forecast", path, "--total-steps", 2_000)  # no decay ends there
    assert "learning rate after step 800 unknown; assuming the last one is held" in other.stderr


def test_rates_that_fit_several_decays_are_held(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rates = LRSchedule.cosine(4_000, 1e-3, end=1e-4).lr(range(1, 301))
    rows = [f"{s},{2 + 9 / s},{rates[s - 1]:.4g}" for s in range(20, 301, 20)]
    path.write_text("\n".join(["step,loss,lr", *rows, ""]))
    done = run("forecast", path, "--total-steps", 4_000)
    assert "unknown; the logged rates fit cosine to 0..0.0001 at 4,000" in done.stderr
    assert "assuming the last one is held" in done.stderr
    assert "lr_assumed" in done.stdout


def test_a_log_without_rates_is_forecast(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 800, rates=False)
    done = run("forecast", log, "--total-steps", TOTAL, "--plot", tmp_path / "log.svg")
    assert done.returncode == 0, done.stderr
    assert "is named like a learning rate" in done.stderr
    for way in ("log the rate", "--lr-column", "--schedule"):
        assert way in done.stderr
    assert "learning rate unknown" in done.stdout
    assert "lr_unknown" in done.stdout
    assert "learning rate (unknown)" in (tmp_path / "log.svg").read_text()
    found = result_of("forecast", log, "--total-steps", TOTAL)
    assert (found["caveats"], found["action"]) == (["lr_unknown"], "abstain")
    held = result_of("forecast", log, "--total-steps", TOTAL, "--schedule", "constant:peak=1")
    assert found["lower80"] < held["lower80"]
    assert found["upper80"] - found["lower80"] > held["upper80"] - held["lower80"]


def test_a_log_without_rates_is_looked_back_on(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", rates=False)
    found = result_of("replay", log, "--target", 1.0)
    assert found["outcome"] is not None
    assert found["stopped_at"] is None
    assert {moment["action"] for moment in found["moments"]} == {"abstain"}
    assert "There is no advice without a learning rate." in run("replay", log).stdout


def test_what_if_compares_changes_to_unknown_rates(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 800, rates=False)
    options = ("what-if", log, "--total-steps", TOTAL, "--try")
    plan, decay = result_of(*options, "decay:start=1000")
    assert decay["median"] < plan["median"]
    done = run(*options, "cosine:peak=1e-3")
    assert done.returncode == 2
    assert "no learning rate is known, so a whole schedule cannot be compared" in done.stderr


def test_a_log_without_rates_is_imported(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", rates=False)
    store = ("--store", tmp_path / "runs.db")
    done = run("runs", "import", log, "--project", "p", *store)
    assert done.returncode == 0, done.stderr
    (row,) = (line.split() for line in done.stdout.splitlines() if "finished" in line)
    assert row[row.index("2,000") - 1] == "-"
    known = write_log(tmp_path / "known.csv", 800)
    options = ("--total-steps", TOTAL, "--project", "p", *store)
    assert run("forecast", known, *options, "--schedule", "constant:peak=1e-3").returncode == 0
    bare = write_log(tmp_path / "bare.csv", 800, rates=False)
    alone = result_of("forecast", bare, "--total-steps", TOTAL)
    taught = result_of("forecast", bare, *options)
    assert taught["upper80"] - taught["lower80"] < alone["upper80"] - alone["lower80"]
