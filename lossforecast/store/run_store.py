"""`RunStore`: finished and running runs in a database, and what new runs learn from them.

The database is a SQLite file by default, or any database that SQLAlchemy supports by its URL, such
as PostgreSQL for a team (``postgresql+psycopg://user@host/name``). Needs SQLAlchemy (extra
`store`).

Every write is one transaction, so a record is complete or absent; many processes may write at once.
The schema has a version: a store of an older release is migrated when it is opened, one of a newer
release is refused.
"""

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from lossforecast.errors import ConfigurationError, StoreError
from lossforecast.forecast import Forecast
from lossforecast.log import logger
from lossforecast.policies import Recommendation
from lossforecast.prior import PastRun, Prior, fits_budget, most_similar
from lossforecast.runs import History, RunInfo, outcome_of
from lossforecast.schedule import LRSchedule
from lossforecast.store.database import NUMBERS, WORDS
from lossforecast.store.reader import StoreReader
from lossforecast.store.rows import (
    STATES,
    StoredRun,
    as_json,
    curve_of,
    decision_row,
    distinct,
    storable,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["BINS", "RunStore", "StoredRun"]

BINS = 512
"""Largest number of bins that are stored of a curve."""
_IMPORTED_RUNS = uuid.UUID(
    "4f0d5d3c-6f0a-4d43-9a3b-0e0d8f6a2c11"
)  # namespace of keys derived from logs
_MAX_CANDIDATES = 500  # newest finished runs among which similar ones are searched


class RunStore(StoreReader):
    """Runs in a database.

    Args:
        where: a path to a SQLite file, a database URL, or None for the file of this user,
            `default_path`.
        make: whether to create the store if it does not exist.

    Raises:
        ConfigurationError: SQLAlchemy or the driver of the database is not installed, or `where` is
            not the URL of a persistent database.
        StoreError: the store cannot be opened, does not exist, or was made by a newer release.

    Example:
        >>> import tempfile
        >>> from lossforecast import LRSchedule, RunInfo
        >>> store = RunStore(tempfile.mkdtemp() + "/runs.db")
        >>> plan = LRSchedule.cosine(1_000, 1e-3)
        >>> steps = range(0, 1_001, 10)
        >>> losses = [2 + 3 * (t + 5) ** -0.5 for t in steps]
        >>> key = store.add("first", RunInfo("val", project="tiny"), plan, steps, losses)
        >>> [(run.name, run.state, round(run.outcome, 2)) for run in store.runs()]
        [('first', 'finished', 2.1)]
        >>> len(store.prior(RunInfo("val", project="tiny"), plan).past)
        1
    """

    # ------------------------------------------------------------------ writing

    def begin(
        self,
        name: str,
        run: RunInfo,
        schedule: LRSchedule,
        key: str | None = None,
        owner: str = "",
    ) -> str:
        """Register a run that begins, or one that is resumed, and return its key.

        Args:
            name: its name for people.
            run: its description.
            schedule: the learning rate of every step.
            key: the key of the run to resume. A running, stopped or failed run continues its
                record; a finished one is left unchanged, and a new run is registered.
            owner: identity of the writer, at most 32 characters. The previous owner can no longer
                write, so two processes resumed from one checkpoint never share a record.
        """
        now = datetime.now(UTC).isoformat()
        words = {word: getattr(run, word) for word in WORDS}
        row = {
            "name": storable(str(name)),
            **{word: text if text is None else storable(text) for word, text in words.items()},
            **{number: getattr(run, number) for number in NUMBERS},
            "metric": run.metric,
            "state": "running",
            "owner": owner,
            "outcome": None,
            "updated": now,
            "schedule": as_json(schedule.to_dict()),
        }
        new = {"key": key or uuid.uuid4().hex, "step": -1, "excluded": False, "started": now}
        runs = self._database.tables.runs
        with self._database.transaction("written") as connection:
            if key is not None:
                mine = runs.c.key == key
                open_ = runs.c.state != "finished"
                if connection.execute(runs.update().where(mine, open_), row).rowcount:
                    return key
                if connection.execute(runs.select().where(mine)).first() is not None:
                    new["key"] = uuid.uuid4().hex
            connection.execute(runs.insert(), {**row, **new})
        return str(new["key"])

    def save(
        self,
        key: str,
        history: History,
        schedule: LRSchedule,
        forecasts: Sequence[Forecast | Mapping[str, Any]] = (),
        decisions: Sequence[tuple[int, Recommendation]] = (),
        owner: str = "",
    ) -> None:
        """Update a run in one transaction.

        Args:
            key: the run.
            history: all of its losses so far; stored in at most 512 bins.
            schedule: the learning rate of every step, past and planned.
            forecasts: the new forecasts, or their `Forecast.summary`. Stored forecasts made at or
                after the first of them belong to steps that were rewound, and are deleted.
            decisions: the new recommendations and actions with their steps.
            owner: as given to `begin`.

        Raises:
            StoreError: the run does not exist, has ended or has another owner, or the store cannot
                be written.
        """
        tables = self._database.tables
        row = {
            "step": history.last_step,
            "schedule": as_json(schedule.to_dict()),
            "curve": as_json(history.thinned(BINS).state_dict()),
            "updated": datetime.now(UTC).isoformat(),
        }
        told = [each.summary() if isinstance(each, Forecast) else each for each in forecasts]
        made = [{"run": key, **each} for each in told if each["made_at"] >= 0]
        done = [decision_row(key, *each) for each in decisions]
        with self._database.transaction("written") as connection:
            self._update(connection, key, owner, row)
            for table, rows, at in (
                (tables.forecasts, made, "made_at"),
                (tables.decisions, done, "step"),
            ):
                if rows:
                    first = min(each[at] for each in rows)
                    old = (table.c.run == key) & (table.c[at] >= first)
                    connection.execute(table.delete().where(old))
                    connection.execute(table.insert(), distinct(rows, at))

    def end(self, key: str, state: str, outcome: float | None = None, owner: str = "") -> None:
        """Record the end of a run.

        Args:
            key: the run.
            state: "finished", "stopped" or "failed".
            outcome: its final loss; by default, unless it was stopped, that of
                `lossforecast.runs.outcome_of`.
            owner: as given to `begin`.

        Raises:
            StoreError: as in `save`.
        """
        if state not in STATES[1:]:
            raise ConfigurationError(f"a run ends {', '.join(STATES[1:])}, not {state!r}")
        if outcome is None:
            outcome = math.nan if state == "stopped" else self._outcome(key)
        known = outcome if math.isfinite(outcome) else None
        with self._database.transaction("written") as connection:
            self._update(connection, key, owner, {"state": state, "outcome": known})

    def add(
        self,
        name: str,
        run: RunInfo,
        schedule: LRSchedule,
        steps: ArrayLike,
        losses: ArrayLike,
        lrs: ArrayLike | None = None,
        *,
        steps_taken: int | None = None,
    ) -> str:
        """Add a run that is over, from its log; "finished" if that reaches the planned end.

        The same run, of the same name, is added once.

        Args:
            name: its name for people.
            run: its description.
            schedule: the learning rate of every step.
            steps: (n,).
            losses: (n,).
            lrs: learning rates, if the log has them, (n,).
            steps_taken: optimizer steps that the run took, if known.
        """
        history = History()
        history.observe_many(steps, losses, lrs)
        identity = as_json([str(name), asdict(run), schedule.to_dict(), history.state_dict()])
        key = uuid.uuid5(_IMPORTED_RUNS, identity).hex
        found = self._cells(key, "state")
        if found is not None and found.state != "running":
            return key
        self.begin(name, run, schedule, key)
        self.save(key, history, schedule)
        end = outcome_of(history, schedule.total_steps, steps_taken)
        if end is None:
            self.end(key, "stopped")
        else:
            self.end(key, "finished", end.loss)
        return key

    def forget(self, key: str) -> None:
        """Delete a run with its forecasts and decisions."""
        tables = self._database.tables
        with self._database.transaction("written") as connection:
            for table in (tables.forecasts, tables.decisions):
                connection.execute(table.delete().where(table.c.run == key))
            found = connection.execute(tables.runs.delete().where(tables.runs.c.key == key))
            if found.rowcount == 0:
                raise StoreError(f"{self.url} has no run {key!r}")

    def exclude(self, key: str, excluded: bool = True) -> None:
        """Exclude a run from the priors of new runs, or include it again."""
        self._change(key, {"excluded": bool(excluded)})

    # ------------------------------------------------------------------ learning

    def past(self, run: RunInfo, schedule: LRSchedule) -> list[PastRun]:
        """The finished runs to learn from, most similar first."""
        found, short = [], []
        for stored, curve in self._finished(run, curves=True):
            try:
                history = curve_of(curve)
            except Exception as error:
                logger.warning("left out: the losses of run %s are damaged: %s", stored.key, error)
                continue
            kept = PastRun.of(stored.key, stored.run, stored.schedule, history)
            if kept is not None:
                found.append(kept)
            elif history.last_step <= stored.schedule.total_steps:
                short.append(stored.name)
        if short:
            names = ", ".join(short[:5]) + ", ..." * (len(short) > 5)
            logger.info("past runs with too few losses to learn from: %s", names)
        return [each for each, _ in most_similar(found, run, schedule)]

    def prior(self, run: RunInfo, schedule: LRSchedule, prior: Prior | None = None) -> Prior:
        """The prior of a new run: a general prior with the similar past runs of this store.

        Args:
            run: its description; runs with the same metric and the same project or dataset are
                compared.
            schedule: its planned schedule.
            prior: the general prior; by default the packaged one.
        """
        return replace(prior or Prior(), past=tuple(self.past(run, schedule)))

    def best(self, run: RunInfo, schedule: LRSchedule) -> float | None:
        """The lowest outcome of finished runs on at most the budget of a new run; None without any.

        Such runs are comparable and of the same model, with at most 10% more parameters and at most
        10% more steps (more samples, where both batch sizes are known).
        """
        ends = [
            past.outcome
            for past, _ in self._finished(run, curves=False)
            if fits_budget(past.run, max(past.step, past.schedule.total_steps), run, schedule)
        ]
        return min((end for end in ends if math.isfinite(end)), default=None)

    # ------------------------------------------------------------------ inside

    def _finished(self, run: RunInfo, *, curves: bool) -> list[tuple[StoredRun, str | None]]:
        """The newest finished runs of the same metric and project or dataset, with their curves."""
        import sqlalchemy as sa

        columns = self._database.tables.runs.c
        same = [
            condition
            for name in ("project", "dataset")
            if (given := getattr(run, name)) is not None
            for word in (storable(given),)
            for condition in (columns[name] == word, sa.func.lower(columns[name]) == word.lower())
        ]
        if not same:
            return []
        query = (
            self._select(*(() if curves else (columns.curve,)))
            .where(columns.state == "finished", columns.metric == run.metric, sa.or_(*same))
            .where(columns.excluded.is_(False))
            .order_by(columns.started.desc())
            .limit(_MAX_CANDIDATES)
        )
        with self._database.transaction("read", writes=False) as connection:
            rows = connection.execute(query).mappings().all()
        return [(run, row.get("curve")) for run, row in self._sound(rows)]

    def _update(
        self, connection: "sa.Connection", key: str, owner: str, values: Mapping[str, Any]
    ) -> None:
        """Update a running run, if `owner` owns it."""
        runs = self._database.tables.runs
        mine = (runs.c.key == key) & (runs.c.owner == owner) & (runs.c.state == "running")
        if connection.execute(runs.update().where(mine), dict(values)).rowcount:
            return
        if connection.execute(runs.select().where(runs.c.key == key)).first() is None:
            raise StoreError(f"{self.url} has no run {key!r}: it was deleted, or never begun")
        raise StoreError(
            f"cannot update run {key} in {self.url}: it has ended, or another process resumed it"
        )

    def _outcome(self, key: str) -> float:
        end = outcome_of(self.history(key), self.run(key).schedule.total_steps)
        return math.nan if end is None else end.loss

    def _change(self, key: str, values: Mapping[str, Any]) -> None:
        runs = self._database.tables.runs
        with self._database.transaction("written") as connection:
            found = connection.execute(runs.update().where(runs.c.key == key), dict(values))
            if found.rowcount == 0:
                raise StoreError(f"{self.url} has no run {key!r}")
