"""`StoreReader`: the queries of a run store."""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lossforecast.errors import ConfigurationError, StoreError
from lossforecast.log import logger
from lossforecast.runs import History
from lossforecast.store.database import WORDS, Database
from lossforecast.store.rows import StoredRun, curve_of, storable

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["StoreReader"]

_FILTERS = (*WORDS, "metric", "state", "name")


class StoreReader:
    """The queries of a run store; `RunStore` adds the methods that write.

    Args:
        where: as in `RunStore`.
        make: whether to create the database if it does not exist.
    """

    def __init__(self, where: str | os.PathLike[str] | None = None, *, make: bool = True) -> None:
        self._database = Database(where, make=make)

    @property
    def url(self) -> str:
        """URL of the database, without a password."""
        return self._database.url

    def runs(self, **words: str) -> list[StoredRun]:
        """The runs, newest first; damaged ones are left out, with a warning.

        Args:
            **words: values that the runs must have: project, task, model, dataset, optimizer,
                monitor, metric, state or name, spelled as stored.
        """
        columns = self._database.tables.runs.c
        unknown = [word for word in words if word not in _FILTERS]
        if unknown:
            raise ConfigurationError(
                f"runs have no {unknown[0]!r}: select them by {', '.join(_FILTERS)}"
            )
        query = self._select(columns.curve).order_by(columns.started.desc(), columns.key)
        for word, value in words.items():
            query = query.where(columns[word] == storable(value))
        with self._database.transaction("read", writes=False) as connection:
            rows = connection.execute(query).mappings().all()
        return [run for run, _ in self._sound(rows)]

    def run(self, key: str) -> StoredRun:
        """One run, by its key or an unambiguous beginning of it."""
        return self._stored(self._row(key))

    def find(self, key: str) -> tuple[str, str]:
        """Key and name of one run, even a damaged one, by an unambiguous beginning of its key."""
        row = self._row(key)
        return row["key"], row["name"]

    def history(self, key: str) -> History:
        """The losses of a run, in at most 512 bins."""
        row = self._cells(key, "curve")
        if row is None:
            raise StoreError(f"{self.url} has no run {key!r}")
        return curve_of(row.curve)

    def owner(self, key: str) -> str | None:
        """The last owner of a run; None if there is no such run."""
        row = self._cells(key, "owner")
        return None if row is None else str(row.owner)

    def forecasts(self, key: str) -> list[dict[str, Any]]:
        """The forecasts of a run, ordered by the step at which they were made."""
        return self._of_run(self._database.tables.forecasts, key, "made_at")

    def decisions(self, key: str) -> list[dict[str, Any]]:
        """The recommendations and actions of a run, ordered by step."""
        return self._of_run(self._database.tables.decisions, key, "step")

    # ------------------------------------------------------------------ queries

    def _select(self, *without: Any) -> "sa.Select[Any]":
        """A query for runs with all their columns but those in `without`."""
        import sqlalchemy as sa

        names = {column.name for column in without}
        return sa.select(*(c for c in self._database.tables.runs.c if c.name not in names))

    def _cells(self, key: str, *names: str) -> "sa.Row[Any] | None":
        """Columns of a run; None if there is no such run."""
        import sqlalchemy as sa

        columns = self._database.tables.runs.c
        query = sa.select(*(columns[name] for name in names)).where(columns.key == key)
        with self._database.transaction("read", writes=False) as connection:
            return connection.execute(query).first()

    def _of_run(self, table: "sa.Table", key: str, order: str) -> list[dict[str, Any]]:
        """The rows of a run in a table, ordered by a column, without the key of the run."""
        import sqlalchemy as sa

        query = sa.select(table).where(table.c.run == key).order_by(table.c[order])
        with self._database.transaction("read", writes=False) as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return [{name: value for name, value in row.items() if name != "run"} for row in rows]

    def _row(self, key: str) -> "sa.RowMapping":
        """The row of the one run whose key begins with `key`."""
        columns = self._database.tables.runs.c
        query = self._select(columns.curve).where(columns.key.startswith(key, autoescape=True))
        with self._database.transaction("read", writes=False) as connection:
            rows = connection.execute(query).mappings().all()
        if len(rows) != 1 or not key:
            many = f"{len(rows)} runs whose keys begin with" if rows and key else "no run"
            raise StoreError(f"{self.url} has {many} {key!r}")
        return rows[0]

    def _sound(
        self, rows: Iterable["sa.RowMapping"]
    ) -> Iterator[tuple[StoredRun, "sa.RowMapping"]]:
        """The runs in `rows`, without the damaged ones, each with its row."""
        for row in rows:
            try:
                yield self._stored(row), row
            except StoreError as error:
                logger.warning("left out: %s", error)

    def _stored(self, row: "sa.RowMapping") -> StoredRun:
        try:
            return StoredRun.of_row({str(name): value for name, value in row.items()})
        except Exception as error:  # damaged text can raise anything
            raise StoreError(f"run {row['key']} of {self.url} is damaged: {error}") from error
