"""A fleet: 1,000 runs that write to one PostgreSQL store from 64 processes.

Each process plays several runs and writes them as `RunRecorder` does: one transaction for each
forecast, with the thinned curve, the schedule and the forecast. First all write as fast as they
can, which shows the capacity; then each run writes once in its interval, which shows the latency.
As a script, this is one of the processes.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from scale_table import Figure

from lossforecast import Forecaster, LRSchedule, RunInfo
from lossforecast.store import RunStore

__all__ = ["fleet_figures"]

N_PROCESSES, N_RUNS = 64, 1_000
CAPACITY_S, PACE_S = 20.0, 40.0
FORECASTS_PER_RUN = 60
RUN_HOURS = 1.0  # the length of a run in the second part: a forecast a minute
TOTAL = 6_000


def fleet_figures(url: str, data: Path, scale: float) -> list[Figure]:
    """Measure writes per second, their latency, the work of the server and the growth.

    Args:
        url: an empty database.
        data: folder of the server, by which its processes are found.
        scale: share of the processes, runs and seconds.
    """
    n_processes, n_runs = max(int(scale * N_PROCESSES), 2), max(int(scale * N_RUNS), 4)
    RunStore(url)
    engine = sa.create_engine(url)
    every = RUN_HOURS * 3600 / FORECASTS_PER_RUN
    fleet = partial(_wave, engine, url, data, n_processes, n_runs)
    capacity = fleet(max(scale * CAPACITY_S, 1.0), 0.0)
    pooled = fleet(max(scale * CAPACITY_S, 1.0), 0.0, stays_open=True)
    pace = fleet(max(scale * PACE_S, 1.0), scale * every)
    name = f"{n_runs:,} runs in {n_processes} processes"
    figures = [
        *_figures(f"{name}, as fast as they can", capacity),
        Figure("... CPU time of a writer for a write", 1e3 * capacity.writer_cpu_s, "ms"),
        Figure("... log of the server (WAL) for a write", capacity.wal_bytes / 1e3, "kB"),
        *_figures("the same over connections that stay open", pooled),
        *_figures(f"{name}, a forecast of each in {scale * every:g} s", pace),
    ]
    size = _bytes_of_a_run(engine)
    writes = n_runs * 24 * 3600 / every
    runs = writes / FORECASTS_PER_RUN
    figures += [
        Figure("a finished run of 60 forecasts in the store", size / 1e3, "kB", computed=True),
        Figure(
            f"growth in a day, {runs:,.0f} runs of an hour", runs * size / 1e9, "GB", None, True
        ),
        Figure("log of the server in a day", writes * pace.wal_bytes / 1e9, "GB", computed=True),
    ]
    engine.dispose()
    return figures


def _figures(name: str, wave: "Wave") -> list[Figure]:
    server = wave.server_cpu_s
    return [
        Figure(f"{name}: writes per second", wave.rate, ""),
        Figure("... latency, median", 1e3 * wave.quantile(0.5), "ms"),
        Figure("... latency, 99%", 1e3 * wave.quantile(0.99), "ms"),
        Figure("... CPU time of the server for a write", 1e3 * server, "ms"),
        Figure("... writes per second for a core of the server", 1 / server, "", computed=True),
    ]


@dataclass(frozen=True)
class Wave:
    """Writes of all processes in a time.

    Attributes:
        seconds: how long they wrote.
        latencies: seconds of each write.
        server_cpu_s: CPU time of the server for a write.
        writer_cpu_s: CPU time of a process for a write.
        wal_bytes: growth of the log of the server by a write.
    """

    seconds: float
    latencies: Sequence[float]
    server_cpu_s: float
    writer_cpu_s: float
    wal_bytes: float

    @property
    def rate(self) -> float:
        """Writes per second."""
        return len(self.latencies) / self.seconds

    def quantile(self, q: float) -> float:
        """Quantile of the latencies in seconds."""
        return float(np.quantile(self.latencies, q))


def _wave(
    engine: sa.Engine,
    url: str,
    data: Path,
    n_processes: int,
    n_runs: int,
    seconds: float,
    every_s: float,
    *,
    stays_open: bool = False,
) -> Wave:
    """Start the processes, let them write together, and collect what they measured."""
    shares = [len(range(i, n_runs, n_processes)) for i in range(n_processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    options = [str(seconds), str(every_s), str(int(stays_open))]
    writers = [
        subprocess.Popen(
            [sys.executable, __file__, url, str(share), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for share in shares
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()  # it has begun its runs
    wal, cpu = _wal(engine), _server_cpu_s(data)
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    said = [json.loads(writer.communicate()[0]) for writer in writers]
    latencies = [latency for each in said for latency in each["latencies"]]
    n = len(latencies)
    return Wave(
        seconds=max(each["seconds"] for each in said),
        latencies=latencies,
        server_cpu_s=(_server_cpu_s(data) - cpu) / n,
        writer_cpu_s=sum(each["cpu_s"] for each in said) / n,
        wal_bytes=(_wal(engine) - wal) / n,
    )


def _wal(engine: sa.Engine) -> float:
    with engine.begin() as connection:
        position = sa.text("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
        return float(connection.execute(position).scalar_one())


def _server_cpu_s(data: Path) -> float:
    """CPU time of the server: its main process, and all of its children that it waited for."""
    main = (data / "postmaster.pid").read_text().split()[0]
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if stat.parent.name == main:
            ticks += sum(map(int, fields[11:15]))
        elif fields[1] == main:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _bytes_of_a_run(engine: sa.Engine) -> float:
    """Size of a run with 60 forecasts, after the space of older versions was freed."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

        def number(query: str) -> float:
            return float(connection.execute(sa.text(query)).scalar_one())

        sizes = []
        for table in ("runs", "forecasts"):
            connection.execute(sa.text(f"VACUUM FULL lossforecast_{table}"))
            size = number(f"SELECT pg_total_relation_size('lossforecast_{table}')")
            sizes.append(size / number(f"SELECT count(*) FROM lossforecast_{table}"))
    return sizes[0] + FORECASTS_PER_RUN * sizes[1]


def write(
    url: str, n_runs: int, seconds: float, every_s: float, *, stays_open: bool
) -> dict[str, object]:
    """Write runs as their forecasts come; return the latencies and the CPU time.

    Args:
        url: the store.
        n_runs: how many runs this process plays.
        seconds: how long.
        every_s: seconds between two forecasts of a run; 0 for no pause.
        stays_open: whether to write over one connection, instead of a new one for each write, as a
            pooler between the runs and the server does.
    """
    plan = LRSchedule.wsd(TOTAL, 1e-3)
    random = np.random.default_rng(os.getpid())
    forecaster = Forecaster(plan, RunInfo("train", "adamw", project="fleet"))
    steps = np.arange(TOTAL // 2)
    noise = 0.02 * random.normal(size=steps.size)
    forecaster.observe_many(steps, 2 + 3 * (steps + 10.0) ** -0.4 + noise)
    history, forecast = forecaster.history, forecaster.forecast().summary()
    store = RunStore(url)
    if stays_open:
        vars(store._database)["writer"] = sa.create_engine(url, pool_size=1)
    keys = [store.begin(f"run {i}", forecaster.run, plan, owner="fleet") for i in range(n_runs)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    began, cpu = time.monotonic(), time.process_time()
    due = began + every_s * random.random(n_runs)  # runs do not begin together
    latencies: list[float] = []
    made_at = 0
    while (now := time.monotonic()) < began + seconds:
        i = int(due.argmin())
        if due[i] > now:
            time.sleep(min(float(due[i]), began + seconds) - now)
            continue
        due[i] = due[i] + every_s if every_s else now
        made_at += 1
        store.save(keys[i], history, plan, [{**forecast, "made_at": made_at}], owner="fleet")
        latencies.append(time.monotonic() - now)
    return {
        "latencies": latencies,
        "seconds": time.monotonic() - began,
        "cpu_s": time.process_time() - cpu,
    }


if __name__ == "__main__":
    url, n_runs, seconds, every_s, stays_open = sys.argv[1:]
    said = write(url, int(n_runs), float(seconds), float(every_s), stays_open=stays_open == "1")
    sys.stdout.write(json.dumps(said))
