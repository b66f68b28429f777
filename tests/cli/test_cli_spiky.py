"""Logs of fine-tuning runs whose losses fall to near 0, with spikes far above them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command_line import result_of, run

TOTAL, EVERY, PEAK = 1_000, 10, 2e-4


def write_spiky_log(folder: Path, seed: int, upto: int = TOTAL) -> tuple[Path, np.ndarray]:
    """A `trainer_state.json` of a run of 1,000 steps, and its losses.

    The loss falls from about 0.3 to 0.001, by chance a hundredfold in the middle of the run, with
    log-normal noise and spikes of up to a hundred times as much.
    """
    rng = np.random.default_rng(seed)
    steps = np.arange(EVERY, upto + 1, EVERY)
    fall = 0.3 * np.exp(-2 * steps / TOTAL) * np.where(steps > 0.6 * TOTAL, 0.02, 1.0)
    noise = np.exp(0.8 * rng.normal(size=steps.size))
    spikes = np.where(rng.random(steps.size) < 0.15, 10 ** rng.uniform(-2, 0.3, steps.size), 1.0)
    losses = np.round(np.maximum(fall * noise * spikes, 1e-4), 4)
    rows = [
        {"step": int(step), "loss": float(loss), "learning_rate": PEAK * (1 - step / TOTAL)}
        for step, loss in zip(steps, losses, strict=True)
    ]
    folder.mkdir()
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"log_history": rows, "max_steps": TOTAL, "global_step": upto}))
    return path, losses


def assert_sensible(found: dict[str, Any], largest: float) -> None:
    """The number shown lies in its interval, and nothing far above the largest loss."""
    assert found["lower95"] <= found["lower80"] <= found["median"] <= found["upper80"]
    assert found["upper80"] <= found["upper95"] <= 10 * largest
    assert found["median"] <= largest


@pytest.mark.parametrize("seed", range(2))
def test_a_finished_run_is_looked_back_on(tmp_path: Path, seed: int) -> None:
    path, losses = write_spiky_log(tmp_path / "log", seed)
    found = result_of("replay", path)
    assert len(found["moments"]) == 100
    for moment in found["moments"]:
        assert_sensible(moment, losses.max())
        assert moment["error"] == pytest.approx(moment["median"] / found["outcome"] - 1)


def test_the_table_shows_the_median(tmp_path: Path) -> None:
    path, _ = write_spiky_log(tmp_path / "log", seed=0)
    half = result_of("replay", path)["moments"][49]
    assert f"{half['median']:.4g}" != f"{half['mean']:.4g}"
    done = run("replay", path, "--at", 50)
    assert done.returncode == 0, done.stderr
    (row,) = (line.split() for line in done.stdout.splitlines() if line.startswith(" 50%, step"))
    assert row[3] == f"{half['median']:.4g}"


@pytest.mark.parametrize("seed", range(2))
def test_an_unfinished_run_is_forecast(tmp_path: Path, seed: int) -> None:
    path, losses = write_spiky_log(tmp_path / "log", seed, upto=600)
    found = result_of("forecast", path)
    assert_sensible(found, losses.max())
    if found["action"] == "continue":
        interval = f"{found['median']:#.4g} (80%: {found['lower80']:#.4g} to"
        assert f"heading for {interval}" in found["message"]
    done = run("forecast", path)
    (row,) = (line.split() for line in done.stdout.splitlines() if "loss at step 1,000" in line)
    assert row[-1] == f"{found['median']:.4g}"
