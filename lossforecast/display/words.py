"""The words for a forecast: where the loss is heading, how that is known, what it will gain."""

import math
from typing import Final

from lossforecast.estimate import AnnealGain, Estimate
from lossforecast.status import Status

__all__ = ["STATUS_WORDS", "gain_words", "heading"]

STATUS_WORDS: Final = {
    Status.NO_DATA: "no losses yet",
    Status.TOO_SHORT: "few losses yet, or none that follow a law",
    Status.PRIOR_DRIVEN: "the drop from annealing is assumed",
    Status.IDENTIFIED: "learned from this run",
    Status.MISFIT: "no law describes this run",
}
"""What each status means."""
_SOURCES = {"data": "learned from the run", "probe": "measured by the probe", "prior": "assumed"}
"""Sources of the drop still to come."""


def heading(estimate: Estimate) -> str:
    """Where the loss is heading, with its 80% interval; without a number if there is none.

    Example:
        >>> heading(Estimate(2.4587, 2.4331, 2.4863))
        'heading for 2.459 (80%: 2.433 to 2.486)'
    """
    if math.isnan(estimate):
        return "nothing observed yet"
    return f"heading for {estimate:.4g} (80%: {estimate.lower:.4g} to {estimate.upper:.4g})"


def gain_words(gain: AnnealGain) -> str:
    """What annealing will still bring, and how that is known.

    Example:
        >>> gain_words(AnnealGain(0.1049, 0.08, "prior"))
        'annealing still to bring 0.105 (assumed)'
    """
    if gain.source == "none":
        return "no annealing to come"
    return f"annealing still to bring {gain.mean:.3g} ({_SOURCES[gain.source]})"
