"""Stores of earlier versions, and migrations."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from support.stored_runs import INFO, PLAN, filled

from lossforecast import (
    StoreError,
)
from lossforecast.store import schema as schema_module
from lossforecast.store.run_store import RunStore
from lossforecast.store.schema import MIGRATIONS, Tables

VERSION_1 = Path(__file__).parents[1] / "states" / "store-1.sql"


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


def test_a_store_of_version_1_becomes_what_a_new_one_is(where: str) -> None:
    """Made by the statements of the first release, which never change."""
    engine = sa.create_engine(where if "://" in where else f"sqlite:///{where}")
    with engine.begin() as connection:
        for statement in VERSION_1.read_text().split(";"):
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
    with store._database.transaction("read") as connection:
        inspector = sa.inspect(connection)
        for table in Tables.make().metadata.sorted_tables:
            found = {column["name"] for column in inspector.get_columns(table.name)}
            assert found == {column.name for column in table.columns}
        version = connection.execute(sa.select(Tables.make().version)).scalar_one()
    assert version == 2
    store.end(store.begin("second", INFO, PLAN, owner="me"), "stopped", owner="me")


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
