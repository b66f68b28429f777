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
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from lossforecast.comparison import ComparedRun, Comparison
from lossforecast.errors import ConfigurationError, StoreError
from lossforecast.forecast import Forecast
from lossforecast.ladder import FinalLoss
from lossforecast.log import logger
from lossforecast.policies import Recommendation
from lossforecast.prior import PastRun, Prior, fits_budget
from lossforecast.runs import History, RunInfo, outcome_of
from lossforecast.schedule import LRSchedule
from lossforecast.store.past import CurvesOf, FinishedRuns, past_runs
from lossforecast.store.plan import RunPlan
from lossforecast.store.reader import StoreReader
from lossforecast.store.rows import (
    STATES,
    StoredRun,
    as_json,
    decision_row,
    distinct,
    storable,
)
from lossforecast.store.schema import NUMBERS, WORDS

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["BINS", "FinishedRuns", "RunStore", "StoredRun"]

BINS = 512
"""Largest number of bins that are stored of a curve."""
# namespace of the keys of added runs, which are derived from their data
_IMPORTED_RUNS = uuid.UUID("4f0d5d3c-6f0a-4d43-9a3b-0e0d8f6a2c11")


class RunStore(StoreReader):
    """Runs in a database.

    Args:
        where: a path to a SQLite file, a database URL, or None for the file of this user,
            `default_path`.
        make: whether to create the store if it does not exist.

    Raises:
        ConfigurationError: SQLAlchemy or the driver of the database is not installed, or `where` is
            not the URL of a persistent database.
        StoreError: the store cannot be opened, does not exist, is damaged, or was made by a newer
            release.

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
            **{number: _real(getattr(run, number)) for number in NUMBERS},
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
        values = {
            "step": history.last_step,
            "schedule": as_json(schedule.to_dict()),
            "curve": as_json(history.thinned(BINS).state_dict()),
            "updated": datetime.now(UTC).isoformat(),
        }
        summaries = [item.summary() if isinstance(item, Forecast) else item for item in forecasts]
        forecast_rows = [
            {"run": key, **summary} for summary in summaries if summary["made_at"] >= 0
        ]
        decision_rows = [decision_row(key, step, advice) for step, advice in decisions]
        with self._database.transaction("written") as connection:
            self._update(connection, key, owner, values)
            for table, rows, at in (
                (tables.forecasts, forecast_rows, "made_at"),
                (tables.decisions, decision_rows, "step"),
            ):
                if rows:
                    first = min(row[at] for row in rows)
                    old = (table.c.run == key) & (table.c[at] >= first)
                    connection.execute(table.delete().where(old))
                    connection.execute(table.insert(), distinct(rows, at))

    def end(self, key: str, state: str, outcome: float | None = None, owner: str = "") -> None:
        """Record the end of a run.

        Args:
            key: the run.
            state: "finished", "stopped" or "failed".
            outcome: its final loss; by default that of `lossforecast.runs.outcome_of`, and nan if
                the run was stopped.
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
        """Add a run that is over; its state is "finished" if it reached its planned end.

        A run with the same name and data is added only once.

        Args:
            name: its name for people.
            run: its description.
            schedule: the learning rate of every step.
            steps: steps of the losses, (n,).
            losses: the losses, (n,).
            lrs: learning rates at these steps, if the log has them, (n,).
            steps_taken: optimizer steps that the run took, if known.
        """
        history = History()
        history.observe_many(steps, losses, lrs)
        facts = asdict(run)
        del facts["steps_per_epoch"]  # runs added by earlier versions lack it, and are the same
        identity = as_json([str(name), facts, schedule.to_dict(), history.state_dict()])
        key = uuid.uuid5(_IMPORTED_RUNS, identity).hex
        stored = self._cells(key, "state")
        if stored is not None and stored.state != "running":
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
            deleted = connection.execute(tables.runs.delete().where(tables.runs.c.key == key))
            if deleted.rowcount == 0:
                raise StoreError(f"{self.url} has no run {key!r}")

    def exclude(self, key: str, excluded: bool = True) -> None:
        """Exclude a run from the priors of new runs, or include it again."""
        runs = self._database.tables.runs
        change = runs.update().where(runs.c.key == key)
        with self._database.transaction("written") as connection:
            if connection.execute(change, {"excluded": bool(excluded)}).rowcount == 0:
                raise StoreError(f"{self.url} has no run {key!r}")

    def make(self) -> None:
        """Create the database again if it was deleted, or those of its tables that were."""
        self._database.make()

    @property
    def identity(self) -> str:
        """Identity of the tables: it changes when they are deleted and created again."""
        return self._database.identity()

    # ------------------------------------------------------------------ learning

    def past(
        self, run: RunInfo, schedule: LRSchedule, *, finished: FinishedRuns | None = None
    ) -> list[PastRun]:
        """The finished runs to learn from: the most similar ones, then a ladder of smaller ones.

        Only the losses of the nearest runs are read. Damaged runs are left out, with a warning.

        Args:
            run: description of the new run.
            schedule: its planned schedule.
            finished: what `finished` returned for `run`, if it was called before.
        """
        known = self.finished(run) if finished is None else finished
        return past_runs(known.runs, run, schedule, partial(self._past_runs, known.curves))

    def prior(
        self,
        run: RunInfo,
        schedule: LRSchedule,
        prior: Prior | None = None,
        *,
        finished: FinishedRuns | None = None,
    ) -> Prior:
        """The prior of a new run: a general prior with the similar past runs of this store.

        Args:
            run: its description; runs with the same metric and the same project or dataset are
                compared.
            schedule: its planned schedule.
            prior: the general prior; by default the packaged one.
            finished: what `finished` returned for `run`, if it was called before.
        """
        past = self.past(run, schedule, finished=finished)
        return replace(prior or Prior(), past=tuple(past))

    def best(
        self, run: RunInfo, schedule: LRSchedule, *, finished: FinishedRuns | None = None
    ) -> float | None:
        """The lowest outcome of the finished runs within the budget of a new run; None without any.

        Such runs are comparable and of the same model, with at most 10% more parameters and at most
        10% more steps (more samples, where both batch sizes are known).

        Args:
            run: description of the new run.
            schedule: its planned schedule.
            finished: what `finished` returned for `run`, if it was called before.
        """
        known = self.finished(run) if finished is None else finished
        ends = [
            past.outcome
            for past in known.runs
            if fits_budget(past.run, max(past.step, past.schedule.total_steps), run, schedule)
        ]
        return min((end for end in ends if math.isfinite(end)), default=None)

    def plan(self, run: RunInfo, schedule: LRSchedule, prior: Prior | None = None) -> RunPlan:
        """The forecast of a run that has not begun, and of other splits of its compute.

        Args:
            run: its description; its number of parameters is needed for the splits.
            schedule: its planned schedule.
            prior: the general prior; by default the packaged one.

        Raises:
            ConfigurationError: no finished run is like it.
        """
        known = self.finished(run)
        finals = [FinalLoss(x.run, x.schedule, x.outcome) for x in known.runs]
        prior_of = partial(self.prior, prior=prior, finished=known)
        return RunPlan.of(prior_of, run, schedule, finals)

    def compare(self, first: str | ComparedRun, second: str | ComparedRun) -> Comparison:
        """Compare two runs, by key or name, against the noise of seeds and evaluation.

        Finished runs of their project or dataset with equal records are repeats, which show the
        noise.

        Raises:
            StoreError, ConfigurationError: there is no such run, or they cannot be compared.
        """
        one, other = (self.compared(x) if isinstance(x, str) else x for x in (first, second))
        past = {x.key: x for run in (one, other) for x in self.finished_runs(run.run)}
        return Comparison.of(one, other, past.values(), self.prior)

    # ------------------------------------------------------------------ inside

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

    def _past_runs(self, curves: CurvesOf, runs: Sequence[StoredRun]) -> dict[str, PastRun]:
        """The runs with enough losses to learn from, by key."""
        found, short = {}, []
        for stored, (past, history) in self._with_losses(runs, curves, _past_run):
            if past is not None:
                found[stored.key] = past
            elif history.last_step <= stored.schedule.total_steps:
                short.append(f"{stored.name:.60}")
        if short:
            names = ", ".join(short[:5]) + ", ..." * (len(short) > 5)
            logger.info("past runs with too few losses to learn from: %s", names)
        return found

    def _outcome(self, key: str) -> float:
        end = outcome_of(self.history(key), self.run(key).schedule.total_steps)
        return math.nan if end is None else end.loss


def _real(value: float | None) -> float | None:
    """A number as databases take it: a Python float."""
    return None if value is None else float(value)


def _past_run(run: StoredRun, history: History) -> tuple[PastRun | None, History]:
    return PastRun.of(run.key, run.run, run.schedule, history), history
