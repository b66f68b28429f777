"""Forecasts in words and as a small chart, for prints, notebooks, pictures and tables."""

from lossforecast.display.chart import Chart, after_start
from lossforecast.display.words import (
    STATUS_WORDS,
    brief,
    chance,
    encodable,
    four_digits,
    gain_words,
    heading,
    size_text,
)

__all__ = [
    "STATUS_WORDS",
    "Chart",
    "after_start",
    "brief",
    "chance",
    "encodable",
    "four_digits",
    "gain_words",
    "heading",
    "size_text",
]
