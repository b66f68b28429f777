"""The loss laws: the relaxation G of each, and the share of its drop that has arrived."""

from lossforecast.laws.relaxation import LAWS, Relaxation, arrived, decaying, full_anneal

__all__ = ["LAWS", "Relaxation", "arrived", "decaying", "full_anneal"]
