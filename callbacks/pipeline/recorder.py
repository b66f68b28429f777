"""`RunRecorder`: writes a run into a store, in a thread beside the training."""

import os
import sys
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.pipeline.describe import identified
from lossforecast.errors import ConfigurationError, StateError, StoreError
from lossforecast.forecaster import Forecaster
from lossforecast.log import logger
from lossforecast.policies import Recommendation
from lossforecast.prior import Prior
from lossforecast.runs import History, RunInfo, outcome_of
from lossforecast.schedule import LRSchedule
from lossforecast.store import BINS, RunStore, address, connect, default_path

__all__ = ["Place", "RunRecorder", "StoreLike", "resolve_store"]

StoreLike = bool | str | os.PathLike[str] | RunStore | None
"""True for the store of this user; a path, a URL or a `RunStore`; None or False for no store."""
Place = str | os.PathLike[str] | RunStore
"""Path or URL of a store, or the store itself."""

_LAST_WRITE_TIMEOUT_S = 10.0  # for the last write of a run
_FAILED_RUN_TIMEOUT_S = 1.0  # the same after an exception, whose traceback the user waits for
_MAX_WAITING_FORECASTS = 1_000  # kept in memory while the store is unreachable


@dataclass
class _Flush:
    """The data to be written next."""

    history: History
    schedule: LRSchedule
    step: int = sys.maxsize
    """Optimizer steps taken when this was enqueued; all losses come from earlier steps."""
    forecasts: list[dict[str, Any]] = field(default_factory=list)
    decisions: list[tuple[int, Recommendation]] = field(default_factory=list)
    end: str | None = None

    def after(self, earlier: "_Flush | None") -> "_Flush":
        """Merge with an earlier flush that was not written.

        Earlier forecasts of the same or later steps, from before a rewind, are dropped. Beyond
        1,000 forecasts every other one is dropped.
        """
        if earlier is None:
            return self
        now = min((forecast["made_at"] for forecast in self.forecasts), default=sys.maxsize)
        waiting = [forecast for forecast in earlier.forecasts if forecast["made_at"] < now]
        waiting += self.forecasts
        return replace(
            self,
            forecasts=waiting if len(waiting) <= _MAX_WAITING_FORECASTS else waiting[::-2][::-1],
            decisions=[d for d in earlier.decisions if d[0] < self.step] + self.decisions,
            end=self.end or earlier.end,
        )


class RunRecorder:
    """Writes a run into a store, from a thread of its own.

    The training loop enqueues copies and goes on. If the store is down, full or locked, up to
    1,000 forecasts are kept in memory for the next write and one warning is logged. If the process
    is killed, data that were not written yet are lost.

    If another run resumes from a checkpoint of this one and continues its record, the rest of this
    run goes into a new record, with all losses. A run that is deleted from the store is no longer
    written.

    Args:
        store: the store, or its path or URL.
        name: name of the run for people.
        run: facts about the run.
        schedule: planned learning rates.
        rival: facts about the run used to find the best past run, the target; default: `run`.
    """

    def __init__(
        self,
        store: Place,
        name: str,
        run: RunInfo,
        schedule: LRSchedule,
        rival: RunInfo | None = None,
    ) -> None:
        self.key = uuid.uuid4().hex
        """Key of the run in the store."""
        self.run = run
        self._owner = uuid.uuid4().hex
        self._store, self._name, self._schedule = store, name, schedule
        self._rival = rival or run
        self._target: float | None = None
        self._advice: Recommendation | None = None
        self._begun = self._warned = self._closed = self._ended = self._deleted = False
        self._next: _Flush | None = None  # enqueued; guarded by the condition
        self._enqueued = threading.Condition()
        self._thread: threading.Thread | None = None

    @classmethod
    def create(
        cls, store: Place | None, name: str | None, run: RunInfo, *, plan: LRSchedule, trained: Any
    ) -> "RunRecorder | None":
        """Return a recorder, or None if there is no store.

        Args:
            store: the store, or its path or URL; None for no store.
            name: name of the run for people; None is the present time.
            run: facts given by the user.
            plan: planned learning rates.
            trained: the model, or the optimizer where the model is unknown.
        """
        if store is None:
            return None
        name = name or f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        known = identified(run, trained)
        # runs of a project that is only guessed may train on other data, with other final losses
        return cls(store, name, known, plan, rival=replace(known, project=run.project))

    # ------------------------------------------------------------------ before training

    def prior(self, prior: Prior | None) -> Prior | None:
        """Return the prior with past runs from the store, unless it has past runs already.

        Only process 0 reads the store, because only it forecasts. Errors are logged.
        """
        if processes()[0] != 0 or (prior is not None and prior.past):
            return prior
        try:
            store = self._open_store()
            informed = store.prior(self.run, self._schedule, prior)
            names = [store.run(past.name).name for past in informed.past]
            self._target = store.best(self._rival, self._schedule)
        except Exception as error:
            self._warn_once(error)
            return prior
        aim = "" if self._target is None else f"; target: the best of them, {self._target:.4g}"
        if not (self._rival.project or self._rival.dataset):
            aim = "; none of them sets a target, because RunInfo names no project or dataset"
        logger.info(
            "recording this run in %s, project %r; past runs used for the prior: %s%s",
            store.url,
            self.run.project,
            ", ".join(names) or "none",
            aim,
        )
        return informed

    @property
    def target(self) -> float | None:
        """Final loss of the best comparable run of the same named project or dataset, or None."""
        return self._target

    # ------------------------------------------------------------------ in training

    def record(self, step: int, forecaster: Forecaster, advice: Recommendation) -> None:
        """Enqueue a new forecast and, if it has changed, the recommendation."""
        before, self._advice = self._advice, advice
        changed = before is None or (before.action, before.reason) != (advice.action, advice.reason)
        self._enqueue(
            _Flush(
                forecaster.history.thinned(BINS),
                forecaster.schedule,
                step=step,
                forecasts=[forecaster.forecast().summary()],
                decisions=[(step, advice)] if changed else [],
            )
        )

    def close(
        self, forecaster: Forecaster, steps: int, *, failed: bool = False, watched: bool = True
    ) -> None:
        """Enqueue the end of the run, and wait a limited time until it is written.

        Args:
            forecaster: the forecaster with all losses.
            steps: optimizer steps taken.
            failed: whether an exception ended the run.
            watched: whether forecasting was still on at the end of the run.
        """
        if self._closed or self._thread is None:
            return
        total = forecaster.total_steps
        is_finished = watched and outcome_of(forecaster.history, total, steps) is not None
        end = "failed" if failed else "finished" if is_finished else "stopped"
        self._closed = True
        self._enqueue(_Flush(forecaster.history.thinned(BINS), forecaster.schedule, end=end))
        self._thread.join(_FAILED_RUN_TIMEOUT_S if failed else _LAST_WRITE_TIMEOUT_S)
        if not (self._ended or self._deleted):
            logger.warning("the end of this run could not be written to the store")

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue the same record."""
        return {"key": self.key, "target": self._target}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the record of the run that is resumed, with its target."""
        try:
            self.key, self._target = str(state["key"]), state["target"]
        except (KeyError, TypeError) as error:
            raise StateError(f"not the saved state of a recorded run: {error!r}") from error
        self._begun = False

    # ------------------------------------------------------------------ the thread

    def _enqueue(self, flush: _Flush) -> None:
        if self._deleted:
            return
        with self._enqueued:
            self._next = flush.after(self._next)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._write_all, name="lossforecast store", daemon=True
                )
                self._thread.start()
            self._enqueued.notify()

    def _write_all(self) -> None:
        left: _Flush | None = None  # could not be written; merged with the next flush
        while True:
            flush = self._dequeue().after(left)
            try:
                self._write(flush)
                left = None
            except Exception as error:
                left = flush
                self._warn_once(error)
            if flush.end is not None or self._deleted:
                self._ended = left is None
                return

    def _dequeue(self) -> _Flush:
        with self._enqueued:
            self._enqueued.wait_for(lambda: self._next is not None)
            flush, self._next = self._next, None
        assert flush is not None
        return flush

    def _write(self, flush: _Flush) -> None:
        """Write to the record of this run, or to a new one if another run continues it."""
        store = self._open_store()
        try:
            self._save(store, flush)
        except StoreError:
            owner = store.owner(self.key) if self._begun else self._owner
            if owner == self._owner:
                raise
            if owner is None:
                self._deleted = True
                logger.warning("this run was deleted from %s and is no longer recorded", store.url)
                return
            self._begun, self.key = False, uuid.uuid4().hex
            logger.info(
                "another run continues the record of this run in %s; this one goes on as %s",
                store.url,
                self.key[:8],
            )
            self._save(store, flush)

    def _save(self, store: RunStore, flush: _Flush) -> None:
        if not self._begun:
            self.key = store.begin(
                self._name, self.run, flush.schedule, self.key, owner=self._owner
            )
            self._begun = True
        parts = (flush.history, flush.schedule, flush.forecasts, flush.decisions)
        store.save(self.key, *parts, owner=self._owner)
        if flush.end is not None:
            store.end(self.key, flush.end, owner=self._owner)

    def _open_store(self) -> RunStore:
        if not isinstance(self._store, RunStore):
            self._store = RunStore(self._store)
        return self._store

    def _warn_once(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("%s; training goes on, and records wait in memory", error)


def resolve_store(store: StoreLike) -> Place | None:
    """Return the place of a store; None for no store.

    Raises:
        ConfigurationError: the argument names no store, or a library for it is not installed.
    """
    if store is None or store is False:
        return None
    place: Any = default_path() if store is True else store
    if isinstance(place, RunStore):
        return place
    if not isinstance(place, str | os.PathLike):
        raise ConfigurationError(
            f"store must be True, a path, a database URL or a RunStore, not {store!r}"
        )
    with suppress(StoreError):  # it may be reachable later
        connect(address(place))
    return place
