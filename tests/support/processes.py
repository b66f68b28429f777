"""Two processes that train together: how tests start them, and the files they answer with."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def python_path() -> str:
    """PYTHONPATH of a process that imports `support` and this checkout."""
    paths = [str(SUPPORT.parent), str(SUPPORT.parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))


def run_script(*arguments: object, limit: float, **environment: str) -> None:
    """Run Python with these arguments; fail on an error or after `limit` seconds.

    The script may import `support`. Processes that it started are ended with it.
    """
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": python_path()} | environment,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # torchrun then ends its workers
        try:
            output, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        pytest.fail(f"the processes wait for each other after {limit} s: {output.decode()}")
    assert process.returncode == 0, output.decode()


def torchrun(*arguments: object, limit: float, **environment: str) -> None:
    """Run a script in each of two processes."""
    run_script(*TORCHRUN, *arguments, limit=limit, **environment)


def answers(folder: Path, name: str = "") -> list[Any]:
    """The contents of `<name><rank>.json` of both processes."""
    return [json.loads((folder / f"{name}{rank}.json").read_text()) for rank in range(2)]
