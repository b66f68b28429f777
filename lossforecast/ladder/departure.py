"""`Departure`: a run whose loss is above the prediction from smaller runs of its family."""

from dataclasses import dataclass

import numpy as np

from lossforecast.ladder.course import Course
from lossforecast.runs import Evidence

__all__ = ["Departure", "departure_of"]

_MIN_PROBABILITY = 0.99  # probability that the recipe is another one
_UPPER = 0.95  # quantile of the predicted loss, above which a loss counts as departed


@dataclass(frozen=True)
class Departure:
    """How far a run is above the prediction from smaller runs of its family.

    Attributes:
        excess: its present loss over the one predicted before its first loss, less 1.
        since: the step since which its losses lie above the 95% quantile of the prediction.
        probability: that its recipe is not that of the smaller runs.
    """

    excess: float
    since: int
    probability: float

    def __str__(self) -> str:
        """Such as "0.8% above the prediction from smaller runs, since step 3,100".

        Example:
            >>> str(Departure(0.008, 3_100, 0.995))
            '0.8% above the prediction from smaller runs, since step 3,100'
        """
        return (
            f"{self.excess:.1%} above the prediction from smaller runs, since step {self.since:,}"
        )


def departure_of(before: Course, given: Course, evidence: Evidence) -> Departure | None:
    """The departure of a run; None unless it is above its ladder with 99% probability.

    Args:
        before: the course predicted before the losses.
        given: the same corrected by them.
        evidence: the losses.
    """
    if not given.steps.size or given.prob_other_recipe < _MIN_PROBABILITY:
        return None
    predicted = before.at(given.steps).quantiles(np.array([0.5, _UPPER]))
    losses = evidence.loss[np.isin(evidence.step, given.steps)]
    below = np.flatnonzero(losses <= predicted[1])
    first = int(below[-1]) + 1 if below.size else 0
    if first == losses.size:
        return None
    present = float(given.at(given.steps[-1:]).quantiles(np.array([0.5]))[0, 0])
    excess = present / float(predicted[0, -1]) - 1
    return Departure(excess, int(given.steps[first]), given.prob_other_recipe)
