"""The loss laws: their formulas and the relaxation of annealing."""

from lossforecast.laws.formulas import LAWS, Law
from lossforecast.laws.relaxation import Relaxation, arrived, decaying, full_anneal

__all__ = ["LAWS", "Law", "Relaxation", "arrived", "decaying", "full_anneal"]
