"""Every exception this package raises on purpose.

    LossForecastError
    ├── ScheduleError        an impossible learning-rate schedule
    ├── ObservationError     a step or loss that is not a valid number (nan and inf are counted)
    ├── ConfigurationError   an invalid argument, or a missing optional dependency
    │   └── NothingLoggedError    a log that has no loss yet
    ├── StateError           a state_dict that is damaged or belongs to something else
    └── StoreError           a store of runs that cannot be opened, read or written

Each is a ``ValueError`` as well, and its message says what was given, why it cannot be used and
what to do. Names from logs and stores are escaped in it. A poor fit or a short history is never an
exception: see `lossforecast.status`.
"""

from lossforecast.printable import printable

__all__ = [
    "ConfigurationError",
    "LossForecastError",
    "NothingLoggedError",
    "ObservationError",
    "ScheduleError",
    "StateError",
    "StoreError",
]


class LossForecastError(ValueError):
    """Base of every exception of this package."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ScheduleError(LossForecastError):
    """An impossible learning-rate schedule."""


class ObservationError(LossForecastError):
    """A step that is not a whole number from 0 on, or a loss that is not a number."""


class ConfigurationError(LossForecastError):
    """An invalid argument, or a missing optional dependency."""


class NothingLoggedError(ConfigurationError):
    """A log that has no loss yet: its run may be about to begin."""


class StateError(LossForecastError):
    """A saved state that is damaged or belongs to something else."""


class StoreError(LossForecastError):
    """A store of past runs that cannot be opened, read or written."""
