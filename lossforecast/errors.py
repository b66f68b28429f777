"""Every exception this package raises on purpose.

    LossForecastError
    ├── ScheduleError        a learning-rate schedule that cannot be
    ├── ObservationError     a step or a loss of the wrong kind (nan and inf are counted)
    ├── ConfigurationError   an argument that makes no sense, or a missing optional dependency
    │   └── NothingLoggedError    a log without a loss yet
    ├── StateError           a state_dict that is not ours, or is damaged
    └── StoreError           a store of runs that cannot be opened, read or written

Each is a ``ValueError`` as well, and its message says what was given, why it cannot be used and
what to do. A poor fit or a short history is never an exception: see `lossforecast.status`.
"""

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


class ScheduleError(LossForecastError):
    """A learning-rate schedule that cannot be."""


class ObservationError(LossForecastError):
    """A step or a loss of the wrong kind."""


class ConfigurationError(LossForecastError):
    """An argument that makes no sense, or an optional dependency that is missing."""


class NothingLoggedError(ConfigurationError):
    """A log without a loss yet: its run may be about to begin."""


class StateError(LossForecastError):
    """A saved state that is not ours, or is damaged."""


class StoreError(LossForecastError):
    """A store of past runs that cannot be opened, read or written."""
