"""`StoreReader`: the queries of a run store."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lossforecast.comparison import ComparedRun
from lossforecast.errors import ConfigurationError, StoreError
from lossforecast.log import logger
from lossforecast.runs import History, RunInfo
from lossforecast.signals import is_from_signal
from lossforecast.store.database import Database
from lossforecast.store.past import CurvesOf, FinishedRuns
from lossforecast.store.rows import (
    StoredRun,
    check_decision,
    check_forecast,
    curve_of,
    storable,
)
from lossforecast.store.schema import WORDS

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["StoreReader"]

T = TypeVar("T")

_MAX_CANDIDATES = 500  # newest finished runs, which are searched for similar ones
_FILTERS = (*WORDS, "metric", "state", "name")


class StoreReader:
    """The queries of a run store; `RunStore` adds the methods that write.

    Args:
        where: as in `RunStore`.
        make: whether to create the database if it does not exist.
    """

    def __init__(self, where: str | os.PathLike[str] | None = None, *, make: bool = True) -> None:
        self._database = Database(where, make=make)
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def url(self) -> str:
        """URL of the database, without passwords."""
        return self._database.url

    @property
    def full_url(self) -> str | None:
        """URL of the database with all options; None if it holds a password."""
        return self._database.full_url

    def finished(self, run: RunInfo) -> FinishedRuns:
        """The newest finished runs of the same metric and project or dataset, at most 500.

        Damaged ones are left out, with a warning.
        """
        import sqlalchemy as sa

        columns = self._database.tables.runs.c
        same = []
        for name in ("project", "dataset"):
            given = getattr(run, name)
            if given is not None:
                # in any case of letters; SQLite leaves those that are not ASCII as they are
                words = (word := storable(given)).lower(), sa.func.lower(word)
                same.append(sa.func.lower(columns[name]).in_(words))
        if not same:
            return FinishedRuns([], self._curves)
        query = (
            self._select(columns.curve)
            .where(columns.state == "finished", columns.metric == run.metric, sa.or_(*same))
            .where(columns.excluded.is_(False))
            .order_by(columns.started.desc())
            .limit(_MAX_CANDIDATES)
        )
        return FinishedRuns(list(self._sound(self._rows(query))), self._curves)

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
        return list(self._sound(self._rows(query)))

    def run(self, key: str) -> StoredRun:
        """One run, by its key or an unambiguous beginning of it."""
        return self._stored(self._row(key))

    def find(self, key: str) -> tuple[str, str]:
        """Key and name of one run, even a damaged one, by an unambiguous beginning of its key."""
        row = self._row(key)
        return row["key"], row["name"]

    def compared(self, word: str) -> ComparedRun:
        """A run to compare, by its key, an unambiguous beginning of it, or its name."""
        named = self.runs(name=word) if word else []
        if len(named) > 1:
            keys = ", ".join(run.key[:8] for run in named[:5])
            raise StoreError(
                f"{self.url} has {len(named)} runs named {word!r}: give the key of one, {keys}"
                + ", ..." * (len(named) > 5)
            )
        stored = named[0] if named else self.run(word)
        return _compared(stored, self.history(stored.key))

    def finished_runs(self, run: RunInfo) -> list[ComparedRun]:
        """The newest finished runs of the same metric and project or dataset, with their losses.

        Damaged runs are left out, with a warning.
        """
        known = self.finished(run)
        return [found for _, found in self._with_losses(known.runs, known.curves, _compared)]

    def history(self, key: str) -> History:
        """The losses of a run, in at most 512 bins."""
        row = self._cells(key, "curve")
        if row is None:
            raise StoreError(f"{self.url} has no run {key!r}")
        try:
            return curve_of(row.curve)
        except Exception as error:  # damaged text can raise anything
            raise StoreError(
                f"the losses of run {key} of {self.url} are damaged: {error!s:.200}"
            ) from error

    def owner(self, key: str) -> str | None:
        """The last owner of a run; None if there is no such run."""
        row = self._cells(key, "owner")
        return None if row is None else str(row.owner)

    def forecasts(self, key: str) -> list[dict[str, Any]]:
        """The forecasts of a run, ordered by the step at which they were made.

        Those stored by earlier versions have no median: it is their mean.
        """
        rows = self._of_run(self._database.tables.forecasts, key, "made_at", check_forecast)
        return [row if row["median"] is not None else row | {"median": row["mean"]} for row in rows]

    def decisions(self, key: str) -> list[dict[str, Any]]:
        """The recommendations and actions of a run, ordered by step."""
        return self._of_run(self._database.tables.decisions, key, "step", check_decision)

    # ------------------------------------------------------------------ queries

    def _select(self, *without: Any) -> "sa.Select[Any]":
        """A query for runs with all their columns but those in `without`."""
        import sqlalchemy as sa

        names = {column.name for column in without}
        return sa.select(*(c for c in self._database.tables.runs.c if c.name not in names))

    def _rows(self, query: "sa.Select[Any]") -> list[dict[str, Any]]:
        """The rows that a query selects, by the names of their columns."""
        with self._database.transaction("read", writes=False) as connection:
            return [row._asdict() for row in connection.execute(query)]

    def _cells(self, key: str, *names: str) -> "sa.Row[Any] | None":
        """Columns of a run; None if there is no such run."""
        import sqlalchemy as sa

        columns = self._database.tables.runs.c
        query = sa.select(*(columns[name] for name in names)).where(columns.key == key)
        with self._database.transaction("read", writes=False) as connection:
            return connection.execute(query).first()

    def _of_run(
        self, table: "sa.Table", key: str, order: str, check: Callable[[dict[str, Any]], None]
    ) -> list[dict[str, Any]]:
        """The rows of a run in a table, ordered by a column, without the key of the run.

        Rows that `check` refuses are left out, with a warning.
        """
        import sqlalchemy as sa

        columns = [column for column in table.c if column.name != "run"]
        query = sa.select(*columns).where(table.c.run == key).order_by(table.c[order])
        sound = []
        for row in self._rows(query):
            try:
                check(row)
                sound.append(row)
            except (TypeError, ValueError) as error:
                kind = table.name.removeprefix("lossforecast_")
                self._warn(
                    f"left out: among the {kind} of run {key}, the one with {order} "
                    f"{row[order]!r:.40} is damaged: {error!s:.200}"
                )
        return sound

    def _row(self, key: str) -> dict[str, Any]:
        """The row of the one run whose key begins with `key`."""
        columns = self._database.tables.runs.c
        query = self._select(columns.curve).where(columns.key.startswith(key, autoescape=True))
        rows = self._rows(query)
        if len(rows) != 1 or not key:
            many = f"{len(rows)} runs whose keys begin with" if rows and key else "no run"
            raise StoreError(f"{self.url} has {many} {key!r}")
        return rows[0]

    def _sound(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[StoredRun]:
        """The runs in `rows`, without the damaged ones."""
        for row in rows:
            try:
                yield self._stored(row)
            except StoreError as error:
                self._warn(f"left out: {error}")

    def _curves(self, keys: Sequence[str]) -> dict[str, str | None]:
        """The saved losses of runs, by key; without those of runs that are gone."""
        import sqlalchemy as sa

        columns = self._database.tables.runs.c
        query = sa.select(columns.key, columns.curve).where(columns.key.in_(keys))
        return {row["key"]: row["curve"] for row in self._rows(query)} if keys else {}

    def _with_losses(
        self, runs: Sequence[StoredRun], curves: CurvesOf, read: Callable[[StoredRun, History], T]
    ) -> Iterator[tuple[StoredRun, T]]:
        """The runs whose losses are not damaged, each with the result of `read` for them."""
        texts = curves([stored.key for stored in runs])
        for stored in runs:
            if stored.key not in texts:
                continue
            try:
                found = read(stored, curve_of(texts[stored.key]))
            except Exception as error:  # damaged losses can raise anything
                if is_from_signal(error):
                    raise
                self._warn(
                    f"left out: the losses of run {stored.key} ({stored.name:.40}) of {self.url} "
                    f"are damaged: {error!s:.200}"
                )
            else:
                yield stored, found

    def _stored(self, row: Mapping[str, Any]) -> StoredRun:
        try:
            return StoredRun.of_row(row)
        except Exception as error:  # damaged text can raise anything
            if is_from_signal(error):
                raise
            key, name = (row[column] for column in ("key", "name"))
            raise StoreError(
                f"run {key!s:.40} ({name!s:.40}) of {self.url} is damaged: {error!s:.200}"
            ) from error

    def _warn(self, message: str) -> None:
        """Log a warning, once for each damaged row."""
        if message not in self._warned:
            self._warned.add(message)
            logger.warning("%s", message)


def _compared(run: StoredRun, history: History) -> ComparedRun:
    return ComparedRun(run.name, run.run, run.schedule, history, run.outcome, run.key)
