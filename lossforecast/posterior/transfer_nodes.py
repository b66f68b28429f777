"""The nodes of past runs: their posterior given the losses, and their weight against the laws."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.numerics import inverse
from lossforecast.posterior.design_matrix import Grid
from lossforecast.posterior.node_set import NodeSet
from lossforecast.posterior.transfer import ExpectedParameters
from lossforecast.posterior.walk import Walk

__all__ = ["nodes_at_scale", "with_past_runs"]

_MIN_TRUST = 1e-9  # keeps the logarithm finite


def nodes_at_scale(
    expected: ExpectedParameters,
    scale: int,
    walk: Walk,
    walk_index: int,
    *,
    grid: Grid,
    n_alphas: int,
    drop_scale: FloatArray,
    measured: tuple[float, float] | None,
) -> NodeSet:
    """The p nodes of past runs, given the losses, at one scale of the difference between runs.

    With X the rows of the basis, y = z - offset (both whitened) and N(m, S) the expected beta,

        V = (X^T X + S^-1)^-1,    beta = V (X^T y + S^-1 m)
        log evidence = -(y^T y + m^T S^-1 m - beta^T V^-1 beta + log |S| - log |V|) / 2

    Args:
        expected: the parameters before the losses.
        scale: index into `DIFFERENCE_SCALES`.
        walk: the discrepancy, with offsets among its columns.
        walk_index: its index in the posterior.
        grid: the pairs of the grid.
        n_alphas: number of exponents of the grid.
        drop_scale: D over the drop of a decay to 0, (members,).
        measured: the drop and its standard deviation, as z.
    """
    pair = expected.member * n_alphas + expected.alpha
    columns = grid.columns[pair]
    z = walk.whitened.shape[1] - pair.size - 1  # column of z, before the offsets
    rows = walk.whitened[:, columns].swapaxes(0, 1)  # (p, n, 3)
    value = walk.whitened[:, [z]].T - walk.whitened[:, z + 1 :].T  # (p, n)
    precision, log_det = inverse(expected.covariance[scale])
    centre = expected.mean[scale]
    node_drop_scale = drop_scale[expected.member]
    prior_std = np.sqrt(expected.covariance[scale][:, 2, 2]) / node_drop_scale
    gram = np.einsum("kni,knj->kij", rows, rows) + precision
    target = np.einsum("kni,kn->ki", rows, value) + np.einsum("kij,kj->ki", precision, centre)
    misfit = np.einsum("kn,kn->k", value, value) + np.einsum(
        "ki,kij,kj->k", centre, precision, centre
    )
    measured_share = np.zeros(pair.size)
    if measured is not None:
        drop, error = measured[0] * node_drop_scale, measured[1] * node_drop_scale
        gram[:, 2, 2] += error**-2
        target[:, 2] -= drop * error**-2
        misfit += (drop / error) ** 2
        measured_share = prior_std**2 / (prior_std**2 + measured[1] ** 2)
    covariance, posterior_log_det = inverse(gram)
    mean = np.einsum("kij,kj->ki", covariance, target)
    misfit -= np.einsum("ki,ki->k", mean, target)
    log_prior = expected.log_weight[scale] + walk.log_evidence
    return NodeSet(
        log_weight=log_prior - (misfit + posterior_log_det + log_det) / 2,
        mean=mean,
        covariance=covariance,
        member=grid.member[pair],
        alpha=grid.alpha[pair],
        columns=columns,
        drop_scale=node_drop_scale,
        walk=np.full(pair.size, walk_index),
        group=np.zeros(pair.size, np.int64),
        prior_std=prior_std,
        measured_share=measured_share,
        offset_column=np.arange(pair.size),
    )


def with_past_runs(
    law_sets: Sequence[NodeSet], transfer_sets: Sequence[NodeSet], trust: FloatArray
) -> list[NodeSet]:
    """Both kinds of node sets, weighted against each other.

    Set i of past runs gets the weight ``trust_i * evidence_i / sum_j evidence_j``, and the laws
    alone get the rest, so that all weights sum to 1. The trust in past runs thus depends on how
    little the run differs from them, not on which kind predicted the losses so far better: that is
    weak evidence for which one predicts the end better.
    """
    evidence = np.array([np.logaddexp.reduce(nodes.log_weight) for nodes in transfer_sets])
    share = evidence - np.logaddexp.reduce(evidence)
    log_trust = np.log(np.maximum(trust, _MIN_TRUST))
    transferred = [
        replace(nodes, log_weight=nodes.log_weight + share[i] + log_trust[i] - evidence[i])
        for i, nodes in enumerate(transfer_sets)
    ]
    left = np.log(-np.expm1(np.logaddexp.reduce(share + log_trust)))
    total = np.logaddexp.reduce(
        [np.logaddexp.reduce(nodes.log_weight) for nodes in law_sets] or [0.0]
    )
    laws = [replace(nodes, log_weight=nodes.log_weight + left - total) for nodes in law_sets]
    return [*laws, *transferred]
