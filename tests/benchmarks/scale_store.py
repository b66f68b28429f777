"""A store with many runs: the prior of a new run, the list of runs, and the table of the panel."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import sqlalchemy as sa
from scale_table import Figure
from support.panel_logs import TOTAL, updates
from werkzeug.test import Client

from lossforecast import LRSchedule, RunInfo, RunStore
from lossforecast.callbacks.tensorboard.plugin import TAG
from lossforecast.callbacks.tensorboard.plugin import record as panel_record
from lossforecast.callbacks.tensorboard.plugin.server import ForecastPlugin
from lossforecast.runs import History

__all__ = ["fill", "panel_figures", "plan_of_search", "statements", "store_figures"]

PLAN = LRSchedule.wsd(10_000, 1e-3, warmup=200)
NEW = RunInfo("val", "adamw", "project 3", model="gpt", n_params=1e6, batch_size=64.0)
LARGE = replace(NEW, n_params=1e7)
N_PROJECTS = 20
DISTINCT_RUNS = 500  # of a project; those of others are copies of them
STATES = ("finished", "finished", "finished", "stopped", "failed", "running")
DISTINCT_RECORDS = 6


def fill(store: RunStore, n_runs: int, n_projects: int = N_PROJECTS) -> None:
    """Put runs of 2,500 losses each, half of them finished, evenly into some projects.

    The store has no others then.
    """
    tables = store._database.tables
    with store._database.transaction("written") as connection:
        connection.execute(tables.runs.delete())
    random = np.random.default_rng(0)
    steps = np.arange(0, 10_000, 4)
    keys = []
    for i in range(min(-(-n_runs // n_projects), DISTINCT_RUNS)):
        plan = LRSchedule.wsd(10_000, float(10 ** random.uniform(-4, -2)), warmup=200)
        noise = 0.01 * random.normal(size=steps.size)
        losses = 2 + 0.1 * random.random() + 20 * (steps + 200.0) ** -0.45 + noise
        history = History()
        history.observe_many(steps, losses)
        keys.append(store.begin(f"run {i}", NEW, plan))
        store.save(keys[-1], history, plan)
    with store._database.transaction("written") as connection:
        rows = [row._asdict() for row in connection.execute(sa.select(tables.runs))]
        connection.execute(tables.runs.delete())
        start = datetime(2026, 1, 1, tzinfo=UTC)
        for first in range(0, n_runs, 500):
            connection.execute(
                tables.runs.insert(),
                [
                    {
                        **rows[i // n_projects % len(rows)],
                        "key": uuid.UUID(int=i + 1).hex,
                        "name": f"run {i}",
                        "project": f"project {i % n_projects}",
                        "state": (state := STATES[i // n_projects % len(STATES)]),
                        "outcome": 2.4 if state == "finished" else None,
                        "started": (start + timedelta(minutes=i)).isoformat(),
                    }
                    for i in range(first, min(first + 500, n_runs))
                ],
            )
    if store._database.reader.dialect.name == "postgresql":
        with store._database.transaction("written") as connection:
            connection.exec_driver_sql("ANALYZE")  # as autovacuum does within a minute


@contextmanager
def statements(store: RunStore) -> Iterator[list[tuple[str, Any]]]:
    """The statements that read a store meanwhile, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        sent.append((statement, parameters))

    engine = store._database.reader
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def plan_of_search(store: RunStore) -> str:
    """How the database finds the past runs of a new one."""
    with statements(store) as sent:
        store.finished(NEW)
    engine = store._database.reader
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.begin() as connection:
        statement, parameters = sent[-1]
        rows = connection.exec_driver_sql(f"{explain} {statement}", parameters)
        return "\n".join(str(row[-1]) for row in rows)


def store_figures(where: str, kind: str, scale: float) -> list[Figure]:
    """Measure a store of 10,000 runs in 20 projects: priors, the target and the list of runs."""
    n_runs = max(int(scale * 10_000), 200)
    store = RunStore(where)
    fill(store, n_runs)
    name = f"{kind}, {n_runs:,} runs"
    return [
        Figure(f"{name}: prior of a new run", wall_ms(lambda: store.prior(NEW, PLAN)), "ms", 100),
        Figure(
            f"{name}: prior of a new run, all others smaller",
            wall_ms(lambda: store.prior(LARGE, PLAN)),
            "ms",
        ),
        Figure(f"{name}: target of a new run", wall_ms(lambda: store.best(NEW, PLAN)), "ms"),
        Figure(f"{name}: `RunStore(...)`", wall_ms(lambda: RunStore(where)), "ms"),
        Figure(
            f"{name}: `runs()` of a project", wall_ms(lambda: store.runs(project="project 3")), "ms"
        ),
        Figure(f"{name}: `runs()`", wall_ms(store.runs), "ms"),
    ]


class Logs:
    """Logs of many runs, without TensorBoard's own reading of files.

    Args:
        n_runs: number of runs; a few records are repeated.
        n_unfinished: how many of them are not over.
    """

    def __init__(self, n_runs: int, n_unfinished: int) -> None:
        going = [_record(seed, 800 + 400 * seed) for seed in range(DISTINCT_RECORDS)]
        over = [_record(seed, TOTAL) for seed in range(DISTINCT_RECORDS)]
        self._records = {
            f"run {i}": (going if i < n_unfinished else over)[i % DISTINCT_RECORDS]
            for i in range(n_runs)
        }

    def list_tensors(self, ctx: Any = None, **_: Any) -> Any:
        """The series of every run."""
        about = SimpleNamespace(max_step=1, max_wall_time=1.0)
        return {run: {TAG: about} for run in self._records}

    def read_tensors(self, ctx: Any = None, *, run_tag_filter: Any, **_: Any) -> Any:
        """The latest record of runs."""
        return {
            run: {TAG: [SimpleNamespace(numpy=np.array(self._records[run], object))]}
            for run in run_tag_filter.runs
        }


@cache
def _record(seed: int, upto: int) -> bytes:
    """The record of a run after some steps."""
    *_, last = updates(seed=seed, floor=2 + 0.03 * seed, upto=upto, every=200)
    return panel_record.write(last)


def panel_figures(scale: float) -> list[Figure]:
    """Measure the first request of the panel, its list of runs."""
    sizes = [(1_000, 1.0), (10_000, 0.1), (10_000, 1.0)]
    return [figure for size in sizes for figure in _panel_figures(scale, *size)]


def _panel_figures(scale: float, n_runs: int, unfinished_share: float) -> list[Figure]:
    n = max(int(scale * n_runs), 20)
    logs = Logs(n, round(unfinished_share * n))
    plugin = ForecastPlugin(SimpleNamespace(data_provider=logs, logdir="logs"))
    client = Client(plugin.get_plugin_apps()["/runs"])
    first = cpu_ms(partial(client.get, "/runs"))
    again = [cpu_ms(partial(client.get, "/runs")) for _ in range(3)]
    listed = client.get("/runs").json
    assert listed is not None
    assert len(listed["runs"]) == n
    name = f"panel, {n:,} runs, {unfinished_share:.0%} unfinished"
    return [
        Figure(f"{name}: the list", float(np.median(again)) / 1e3, "s", 1),
        Figure(f"{name}: the list, when it is read for the first time", first / 1e3, "s"),
    ]


def wall_ms(call: Callable[[], object]) -> float:
    """Wall time of a call in milliseconds: the least of five, as others use the machine."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return min(times)


def cpu_ms(call: Callable[[], object]) -> float:
    """CPU time of a call in this process, in milliseconds."""
    began = time.process_time()
    call()
    return 1e3 * (time.process_time() - began)
