"""Pure functions of arrays: Gaussian mixtures, linear solves and the random-walk filter."""

from lossforecast.numerics.crossing import first_below
from lossforecast.numerics.gaussian import MAD_TO_STD, inverse, solve
from lossforecast.numerics.kalman import Filter, filtered, whiten
from lossforecast.numerics.mixture import NO_CALIBRATION, TAIL_WEIGHT, Calibration, Mixture
from lossforecast.numerics.special import gammaincinv, log_ndtr, ndtr, ndtri, stdtrit

__all__ = [
    "MAD_TO_STD",
    "NO_CALIBRATION",
    "TAIL_WEIGHT",
    "Calibration",
    "Filter",
    "Mixture",
    "filtered",
    "first_below",
    "gammaincinv",
    "inverse",
    "log_ndtr",
    "ndtr",
    "ndtri",
    "solve",
    "stdtrit",
    "whiten",
]
