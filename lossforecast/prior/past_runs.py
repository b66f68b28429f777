"""`PastRun`: a finished run as the prior of later runs keeps it, and how similar two runs are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.errors import StateError
from lossforecast.runs import Evidence, History, RunInfo, gather, same_losses
from lossforecast.schedule import LRSchedule
from lossforecast.status import Caveat

__all__ = [
    "MAX_PAST_RUNS",
    "STD_OF_EQUAL_SETUPS",
    "PastRun",
    "Planned",
    "comparable",
    "expected_differences",
    "fits_budget",
    "highest_final_loss",
    "in_same_units",
    "is_below",
    "is_smaller",
    "most_similar",
    "smaller",
]


_BURN_IN_SHARE = 0.1  # of a run: its start follows no law
_MIN_EVIDENCE_POINTS = 10
_FINAL_POINTS = 3  # evidence points whose median is the final loss
_DIVERGED_RATIO = 2.0  # final loss over the lowest one, or over that of the other past runs
_BUDGET_TOLERANCE = 1.1  # times the parameters or steps of the new run
_SIZE_STEP = 1.2  # times the parameters: a smaller step is the same size
MAX_PAST_RUNS = 4
"""Number of similar runs that are learned from: more cost time and improve forecasts little."""
STD_OF_EQUAL_SETUPS = (0.003, 0.003, 0.004)
"""Standard deviations between two runs of one set-up, relative to the loss: of the level, of the
remaining reducible loss and of the annealing drop."""
# the same three, added in quadrature per unit of |log(ratio)| of two numbers
_STD_PER_LOG_RATIO = {
    "peak": (0.01, 0.01, 0.02),
    "n_params": (0.05, 0.03, 0.05),
    "batch": (0.02, 0.02, 0.05),
}
# and, added in quadrature, where two words differ
_STD_OF_OTHER_WORD = {"optimizer": (0.05, 0.05, 0.15), "model": (0.1, 0.1, 0.2)}


@dataclass(frozen=True)
class PastRun:
    """A finished run in a prior: description, schedule and at most 128 losses.

    Unlike `StoredRun`, the record of a run in a store, it holds just what a fit needs.

    Attributes:
        name: its key in the store.
        run: its description.
        schedule: the learning rate of every step, as used.
        evidence: its losses without the first tenth of the run, thinned.
    """

    name: str
    run: RunInfo
    schedule: LRSchedule
    evidence: Evidence

    @classmethod
    def of(cls, name: str, run: RunInfo, schedule: LRSchedule, history: History) -> Self | None:
        """Thin a finished run; None with too few losses or more steps than its schedule has."""
        evidence = gather(history.bins(), schedule, _BURN_IN_SHARE, history.event_steps)
        if len(evidence) < _MIN_EVIDENCE_POINTS or history.last_step > schedule.total_steps:
            return None
        return cls(name, run, schedule, evidence)

    @property
    def final_loss(self) -> float:
        """Median of the last three evidence points: about the loss that the run ended with."""
        return float(np.median(self.evidence.loss[-_FINAL_POINTS:]))

    @property
    def diverged(self) -> bool:
        """True if the run ended at over twice its lowest loss, not counting jumps at events."""
        lowest = float(self.evidence.without_jumps().loss.min())
        return self.final_loss > _DIVERGED_RATIO * abs(lowest)

    def duplicates(self, other: Self) -> bool:
        """True if the two are the same run, stored twice."""
        mine, its = self.evidence, other.evidence
        return same_losses((mine.step, mine.loss), (its.step, its.loss))

    def expected_differences(self, run: RunInfo, schedule: LRSchedule) -> FloatArray | None:
        """Standard deviations of the differences between this run and another, (3,).

        They are relative to the loss, for the level, the remaining reducible loss and the annealing
        drop. The variances of all known differences between the set-ups are added. None if the
        two runs are not `comparable`, or the learning rate of only one of them is known.
        """
        return expected_differences(self, run, schedule)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        evidence = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self.evidence).items()
        }
        return {
            "name": self.name,
            "run": asdict(self.run),
            "schedule": self.schedule.to_dict(),
            "evidence": evidence,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore the run that `to_dict` saved.

        Raises:
            StateError: the state is damaged, or not that of a past run.
        """
        try:
            seen = state["evidence"]
            evidence = Evidence(
                step=np.array(seen["step"], np.int64),
                loss=np.array(seen["loss"], np.float64),
                variance=np.array(seen["variance"], np.float64),
                noise=float(seen["noise"]),
                n_observed=int(seen["n_observed"]),
                initial=float(seen.get("initial", math.nan)),
                events=np.array(seen.get("events", []), np.int64),
            )
            schedule = LRSchedule.from_dict(state["schedule"])
            return cls(str(state["name"]), RunInfo(**state["run"]), schedule, evidence)
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"not a saved past run: {error!r}") from error


class Planned(Protocol):
    """A run with its description and its schedule, such as a `PastRun`."""

    @property
    def run(self) -> RunInfo:
        """Its description."""

    @property
    def schedule(self) -> LRSchedule:
        """The learning rate of every step."""


def expected_differences(one: Planned, run: RunInfo, schedule: LRSchedule) -> FloatArray | None:
    """`PastRun.expected_differences`, which needs no losses."""
    mine, plans = one.run, (one.schedule, schedule)
    one_unknown = len({Caveat.LR_UNKNOWN in plan.caveats for plan in plans}) > 1
    if not comparable(mine, run) or one_unknown:
        return None
    parts = [STD_OF_EQUAL_SETUPS]
    numbers = {
        "peak": (one.schedule.peak, schedule.peak),
        "n_params": (mine.n_params, run.n_params),
        "batch": (mine.batch_size, run.batch_size),
    }
    for name, (its, other) in numbers.items():
        if its and other:
            away = abs(math.log(its / other))
            level, remainder, drop = _STD_PER_LOG_RATIO[name]
            parts.append((away * level, away * remainder, away * drop))
    words = {
        "optimizer": (mine.optimizer_word, run.optimizer_word),
        "model": (_word(mine.model), _word(run.model)),
    }
    parts += [_STD_OF_OTHER_WORD[name] for name, (its, other) in words.items() if its != other]
    total: FloatArray = np.hypot.reduce(np.array(parts), axis=0)
    return total


def in_same_units(one: RunInfo, other: RunInfo) -> bool:
    """Return whether the losses may be in the same units, as far as both descriptions say.

    Metric and name of the loss are equal, and task and dataset do not differ where both runs name
    them.
    """
    if (one.metric, one.loss_word) != (other.metric, other.loss_word):
        return False
    return not any(_same(one, other, name) is False for name in ("task", "dataset"))


def comparable(one: RunInfo, other: RunInfo) -> bool:
    """Return whether the losses of two runs are in the same units, by their descriptions.

    They are if `in_same_units` is true, and both runs name the same dataset or project.
    """
    known = _same(one, other, "project") or _same(one, other, "dataset")
    return in_same_units(one, other) and bool(known)


def _same(one: RunInfo, other: RunInfo, name: str) -> bool | None:
    """Return whether two descriptions give the same value; None where one of them gives none."""
    mine, theirs = _word(getattr(one, name)), _word(getattr(other, name))
    return mine == theirs if mine and theirs else None


def fits_budget(past: RunInfo, steps: int, run: RunInfo, schedule: LRSchedule) -> bool:
    """Return whether a past run of `steps` steps used at most the budget of a new run.

    The two are comparable and of the same model; the past run had at most 10% more parameters and
    at most 10% more steps (more samples, where both batch sizes are known).
    """
    larger = past.n_params and run.n_params and past.n_params > _BUDGET_TOLERANCE * run.n_params
    same_model = _word(past.model) == _word(run.model)
    batches = past.batch_size / run.batch_size if past.batch_size and run.batch_size else 1.0
    longer = batches * steps > _BUDGET_TOLERANCE * schedule.total_steps
    return comparable(past, run) and same_model and not longer and not larger


def most_similar(
    past: Sequence[PastRun], run: RunInfo, schedule: LRSchedule
) -> list[tuple[PastRun, FloatArray]]:
    """At most four past runs to learn from, most similar first, with `expected_differences`, (3,).

    Runs that diverged are left out: they say nothing about one that does not. So are `smaller`
    ones, which form a ladder of their own. A run that is stored twice, say recorded and imported
    from its log, counts once.
    """
    candidates = [
        (each, differences)
        for each in past
        if (differences := each.expected_differences(run, schedule)) is not None
        and not is_smaller(each.run, run)
    ]
    sound = {id(each) for each in _sound([each for each, _ in candidates])}
    kept: list[tuple[PastRun, FloatArray]] = []
    for each, differences in sorted(candidates, key=lambda pair: float(pair[1].sum())):
        new = len(kept) < MAX_PAST_RUNS and not any(each.duplicates(other) for other, _ in kept)
        if new and id(each) in sound:
            kept.append((each, differences))
    return kept


def smaller(past: Sequence[PastRun], run: RunInfo) -> list[PastRun]:
    """The past runs of smaller models of the same family, in their order.

    They are comparable, used the same optimizer and known positive learning rates, ended at
    positive losses and did not diverge.
    """
    return _sound([each for each in past if is_below(each, run) and each.evidence.loss.min() > 0])


def is_below(one: Planned, run: RunInfo) -> bool:
    """Return whether a run is of a smaller model of the same family, as far as losses do not say.

    It is comparable, used the same optimizer and known positive learning rates.
    """
    return (
        is_smaller(one.run, run)
        and comparable(one.run, run)
        and one.run.optimizer_word == run.optimizer_word
        and one.schedule.peak > 0
        and Caveat.LR_UNKNOWN not in one.schedule.caveats
    )


def is_smaller(one: RunInfo, other: RunInfo) -> bool:
    """Return whether a run has clearly fewer parameters than another, as far as both are known."""
    return bool(one.n_params and other.n_params and one.n_params * _SIZE_STEP <= other.n_params)


def _sound(past: Sequence[PastRun]) -> list[PastRun]:
    """The runs that did not diverge."""
    highest = highest_final_loss([each.final_loss for each in past])
    return [each for each in past if not each.diverged and each.final_loss <= highest]


def highest_final_loss(final_losses: Sequence[float]) -> float:
    """The loss above which one of these runs counts as diverged: twice their median."""
    return _DIVERGED_RATIO * float(np.median(final_losses)) if final_losses else math.inf


def _word(text: str | None) -> str:
    return " ".join((text or "").lower().split())
