"""Functions of SciPy that import it when they are first called.

Its import takes twice as long as that of the rest of this package, and nothing needs it before the
first forecast.
"""

from typing import Any

__all__ = ["gammaincinv", "log_ndtr", "ndtr", "ndtri", "stdtrit", "tridiagonal_solve"]


def ndtr(x: Any) -> Any:
    """Distribution function of the standard normal distribution, any shape."""
    from scipy import special

    return special.ndtr(x)


def ndtri(p: Any) -> Any:
    """Quantiles of the standard normal distribution, any shape."""
    from scipy import special

    return special.ndtri(p)


def log_ndtr(x: Any) -> Any:
    """Logarithm of `ndtr`, any shape."""
    from scipy import special

    return special.log_ndtr(x)


def stdtrit(dof: Any, p: Any) -> Any:
    """Quantiles of the Student t distribution with `dof` degrees of freedom, any shape."""
    from scipy import special

    return special.stdtrit(dof, p)


def gammaincinv(a: Any, p: Any) -> Any:
    """Quantiles of the gamma distribution with shape `a` and scale 1, any shape."""
    from scipy import special

    return special.gammaincinv(a, p)


def tridiagonal_solve(below: Any, diagonal: Any, above: Any, right: Any) -> Any:
    """Solution of a tridiagonal system, the shape of `right`: LAPACK's dgtsv.

    Args:
        below: entries below the diagonal, (n - 1,).
        diagonal: entries on it, (n,).
        above: entries above it, (n - 1,).
        right: right-hand sides, (n,) or (n, p).
    """
    from scipy.linalg import lapack

    return lapack.dgtsv(below, diagonal, above, right)[3]
