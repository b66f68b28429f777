"""Conjugate Gaussian regression on (level, a, -D) for all nodes at once."""

import numpy as np

from lossforecast.arrays import FloatArray, IntArray
from lossforecast.numerics.special import log_ndtr

__all__ = ["MAD_TO_STD", "inverse", "solve"]

MAD_TO_STD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

_MIN_PIVOT_SHARE = 1e-15  # of a diagonal entry: rounding may leave less, or a negative pivot


def solve(
    gram: FloatArray,
    columns: IntArray,
    drop_scale: FloatArray,
    drops: FloatArray,
    spreads: tuple[float, float],
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Log evidence (w, c, k), posterior mean (w, c, k, 3) and covariance (w, c, k, 3, 3).

    With X the three columns of a node, P the diagonal prior precision and m the prior mean,

        V = (X^T X + P)^-1,    beta = V (X^T z + P m),
        log evidence = -(z^T z + m^T P m - beta^T V^-1 beta - log |V| - log |P|) / 2 + log p

    where p is the posterior probability that a > 0 and D > 0 over the prior one.

    Args:
        gram: Gram matrix of basis and z, whitened, for each of w walks, (w, n, n); z comes last.
        columns: the columns of the basis that each node uses, (k, 3).
        drop_scale: D of each node over the drop of the prior, (k,).
        drops: prior means and standard deviations of c components of the drop, (c, 2).
        spreads: prior standard deviations of the level and of a.
    """
    mean, std = drops[:, :1], drops[:, 1:]
    shape = (len(gram), len(drops), len(columns))
    precision = np.empty((*shape[1:], 3))
    precision[..., :2] = np.array(spreads) ** -2
    precision[..., 2] = (std * drop_scale) ** -2
    drop_centre = -mean * drop_scale
    posterior = np.empty((*shape, 3, 3))
    posterior[:] = gram[:, np.newaxis, columns[:, :, np.newaxis], columns[:, np.newaxis]]
    posterior[..., [0, 1, 2], [0, 1, 2]] += precision
    target = np.empty((*shape, 3))
    target[:] = gram[:, np.newaxis, columns, -1]
    target[..., 2] += precision[..., 2] * drop_centre
    covariance, log_det = inverse(posterior)
    centre = np.einsum("...ij,...j->...i", covariance, target)
    misfit = gram[:, -1, -1, np.newaxis, np.newaxis] + precision[..., 2] * drop_centre**2
    misfit = misfit - (centre * target).sum(axis=-1)
    volume = log_det - np.log(precision).sum(axis=-1)
    # a and D are positive: nodes whose posterior contradicts that get less weight
    spread = np.sqrt(covariance[..., [1, 2], [1, 2]])
    positive = log_ndtr(centre[..., 1] / spread[..., 0]) + log_ndtr(
        -centre[..., 2] / spread[..., 1]
    )
    log_evidence: FloatArray = positive - log_ndtr(mean / std) - (misfit + volume) / 2
    return log_evidence, centre, covariance


def inverse(matrices: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Inverses (..., 3, 3) and log determinants (...,) of positive definite A, (..., 3, 3).

    The Cholesky factors are written out: LAPACK, called matrix by matrix, takes three times as
    long.
    """
    A11, A21, A22 = matrices[..., 0, 0], matrices[..., 1, 0], matrices[..., 1, 1]
    A31, A32, A33 = matrices[..., 2, 0], matrices[..., 2, 1], matrices[..., 2, 2]
    # the Cholesky factor L, A = L L^T
    L11 = np.sqrt(A11)
    L21, L31 = A21 / L11, A31 / L11
    L22 = np.sqrt(np.maximum(A22 - L21 * L21, _MIN_PIVOT_SHARE * A22))
    L32 = (A32 - L31 * L21) / L22
    L33 = np.sqrt(np.maximum(A33 - L31 * L31 - L32 * L32, _MIN_PIVOT_SHARE * A33))
    # its inverse M, A^-1 = M^T M
    M11, M22, M33 = 1 / L11, 1 / L22, 1 / L33
    M21, M32 = -L21 * M11 * M22, -L32 * M22 * M33
    M31 = (L21 * L32 * M22 - L31) * M11 * M33
    inverses = np.empty_like(matrices)
    inverses[..., 0, 0] = M11 * M11 + M21 * M21 + M31 * M31
    inverses[..., 1, 1] = M22 * M22 + M32 * M32
    inverses[..., 2, 2] = M33 * M33
    inverses[..., 0, 1] = inverses[..., 1, 0] = M21 * M22 + M31 * M32
    inverses[..., 0, 2] = inverses[..., 2, 0] = M31 * M33
    inverses[..., 1, 2] = inverses[..., 2, 1] = M32 * M33
    return inverses, 2 * np.log(L11 * L22 * L33)
