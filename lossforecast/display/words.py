"""A forecast in words: where the loss is heading, how that is known, what annealing will bring."""

import math
import sys
from typing import Final

from lossforecast.estimate import AnnealGain, Estimate
from lossforecast.status import Status

__all__ = [
    "STATUS_WORDS",
    "brief",
    "chance",
    "encodable",
    "four_digits",
    "gain_words",
    "heading",
    "size_text",
]

STATUS_WORDS: Final = {
    Status.NO_DATA: "no losses yet",
    Status.TOO_SHORT: "few losses yet, or none that follow a law",
    Status.PRIOR_DRIVEN: "the drop from annealing is assumed",
    Status.IDENTIFIED: "learned from this run",
    Status.MISFIT: "no law describes this run",
}
"""The meaning of each status."""
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
    median, lower, upper = map(four_digits, (estimate, estimate.lower, estimate.upper))
    return f"heading for {median} (80%: {lower} to {upper})"


def four_digits(loss: float) -> str:
    """A loss with four digits, zeros at its end included, so that losses in a column align.

    Example:
        >>> four_digits(0.57), four_digits(2.4587), four_digits(1234.5), four_digits(3e-7)
        ('0.5700', '2.459', '1234', '3.000e-07')
    """
    return f"{loss:#.4g}".rstrip(".")


def gain_words(gain: AnnealGain) -> str:
    """The drop that annealing will still bring, and how it is known.

    Example:
        >>> gain_words(AnnealGain(0.1049, 0.08, "prior"))
        'annealing still to bring 0.105 (assumed)'
        >>> gain_words(AnnealGain(-0.2811, 0.12, "prior"))
        'the rest of the schedule to raise it by 0.281 (assumed)'
    """
    if gain.source == "none":
        return "no annealing to come"
    size, source = f"{abs(gain.mean):#.3g}".rstrip("."), _SOURCES[gain.source]
    if gain.mean < 0:
        return f"the rest of the schedule to raise it by {size} ({source})"
    return f"annealing still to bring {size} ({source})"


def chance(probability: float, places: int = 0) -> str:
    """A probability in percent, never as 0% or 100%, because no forecast is certain.

    Args:
        probability: 0..1.
        places: decimal places of the percentage.

    Example:
        >>> chance(0.934), chance(0.9999), chance(0.0004), chance(0.0004, places=1)
        ('93%', 'over 99%', 'under 1%', 'under 0.1%')
    """
    least = 10.0 ** -(places + 2)
    if probability < least / 2:
        return f"under {least:.{places}%}"
    if probability >= 1 - least / 2:
        return f"over {1 - least:.{places}%}"
    return f"{probability:.{places}%}"


def size_text(n_params: float) -> str:
    """A number of parameters: up to 100,000 all its digits, above three of them.

    Example:
        >>> size_text(26_112), size_text(136_960), size_text(7.6e8), size_text(1.07e9)
        ('26,112', '137,000', '760M', '1.07B')
    """
    if n_params < 1e5:
        return f"{n_params:,.0f}"
    rounded = float(f"{n_params:.3g}")
    if rounded < 1e6:
        return f"{rounded:,.0f}"
    return f"{rounded / 1e6:g}M" if rounded < 1e9 else f"{rounded / 1e9:g}B"


def brief(estimate: Estimate, *, sure: bool = True) -> str:
    """A few characters for a progress bar: the median, and half the width of the 80% interval.

    Args:
        estimate: the forecast; nan gives an empty text.
        sure: whether to give the width; without it there is a question mark.

    Example:
        >>> brief(Estimate(0.6134, 0.59, 0.63)), brief(Estimate(0.6134, 0.59, 0.63), sure=False)
        ('→0.61±0.02', '→0.61?')
        >>> brief(Estimate(3.5136, 3.5122, 3.515)), brief(Estimate(1234.5, 1000.0, 1400.0))
        ('→3.5136±0.0014', '→1200±200')
    """
    if math.isnan(estimate):
        return ""
    half = (estimate.upper - estimate.lower) / 2
    digits = _last_digit(half, estimate)
    median, width = _rounded(estimate, digits), _rounded(half, digits)
    return f"→{median}±{width}" if sure else f"→{median}?"


def encodable(text: str) -> str:
    """The text, or its ASCII form if standard output or standard error cannot encode it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            text.encode(getattr(stream, "encoding", None) or "utf-8")
        except (UnicodeEncodeError, LookupError):
            return text.replace("→", "->").replace("±", "+-")
    return text


def _last_digit(width: float, value: float) -> int:
    """Place of the last significant digit, as a power of ten.

    It is the first of the width, or the second of one that begins with 1; the value has two to five
    digits.
    """
    size = math.floor(math.log10(abs(value))) if value else 0
    if width <= 0:
        return size - 4
    place = math.floor(math.log10(width))
    return min(max(place - (width < 2 * 10.0**place), size - 4), size - 1)


def _rounded(value: float, place: int) -> str:
    if -7 < place < 6:
        return f"{round(value, -place):.{max(-place, 0)}f}"
    return f"{value:.3g}"
