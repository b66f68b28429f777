"""`Halving` and `Ladder`: keep the best share of similar runs, by forecast, at rungs of the plan.

ladder = Ladder(Halving())
ladder.record("run 7", alike("adamw", plan), 0.02, forecast.median)
why = ladder.behind("run 7")  # None: the run stays
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lossforecast.checks import number
from lossforecast.errors import ConfigurationError
from lossforecast.policies.dominated import dominated
from lossforecast.policies.recommendation import Policy
from lossforecast.policies.worthwhile import worthwhile
from lossforecast.schedule import LRSchedule

__all__ = ["RISK_BESIDE_HALVING", "Halving", "Ladder", "alike", "halving_of", "policies_of"]

RunId = TypeVar("RunId", bound=Hashable)

RISK_BESIDE_HALVING = 0.03
"""Risk with which `lossforecast.policies.dominated` stops runs that halving has left."""
_ROUNDING = 1e-9  # of shares and counts, so that a third of three runs is one


@dataclass(frozen=True)
class Halving:
    """Successive halving with rungs at shares of each run's own plan.

    At every rung the best `keep` of the similar runs that have reached it stay, at least one. The
    rungs are at `first`, `first / keep`, `first / keep**2` and so on, below 1. A rank promises no
    risk, so it may act on forecasts that are too uncertain for any policy.

    Attributes:
        keep: share of the runs that stays at each rung, between 0 and 1.
        first: share of a run at which the first rung is, between 0 and 1. A later one costs more
            compute and less regret.

    Raises:
        ConfigurationError: `keep` or `first` is not between 0 and 1.

    Example:
        >>> Halving(keep=1 / 3, first=0.02).rungs
        (0.02, 0.06, 0.18, 0.54)
    """

    keep: float = 1 / 3
    first: float = 0.02

    def __post_init__(self) -> None:
        for name in ("keep", "first"):
            value = number(name, getattr(self, name), ConfigurationError)
            if not 0 < value < 1:
                raise ConfigurationError(f"{name} is {value}; it must be between 0 and 1")

    @property
    def rungs(self) -> tuple[float, ...]:
        """Shares of a plan at which its run is compared, ascending."""
        count = math.ceil(math.log(self.first, self.keep) - _ROUNDING)
        return tuple(round(self.first / self.keep**i, 9) for i in range(count))

    def passed(self, share: float) -> int:
        """Return the number of rungs at or below a share of a plan."""
        return sum(rung <= share + _ROUNDING for rung in self.rungs)

    def places(self, runs: int) -> int:
        """Return how many of the runs that have reached a rung stay."""
        return max(1, math.ceil(self.keep * runs - _ROUNDING))


def halving_of(rule: "str | Halving") -> Halving | None:
    """Return the halving of a rule; None for a rule that has no rungs.

    Args:
        rule: "halving", "dominated", "worthwhile" or a `Halving`.

    Raises:
        ConfigurationError: it is something else.
    """
    if isinstance(rule, Halving):
        return rule
    if rule not in ("halving", "dominated", "worthwhile"):
        raise ConfigurationError(
            f'rule is {rule!r}; it must be "dominated", "worthwhile", "halving" or a Halving, such '
            "as Halving(first=0.06)"
        )
    return Halving() if rule == "halving" else None


def policies_of(rule: "str | Halving") -> list[Policy]:
    """Return the policies of a rule, for the runs that its halving leaves, if it has any."""
    if rule == "worthwhile":
        return [worthwhile(), dominated()]
    return [dominated() if rule == "dominated" else dominated(risk=RISK_BESIDE_HALVING)]


@dataclass
class Ladder(Generic[RunId]):
    """The forecasts with which the runs of a sweep reached each rung.

    A run is judged at the latest rung that it has reached, against the similar runs that have
    reached it as well, including those that were stopped since. No run waits for another: the first
    at a rung has nothing to be compared with. A run is judged anew at every call, as others arrive.

    Attributes:
        halving: the rungs, and the share of the runs that stays.
    """

    halving: Halving
    _groups: dict[RunId, str] = field(default_factory=dict)
    _reached: dict[RunId, list[float]] = field(default_factory=dict)

    def wants(self, run: RunId, share: float) -> bool:
        """Return whether a run at this share of its plan has reached a rung not yet recorded."""
        return self.halving.passed(share) > len(self._reached.get(run, ()))

    def record(self, run: RunId, group: str, share: float, loss: float) -> None:
        """Record the final loss forecast for a run, if it has reached a new rung.

        Args:
            run: the run.
            group: label that similar runs have in common (`alike`).
            share: share of its plan that it has taken.
            loss: the forecast; nan, no forecast, records nothing: the run stays for now.
        """
        if math.isnan(loss) or not self.wants(run, share):
            return
        self._groups[run] = group
        reached = self._reached.setdefault(run, [])
        reached += [loss] * (self.halving.passed(share) - len(reached))

    def behind(self, run: RunId) -> str | None:
        """Return why a run does not stay; None if it does, or has reached no rung."""
        if run not in self._reached:
            return None
        rung, loss = len(self._reached[run]) - 1, self._reached[run][-1]
        peers = [
            losses[rung]
            for other, losses in self._reached.items()
            if len(losses) > rung and self._groups[other] == self._groups[run]
        ]
        better, places = sum(peer < loss for peer in peers), self.halving.places(len(peers))
        if better < places:
            return None
        return (
            f"behind {better} of {len(peers) - 1} similar runs at "
            f"{100 * self.halving.rungs[rung]:.2g}% of the plan, where the best {places} may stay: "
            f"heading for {loss:.4g}, the best of them for {min(peers):.4g}"
        )


def alike(kind: str, plan: LRSchedule) -> str:
    """Label of runs whose forecasts have similar errors: one kind, peak rates in one octave.

    Runs with the same optimizer and about the same rate gain about the same from annealing, so
    their early ranking is informative; that of other runs is not.

    Args:
        kind: the optimizer, or another label that groups the runs of a sweep, as in `Outlook.kind`.
        plan: the planned learning rates.

    Example:
        >>> alike("adamw", LRSchedule.cosine(1_000, 1e-3))
        'adamw, rate near 0.00098'
    """
    return f"{kind}, rate near {2.0 ** round(math.log2(plan.peak)):.2g}" if plan.peak else kind
