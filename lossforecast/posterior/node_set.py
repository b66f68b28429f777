"""The nodes of one regime: their scores and the posterior of the linear part at each."""

from dataclasses import dataclass

from lossforecast.arrays import FloatArray, IntArray

__all__ = ["NodeSet"]


@dataclass(frozen=True)
class NodeSet:
    """The nodes of one regime, k of them."""

    score: FloatArray
    mean: FloatArray
    covariance: FloatArray
    node: IntArray
    """Of the grid."""
    walk: IntArray
    group: IntArray
    believed: FloatArray
    told: FloatArray
    beside: IntArray
