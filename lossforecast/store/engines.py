"""`connect`: engines for the databases of stores, with their timeouts."""

import sqlite3
from pathlib import Path
from sqlite3 import SQLITE_CANTOPEN, SQLITE_READONLY
from typing import TYPE_CHECKING, Any

from lossforecast.errors import ConfigurationError
from lossforecast.store.address import shown

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["connect"]

_READ_LOCK_TIMEOUT_S = 2.0  # a read waits for locks only while a store is made or repaired
_SQLITE_WRITE_LOCK_TIMEOUT_S = 60.0  # many processes take turns, in no fixed order
_POSTGRES_TIMEOUT_S = 10.0


def connect(url: "sa.URL", *, writes: bool = True) -> "sa.Engine":
    """An engine that opens a connection for each transaction.

    Args:
        url: the database.
        writes: whether its transactions write, and so wait longer for other writers.

    Raises:
        ConfigurationError: the driver is not installed, or no driver supports the URL.
    """
    import sqlalchemy as sa

    options: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        wait = _SQLITE_WRITE_LOCK_TIMEOUT_S if writes else _READ_LOCK_TIMEOUT_S
        options["timeout"] = wait
    elif url.get_backend_name() == "postgresql":
        wait = _POSTGRES_TIMEOUT_S if writes else min(_READ_LOCK_TIMEOUT_S, _POSTGRES_TIMEOUT_S)
        options = _postgres_timeouts(url, lock_timeout_s=wait)
    problem = None
    try:
        engine = sa.create_engine(
            url, poolclass=sa.NullPool, connect_args=options, hide_parameters=True
        )
    except ImportError as error:
        problem = (
            f"the driver of {shown(url)} is not installed ({error.name}): "
            'pip install "lossforecast[postgres]" for PostgreSQL'
        )
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ValueError, TypeError):
        problem = (
            f"{shown(url)!r} is neither a path nor a database URL, such as "
            "postgresql+psycopg://user@host/name"
        )
    if problem is not None:  # without a cause, whose message may hold the password
        raise ConfigurationError(problem)
    if url.get_backend_name() == "sqlite":
        _prepare_sqlite(engine, writes=writes)
    return engine


def _postgres_timeouts(url: "sa.URL", *, lock_timeout_s: float) -> dict[str, Any]:
    """Timeouts of libpq and the server, except those that the URL sets."""
    given, answer, lock = url.query, round(1e3 * _POSTGRES_TIMEOUT_S), round(1e3 * lock_timeout_s)
    text = given.get("options", "")
    ours = f"-c lock_timeout={lock} -c statement_timeout={answer}"
    return {
        "options": f"{ours} {text if isinstance(text, str) else ' '.join(text)}".strip(),
        **(
            {}
            if "connect_timeout" in given
            else {"connect_timeout": max(round(_POSTGRES_TIMEOUT_S), 2)}
        ),
        **({} if "tcp_user_timeout" in given else {"tcp_user_timeout": answer}),
    }


def _prepare_sqlite(engine: "sa.Engine", *, writes: bool) -> None:
    """Set up the connections and transactions of a SQLite file."""
    import sqlalchemy as sa

    def configure(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # `begin` begins transactions, not the driver
        connection.text_factory = _readable
        if writes:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")

    def begin(connection: "sa.Connection") -> None:
        # a writer takes the lock at once: SQLite fails, instead of waiting, if it is taken later
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    sa.event.listen(engine, "connect", configure)
    sa.event.listen(engine, "begin", begin)
    if not writes:
        sa.event.listen(engine, "do_connect", _open_to_read)


def _readable(text: bytes) -> str:
    """Decode damaged text too, so that one damaged row does not hide the others."""
    return text.decode("utf-8", "replace")


def _open_to_read(
    _: Any, record: Any, arguments: list[Any], options: dict[str, Any]
) -> sqlite3.Connection:
    """Open a SQLite file, also on a read-only disk or in a read-only folder.

    Readers of a file in WAL mode write its index next to it. Where they cannot, it is assumed that
    nobody else writes either, unless there is a log of transactions.
    """
    connection: sqlite3.Connection = sqlite3.connect(*arguments, **options)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        connection.close()
        path = Path(arguments[0])
        unwritable = error.sqlite_errorcode & 0xFF in (SQLITE_READONLY, SQLITE_CANTOPEN)
        if not unwritable or not path.is_file():
            raise
        log = path.with_name(f"{path.name}-wal")
        how = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
        connection = sqlite3.connect(f"{path.as_uri()}?{how}", **{**options, "uri": True})
    return connection
