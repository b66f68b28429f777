"""The doubt whether a run follows a law yet.

A loss on a plateau, or one that falls faster and faster, says little about where it will end: a
first fall may be over soon, or go on to the end of the run. So may the training loss of a run that
sees its data again, which falls by any factor while the data is memorised. With some probability p
the laws are therefore set aside, and the loss is the present one less a fall in proportion to the
progress of the run, to the steps of a step decay and, while data is memorised, to the decay of the
rate,

    z(t) = z(now) - F (log(S1(t) / S1(now)) + r / 2 + c d),        F >= 0 of any size,

where p grows with the acceleration of the losses seen. S1 is the sum of the learning rates, and r
is the fall of the logarithm of the rate in steps until t; 0 once the effect of a step has been
seen, because the laws have learned from it then. d is the fall of the rate until t, in units of its
peak.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.posterior.design_matrix import QueryPoints
from lossforecast.prior import Beliefs

__all__ = [
    "FALL_WEIGHTS",
    "MEMORISING",
    "SETTLING",
    "Doubt",
    "doubt_about",
    "falls",
    "or_unsettled",
]

FALL_WEIGHTS: FloatArray = np.full(3, 1 / 3)
"""Weights of the Gaussian components of F, (3,)."""
# three Gaussians with the means and about the standard deviations of the thirds of a distribution
_HALF_NORMAL = ((0.21, 0.15), (0.69, 0.2), (1.49, 0.45))
_EXPONENTIAL = ((0.19, 0.12), (0.71, 0.2), (2.1, 1.0))

_PARTS = ((0.25, 0.5), (0.5, 0.75), (0.9, 1.0))  # of the time seen
_STEP_PROGRESS = 0.5  # that a step of the rate to 1/e counts as
_NEGLIGIBLE_FALL = 0.03  # of z
_ACCELERATIONS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Doubt:
    """Falls that no law predicts, and when they are probable.

    Attributes:
        thirds: means and standard deviations of the thirds of F, in units of its scale.
        scale: scale of F.
        max_progress: largest ``log(S1(t) / S1(now))`` that counts.
        rate_progress: c, what a decay of the rate from its peak to 0 counts as.
        fading_progress: progress to the end of the run below which p fades.
        probabilities: p where the losses accelerate by a factor of 0.5, 1 and 2.
        by_latest_fall: falls of z in the latest third of the losses, and the least p there.
    """

    thirds: tuple[tuple[float, float], ...]
    scale: float
    max_progress: float
    rate_progress: float
    fading_progress: float
    probabilities: tuple[float, ...]
    by_latest_fall: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,), (0.0,))

    def moments(
        self, progress: FloatArray, stepped: FloatArray, rate_fall: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Means and standard deviations of the fall of each component, (3, m) each.

        Args:
            progress: ``log(S1(t) / S1(now))``, (m,), at least 0.
            stepped: r, (m,), at least 0.
            rate_fall: d, (m,), at least 0.
        """
        reach = np.minimum(progress, self.max_progress) + _STEP_PROGRESS * stepped
        reach = self.scale * (reach + self.rate_progress * rate_fall)
        means, stds = np.transpose(self.thirds)
        return np.outer(means, reach), np.outer(stds, reach)

    def probability(
        self, time: FloatArray, z: FloatArray, progress_left: float, rate_fall: float
    ) -> float:
        """The probability p that a run follows no law yet.

        With z the median over parts of the time seen, p is a function of

            (z(1/2..3/4) - z(9/10..1) + e) / (z(1/4..1/2) - z(1/2..3/4) + e),        e = 0.03,

        which is about 1 for a loss that falls with the logarithm of time, and more for one that
        accelerates; and of the numerator alone. It fades as the run ends.

        Args:
            time: steps of the losses over the present step, (n,).
            z: the losses as `LossTransform` gives them, (n,).
            progress_left: ``log(S1(T) / S1(now))`` at the end T of the plan.
            rate_fall: d at the end of the plan.
        """
        parts = [z[(time > low) & (time <= high)] for low, high in _PARTS]
        latest_fall, acceleration = 0.0, 1.0
        if all(part.size for part in parts):
            early, middle, late = (float(np.median(part)) for part in parts)
            latest_fall = max(middle - late, 0.0)
            acceleration = (latest_fall + _NEGLIGIBLE_FALL) / (
                max(early - middle, 0.0) + _NEGLIGIBLE_FALL
            )
        probability = max(
            float(np.interp(acceleration, _ACCELERATIONS, self.probabilities)),
            float(np.interp(latest_fall, *self.by_latest_fall)),
        )
        left = progress_left + self.rate_progress * rate_fall
        return probability * min(1.0, left / self.fading_progress)


# the constants gave the best intervals on recorded curves, without those of large language models.
# A run of which a twelfth has been seen has a progress of 2.5 left; few curves cover more
SETTLING = Doubt(
    thirds=_HALF_NORMAL,
    scale=0.6,
    max_progress=2.5,
    rate_progress=0.0,
    fading_progress=1.0,
    probabilities=(0.15, 0.2, 0.6),
)
"""The doubt about a loss on a plateau or in its first fall."""
# chosen on small recorded runs of several epochs, and on networks that memorised random labels
MEMORISING = Doubt(
    thirds=_EXPONENTIAL,
    scale=1.3,
    max_progress=1.5,
    rate_progress=0.75,
    fading_progress=0.7,
    probabilities=(0.02, 0.06, 0.3),
    by_latest_fall=((0.1, 0.2, 0.5), (0.02, 0.1, 0.4)),
)
"""The doubt about a training loss over data that is seen again."""


def doubt_about(beliefs: Beliefs) -> Doubt | None:
    """The doubt about a run; None where it follows a law from its start."""
    if beliefs.repeats_data:
        return MEMORISING
    return SETTLING if beliefs.may_be_unsettled else None


def falls(
    doubt: Doubt | None, now: QueryPoints, queries: Sequence[QueryPoints]
) -> tuple[FloatArray, FloatArray]:
    """Means and standard deviations of the falls at m points of some queries, (3, m) each.

    Args:
        doubt: the doubt about the run; without one, nothing falls.
        now: points of which the first is the present step.
        queries: later points.
    """
    terms = np.hstack([query.terms for query in queries])
    if doubt is None:
        none = np.zeros((FALL_WEIGHTS.size, terms.shape[1]))
        return none, none
    stepped = np.concatenate([query.stepped for query in queries])
    rate = np.concatenate([query.rate for query in queries])
    return doubt.moments(
        now.progress_to(terms),
        np.where(now.stepped[0] > 0, 0.0, stepped),
        np.maximum(now.rate[0] - rate, 0.0),
    )


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
