"""Forecasts in words and as a small chart, for prints, notebooks, pictures and tables."""

from lossforecast.display.chart import Chart
from lossforecast.display.words import STATUS_WORDS, brief, encodable, gain_words, heading

__all__ = ["STATUS_WORDS", "Chart", "brief", "encodable", "gain_words", "heading"]
