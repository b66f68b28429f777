"""`reschedule`: change the schedule when another decay will very likely end lower."""

from collections.abc import Sequence
from functools import partial

from lossforecast.advice import SHAPES, decays, first_decay, known_shapes
from lossforecast.checks import non_negative
from lossforecast.errors import ConfigurationError
from lossforecast.policies.openness import is_open
from lossforecast.policies.recommendation import Action, Policy, Reason, Recommendation, Situation
from lossforecast.schedule import averages
from lossforecast.status import Caveat, Status

__all__ = ["reschedule"]

_CLOSE = 0.1  # of the interval's width: a first look came closer to 16 of 16 gains worth having
_STATUSES_WITHOUT_ADVICE = (Status.NO_DATA, Status.MISFIT)


def reschedule(min_gain: float = 0.0, shapes: Sequence[str] = SHAPES) -> Policy:
    """CHANGE_SCHEDULE when another decay ends lower than the plan with 90% probability.

    The gain is the final loss of the plan minus that of the best decay; the 10% quantile of the
    gain must exceed `min_gain`. Before a run has decayed the size of the drop comes from the prior,
    and the interval of the gain is accordingly wide. `Recommendation.schedule` is the schedule of
    the whole run, `decay` the decay that it adds to the plan, `expected` the gain. All shapes are
    searched, which takes about a tenth of a second, only where a few decays of the first one come
    close.

    Gives no advice where no law describes the run, where the loss overfits, and for schedule-free
    optimizers, which average their weights instead of annealing.

    Args:
        min_gain: smallest gain worth a change, in units of the loss.
        shapes: shapes of decay to try, some of `lossforecast.advice.SHAPES`.

    Raises:
        ConfigurationError: `min_gain` is negative, or a shape is unknown.
    """
    threshold = non_negative("min_gain", min_gain, ConfigurationError)
    known_shapes(shapes)

    return partial(_policy, threshold=threshold, shapes=tuple(shapes))


def _policy(
    situation: Situation, threshold: float, shapes: tuple[str, ...]
) -> Recommendation | None:
    forecast = situation.forecast
    if (
        averages(situation.kind)
        or is_open(forecast)
        or forecast.status in _STATUSES_WITHOUT_ADVICE
        or Caveat.OVERFITTING in forecast.caveats
    ):
        return None
    first = first_decay(forecast, shapes[0])
    if first is None:
        return None
    if first.gain.lower + _CLOSE * (first.gain.upper - first.gain.lower) < threshold:
        return None
    best = next(iter(decays(forecast, shapes)), None)
    if best is None or best.decay is None or not best.gain.lower > threshold:
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
        confidence=forecast.prob_gain_above(threshold, best.schedule),
        decay=decay,
    )
