"""The comparison of two runs against the noise of seeds and evaluation."""

from lossforecast.comparison.compared_run import ComparedRun
from lossforecast.comparison.comparison import MAX_SEEDS, Comparison, Contender
from lossforecast.comparison.spread import Spread

__all__ = ["MAX_SEEDS", "ComparedRun", "Comparison", "Contender", "Spread"]
