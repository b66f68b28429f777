"""What the adapters of sweeps share: what is planned for a trial, once for all or for each."""

from collections.abc import Callable
from typing import Generic, TypeVar

from lossforecast.errors import ConfigurationError
from lossforecast.forecaster import Forecaster
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

__all__ = ["Plans"]

T = TypeVar("T")


class Plans(Generic[T]):
    """The schedule and the run of every trial.

    Args:
        schedule: the planned learning rates of all trials, or a function that makes those of one.
        run: what is known of all trials, or a function that says it of one; by default that the
            values are of a validation.
        subject: what the functions are given, for messages.

    Raises:
        ConfigurationError: one of them is neither.
    """

    def __init__(
        self,
        schedule: LRSchedule | Callable[[T], LRSchedule],
        run: RunInfo | Callable[[T], RunInfo] | None,
        subject: str,
    ) -> None:
        if not isinstance(schedule, LRSchedule) and not callable(schedule):
            raise ConfigurationError(
                f"schedule must be an LRSchedule or a function of a {subject} that makes one, not "
                f"{type(schedule).__name__}"
            )
        if run is not None and not isinstance(run, RunInfo) and not callable(run):
            raise ConfigurationError(
                f"run must be a RunInfo or a function of a {subject} that makes one, not "
                f"{type(run).__name__}"
            )
        self._schedule, self._run = schedule, run or RunInfo(metric="val")

    def forecaster(self, trial: T) -> Forecaster:
        """A new forecaster for a trial.

        Raises:
            LossForecastError: what the functions made is impossible.
        """
        schedule = self._schedule
        planned = schedule if isinstance(schedule, LRSchedule) else schedule(trial)
        return Forecaster(planned, self.run(trial))

    def run(self, trial: T) -> RunInfo:
        """What is known of a trial."""
        return self._run if isinstance(self._run, RunInfo) else self._run(trial)
