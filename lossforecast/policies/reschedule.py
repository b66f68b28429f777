"""`reschedule`: change the schedule when another decay will very likely end lower."""

from collections.abc import Sequence

from lossforecast.advice import SHAPES, decays, known_shapes
from lossforecast.checks import non_negative
from lossforecast.errors import ConfigurationError
from lossforecast.policies.recommendation import Action, Policy, Reason, Recommendation, Situation
from lossforecast.schedule import averages
from lossforecast.status import Caveat, Status

__all__ = ["reschedule"]

_NO_ADVICE = (Status.NO_DATA, Status.TOO_SHORT, Status.MISFIT)


def reschedule(min_gain: float = 0.0, shapes: Sequence[str] = SHAPES) -> Policy:
    """CHANGE_SCHEDULE when the best decay's gain over the plan exceeds its own uncertainty.

    That is, when the gain is above `min_gain` with 90%: before any decay was seen its size is
    assumed, and the interval of the gain says how well. `Recommendation.schedule` is that of the
    whole run, `decay` what is new in it, and `expected` the gain. A tenth of a second of work at
    every check.

    Silent where no law describes the run, where the loss overfits, and for schedule-free
    optimizers, which average in place of annealing.

    Args:
        min_gain: in units of the loss.
        shapes: of the decays considered, some of `lossforecast.advice.SHAPES`.

    Raises:
        ConfigurationError: `min_gain` is negative, or a shape is unknown.
    """
    least = non_negative("min_gain", min_gain, ConfigurationError)
    known_shapes(shapes)

    def policy(situation: Situation) -> Recommendation | None:
        forecast = situation.forecast
        if (
            averages(situation.kind)
            or forecast.status in _NO_ADVICE
            or Caveat.OVERFITTING in forecast.caveats
        ):
            return None
        best = next(iter(decays(forecast, shapes)), None)
        if best is None or best.decay is None or not best.gain.lower > least:
            return None
        gain, decay = best.gain, best.decay
        return Recommendation(
            Action.CHANGE_SCHEDULE,
            Reason.BETTER_SCHEDULE,
            f"change the schedule: a {decay.shape} decay from step {decay.start} to "
            f"{decay.start + decay.steps} will end {float(gain):.3g} lower than the plan (80%: "
            f"{gain.lower:.3g} to {gain.upper:.3g})",
            schedule=best.schedule,
            expected=gain,
            confidence=forecast.prob_gain_above(least, best.schedule),
            decay=decay,
        )

    return policy
