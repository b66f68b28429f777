"""Starts the scripts of tests that run in two processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def launch(*command: object, limit: float, **environment: str) -> None:
    """Run a command that starts two processes; the test fails if it fails or hangs.

    Args:
        *command: the command; its scripts can import `support`.
        limit: seconds after which the processes are taken to wait for each other.
        **environment: variables for it.
    """
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": path} | environment,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the processes that it started as well
        pytest.fail(f"the two processes wait for each other: {process.communicate()[0].decode()}")
    assert process.returncode == 0, output.decode()


def results(folder: Path, prefix: str = "") -> list[Any]:
    """The JSON files that the two processes have written, `prefix` and rank as their names."""
    return [json.loads((folder / f"{prefix}{rank}.json").read_text()) for rank in range(2)]
