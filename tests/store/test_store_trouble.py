"""Stores that cannot be opened, reached, read or written."""

import json
import pickle
import sqlite3
import sys
import time
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from support.stored_runs import INFO, LOSSES, PLAN, STEPS, filled

from lossforecast import (
    ConfigurationError,
    RunInfo,
    StoreError,
)
from lossforecast.callbacks.pipeline.recorder import RunRecorder
from lossforecast.runs.history import History
from lossforecast.store import engines
from lossforecast.store.address import default_path
from lossforecast.store.run_store import RunStore


def test_places_that_are_no_store(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are no runs at all, only some notes\n" * 100)
    with pytest.raises(StoreError, match="not a database"):
        RunStore(text)
    assert text.read_text().startswith("these are no runs")
    with pytest.raises(StoreError, match="cannot be opened"):
        RunStore(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be created"):
        RunStore(tmp_path / "file" / "runs.db")
    with pytest.raises(ConfigurationError, match="nor a database URL"):
        RunStore("nonsense://somewhere")
    with pytest.raises(ConfigurationError, match=r"oracle://me:\*\*\*@host"):
        RunStore("oracle://me:secret@host/name")


@pytest.mark.parametrize("name", ["a?b.db", "50%25.db", "50%.db", "a b#c.db", "file::memory:"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    store, key = filled(str(tmp_path / name))
    assert {each.name.split("-")[0] for each in tmp_path.iterdir()} == {name}
    assert pickle.loads(pickle.dumps(store)).run(key).key == key


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@word:secret@host:5432/db",
        "postgresql://me:secret@secret@host/db",
        "postgresql://me@host:secret/db",
    ],
)
def test_a_malformed_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="quote_plus") as caught:
        RunStore(url)
    assert "secret" not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__context__ is None  # that of the driver shows parts of it


def test_a_store_in_memory_is_refused() -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"):
        with pytest.raises(ConfigurationError, match="in memory"):
            RunStore(url)


def test_a_server_that_does_not_answer_is_not_waited_for(
    postgres: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another session holds the runs; options of the URL stand beside the time limits."""
    monkeypatch.setattr(engines, "_POSTGRES_TIMEOUT_S", 1.0)
    url = f"{postgres}&options=-c%20application_name%3Dmine"
    store = RunStore(url)
    with store._database.transaction("read", writes=False) as connection:
        for setting, value in (
            ("application_name", "mine"),
            ("lock_timeout", "1s"),
            ("statement_timeout", "1s"),
        ):
            assert connection.exec_driver_sql(f"SHOW {setting}").scalar() == value
    engine = sa.create_engine(postgres, poolclass=sa.NullPool)
    with engine.begin() as other:
        other.exec_driver_sql("LOCK TABLE lossforecast_runs IN ACCESS EXCLUSIVE MODE")
        recorder, start = RunRecorder(url, "run", INFO, PLAN), time.monotonic()
        assert recorder.prior(None) is None
        assert time.monotonic() - start < 10
        assert "timeout" in caplog.text
    with engine.begin() as connection:
        for name in sa.inspect(connection).get_table_names():
            connection.execute(sa.text(f'DROP TABLE "{name}"'))
    engine.dispose()


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(StoreError) as caught:
        RunStore("postgresql+psycopg://me:secret@127.0.0.1:1/runs")
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "read"),
    [
        ("schedule = '{}'", False),
        ("schedule = 'no json'", False),
        ("started = 'yesterday'", False),
        ("curve = '{'", True),
        ("curve = '{}'", True),
        ("project = CAST(x'eda080' AS TEXT), dataset = 'text'", True),  # a lone surrogate
    ],
)
def test_a_damaged_record_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, read: bool
) -> None:
    store, key = filled(str(tmp_path / "runs.db"), dataset="text")
    sound = store.add("second", RunInfo(**{**vars(INFO), "dataset": "text"}), PLAN, STEPS, LOSSES)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as raw, raw:
        raw.execute(f"UPDATE lossforecast_runs SET {damage} WHERE key = ?", [key])
    about = RunInfo("val", "adamw", dataset="text")
    assert [run.key for run in store.runs() if run.key != key] == [sound]
    assert {past.name for past in store.prior(about, PLAN).past} - {key} == {sound}
    assert store.best(about, PLAN) is not None
    if "project" not in damage:
        assert key in caplog.text
    if not read:
        with pytest.raises(StoreError, match=f"{key}.*damaged"):
            store.run(key)
    assert store.find(key[:8]) == (key, "first")
    store.forget(key)
    assert [run.key for run in store.runs()] == [sound]


def test_words_that_no_database_takes_are_made_plain(where: str) -> None:
    odd = RunInfo("val", project="a\udc80b\0")
    store = RunStore(where)
    key = store.add("n\udc80\0", odd, PLAN, STEPS, LOSSES)
    assert (store.run(key).name, store.run(key).run.project) == ("n?", "a?b")
    assert [run.key for run in store.runs(project="a\udc80b")] == [key]
    assert store.best(store.run(key).run, PLAN) is not None
    store.prior(odd, PLAN)


def test_a_full_disk_is_an_error_and_nothing_is_torn(tmp_path: Path) -> None:
    store, key = filled(str(tmp_path / "runs.db"))
    before = json.dumps(store.history(key).state_dict())
    engine = store._database.writer

    @sa.event.listens_for(engine, "connect")
    def shrink(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    history = History()
    steps = np.arange(50_000)
    history.observe_many(steps, np.random.default_rng(0).normal(3, 1, steps.size))
    with pytest.raises(StoreError, match="full"):
        store.save(key, history, PLAN)
    sa.event.remove(engine, "connect", shrink)
    assert json.dumps(store.history(key).state_dict()) == before


def test_the_store_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSFORECAST_STORE", str(tmp_path / "mine.db"))
    assert default_path() == tmp_path / "mine.db"
    RunStore()
    assert (tmp_path / "mine.db").exists()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOSSFORECAST_STORE", f"sqlite:///{tmp_path}/other.db")
    RunStore()
    assert (tmp_path / "other.db").exists()
    assert not (tmp_path / "sqlite:").exists()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for no_place in ("", "0", "1"):
        monkeypatch.setenv("LOSSFORECAST_STORE", no_place)
        if sys.platform == "linux":
            assert default_path() == tmp_path / "data" / "lossforecast" / "runs.db"
