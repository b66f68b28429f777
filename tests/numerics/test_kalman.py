"""The filter of a random walk, against the covariance matrix it stands for."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from lossforecast.numerics.kalman import Filter, filtered, whiten

Array = NDArray[np.float64]


def case(n: int, seed: int) -> tuple[Array, Array, Array, Array]:
    """Clock, sizes, noise and some series; times of several observations coincide."""
    rng = np.random.default_rng(seed)
    clock = np.sort(rng.integers(0, 2 * n, n)) / 7.0
    return clock, np.geomspace(1e-3, 10, 5), rng.uniform(1e-6, 1, n), rng.normal(size=(n, 4))


def filter_of(clock: Array, sizes: Array, noise: Array) -> Filter:
    return filtered(sizes[:, np.newaxis] ** 2 * np.diff(clock, prepend=0.0), noise)


@pytest.mark.parametrize("n", [1, 2, 40])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_cholesky_factor_of_the_covariance(n: int, seed: int) -> None:
    clock, sizes, noise, columns = case(n, seed)
    found = filter_of(clock, sizes, noise)
    white, state = whiten(found, columns)
    for i, size in enumerate(sizes):
        walk = size**2 * np.minimum(clock[:, np.newaxis], clock)
        factor = cholesky(walk + np.diag(noise), lower=True)
        np.testing.assert_allclose(found.std[i], np.diag(factor), rtol=1e-9)
        np.testing.assert_allclose(
            white[i], solve_triangular(factor, columns, lower=True), rtol=1e-7, atol=1e-9
        )
        weights = np.linalg.solve(walk + np.diag(noise), walk[:, -1])
        np.testing.assert_allclose(state[i], weights @ columns, rtol=1e-7, atol=1e-9)
        left = walk[-1, -1] - weights @ walk[:, -1]
        np.testing.assert_allclose(found.variance[i], left, rtol=1e-6, atol=1e-12)


def test_every_walk_may_have_series_of_its_own() -> None:
    clock, sizes, noise, columns = case(20, 0)
    own = np.array([factor * columns for factor in (1.0, 2.0, 3.0, 4.0, 5.0)])
    found = filter_of(clock, sizes, noise)
    shared, own_white = whiten(found, columns)[0], whiten(found, own)[0]
    np.testing.assert_allclose(own_white, shared * np.arange(1, 6)[:, np.newaxis, np.newaxis])


@pytest.mark.parametrize("noise", [1e-14, 1e14])
@pytest.mark.parametrize("moved", [0.0, 1e-14, 1e14])
def test_extremes_stay_finite(noise: float, moved: float) -> None:
    found = filtered(np.full((1, 50), moved), np.full(50, noise))
    white, state = whiten(found, np.ones((50, 1)))
    assert np.isfinite(white).all()
    assert np.isfinite(state).all()
    assert (found.std > 0).all()
    assert ((found.gain >= 0) & (found.gain <= 1)).all()
