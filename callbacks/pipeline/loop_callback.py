"""`LoopCallback`: the base class of the callbacks of training loops."""

import os
import weakref
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, ClassVar, Self

from lossforecast.callbacks.distributed import processes
from lossforecast.callbacks.monitor import clean_up, guarded
from lossforecast.callbacks.pipeline.pipeline import Pipeline
from lossforecast.callbacks.pipeline.settings import Settings
from lossforecast.display import brief, encodable
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.log import logger, notice
from lossforecast.policies import Action, Recommendation

__all__ = ["LoopCallback", "finalize_failed"]

_callbacks: "weakref.WeakSet[LoopCallback]" = weakref.WeakSet()


class LoopCallback:
    """Gives access to the forecasts of the present run's pipeline, and ends the run."""

    settings: Settings
    """The arguments of the callback."""
    switched_off = False
    """True if an internal error has ended forecasting in this run."""
    _pipeline: Pipeline | None = None
    _finalizer: Any = None
    """A `weakref.finalize` that records the end of a run that is never closed, if there is one."""

    _run_attributes: ClassVar[tuple[str, ...]] = ()
    """Further attributes of the present run, which copies do not have."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Create a callback that leaves its run when the process forks."""
        self = super().__new__(cls)
        _callbacks.add(self)
        return self

    @property
    def forecaster(self) -> Forecaster | None:
        """The forecaster, with all losses read so far; None before training starts."""
        return self._pipeline.forecaster() if self._pipeline else None

    @property
    def forecast(self) -> Forecast | None:
        """The latest forecast of the final loss; None before the first and outside process 0."""
        return self._pipeline.monitor.forecast if self._pipeline else None

    @property
    def recommendation(self) -> Recommendation | None:
        """The latest recommendation; None before the first and outside process 0."""
        return self._pipeline.monitor.recommendation if self._pipeline else None

    @property
    def postfix(self) -> str:
        """The latest forecast in a few characters, such as ``→0.61±0.02``, for a progress bar.

        The number after ± is half the width of the 80% interval. It is ``→0.61?`` while there is no
        advice yet, and empty without a forecast. ``bar.set_postfix_str(monitor.postfix)`` shows it.
        """
        forecast, advice = self.forecast, self.recommendation
        if forecast is None:
            return ""
        sure = advice is None or advice.action is not Action.ABSTAIN
        return encodable(brief(forecast.estimate, sure=sure))

    def event(self, name: str) -> None:
        """Mark a change of data, augmentation, sequence length or batch size at the present step.

        The loss may jump there, see `Forecaster.event`. With several processes call it in all of
        them or in the first. It never raises: outside a run, or without a name, it logs a warning.

        Args:
            name: the change in a few words, such as "longer sequences".
        """
        why = "no run is being forecast"
        if not isinstance(name, str) or not name.strip():
            why = "its name must be some words, such as 'longer sequences'"
        elif self._pipeline is not None and not self._pipeline.has_ended:
            return self._mark(name)
        if processes()[0] == 0:
            logger.warning("event %.60s is not marked: %s", repr(name), why)
        return None

    @guarded
    def _mark(self, name: str) -> None:
        if self._pipeline is not None:
            self._pipeline.event(name)

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the present run, so that a copy belongs to no run."""
        of_run = {"_pipeline", "_finalizer", "switched_off", *self._run_attributes}
        return {name: value for name, value in vars(self).items() if name not in of_run}

    def _release(self) -> None:
        """Leave the other processes and remove all hooks; log errors."""
        if self._pipeline is not None:
            clean_up(self._pipeline.leave, self._pipeline.close)

    def _record_end(self, error: BaseException | None = None) -> None:
        """Record the end of the run in the store, or suggest one; log errors."""
        if self._pipeline is not None:
            watched = not self.switched_off
            clean_up(partial(self._pipeline.record_end, error, watched=watched))
            has_losses = watched and self.forecast is not None and self._pipeline.has_losses
            if self.settings.store is None and self.settings.place is None and has_losses:
                clean_up(_suggest_store)

    def _abandon(self) -> None:
        """Leave the run to the parent of this process, which is a forked child."""
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._pipeline is not None:
            self.switched_off = True
            self._pipeline.abandon()


def finalize_failed(pipeline: Pipeline) -> None:
    """Record the failure of a run that an exception ended, where the host reports none."""
    error = RuntimeError("an exception ended the run")
    clean_up(pipeline.capture.close, partial(pipeline.record_end, error))


@cache
def _suggest_store() -> None:
    """Suggest a store, once in this process."""
    install = ""
    if find_spec("sqlalchemy") is None:
        install = ', after pip install "lossforecast[store]"'
    notice(f"the next run like this one could be forecast from this one: store=True{install}")


def _abandon_runs() -> None:
    """Leave all runs in a forked child, where their threads do not exist."""
    for callback in list(_callbacks):
        callback._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_runs)
