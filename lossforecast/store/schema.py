"""The schema of a store: its tables, its versions and the migrations between them."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from lossforecast.errors import StoreError

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = [
    "MIGRATIONS",
    "NUMBERS",
    "WORDS",
    "Tables",
    "bring_up_to_date",
    "identity_of",
    "is_complete",
    "newest_version",
    "version_of",
]

WORDS = ("project", "task", "model", "dataset", "optimizer", "monitor")
"""Attributes of `RunInfo` that are words; each has a column of its own."""
NUMBERS = ("n_params", "batch_size", "steps_per_epoch")
"""Attributes of `RunInfo` that are numbers; each has a column of its own."""
_MIGRATION_LOCK = 7_264_310_881  # PostgreSQL advisory lock held while the schema is migrated


@dataclass(frozen=True)
class Tables:
    """The tables of the schema."""

    metadata: "sa.MetaData"
    version: "sa.Table"
    runs: "sa.Table"
    forecasts: "sa.Table"
    decisions: "sa.Table"

    @classmethod
    def make(cls) -> Self:
        """All tables."""
        import sqlalchemy as sa

        metadata = sa.MetaData()

        def real(name: str) -> "sa.Column[Any]":
            return sa.Column(name, sa.Double)

        version = sa.Table(
            "lossforecast_version", metadata, sa.Column("version", sa.Integer, nullable=False)
        )
        runs = sa.Table(
            "lossforecast_runs",
            metadata,
            sa.Column("key", sa.String(32), primary_key=True),
            sa.Column("name", sa.Text, nullable=False),
            *(sa.Column(word, sa.Text) for word in WORDS),
            *(real(number) for number in NUMBERS),
            sa.Column("metric", sa.String(8), nullable=False),
            sa.Column("state", sa.String(16), nullable=False),
            sa.Column("step", sa.BigInteger, nullable=False),
            real("outcome"),
            sa.Column("excluded", sa.Boolean, nullable=False),
            sa.Column("started", sa.String(40), nullable=False),
            sa.Column("updated", sa.String(40), nullable=False),
            sa.Column("schedule", sa.Text, nullable=False),
            sa.Column("curve", sa.Text),
            sa.Column("owner", sa.String(32), nullable=False, server_default=""),
        )
        for name in ("project", "dataset"):
            sa.Index(f"{runs.name}_{name}", sa.func.lower(runs.c[name]))
        forecasts = sa.Table(
            "lossforecast_forecasts",
            metadata,
            sa.Column("run", sa.String(32), primary_key=True),
            sa.Column("made_at", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("step", sa.BigInteger, nullable=False),
            *(real(name) for name in ("median", "mean", "std")),
            *(real(name) for name in ("lower80", "upper80", "lower95", "upper95")),
            sa.Column("status", sa.String(32), nullable=False),
            *(real(name) for name in ("gain_mean", "gain_std")),
            sa.Column("gain_source", sa.String(16), nullable=False),
        )
        decisions = sa.Table(
            "lossforecast_decisions",
            metadata,
            sa.Column("run", sa.String(32), primary_key=True),
            sa.Column("step", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("action", sa.String(32), nullable=False),
            sa.Column("reason", sa.String(64), nullable=False),
            sa.Column("message", sa.Text, nullable=False),
        )
        return cls(
            metadata=metadata, version=version, runs=runs, forecasts=forecasts, decisions=decisions
        )


def _add_owner(connection: "sa.Connection") -> None:
    """Migrate to version 2: the owner of a run."""
    connection.exec_driver_sql(
        "ALTER TABLE lossforecast_runs ADD COLUMN owner VARCHAR(32) DEFAULT '' NOT NULL"
    )


def _add_median(connection: "sa.Connection") -> None:
    """Migrate to version 3: the median of a forecast, null in the rows of earlier versions."""
    connection.exec_driver_sql(
        "ALTER TABLE lossforecast_forecasts ADD COLUMN median DOUBLE PRECISION"
    )


def _add_steps_per_epoch(connection: "sa.Connection") -> None:
    """Migrate to version 4: the steps of an epoch, null in the rows of earlier versions."""
    connection.exec_driver_sql(
        "ALTER TABLE lossforecast_runs ADD COLUMN steps_per_epoch DOUBLE PRECISION"
    )


def _add_indices(connection: "sa.Connection") -> None:
    """Migrate to version 5: indices by which the runs of a project or dataset are found.

    That of the metric, which has two values, goes: SQLite would prefer it.
    """
    connection.exec_driver_sql("DROP INDEX IF EXISTS ix_lossforecast_runs_metric")
    for name in ("project", "dataset"):
        connection.exec_driver_sql(
            f"CREATE INDEX lossforecast_runs_{name} ON lossforecast_runs (lower({name}))"
        )


MIGRATIONS: list[Callable[["sa.Connection"], None]] = [
    _add_owner,
    _add_median,
    _add_steps_per_epoch,
    _add_indices,
]
"""Migrations from each version, beginning with 1, to the next; append only."""


def newest_version() -> int:
    """Version of the schema of this release."""
    return 1 + len(MIGRATIONS)


def version_of(connection: "sa.Connection", url: str) -> int:
    """Version of the schema; 0 if there is none.

    Raises:
        StoreError: the version is damaged, or that of a newer release.
    """
    import sqlalchemy as sa

    table = Tables.make().version
    if not sa.inspect(connection).has_table(table.name):
        return 0
    versions = connection.execute(sa.select(table.c.version).limit(3)).scalars().all()
    version = versions[0] if len(versions) == 1 else None
    if type(version) is not int or version < 1:
        raise StoreError(
            f"the store {url} is damaged: its table {table.name} must hold one whole number from 1 "
            f"to {newest_version()}, not {list(versions)!r:.60}. Correct it, or use another store"
        )
    if version > newest_version():
        raise StoreError(
            f"the store {url} has version {version}, this release reads up to {newest_version()}: "
            "update lossforecast"
        )
    return version


def is_complete(connection: "sa.Connection", url: str) -> bool:
    """Return whether the schema is up to date and no table is missing.

    Raises:
        StoreError: as in `version_of`.
    """
    return version_of(connection, url) == newest_version() and not _missing_tables(connection)


def bring_up_to_date(connection: "sa.Connection", url: str) -> None:
    """Create the schema or its missing tables, or migrate an older schema, in one transaction.

    Raises:
        StoreError: as in `version_of`.
    """
    import sqlalchemy as sa

    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    tables, version = Tables.make(), version_of(connection, url)
    if version == 0:
        tables.metadata.create_all(connection)
        connection.execute(tables.version.insert().values(version=newest_version()))
        _set_identity(connection)
        return
    if version < newest_version():
        for migrate in MIGRATIONS[version - 1 :]:
            migrate(connection)
        connection.execute(tables.version.update().values(version=newest_version()))
    if _missing_tables(connection):
        tables.metadata.create_all(connection)
        _set_identity(connection)


def identity_of(connection: "sa.Connection") -> str:
    """Identity of the tables: it changes when they are deleted and created again."""
    import sqlalchemy as sa

    if connection.dialect.name == "sqlite":
        return str(connection.exec_driver_sql("PRAGMA user_version").scalar())
    if connection.dialect.name == "postgresql":
        names = [table.name for table in Tables.make().metadata.sorted_tables]
        object_id = sa.text("SELECT to_regclass(:name)::oid")
        return " ".join(
            str(connection.execute(object_id, {"name": name}).scalar()) for name in names
        )
    return ""


def _set_identity(connection: "sa.Connection") -> None:
    """Mark the tables of a SQLite file as new ones; other databases number them."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA user_version = {1 + secrets.randbelow(2**31 - 2)}")


def _missing_tables(connection: "sa.Connection") -> list[str]:
    import sqlalchemy as sa

    inspector = sa.inspect(connection)
    return [name for name in Tables.make().metadata.tables if not inspector.has_table(name)]
