"""Runs for tests of the store."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lossforecast import (
    LRSchedule,
    RunInfo,
)
from lossforecast.store.run_store import RunStore

SUPPORT = Path(__file__).parents[1] / "support"
WRITER = SUPPORT / "store_writer.py"


INFO = RunInfo("val", "adamw", project="small models", n_params=1e6)
PLAN = LRSchedule.wsd(10_000, 1e-3, warmup=200)


STEPS = np.arange(100, 10_001, 100)
LOSSES = 2.0 + 20.0 * (PLAN.s1(STEPS) / 1e-3) ** -0.45


def filled(where: str, **about: Any) -> tuple[RunStore, str]:
    store = RunStore(where)
    run = RunInfo(**{**vars(INFO), **about})
    return store, store.add("first", run, PLAN, STEPS, LOSSES)


def start(where: str, count: int, flushes: int, victims: int = 0) -> list[subprocess.Popen[str]]:
    """Writers; the first `victims` of them have more to write than they will live for."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(WRITER), where, f"writer {i}", str(n)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i, n in enumerate([10_000] * victims + [flushes] * (count - victims))
    ]
