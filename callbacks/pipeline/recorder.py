"""`RunRecorder`: writes a run into a store, in a thread beside the training."""

import os
import threading
import uuid
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.pipeline.describe import identified
from lossforecast.callbacks.pipeline.flush import Flush
from lossforecast.callbacks.pipeline.recognition import Recognition
from lossforecast.callbacks.pipeline.store_place import Place
from lossforecast.callbacks.pipeline.waiting import Waiting
from lossforecast.checks import number
from lossforecast.errors import StateError, StoreError
from lossforecast.forecaster import Forecaster
from lossforecast.log import logger
from lossforecast.policies import Recommendation
from lossforecast.prior import Prior, is_smaller
from lossforecast.runs import RunInfo, outcome_of
from lossforecast.schedule import LRSchedule
from lossforecast.signals import contained
from lossforecast.store import (
    BINS,
    FinishedRuns,
    RunStore,
    address,
    shown,
)

__all__ = ["RunRecorder"]

_FIRST_READ_TIMEOUT_S = 2.0  # for the past runs, before the first step
_LAST_WRITE_TIMEOUT_S = 9.0  # for the last write of a run; in all, closing takes less than 10
_FAILED_RUN_TIMEOUT_S = 1.0  # the same after an exception, whose traceback the user waits for


class RunRecorder:
    """Writes a run into a store, from a thread of its own.

    The training loop enqueues copies and goes on. If the store is down, full or locked, up to 1,000
    forecasts are kept in memory for the next write and one warning is logged. If the process is
    killed, data not yet written is lost. None of the methods raises an error of the store.

    If another run resumes from a checkpoint of this one and continues its record, this run goes on
    in a new record. If the file or the tables of the store are deleted, they are created again,
    with a new record of this run. A run that is deleted from the store is no longer written.

    A forked child process writes nothing. A copy, pickled or not, is another run: what it records
    goes into a record of its own.

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
        self._identity = ""  # of the store's tables when the record was begun
        self._written: Flush | None = None  # all forecasts and decisions so far, thinned
        self._next: Flush | None = None  # enqueued; guarded by the condition
        self._enqueued = threading.Condition()
        self._thread: threading.Thread | None = None
        self._process: int | None = None  # the process that has recorded something

    @classmethod
    def create(
        cls,
        store: Place | None,
        name: str | None,
        run: RunInfo,
        *,
        plan: LRSchedule,
        seen: Recognition,
    ) -> "RunRecorder | None":
        """Return a recorder, or None if there is no store.

        Args:
            store: the store, or its path or URL; None for no store.
            name: name of the run for people; None is the present time.
            run: facts about the run.
            plan: planned learning rates.
            seen: what the model shows about the run.
        """
        if store is None:
            return None
        name = name or f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        known = identified(run, seen)
        # runs of a project that is only guessed may train on other data, with other final losses
        return cls(store, name, known, plan, rival=replace(known, project=run.project))

    # ------------------------------------------------------------------ before training

    def prior(self, prior: Prior | None) -> Prior | None:
        """Return the prior with past runs from the store, unless it has past runs already.

        Only process 0 reads the store, because only it forecasts. Errors are logged.
        """
        if processes()[0] != 0 or (prior is not None and prior.past):
            return prior
        informed = None
        with contained(partial(self._warn_once, how=" without past runs")):
            store, known, informed = self._read_past(prior)
        if informed is None:
            return prior
        alike = [past for past in informed.past if not is_smaller(past.run, self.run)]
        names = [f"{known[past.name]:.60}" for past in alike]
        n_smaller = len(informed.past) - len(alike)
        ladder = f"; from {n_smaller} smaller runs" if n_smaller else ""
        aim = "" if self._target is None else f"; target: the best of them, {self._target:.4g}"
        if not (self._rival.project or self._rival.dataset):
            aim = "; none of them sets a target, because RunInfo names no project or dataset"
        logger.info(
            "recording this run in %s, project %r; past runs used for the prior: %s%s%s",
            store.url,
            self.run.project,
            ", ".join(names) or "none",
            ladder,
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
        self._follow(forecaster.run)
        before, self._advice = self._advice, advice
        changed = before is None or (before.action, before.reason) != (advice.action, advice.reason)
        with contained(self._warn_once):
            self._enqueue(
                Flush(
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
        if self._closed or self._process != os.getpid():  # nothing was recorded in this process
            return
        self._closed = True
        with contained(self._warn_once):
            total = forecaster.total_steps
            is_finished = watched and outcome_of(forecaster.history, total, steps) is not None
            end = "failed" if failed else "finished" if is_finished else "stopped"
            self._enqueue(Flush(forecaster.history.thinned(BINS), forecaster.schedule, end=end))
            if self._thread is None:  # none can be started
                self._write_all()
            else:
                self._thread.join(_FAILED_RUN_TIMEOUT_S if failed else _LAST_WRITE_TIMEOUT_S)
        if not (self._ended or self._deleted):
            logger.warning("the end of this run could not be written to the store")

    def _follow(self, run: RunInfo) -> None:
        """Adopt the task and size from the forecaster: a resumed run has those it began with."""
        task, n_params = run.task or self.run.task, run.n_params or self.run.n_params
        self.run = replace(self.run, task=task, n_params=n_params)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue the same record."""
        return {"key": self.key, "target": self._target}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the record of the run that is resumed, with its target."""
        try:
            key, target = state["key"], state["target"]
            if not isinstance(key, str):
                raise TypeError(key)
            if target is not None:
                target = number("target", target, StateError)
        except (KeyError, TypeError) as error:
            raise StateError(f"not the saved state of a recorded run: {error!r}") from error
        self.key, self._target, self._begun, self._written = key, target, False, None

    def __getstate__(self) -> dict[str, Any]:
        """A copy: another run, with nothing to write yet."""
        new = RunRecorder(self._store, self._name, self.run, self._schedule, self._rival)
        new._target, new._advice, new._closed = self._target, self._advice, self._closed
        return {name: value for name, value in vars(new).items() if name != "_enqueued"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _enqueued=threading.Condition())

    # ------------------------------------------------------------------ the thread

    def _enqueue(self, flush: Flush) -> None:
        if self._process is None:
            self._process = os.getpid()
        if self._deleted or self._process != os.getpid():  # the thread of a forked child is gone
            return
        with self._enqueued:
            self._next = flush.after(self._next)
            if self._thread is None:
                self._start_thread()
            self._enqueued.notify()

    def _start_thread(self) -> None:
        """Start the thread that writes; without one, everything is written at the end."""
        thread = threading.Thread(target=self._write_all, name="lossforecast store", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._warn_once(error)
        else:
            self._thread = thread

    def _write_all(self) -> None:
        left: Flush | None = None  # could not be written; merged with the next flush
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

    def _dequeue(self) -> Flush:
        with self._enqueued:
            self._enqueued.wait_for(lambda: self._next is not None)
            flush, self._next = self._next, None
        assert flush is not None
        return flush

    def _write(self, flush: Flush) -> None:
        """Write to the record of this run, or to a new one if that is gone or not ours any more."""
        store = self._open_store()
        try:
            self._save(store, flush)
        except StoreError:
            store.make()  # in case its file or tables were deleted
            if store.identity != self._identity:
                logger.warning(
                    "%s was deleted; it is created again, with a new record of this run", store.url
                )
            elif self._begun and (owner := store.owner(self.key)) != self._owner:
                if owner is None:
                    self._deleted = True
                    logger.warning(
                        "this run was deleted from %s and is no longer recorded", store.url
                    )
                    return
                self.key = uuid.uuid4().hex
                logger.info(
                    "another run continues the record of this run in %s; this one goes on as %s",
                    store.url,
                    self.key[:8],
                )
            else:
                raise
            self._begun = False
            self._save(store, flush)

    def _save(self, store: RunStore, flush: Flush) -> None:
        whole = flush.after(self._written)
        if not self._begun:
            self._identity = store.identity
            self.key = store.begin(
                self._name, self.run, flush.schedule, self.key, owner=self._owner
            )
        new = flush if self._begun else whole
        store.save(
            self.key, new.history, new.schedule, new.forecasts, new.decisions, owner=self._owner
        )
        self._begun, self._written = True, whole
        if flush.end is not None:
            store.end(self.key, flush.end, owner=self._owner)

    def _read_past(self, prior: Prior | None) -> tuple[RunStore, dict[str, str], Prior]:
        """The store, the names of past runs by key, and the prior with some of them.

        The database is waited for with a limit, in a thread; what it returns takes the time it
        takes.
        """
        waiting = Waiting(_FIRST_READ_TIMEOUT_S, self._url())
        store, past, rivals = waiting.result_of(self._find_past)
        curves = past.curves
        limited = replace(past, curves=lambda keys: waiting.result_of(partial(curves, keys)))
        informed = store.prior(self.run, self._schedule, prior, finished=limited)
        self._target = store.best(self._rival, self._schedule, finished=rivals)
        return store, {run.key: run.name for run in past.runs}, informed

    def _find_past(self) -> tuple[RunStore, FinishedRuns, FinishedRuns]:
        """The store, past runs to learn from, and the runs whose best is the target."""
        store = self._open_store()
        past = store.finished(self.run)
        return store, past, past if self._rival == self.run else store.finished(self._rival)

    def _url(self) -> str:
        """URL of the store, without passwords."""
        store = self._store
        return store.url if isinstance(store, RunStore) else shown(address(store))

    def _open_store(self) -> RunStore:
        if not isinstance(self._store, RunStore):
            self._store = RunStore(self._store)
        return self._store

    def _warn_once(self, error: Exception, how: str = "") -> None:
        if not self._warned:
            self._warned = True
            logger.warning("%s; training goes on%s, and records wait in memory", error, how)
