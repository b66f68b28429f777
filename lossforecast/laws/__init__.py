"""The loss laws: how fast the loss follows the learning rate, and the drop that has arrived."""

from lossforecast.laws.relaxation import (
    LAWS,
    MIN_DECAY_DEPTH,
    Relaxation,
    arrived,
    decaying,
    full_anneal,
)

__all__ = ["LAWS", "MIN_DECAY_DEPTH", "Relaxation", "arrived", "decaying", "full_anneal"]
