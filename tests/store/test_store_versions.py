"""Stores of earlier versions, and migrations."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.command_line import run
from support.recorded import train
from support.stored_runs import INFO, PLAN, filled

from lossforecast import Forecaster, StoreError
from lossforecast.store import schema as schema_module
from lossforecast.store.run_store import RunStore
from lossforecast.store.schema import MIGRATIONS, Tables

STATES = Path(__file__).parents[1] / "states"


# ---------------------------------------------------------------------- versions


def test_an_older_store_is_brought_up_to_date(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1 with a run, opened by a release that has added a column."""
    store, key = filled(where)

    def add_notes(connection: sa.Connection) -> None:
        connection.execute(sa.text("ALTER TABLE lossforecast_runs ADD COLUMN notes TEXT"))

    monkeypatch.setattr(schema_module, "MIGRATIONS", [*MIGRATIONS, add_notes])
    newer = RunStore(where)
    assert newer.run(key).name == "first"
    with store._database.transaction("read") as connection:
        columns = sa.inspect(connection).get_columns("lossforecast_runs")
    assert "notes" in {column["name"] for column in columns}
    RunStore(where)  # once only
    monkeypatch.setattr(schema_module, "MIGRATIONS", MIGRATIONS)
    with pytest.raises(StoreError, match="update lossforecast"):
        RunStore(where)


@pytest.mark.parametrize("made_by", ["store-1.sql", "store-2.sql", "store-3.sql"])
def test_a_store_of_an_earlier_version_becomes_what_a_new_one_is(where: str, made_by: str) -> None:
    """Made by the statements of that version, which never change."""
    engine = sa.create_engine(where if "://" in where else f"sqlite:///{where}")
    with engine.begin() as connection:
        for statement in (STATES / made_by).read_text().split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    engine.dispose()
    store = RunStore(where)
    (run,) = store.runs()
    assert (run.name, run.state, run.outcome) == ("first", "finished", 2.5)
    assert store.owner(run.key) == ""
    assert store.best(run.run, run.schedule) == 2.5
    (forecast,), (decision,) = store.forecasts(run.key), store.decisions(run.key)
    assert (forecast["mean"], decision["action"]) == (2.75, "stop")
    assert forecast["median"] == 2.75  # there is nothing better than the mean
    with store._database.transaction("read") as connection:
        inspector = sa.inspect(connection)
        for table in Tables.make().metadata.sorted_tables:
            found = {column["name"] for column in inspector.get_columns(table.name)}
            assert found == {column.name for column in table.columns}
        names = {
            "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index'",
            "postgresql": "SELECT indexname FROM pg_indexes WHERE schemaname = 'public'",
        }[connection.dialect.name]
        indices = set(connection.exec_driver_sql(names).scalars())
        assert {"lossforecast_runs_project", "lossforecast_runs_dataset"} <= indices
        assert "ix_lossforecast_runs_metric" not in indices
        version = connection.execute(sa.select(Tables.make().version)).scalar_one()
    assert version == 5
    assert run.run.steps_per_epoch is None
    key = store.begin("second", replace(INFO, steps_per_epoch=12.5), PLAN, owner="me")
    assert store.run(key).run.steps_per_epoch == 12.5
    watch = Forecaster(PLAN, INFO)
    watch.observe_many(range(100), [3.0 - 0.01 * t for t in range(100)])
    store.save(key, watch.history, PLAN, [watch.forecast()], owner="me")
    assert store.forecasts(key)[0]["median"] == watch.forecast().median
    store.end(key, "stopped", owner="me")


def test_a_store_that_is_only_read_is_not_made(where: str) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        RunStore(where, make=False)
    _, key = filled(where)
    assert RunStore(where, make=False).run(key).key == key


def test_a_new_store_needs_no_migration(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: sa.Connection) -> None:
        raise AssertionError

    monkeypatch.setattr(schema_module, "MIGRATIONS", [*MIGRATIONS, never])
    assert RunStore(where).runs() == []


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = filled(where)

    def half(connection: sa.Connection) -> None:
        connection.execute(sa.text("ALTER TABLE lossforecast_runs ADD COLUMN notes TEXT"))
        connection.execute(sa.text("SELECT step FROM nowhere"))

    monkeypatch.setattr(schema_module, "MIGRATIONS", [*MIGRATIONS, half])
    with pytest.raises(StoreError, match="nowhere"):
        RunStore(where)
    monkeypatch.setattr(schema_module, "MIGRATIONS", MIGRATIONS)
    store = RunStore(where)
    assert store.run(key).name == "first"
    with store._database.transaction("read") as connection:
        columns = sa.inspect(connection).get_columns("lossforecast_runs")
    assert "notes" not in {column["name"] for column in columns}


ODD_VERSIONS = {
    "no row": [],
    "two rows": [2, 2],
    "text": ["two"],
    "null": [None],
    "negative": [-1],
    "zero": [0],
    "real": [1.5],
    "bytes": [b"\x02"],
    "digits": ["9" * 400],
    "escape": ["\x1b[2J\nforged"],
}


@pytest.mark.parametrize("values", ODD_VERSIONS.values(), ids=ODD_VERSIONS)
def test_an_odd_version_is_one_clear_error(tmp_path: Path, values: list[object]) -> None:
    path = tmp_path / "runs.db"
    filled(str(path))
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DROP TABLE lossforecast_version")
        raw.execute("CREATE TABLE lossforecast_version (version)")
        raw.executemany(
            "INSERT INTO lossforecast_version VALUES (?)", [(value,) for value in values]
        )
    for make in (True, False):
        with pytest.raises(StoreError, match="lossforecast_version must hold one whole") as caught:
            RunStore(path, make=make)
        assert "\n" not in str(caught.value)
    done = run("runs", "list", "--store", path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    monitor = train(path)
    assert monitor.forecast is not None
    assert not monitor.switched_off


def test_a_huge_version_is_that_of_a_newer_release(where: str) -> None:
    store, _ = filled(where)
    with store._database.transaction("written") as connection:
        connection.exec_driver_sql("UPDATE lossforecast_version SET version = 2147483647")
    with pytest.raises(StoreError, match=r"2147483647.*update lossforecast"):
        RunStore(where)


@pytest.mark.parametrize("rows", [0, 2])
def test_an_odd_number_of_versions_is_one_clear_error(where: str, rows: int) -> None:
    store, _ = filled(where)
    with store._database.transaction("written") as connection:
        connection.exec_driver_sql("DELETE FROM lossforecast_version")
        for _ in range(rows):
            connection.exec_driver_sql("INSERT INTO lossforecast_version VALUES (2)")
    with pytest.raises(StoreError, match="lossforecast_version must hold one whole"):
        RunStore(where)


def test_a_table_that_is_missing_is_made_when_a_store_is_opened(where: str) -> None:
    store, key = filled(where)
    with store._database.transaction("written") as connection:
        connection.exec_driver_sql("DROP TABLE lossforecast_decisions")
    assert RunStore(where).decisions(key) == []
    assert RunStore(where).run(key).name == "first"
