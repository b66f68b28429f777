"""Conjugate Gaussian regression on (level, a, -D) for all nodes at once."""

import numpy as np
from scipy.special import log_ndtr

from lossforecast.arrays import FloatArray, IntArray

__all__ = ["inverse", "solve"]


_ROUNDING = 1e-15  # of a square: what is left of it by a difference is at least this


def solve(
    gram: FloatArray,
    columns: IntArray,
    drop_scale: FloatArray,
    drops: FloatArray,
    spreads: tuple[float, float],
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Log evidence (w, c, k), posterior mean (w, c, k, 3) and covariance (w, c, k, 3, 3).

    Args:
        gram: Gram matrix of basis and z, whitened, for each of w walks, (w, n, n); z comes last.
        columns: the columns of the basis that each node uses, (k, 3).
        drop_scale: D of each node over the drop believed, (k,).
        drops: means and standard deviations of c components of the drop, (c, 2).
        spreads: standard deviations believed of the level and of what is still to lose.
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
    # what is still to lose and the drop are positive: nodes that want otherwise count less
    spread = np.sqrt(covariance[..., [1, 2], [1, 2]])
    positive = log_ndtr(centre[..., 1] / spread[..., 0]) + log_ndtr(
        -centre[..., 2] / spread[..., 1]
    )
    score: FloatArray = positive - log_ndtr(mean / std) - (misfit + volume) / 2
    return score, centre, covariance


def inverse(matrices: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Inverses and log determinants of positive definite matrices, (..., 3, 3).

    By their Cholesky factors, written out: LAPACK, called matrix by matrix, takes thrice as long.
    """
    a, b, d = matrices[..., 0, 0], matrices[..., 1, 0], matrices[..., 1, 1]
    c, e, f = matrices[..., 2, 0], matrices[..., 2, 1], matrices[..., 2, 2]
    # L = [[p, 0, 0], [q, s, 0], [r, t, u]], and 1 / L of the same form
    p = np.sqrt(a)
    q, r = b / p, c / p
    s = np.sqrt(np.maximum(d - q * q, _ROUNDING * d))
    t = (e - r * q) / s
    u = np.sqrt(np.maximum(f - r * r - t * t, _ROUNDING * f))
    pp, ss, uu = 1 / p, 1 / s, 1 / u
    qq, tt = -q * pp * ss, -t * ss * uu
    rr = (q * t * ss - r) * pp * uu
    found = np.empty_like(matrices)
    found[..., 0, 0] = pp * pp + qq * qq + rr * rr
    found[..., 1, 1] = ss * ss + tt * tt
    found[..., 2, 2] = uu * uu
    found[..., 0, 1] = found[..., 1, 0] = qq * ss + rr * tt
    found[..., 0, 2] = found[..., 2, 0] = rr * uu
    found[..., 1, 2] = found[..., 2, 1] = tt * uu
    return found, 2 * np.log(p * s * u)
