"""A process without rights of root: read-only stores, no threads, no home folder.

Prints what happened as JSON. All modules are loaded, by a run of its own, before it gives up its
rights: it might not be allowed to read them later.
"""

import json
import logging
import os
import resource
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from lossforecast import LossForecastError, RunStore
from lossforecast.callbacks.pipeline import Settings
from support.logs import WarningLog
from support.recorded import train

NOBODY = 54_321  # no user has this number, so no user database knows its home


def attempt(task: Any) -> str:
    """Return the result of a call as text, or its error."""
    try:
        return str(task())
    except LossForecastError as error:
        return f"{type(error).__name__}: {error}"


def read_only(path: str) -> dict[str, Any]:
    """Open, read and write a store that may only be read."""
    store = RunStore(path, make=False)
    (run,) = store.runs()
    monitor = train(path, run=run.run, until=60)
    past = [past.name for past in monitor.forecaster.prior.past]
    monitor.close()
    return {
        "name": run.name,
        "losses": store.history(run.key).n_observed,
        "forecasts": len(store.forecasts(run.key)),
        "past": past == [run.key],
        "write": attempt(lambda: store.forget(run.key)),
        "finite": bool(monitor.forecast and np.isfinite(monitor.forecast.mean)),
    }


def without_threads(path: str) -> dict[str, Any]:
    """Train where no thread can be started."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    try:
        threading.Thread(target=print).start()
        can_start = True
    except RuntimeError:
        can_start = False
    monitor = train(path)
    store = RunStore(path)
    return {
        "can_start": can_start,
        "switched_off": monitor.switched_off,
        "runs": [(run.state, len(store.forecasts(run.key))) for run in store.runs()],
    }


def without_home(_: str) -> dict[str, Any]:
    """Ask for the store of a user who has no home folder."""
    for name in ("HOME", "XDG_DATA_HOME", "LOSSFORECAST_STORE"):
        os.environ.pop(name, None)
    return {
        "settings": attempt(lambda: Settings(store=True)),
        "store": attempt(RunStore),
        "path": attempt(lambda: Settings(store="~/runs.db")),
    }


if __name__ == "__main__":
    name, path = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder) / "runs.db")
        train(Path(folder) / "runs.db")
    log = WarningLog()
    logging.getLogger("lossforecast").addHandler(log)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    tasks = {task.__name__: task for task in (read_only, without_threads, without_home)}
    result = tasks[name](path)
    print(json.dumps({**result, "warnings": log.lines}))  # noqa: T201
