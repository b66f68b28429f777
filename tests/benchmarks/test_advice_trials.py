"""One short trial of the advice on schedules."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("advice_trials.py")


@pytest.mark.slow
def test_a_short_trial_trains_the_plan_the_advice_and_a_grid(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    said = run_python(str(SCRIPT), "--only=3", "--steps=60", cwd=tmp_path, OMP_NUM_THREADS="1")
    found = re.findall(r"trial 3: (\w+) (\w*) from (\d+): ([\d.]+)", said)
    assert [name for name, *_ in found] == ["plan", "advised", *["grid"] * 5]
    grid = [int(start) for name, _, start, _ in found if name == "grid"]
    assert grid == [36, 42, 48, 54, 48]
    losses = [float(loss) for *_, loss in found]
    assert all(2 < loss < 6 for loss in losses), "nats per byte, after few steps"
    assert len(set(losses)) >= 5, "they are different runs"
