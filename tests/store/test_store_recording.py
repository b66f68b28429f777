"""Runs that are recorded in a store that is locked, vanishes or is emptied while they train."""

import logging
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch
from support.logs import warnings_in
from support.recorded import train
from support.stored_runs import INFO, PLAN, filled

from lossforecast import RunInfo, RunStore
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.pipeline.recorder import RunRecorder
from lossforecast.store import reader, rows
from lossforecast.store.schema import Tables

HANG_S = 30.0  # far above every limit that is promised


class Scripted:
    """A run of 400 steps that is taken on by and by."""

    def __init__(self, store: Any) -> None:
        self.optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
        self.monitor = TorchLossForecast(
            self.optimizer, None, 400, store=store, every_n_steps=20, run=RunInfo(project="p")
        )
        self.recorder: Any = self.monitor._pipeline.monitor.recorder

    def go(self, until: int) -> None:
        """Train, and wait until all forecasts are written."""
        for step in range(self.monitor.steps, until):
            self.monitor.step(2 + 3 * (step + 5.0) ** -0.5)
            self.optimizer.step()

    def settle(self) -> None:
        """Wait until the latest forecast is written."""
        assert self.monitor.forecast is not None
        deadline = time.monotonic() + HANG_S
        while time.monotonic() < deadline:
            written = self.recorder._written
            if written and written.forecasts[-1]["made_at"] == self.monitor.forecast.made_at:
                return
            time.sleep(0.01)
        raise AssertionError("nothing was written")


@contextmanager
def locked(where: str, *, new: bool = False) -> Iterator[Callable[[], None]]:
    """Lock a store, or the making of a new one, in another session; the function ends that."""
    url = where if "://" in where else f"sqlite:///{where}"
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=options_of(url))
    connection = engine.connect()
    if engine.dialect.name == "sqlite":
        raw: Any = connection.connection.dbapi_connection
        raw.isolation_level = None
        raw.execute("PRAGMA locking_mode = EXCLUSIVE")
        raw.execute("BEGIN EXCLUSIVE")
        raw.execute("PRAGMA user_version = 0")
    elif new:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7264310881)")
    else:
        for table in Tables.make().metadata.sorted_tables:
            connection.exec_driver_sql(f"LOCK TABLE {table.name} IN ACCESS EXCLUSIVE MODE")
    try:
        yield connection.close
    finally:
        connection.close()
        engine.dispose()


def options_of(url: str) -> dict[str, Any]:
    return {"check_same_thread": False} if url.startswith("sqlite") else {}


@pytest.mark.parametrize("new", [False, True], ids=["old", "new"])
def test_a_locked_store_delays_the_first_step_a_little_and_is_written_to_later(
    where: str, caplog: pytest.LogCaptureFixture, new: bool
) -> None:
    if not new:
        filled(where, metric="train", project="p")
    start = time.monotonic()
    with locked(where, new=new) as release:
        run = Scripted(where)
        run.go(1)
        assert time.monotonic() - start < HANG_S
        assert run.monitor.forecaster.prior.past == ()
        (warning,) = warnings_in(caplog)
        assert "training goes on without past runs, and records wait in memory" in warning
        assert any(word in warning for word in ("lock", "timeout"))
        run.go(200)
        release()
    run.settle()
    run.go(400)
    run.monitor.close()
    assert len(warnings_in(caplog)) == 1
    store = RunStore(where)
    assert store.run(run.recorder.key).state == "finished"
    made = [row["made_at"] for row in store.forecasts(run.recorder.key)]
    assert made == [*range(19, 400, 20)]


def test_a_locked_store_does_not_hold_the_end_of_a_run(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled(where)
    with locked(where):
        run = Scripted(where)
        run.go(100)
        start = time.monotonic()
        run.monitor.close()
        assert time.monotonic() - start < HANG_S
    assert len(warnings_in(caplog)) == 2
    assert warnings_in(caplog)[1] == "the end of this run could not be written to the store"


def erase(where: str, what: str) -> None:
    """Delete a store, or a part of it."""
    if "://" not in where and what in ("file", "folder", "content"):
        path = Path(where)
        if what == "content":
            path.write_bytes(b"")
        for each in path.parent.glob(f"{path.name}*"):
            if what != "content" or each != path:
                each.unlink()
        if what == "folder":
            path.parent.rmdir()
        return
    names = [table.name for table in Tables.make().metadata.sorted_tables]
    chosen = {"forecasts": ["lossforecast_forecasts"], "runs": ["lossforecast_runs"]}
    with RunStore(where)._database.transaction("written") as connection:
        for name in chosen.get(what, names):
            connection.exec_driver_sql(f"DROP TABLE {name}")


@pytest.mark.parametrize("what", ["file", "folder", "content", "tables", "runs", "forecasts"])
def test_a_store_that_vanishes_is_made_again_with_the_whole_record(
    where: str, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Two runs write to it: whoever comes second finds a new store without its record."""
    if "://" in where and what in ("file", "folder", "content"):
        pytest.skip("a server has no file")
    where = where if "://" in where else str(Path(where).parent / "sub" / "runs.db")
    one, two = Scripted(where), Scripted(where)
    for run in (one, two):
        run.go(200)
        run.settle()
    erase(where, what)
    for run in (one, two):
        run.go(300)
        run.settle()
    for run in (one, two):
        run.go(400)
        run.monitor.close()
    store = RunStore(where)
    found = {run.key: run for run in store.runs()}
    assert set(found) == {one.recorder.key, two.recorder.key}
    said = [line for line in warnings_in(caplog) if "created again" in line]
    for run in (one, two):
        key = run.recorder.key
        assert (found[key].state, found[key].step) == ("finished", 399)
        assert store.history(key).n_observed == 400
        if what != "forecasts" or run is one:
            assert [row["made_at"] for row in store.forecasts(key)] == [*range(19, 400, 20)]
    assert len(said) >= 1
    assert said == warnings_in(caplog)


def test_a_run_that_is_forgotten_stays_forgotten(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Alone in its store, or beside another run."""
    for others in (0, 1):
        caplog.clear()
        run = Scripted(where)
        run.go(200)
        run.settle()
        RunStore(where).forget(run.recorder.key)
        run.go(400)
        run.monitor.close()
        assert len(RunStore(where).runs()) == others
        (warning,) = warnings_in(caplog)
        assert "is no longer recorded" in warning
        if others == 0:
            filled(where)


def test_a_server_that_is_x_delays_the_first_step_a_little(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A socket that accepts connections and never answers, as a frozen server does."""
    with closing(socket.create_server(("127.0.0.1", 0))) as frozen:
        port = frozen.getsockname()[1]
        start = time.monotonic()
        url = f"postgresql+psycopg://me:secret@127.0.0.1:{port}/runs"
        recorder = RunRecorder(url, "run", INFO, PLAN)
        assert recorder.prior(None) is None
        assert time.monotonic() - start < HANG_S
    (warning,) = warnings_in(caplog)
    assert "without past runs" in warning
    assert "secret" not in warning


def test_a_store_of_many_runs_is_read_whatever_time_its_losses_take(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the database is waited for with a limit."""
    caplog.set_level(logging.INFO, "lossforecast")
    path = tmp_path / "runs.db"
    train(path, run=RunInfo(project="p"))
    parse = rows.curve_of

    def slow(text: str | None) -> Any:
        time.sleep(3.0)
        return parse(text)

    monkeypatch.setattr(reader, "curve_of", slow)
    monitor = train(path, run=RunInfo(project="p"), until=1)
    assert len(monitor.forecaster.prior.past) == 1


def test_threads_may_share_a_store(where: str) -> None:
    store = RunStore(where)
    threads = [threading.Thread(target=train, args=[store]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run.state for run in store.runs()] == ["finished", "finished"]


def test_an_older_file_in_rollback_mode_is_locked_for_readers_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "runs.db"
    filled(str(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA journal_mode = DELETE")
        raw.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        run = Scripted(path)
        run.go(1)
        assert time.monotonic() - start < HANG_S
        raw.execute("ROLLBACK")
    assert len(warnings_in(caplog)) == 1
    run.go(400)
    run.monitor.close()
    assert RunStore(path).run(run.recorder.key).state == "finished"
