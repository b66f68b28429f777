"""`Database`: the database of a run store, with its schema, migrations and connections."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lossforecast.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["MIGRATIONS", "NUMBERS", "WORDS", "Database", "Tables", "address", "connect"]

WORDS = ("project", "task", "model", "dataset", "optimizer", "monitor")
"""Attributes of `RunInfo` that are words; each has a column of its own."""
NUMBERS = ("n_params", "batch_size")
"""Attributes of `RunInfo` that are numbers; each has a column of its own."""
_SQLITE_LOCK_TIMEOUT_S = 60.0
_POSTGRES_TIMEOUT_S = 10.0
_MIGRATION_LOCK = 7_264_310_881  # PostgreSQL advisory lock held while the schema is migrated


class Database:
    """The database of a store: its tables, and transactions that raise only `StoreError`.

    Args:
        where: as in `lossforecast.RunStore`.
        make: whether to create the database if it does not exist.
    """

    def __init__(self, where: str | os.PathLike[str] | None = None, *, make: bool = True) -> None:
        self._address = address(where)
        if make:
            _make_folder(self._address)
        elif _is_missing(self._address):
            raise StoreError(f"there is no store {self.url}")
        with self.transaction("opened", writes=False) as connection:
            version = _version_of(connection)
        if version == 0 and not make:
            raise StoreError(f"there is no store {self.url}: the database has no runs in it")
        if version != _newest():  # only a migration has to wait for other writers
            with self.transaction("opened") as connection:
                _bring_up_to_date(connection, self.url)

    @property
    def url(self) -> str:
        """URL of the database, without a password."""
        return _shown(self._address)

    @cached_property
    def tables(self) -> "Tables":
        """The schema."""
        return Tables.make()

    @cached_property
    def engine(self) -> "sa.Engine":
        """The engine of this process."""
        return connect(self._address)

    def __getstate__(self) -> dict[str, Any]:
        """The address alone: connections cannot move to another process."""
        return {"_address": self._address}

    @contextmanager
    def transaction(self, what: str, *, writes: bool = True) -> Iterator["sa.Connection"]:
        """Open a transaction.

        Args:
            what: past participle for error messages: the store cannot be "opened", "written".
            writes: whether it writes, and so waits for other writers.

        Raises:
            StoreError: any error of the database.
        """
        import sqlalchemy as sa

        try:
            begun = self.engine.connect().execution_options(writes=writes)
            with begun as connection, connection.begin():
                yield connection
        except sa.exc.SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()
            raise StoreError(
                f"the store {self.url} cannot be {what}: {cause[0] if cause else error!r}"
            ) from error


def default_path() -> str | Path:
    """Location of this user's store: $LOSSFORECAST_STORE, or a file in the user data folder."""
    if given := os.environ.get("LOSSFORECAST_STORE"):
        return given if "://" in given else Path(given)
    if sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Application Support"
    else:
        home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return home / "lossforecast" / "runs.db"


def address(where: str | os.PathLike[str] | None) -> "sa.URL":
    """The URL of a store, given by its URL or path; None for the store of this user.

    Raises:
        ConfigurationError: SQLAlchemy is not installed, or `where` is not the URL of a persistent
            database.
    """
    try:
        import sqlalchemy as sa
    except ImportError as error:
        raise ConfigurationError(
            'a store needs SQLAlchemy: pip install "lossforecast[store]"'
        ) from error
    text = os.fspath(default_path() if where is None else where)
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        url = sa.make_url(text)
        sound = "@" not in (url.host or "")
    except (sa.exc.ArgumentError, ValueError):
        sound = False
    if not sound:  # neither the text nor its parts are shown: they may contain a password
        raise ConfigurationError(
            f"the address of the store, {text.split(':')[0]}://..., is not a database URL, such as "
            "postgresql+psycopg://user@host/name; a password in it is written with "
            "urllib.parse.quote_plus"
        )
    if url.get_backend_name() == "sqlite" and _in_memory(url):
        raise ConfigurationError(f"{_shown(url)} is in memory and would not last: give a path")
    return url


def _shown(url: "sa.URL") -> str:
    """A URL without its password."""
    return url.difference_update_query(["password"]).render_as_string(hide_password=True)


def _in_memory(url: "sa.URL") -> bool:
    return (
        url.database in (None, "", ":memory:", "file::memory:") or url.query.get("mode") == "memory"
    )


def _is_missing(url: "sa.URL") -> bool:
    """Return whether a URL is that of a SQLite file that does not exist."""
    if url.get_backend_name() != "sqlite" or "uri" in url.query:
        return False
    return not Path(url.database or "").exists()


def _make_folder(url: "sa.URL") -> None:
    """Create the folder of a SQLite file.

    Raises:
        StoreError: the folder cannot be created.
    """
    if url.get_backend_name() != "sqlite":
        return
    try:
        Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the store {url.database} cannot be made: {error}") from error


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
            sa.Column("metric", sa.String(8), nullable=False, index=True),
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
        forecasts = sa.Table(
            "lossforecast_forecasts",
            metadata,
            sa.Column("run", sa.String(32), primary_key=True),
            sa.Column("made_at", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("step", sa.BigInteger, nullable=False),
            *(real(name) for name in ("mean", "std", "lower80", "upper80", "lower95", "upper95")),
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


MIGRATIONS: list[Callable[["sa.Connection"], None]] = [_add_owner]
"""Migrations from each version, beginning with 1, to the next; append only."""


def _newest() -> int:
    """Version of the schema of this release."""
    return 1 + len(MIGRATIONS)


def _bring_up_to_date(connection: "sa.Connection", url: str) -> None:
    """Create the schema, or migrate that of an older release, in one transaction.

    Raises:
        StoreError: the schema was made by a newer release.
    """
    import sqlalchemy as sa

    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    tables, version = Tables.make(), _version_of(connection)
    if version > _newest():
        raise StoreError(
            f"the store {url} has version {version}, this release reads up to {_newest()}: "
            "update lossforecast"
        )
    if version == 0:
        tables.metadata.create_all(connection)
        connection.execute(tables.version.insert().values(version=_newest()))
    elif version < _newest():
        for migrate in MIGRATIONS[version - 1 :]:
            migrate(connection)
        connection.execute(tables.version.update().values(version=_newest()))


def _version_of(connection: "sa.Connection") -> int:
    """Version of the schema; 0 if there is none."""
    import sqlalchemy as sa

    table = Tables.make().version
    if not sa.inspect(connection).has_table(table.name):
        return 0
    version: int = connection.execute(sa.select(table.c.version)).scalar_one()
    return version


def connect(url: "sa.URL") -> "sa.Engine":
    """An engine that opens a connection for each transaction.

    Raises:
        ConfigurationError: the driver is not installed, or no driver supports the URL.
    """
    import sqlalchemy as sa

    options: dict[str, Any] = {"poolclass": sa.NullPool}  # a connection for each transaction
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": _SQLITE_LOCK_TIMEOUT_S}
    elif url.get_backend_name() == "postgresql":
        options["connect_args"] = _postgres_timeouts(url)
    try:
        engine = sa.create_engine(url, **options)
    except ImportError as error:
        raise ConfigurationError(
            f"the driver of {_shown(url)} is not installed ({error.name}): "
            'pip install "lossforecast[postgres]" for PostgreSQL'
        ) from error
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        raise ConfigurationError(
            f"{_shown(url)!r} is neither a path nor a database URL, such as "
            "postgresql+psycopg://user@host/name"
        ) from error
    if url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgres_timeouts(url: "sa.URL") -> dict[str, Any]:
    """Timeouts of libpq and the server, except those that the URL sets."""
    given, wait = url.query, round(1e3 * _POSTGRES_TIMEOUT_S)
    text = given.get("options", "")
    ours = f"-c lock_timeout={wait} -c statement_timeout={wait}"
    return {
        "options": f"{ours} {text if isinstance(text, str) else ' '.join(text)}".strip(),
        **(
            {}
            if "connect_timeout" in given
            else {"connect_timeout": max(round(_POSTGRES_TIMEOUT_S), 2)}
        ),
        **({} if "tcp_user_timeout" in given else {"tcp_user_timeout": wait}),
    }


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins transactions, not the driver
    connection.text_factory = _readable
    connection.execute(f"PRAGMA busy_timeout = {round(1e3 * _SQLITE_LOCK_TIMEOUT_S)}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _readable(text: bytes) -> str:
    """Decode damaged text too, so that one damaged row does not hide the others."""
    return text.decode("utf-8", "replace")


def _begin_sqlite(connection: "sa.Connection") -> None:
    """Take the write lock at once: SQLite fails, instead of waiting, if it is taken later."""
    writes = connection.get_execution_options().get("writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
