"""`Plans`: the schedule and the `RunInfo` of every trial of a sweep."""

from collections.abc import Callable
from typing import Generic, TypeVar

from lossforecast.errors import ConfigurationError
from lossforecast.forecaster import Forecaster
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

__all__ = ["MAX_LENGTH_RATIO", "REASON_KEY", "Plans"]

MAX_LENGTH_RATIO = 2.0
"""Largest ratio of the steps reported to those planned; beyond it, their units may differ."""

REASON_KEY = "lossforecast:reason"
"""Optuna user attribute and Ray metric of a stopped trial: why it was stopped, in words."""

T = TypeVar("T")


class Plans(Generic[T]):
    """The schedule and the `RunInfo` of every trial.

    Args:
        schedule: the planned learning rates of all trials, or a function of a trial that returns
            them.
        run: facts about all trials, or a function of a trial that returns them; default: the values
            are validation losses.
        subject: name of the argument of these functions, for messages.

    Raises:
        ConfigurationError: `schedule` or `run` has another type.
    """

    def __init__(
        self,
        schedule: LRSchedule | Callable[[T], LRSchedule],
        run: RunInfo | Callable[[T], RunInfo] | None,
        subject: str,
    ) -> None:
        if not isinstance(schedule, LRSchedule) and not callable(schedule):
            raise ConfigurationError(
                f"schedule must be an LRSchedule or a function of a {subject} returning one, not "
                f"{type(schedule).__name__}"
            )
        if run is not None and not isinstance(run, RunInfo) and not callable(run):
            raise ConfigurationError(
                f"run must be a RunInfo or a function of a {subject} returning one, not "
                f"{type(run).__name__}"
            )
        self._schedule, self._run = schedule, run or RunInfo(metric="val")

    def forecaster(self, trial: T) -> Forecaster:
        """Return a new forecaster for a trial.

        Raises:
            LossForecastError: the schedule or the facts are impossible.
        """
        schedule = self._schedule
        planned = schedule if isinstance(schedule, LRSchedule) else schedule(trial)
        return Forecaster(planned, self.run(trial))

    def run(self, trial: T) -> RunInfo:
        """Return the facts about a trial."""
        return self._run if isinstance(self._run, RunInfo) else self._run(trial)
