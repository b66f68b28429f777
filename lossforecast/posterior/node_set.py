"""`NodeSet`: nodes with their log weights and the posterior of (level, a, -D) at each."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lossforecast.arrays import FloatArray, IntArray

__all__ = ["NodeSet"]


@dataclass(frozen=True)
class NodeSet:
    """k nodes, each one a member, an exponent, a walk and a component of the drop prior."""

    log_weight: FloatArray
    """Log of prior weight times evidence, up to a constant, (k,)."""
    mean: FloatArray
    """Posterior mean of (level, a, -D), (k, 3)."""
    covariance: FloatArray
    """Posterior covariance of (level, a, -D), (k, 3, 3)."""
    member: IntArray
    """Index into ``beliefs.members``, (k,)."""
    alpha: IntArray
    """Index into ``beliefs.alphas``, (k,)."""
    columns: IntArray
    """Columns of the basis that multiply (level, a, -D), (k, 3)."""
    drop_scale: FloatArray
    """D over the drop of a decay to 0, (k,)."""
    walk: IntArray
    """Index of the random walk, (k,)."""
    group: IntArray
    """Nodes of one walk and one component of the drop share a group, (k,)."""
    prior_std: FloatArray
    """Standard deviation of the drop before the losses, (k,)."""
    measured_share: FloatArray
    """Share of the prior precision of the drop that comes from a measurement, 0 to 1, (k,)."""
    offset_column: IntArray
    """Column of the past-run offsets that the node adds to z, or -1 for none, (k,)."""

    @classmethod
    def joined(cls, sets: Sequence["NodeSet"]) -> Self:
        """All nodes in one set; groups of different sets stay apart."""
        first_groups = np.cumsum([0, *(nodes.group.max() + 1 for nodes in sets)])[:-1]
        columns = {
            field.name: np.concatenate([vars(nodes)[field.name] for nodes in sets])
            for field in fields(cls)
        }
        columns["group"] += np.repeat(first_groups, [nodes.group.size for nodes in sets])
        return cls(**columns)

    def subset(self, kept: NDArray[np.int64]) -> "NodeSet":
        """The nodes of these indices."""
        return NodeSet(**{name: values[kept] for name, values in vars(self).items()})
