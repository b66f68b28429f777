"""`ConsoleSink`: prints, after each tenth of a run, where its loss is heading."""

import math

from lossforecast.callbacks.monitor.update import Tenths, Update
from lossforecast.display import chance, gain_words, heading
from lossforecast.forecast import Forecast
from lossforecast.log import notice
from lossforecast.numerics import first_below
from lossforecast.policies import Action
from lossforecast.status import Status

__all__ = ["ConsoleSink", "console_line"]

_LITTLE = 0.1  # of the width of the interval, below which the drop from annealing is not mentioned


class ConsoleSink:
    """Prints a line on stderr after each tenth of a run.

    Args:
        always: whether to print also where logging is configured; otherwise the lines are records
            of level INFO there.
    """

    reads_trail = False

    def __init__(self, *, always: bool = False) -> None:
        self._always = always
        self._tenths = Tenths()

    def __call__(self, update: Update) -> None:
        """Print a line if a tenth of the run is over."""
        if self._tenths.is_due(update):
            notice(console_line(update), always=self._always)


def console_line(update: Update) -> str:
    """The step, where the loss is heading, when it reaches the target, what annealing brings.

    The drop from annealing is left out where it is small compared with the width of the interval,
    and while there is no advice yet.
    """
    forecast, target = update.forecast, update.target
    estimate, gain = forecast.estimate, forecast.anneal_gain
    step = f"step {update.step:,} of {forecast.schedule.total_steps:,}"
    if forecast.status is Status.NO_DATA:
        return f"{step}: no finite loss yet"
    said = [f"{step}: {heading(estimate)}"]
    if target is not None:
        said.append(_arrival(forecast, target))
    if update.recommendation.action is Action.ABSTAIN:
        said.append("no advice yet")
    elif gain.mean > _LITTLE * (estimate.upper - estimate.lower):
        said.append(gain_words(gain))
    return "; ".join(said)


def _arrival(forecast: Forecast, target: float) -> str:
    """When the median falls below the target, and the probability that the run ends above it."""
    curve, prob = forecast.curve(), forecast.prob_below(target)
    step = first_below(curve.steps.astype(float), curve.median, target)
    if math.isnan(step) or step <= curve.steps[0]:
        return f"{chance(prob)} to end below {target:g}"
    about = float(f"{step:.3g}")
    return f"reaches {target:g} at about step {about:,.0f}, or not at all: {chance(1 - prob)}"
