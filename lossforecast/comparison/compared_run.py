"""`ComparedRun`: a run to compare, and which runs repeat one another."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from lossforecast.errors import ConfigurationError
from lossforecast.forecast import Forecast
from lossforecast.forecaster import Forecaster
from lossforecast.prior import Prior
from lossforecast.runs import History, RunInfo, at_end, gather, observed, points, same_losses
from lossforecast.schedule import LRSchedule, shape_difference

__all__ = ["ComparedRun", "PriorOf", "grouped"]

PriorOf = Callable[[RunInfo, LRSchedule], Prior | None]
"""The prior of a run under a schedule; None for the packaged one."""

_RATE_TOLERANCE = 0.002  # of the peak: logged rates are interpolated


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run to compare.

    Attributes:
        name: its name for people.
        run: its description.
        schedule: the learning rate of every step, past and planned.
        history: its losses.
        outcome: the loss that it ended with; nan if it has not ended.
        key: its identity in a store; empty for a log.
    """

    name: str
    run: RunInfo
    schedule: LRSchedule
    history: History
    outcome: float
    key: str = ""

    @property
    def finished(self) -> bool:
        """True if the outcome is known."""
        return math.isfinite(self.outcome)

    def repeats(self, other: "ComparedRun") -> bool:
        """True if nothing recorded distinguishes the recipes.

        The descriptions are equal (except for `steps_per_epoch`), so are the lengths, and the
        learning rates differ by less than 0.2% of the peak.
        """
        one, two = (replace(run.run, steps_per_epoch=None) for run in (self, other))
        mine, its = self.schedule, other.schedule
        return bool(
            one == two
            and mine.total_steps == its.total_steps
            and abs(mine.peak - its.peak) <= _RATE_TOLERANCE * its.peak
            and shape_difference(mine, its) <= _RATE_TOLERANCE
        )

    def duplicates(self, other: "ComparedRun") -> bool:
        """True if both are the same run, stored twice or repeated with the same seed."""
        return same_losses(points(self.history), points(other.history))

    @property
    def evaluation_noise(self) -> float:
        """Standard error of the outcome as a mean of noisy training losses, relative to it.

        0 for a validation loss: where the validation set is fixed, seeds share most of its noise.
        """
        if self.run.metric == "val":
            return 0.0
        bins = self.history.bins()
        evidence = gather(bins, self.schedule, 0.1, self.history.event_steps)
        ending = bins.last >= at_end(self.schedule.total_steps)
        n_losses = max(int(bins.count[ending].sum()), 1)
        noise = evidence.noise / math.sqrt(n_losses) / self.level
        return noise if math.isfinite(noise) else 0.0

    @property
    def level(self) -> float:
        """The outcome, or the latest loss of a run that has not ended."""
        return self.outcome if self.finished else float(points(self.history)[1][-1])

    def check(self) -> None:
        """Check that the run can be compared.

        Raises:
            ConfigurationError: it has no losses, ended with nan, or a loss is not above 0.
        """
        losses = points(self.history)[1]
        if not losses.size:
            raise ConfigurationError(f"{self.name:.60} has no losses to compare")
        if self.history.non_finite_run:
            raise ConfigurationError(
                f"{self.name:.60} broke: its last losses are nan or infinite, so there is no final "
                "loss to compare"
            )
        if losses.min() <= 0 or (self.finished and self.outcome <= 0):
            raise ConfigurationError(
                f"{self.name:.60} has losses of 0 or below: differences are relative, so losses "
                "must be above 0"
            )

    def forecast(self, prior_of: PriorOf) -> Forecast:
        """The forecast of the final loss, from the losses so far."""
        forecaster = Forecaster(self.schedule, self.run, prior=prior_of(self.run, self.schedule))
        for step, name in self.history.events:
            forecaster.event(step, name)
        forecaster.observe_many(*observed(self.history))
        return forecaster.forecast()


def grouped(runs: Iterable[ComparedRun]) -> list[list[ComparedRun]]:
    """The finished runs by recipe, each run once, in their order."""
    groups: list[list[ComparedRun]] = []
    for run in runs:
        if run.finished and run.outcome > 0:
            group = next((group for group in groups if run.repeats(group[0])), None)
            if group is None:
                groups.append([run])
            elif not any(run.duplicates(other) for other in group):
                group.append(run)
    return groups
