"""The benchmark of `diverged`, at a small size."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "divergence.py"


@pytest.mark.slow
def test_a_restart_goes_on_and_accidents_are_told(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    options = ("--restarts=1", "--accidents=2", "--steps=600")
    said = run_python("-W", "ignore", str(SCRIPT), *options, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert "restarts stopped: 0 of 1\n" in said
    stops = re.findall(r"stopped \+(\d+\.\d)% later", said)
    assert len(stops) == 2
    assert all(0 <= float(stop) < 10 for stop in stops)
