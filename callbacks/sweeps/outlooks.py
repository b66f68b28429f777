"""`TrialOutlooks`: the forecasts of trials, corrected by the errors of those that have ended."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from lossforecast.forecaster import Forecaster
from lossforecast.policies import Outlook, Setup, SweepErrors

__all__ = ["TrialOutlooks"]

TrialId = TypeVar("TrialId", bound=Hashable)


class TrialOutlooks(Generic[TrialId]):
    """The forecasts of the trials of a sweep, corrected by the errors of those that have ended."""

    def __init__(self) -> None:
        self._errors = SweepErrors[TrialId]()

    def record(self, trial: TrialId, forecaster: Forecaster) -> None:
        """Record the present forecast of a trial, if its plan has reached a new fiftieth."""
        share = _share(forecaster)
        if self._errors.wants(trial, share):
            setup = Setup.of(forecaster.run.optimizer or "", forecaster.schedule)
            self._errors.record(trial, setup, share, _outlook(forecaster))

    def end(self, trial: TrialId, loss: float) -> None:
        """Learn from the loss that a trial ended with, negated if values are maximised."""
        self._errors.end(trial, loss)

    def forget(self, trial: TrialId) -> None:
        """Drop the forecasts of a trial that was stopped, failed or is restarted."""
        self._errors.forget(trial)

    def of(self, trial: TrialId, forecaster: Forecaster) -> Outlook:
        """Return the present forecast of a trial in progress, corrected."""
        return self._errors.corrected(trial, _share(forecaster), _outlook(forecaster))


def _share(forecaster: Forecaster) -> float:
    return max(forecaster.history.last_step, 0) / forecaster.total_steps


def _outlook(forecaster: Forecaster) -> Outlook:
    return Outlook.of(forecaster.forecast(), forecaster.run.optimizer or "")
