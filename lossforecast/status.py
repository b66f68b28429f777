"""`Status` and `Caveat`: how far a forecast can be trusted, and why not further."""

from enum import StrEnum

__all__ = ["Caveat", "Status"]


class Status(StrEnum):
    """How far a forecast can be trusted."""

    NO_DATA = "no_data"
    """No finite loss was observed: there is nothing to forecast from."""
    TOO_SHORT = "too_short"
    """Too few losses were observed, or they follow no law yet: a wide forecast, mostly from the
    prior."""
    PRIOR_DRIVEN = "prior_driven"
    """The drop still to come from the learning-rate decay is assumed, not learned from this run."""
    IDENTIFIED = "identified"
    """The drop still to come was learned from this run, was measured, or is negligible."""
    MISFIT = "misfit"
    """No law describes this run: a wide fallback around the present level."""


class Caveat(StrEnum):
    """Something the reader of a forecast should know; several may hold."""

    LR_ASSUMED = "lr_assumed"
    """The future learning rate is unknown; the present one is assumed to be held."""
    LR_UNKNOWN = "lr_unknown"
    """No learning rate is known: the forecast covers a held one and one that decays to 0, so it is
    wide."""
    LR_OFF_PLAN = "lr_off_plan"
    """The observed learning rate differs from the plan; the rest of the plan is still assumed."""
    LR_STEP_AHEAD = "lr_step_ahead"
    """The learning rate will fall in steps, and the effect of the first has not been seen yet."""
    NON_FINITE = "non_finite"
    """Some losses were nan or infinite and were left out."""
    OVERFITTING = "overfitting"
    """The validation loss has been rising for a while."""
    LR_RISES_AHEAD = "lr_rises_ahead"
    """The plan raises the learning rate again (a restart): forecasts beyond it are poor."""
    FORECASTS_FAILED = "forecasts_failed"
    """Earlier forecasts of this run missed later losses by over twice their standard deviation."""
    REPEATED_DATA = "repeated_data"
    """The data will be seen again: a training loss can fall at every epoch boundary, and nothing
    seen in the first epoch shows how far."""
    PROBE_STALE = "probe_stale"
    """The annealing probe has measured nothing in the later half of the steps so far: its last
    measurement is held, with a larger error."""
    MEMORISING = "memorising"
    """The training data is seen more than once and the loss falls fast: it may fall by any factor
    while data is memorised."""
    SCHEDULE_APPROXIMATED = "schedule_approximated"
    """The future learning rate was evaluated at some steps and interpolated between them."""
