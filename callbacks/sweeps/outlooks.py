"""`TrialOutlooks`: the forecasts of trials, corrected by the errors of those that have ended."""

from collections.abc import Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.policies import Outlook, Setup, SweepErrors

__all__ = ["TrialOutlooks"]

TrialId = TypeVar("TrialId", bound=Hashable)


class _Kept(NamedTuple):
    """A corrected forecast, the forecast, and the `SweepErrors.version` that corrected it."""

    outlook: Outlook
    forecast: Forecast
    version: int


class TrialOutlooks(Generic[TrialId]):
    """The forecasts of the trials of a sweep, corrected by the errors of those that have ended.

    A corrected forecast is kept until the trial has a new one or another trial has ended.
    """

    def __init__(self) -> None:
        self._errors = SweepErrors[TrialId]()
        self._kept: dict[TrialId, _Kept] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the kept forecasts, which are large and can be made again."""
        return {**vars(self), "_kept": {}}

    def record(self, trial: TrialId, forecaster: Forecaster) -> None:
        """Record the present forecast of a trial, if its plan has reached a new fiftieth."""
        share = _share(forecaster)
        if self._errors.wants(trial, share):
            setup = Setup.of(forecaster.run.optimizer or "", forecaster.schedule)
            self._errors.record(trial, setup, share, _outlook(forecaster))
            self._kept.pop(trial, None)

    def end(self, trial: TrialId, loss: float) -> None:
        """Learn from the loss that a trial ended with, negated if values are maximised."""
        self._errors.end(trial, loss)
        self._kept.pop(trial, None)

    def forget(self, trial: TrialId) -> None:
        """Drop the forecasts of a trial that was stopped, failed or is restarted."""
        self._errors.forget(trial)
        self._kept.pop(trial, None)

    def of(self, trial: TrialId, forecaster: Forecaster) -> Outlook:
        """Return the present forecast of a trial in progress, corrected."""
        forecast, version = forecaster.forecast(), self._errors.version
        kept = self._kept.get(trial)
        if kept is None or kept.forecast is not forecast or kept.version != version:
            outlook = self._errors.corrected(trial, _share(forecaster), _outlook(forecaster))
            kept = self._kept[trial] = _Kept(outlook, forecast, version)
        return kept.outlook


def _share(forecaster: Forecaster) -> float:
    return max(forecaster.history.last_step, 0) / forecaster.total_steps


def _outlook(forecaster: Forecaster) -> Outlook:
    return Outlook.of(forecaster.forecast(), forecaster.run.optimizer or "")
