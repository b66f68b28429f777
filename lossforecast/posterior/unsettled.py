"""The doubt whether a run follows a law yet.

A loss on a plateau, or one that falls faster and faster, tells little about where it will end: a
first fall may be over the next moment, or go on to the end of the run. With some probability p the
laws are therefore set aside, and the loss is the present one less a fall in proportion to the
progress of the run and to the steps of a step decay,

    z(t) = z(now) - F (log(S1(t) / S1(now)) + r / 2),        F >= 0 of any size,

where p grows with the acceleration of the losses seen. S1 is the sum of the learning rates, and r
is by how much the logarithm of the rate falls in steps until t; 0 once a step was seen, because the
laws have learned from it then.
"""

import numpy as np

from lossforecast.arrays import FloatArray

__all__ = ["FALL_WEIGHTS", "falls", "or_unsettled", "prob_unsettled"]

_FALL_SCALE = 0.6
# F is half-normal with this scale, as three Gaussians with the means and about the standard
# deviations of its thirds
_MEANS = _FALL_SCALE * np.array([0.21, 0.69, 1.49])
_STDS = _FALL_SCALE * np.array([0.15, 0.2, 0.45])
FALL_WEIGHTS: FloatArray = np.full(3, 1 / 3)
"""Weights of the Gaussian components of F, (3,)."""

_MAX_PROGRESS = 2.5  # a run of which a twelfth has been seen; few curves tell more
_PARTS = ((0.25, 0.5), (0.5, 0.75), (0.9, 1.0))  # of the time seen
_STEP_PROGRESS = 0.5  # that a step of the rate to 1/e counts as
_NEGLIGIBLE_FALL = 0.03  # of z
# p at some accelerations, and the progress to the end at which it begins to fade; as the scale of F
# they are what intervals of recorded curves were best with, those of large language models left out
_ACCELERATIONS = (0.5, 1.0, 2.0)
_PROBABILITIES = (0.15, 0.2, 0.6)
_FADING_PROGRESS = 1.0


def falls(progress: FloatArray, stepped: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Means and standard deviations of the fall of each component after some progress, (3, m) each.

    Args:
        progress: ``log(S1(t) / S1(now))``, (m,), at least 0; what exceeds 2.5 does not count.
        stepped: r, by how much the logarithm of the rate falls in steps, (m,), at least 0.
    """
    bounded = np.minimum(progress, _MAX_PROGRESS) + _STEP_PROGRESS * stepped
    return np.outer(_MEANS, bounded), np.outer(_STDS, bounded)


def or_unsettled(
    weight: FloatArray,
    unsettled: FloatArray,
    mean: FloatArray,
    variance: FloatArray,
    unsettled_mean: FloatArray,
    unsettled_variance: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weights, means and variances of k nodes and of a run that follows no law yet.

    Args:
        weight: weights of the nodes, (k,).
        unsettled: share of each that the unsettled run takes over, (k,); all 0 adds nothing.
        mean: means of the nodes, (k, m).
        variance: their variances, (k, m).
        unsettled_mean: means of the components of an unsettled run, (3, m).
        unsettled_variance: their variances, (3, m).
    """
    if not unsettled.any():
        return weight, mean, variance
    return (
        np.concatenate([(1 - unsettled) * weight, float(unsettled @ weight) * FALL_WEIGHTS]),
        np.concatenate([mean, unsettled_mean]),
        np.concatenate([variance, unsettled_variance]),
    )


def prob_unsettled(time: FloatArray, z: FloatArray, progress_left: float) -> float:
    """The probability p that a run follows no law yet.

    With z the median over parts of the time seen, p is a function of

        (z(1/2..3/4) - z(9/10..1) + e) / (z(1/4..1/2) - z(1/2..3/4) + e),        e = 0.03,

    which is about 1 for a loss that falls with the logarithm of time, and more for one that
    accelerates. It is 0.15 at least, 0.6 at most, and fades as the run ends.

    Args:
        time: steps of the losses over the present step, (n,).
        z: the losses as `LossTransform` gives them, (n,).
        progress_left: ``log(S1(T) / S1(now))`` at the end T of the plan.
    """
    parts = [z[(time > low) & (time <= high)] for low, high in _PARTS]
    acceleration = 1.0
    if all(part.size for part in parts):
        early, middle, late = (float(np.median(part)) for part in parts)
        acceleration = (max(middle - late, 0.0) + _NEGLIGIBLE_FALL) / (
            max(early - middle, 0.0) + _NEGLIGIBLE_FALL
        )
    probability = float(np.interp(acceleration, _ACCELERATIONS, _PROBABILITIES))
    return probability * min(1.0, progress_left / _FADING_PROGRESS)
