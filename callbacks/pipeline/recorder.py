"""`RunRecorder`: writes a run into a store beside its training, which it never disturbs."""

import logging
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
from lossforecast.policies import Recommendation
from lossforecast.prior import Prior
from lossforecast.runs import History, RunInfo, ending
from lossforecast.schedule import LRSchedule
from lossforecast.store import BINS, RunStore, address, connect, default_path

__all__ = ["RunRecorder", "StoreLike", "checked"]

logger = logging.getLogger("lossforecast")

StoreLike = bool | str | os.PathLike[str] | RunStore | None
"""True is the store of this user; a path, a URL or a `RunStore`; None or False is no store."""
Place = str | os.PathLike[str] | RunStore

_PATIENCE = 10.0  # seconds for the last write
_HASTE = 1.0  # the same where an exception ends the run
_MOST = 1_000  # forecasts that wait to be written


@dataclass
class _Flush:
    """What is to be written next."""

    history: History
    schedule: LRSchedule
    step: int = sys.maxsize
    """Optimizer steps taken when it was handed over; losses may have been seen up to before."""
    forecasts: list[dict[str, Any]] = field(default_factory=list)
    decisions: list[tuple[int, Recommendation]] = field(default_factory=list)
    end: str | None = None

    def after(self, earlier: "_Flush | None") -> "_Flush":
        """With what is left of an earlier one; a future that was rewound is not.

        Of too many forecasts that wait, every other one is dropped.
        """
        if earlier is None:
            return self
        now = min((each["made_at"] for each in self.forecasts), default=sys.maxsize)
        waiting = [each for each in earlier.forecasts if each["made_at"] < now] + self.forecasts
        return replace(
            self,
            forecasts=waiting if len(waiting) <= _MOST else waiting[::-2][::-1],
            decisions=[d for d in earlier.decisions if d[0] < self.step] + self.decisions,
            end=self.end or earlier.end,
        )


class RunRecorder:
    """Writes a run into a store, from a thread of its own.

    Training hands over a copy of what there is and goes on. While the store cannot be reached,
    is full or locked, that waits in memory for the next try, of forecasts up to 1,000; the first
    failure is logged. What a killed run had handed over before its last write is lost.

    Where another run goes on from a checkpoint of this one and takes its record over, the rest of
    this one goes into a record of its own, with all losses. A run that was forgotten meanwhile is
    written no more.

    Args:
        store: which one.
        name: what people will call the run.
        run: what is known of it.
        schedule: its plan.
        rival: the run as its target is looked up, if not as it is stored.
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
        """Of the run in the store."""
        self.run = run
        self._owner = uuid.uuid4().hex
        self._store, self._name, self._schedule = store, name, schedule
        self._rival = rival or run
        self._target: float | None = None
        self._advice: Recommendation | None = None
        self._begun = self._told = self._closed = self._ended = self._forgotten = False
        self._next: _Flush | None = None
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(
        cls, store: Place | None, name: str | None, run: RunInfo, schedule: LRSchedule, trained: Any
    ) -> "RunRecorder | None":
        """A recorder, where there is a store.

        Args:
            store: which one, if any.
            name: what people will call the run, by default the present time.
            run: what was told of it.
            schedule: its plan.
            trained: the optimizer or, better, the model, to tell the run from others.
        """
        if store is None:
            return None
        name = name or f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        known = identified(run, trained)
        # runs of a project that is only guessed may have other data, and other losses to reach
        return cls(store, name, known, schedule, replace(known, project=run.project))

    # ------------------------------------------------------------------ before training

    def prior(self, prior: Prior | None) -> Prior | None:
        """The prior with the past runs of the store, unless it knows some already.

        Only for the process that forecasts; the others need none. What goes wrong is logged.
        """
        if processes()[0] != 0 or (prior is not None and prior.past):
            return prior
        try:
            store = self._opened()
            found = store.prior(self.run, self._schedule, prior)
            names = [store.run(past.name).name for past in found.past]
            self._target = store.best(self._rival, self._schedule)
        except Exception as error:
            self._tell(error)
            return prior
        aim = "" if self._target is None else f"; the best to beat ended at {self._target:.4g}"
        if not (self._rival.project or self._rival.dataset):
            aim = "; the best of them is no target unless RunInfo names the project or the dataset"
        logger.info(
            "this run is stored in %s as one of project %r; learnt from past runs: %s%s",
            store.url,
            self.run.project,
            ", ".join(names) or "none",
            aim,
        )
        return found

    @property
    def target(self) -> float | None:
        """Where the best comparable run of the same named project or dataset ended, or None."""
        return self._target

    # ------------------------------------------------------------------ in training

    def note(self, step: int, forecaster: Forecaster, advice: Recommendation) -> None:
        """Have a new forecast and, if it is another one, what was recommended written."""
        before, self._advice = self._advice, advice
        changed = before is None or (before.action, before.reason) != (advice.action, advice.reason)
        self._hand_over(
            _Flush(
                forecaster.history.thinned(BINS),
                forecaster.schedule,
                step,
                [forecaster.forecast().summary()],
                [(step, advice)] if changed else [],
            )
        )

    def close(
        self, forecaster: Forecaster, steps: int, *, failed: bool = False, watched: bool = True
    ) -> None:
        """The run has ended; wait a little for it to be written.

        Args:
            forecaster: with all losses.
            steps: optimizer steps taken.
            failed: whether an error ended it.
            watched: whether it was forecast to its end, and not switched off.
        """
        if self._closed or self._thread is None:
            return
        total = forecaster.total_steps
        whole = watched and ending(forecaster.history, total, steps) is not None
        end = "failed" if failed else "finished" if whole else "stopped"
        self._closed = True
        self._hand_over(_Flush(forecaster.history.thinned(BINS), forecaster.schedule, end=end))
        self._thread.join(_HASTE if failed else _PATIENCE)
        if not (self._ended or self._forgotten):
            logger.warning("the end of this run is not in the store")

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on in the same record."""
        return {"key": self.key, "target": self._target}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the record of the run that is resumed, with its target."""
        try:
            self.key, self._target = str(state["key"]), state["target"]
        except (KeyError, TypeError) as error:
            raise StateError(f"not the saved state of a recorded run: {error!r}") from error
        self._begun = False

    # ------------------------------------------------------------------ the thread

    def _hand_over(self, flush: _Flush) -> None:
        if self._forgotten:
            return
        with self._news:
            self._next = flush.after(self._next)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="lossforecast store", daemon=True
                )
                self._thread.start()
            self._news.notify()

    def _work(self) -> None:
        left: _Flush | None = None  # what could not be written: tried again with what comes next
        while True:
            flush = self._awaited().after(left)
            try:
                self._write(flush)
                left = None
            except Exception as error:
                left = flush
                self._tell(error)
            if flush.end is not None or self._forgotten:
                self._ended = left is None
                return

    def _awaited(self) -> _Flush:
        with self._news:
            self._news.wait_for(lambda: self._next is not None)
            flush, self._next = self._next, None
        assert flush is not None
        return flush

    def _write(self, flush: _Flush) -> None:
        """In the record of this run, or in a new one where another run has taken it over."""
        store = self._opened()
        try:
            self._put(store, flush)
        except StoreError:
            owner = store.owner(self.key) if self._begun else self._owner
            if owner == self._owner:
                raise
            if owner is None:
                self._forgotten = True
                logger.warning("this run was deleted from %s: it is stored no more", store.url)
                return
            self._begun, self.key = False, uuid.uuid4().hex
            logger.info(
                "another run goes on in the record of this one in %s: this one is stored as %s",
                store.url,
                self.key[:8],
            )
            self._put(store, flush)

    def _put(self, store: RunStore, flush: _Flush) -> None:
        if not self._begun:
            self.key = store.begin(
                self._name, self.run, flush.schedule, self.key, owner=self._owner
            )
            self._begun = True
        parts = (flush.history, flush.schedule, flush.forecasts, flush.decisions)
        store.save(self.key, *parts, owner=self._owner)
        if flush.end is not None:
            store.end(self.key, flush.end, owner=self._owner)

    def _opened(self) -> RunStore:
        if not isinstance(self._store, RunStore):
            self._store = RunStore(self._store)
        return self._store

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            logger.warning("%s; training goes on, and what is to be stored waits in memory", error)


def checked(store: StoreLike) -> Place | None:
    """Which store is meant, None where there is none.

    Raises:
        ConfigurationError: this is no store, or what it needs is not installed.
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
    with suppress(StoreError):  # it may be there later
        connect(address(place))
    return place
