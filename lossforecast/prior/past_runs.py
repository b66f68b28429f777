"""`PastRun`: what is kept of a finished run, and how unlike another one it is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.errors import StateError
from lossforecast.runs import Evidence, History, RunInfo, gather
from lossforecast.schedule import LRSchedule

__all__ = ["ALIKE", "PastRun", "comparable", "fair", "nearest"]


_START = 0.1  # share of a run that is left out: it follows no law
_LEAST = 10  # points of evidence
_LAST = 3  # points of evidence that tell where it ended
_FAILED = 2.0  # times as high as usual, or as it was
_NO_MORE = 1.1  # times as long or as large
_COPIED = 1e-4  # as shares of the losses, differences between copies of a run
_MOST = 4  # past runs that are learnt from: more cost time and say little new
# standard deviations between two runs alike in all that is known of them, of level, of what is
# still to lose and of the drop, as shares of the loss
ALIKE = (0.003, 0.003, 0.004)
# what is added to these, in quadrature, for each unit of the logarithm of a ratio of two numbers
_BY_RATIO = {
    "peak": (0.01, 0.01, 0.02),
    "n_params": (0.05, 0.03, 0.05),
    "batch": (0.02, 0.02, 0.05),
}
# and for another word
_BY_WORD = {"optimizer": (0.05, 0.05, 0.15), "model": (0.1, 0.1, 0.2)}


@dataclass(frozen=True)
class PastRun:
    """A finished run, thinned to what a fit looks at.

    Attributes:
        name: its name in the store.
        run: what is known of it.
        schedule: the learning rate of every step, as it was.
        evidence: its losses without the start, 128 at most.
    """

    name: str
    run: RunInfo
    schedule: LRSchedule
    evidence: Evidence

    @classmethod
    def of(cls, name: str, run: RunInfo, schedule: LRSchedule, history: History) -> Self | None:
        """What to keep of a run; None if there is too little of it to learn from."""
        evidence = gather(history.bins(), schedule, _START)
        if len(evidence) < _LEAST or history.last_step > schedule.total_steps:
            return None
        return cls(name, run, schedule, evidence)

    @property
    def ended(self) -> float:
        """Where its loss ended, about."""
        return float(np.median(self.evidence.loss[-_LAST:]))

    @property
    def failed(self) -> bool:
        """Whether its loss was twice as low before it ended."""
        return self.ended > _FAILED * abs(float(self.evidence.loss.min()))

    def copies(self, other: Self) -> bool:
        """Whether the two are one run, kept twice."""
        mine, its = self.evidence, other.evidence
        return bool(
            np.array_equal(mine.step, its.step)
            and np.allclose(mine.loss, its.loss, rtol=_COPIED, atol=0.0)
        )

    def unlike(self, run: RunInfo, schedule: LRSchedule) -> FloatArray | None:
        """Standard deviations between this run and another of level, remainder and drop, (3,).

        As shares of the loss; None if the two are not `comparable`.
        """
        mine = self.run
        if not comparable(mine, run):
            return None
        parts = [ALIKE]
        numbers = {
            "peak": (self.schedule.peak, schedule.peak),
            "n_params": (mine.n_params, run.n_params),
            "batch": (mine.batch_size, run.batch_size),
        }
        for name, (one, other) in numbers.items():
            if one and other:
                away = abs(math.log(one / other))
                level, remainder, drop = _BY_RATIO[name]
                parts.append((away * level, away * remainder, away * drop))
        words = {
            "optimizer": (mine.optimizer_word, run.optimizer_word),
            "model": (_word(mine.model), _word(run.model)),
        }
        parts += [_BY_WORD[name] for name, (one, other) in words.items() if one != other]
        total: FloatArray = np.hypot.reduce(np.array(parts), axis=0)
        return total

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
        """The run that `to_dict` wrote.

        Raises:
            StateError: the state is not ours or damaged.
        """
        try:
            seen = state["evidence"]
            evidence = Evidence(
                np.array(seen["step"], np.int64),
                np.array(seen["loss"], np.float64),
                np.array(seen["variance"], np.float64),
                float(seen["noise"]),
                int(seen["n_observed"]),
            )
            schedule = LRSchedule.from_dict(state["schedule"])
            return cls(str(state["name"]), RunInfo(**state["run"]), schedule, evidence)
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"not a saved past run: {error!r}") from error


def comparable(one: RunInfo, other: RunInfo) -> bool:
    """Whether what is named of two runs tells that their losses are in the same units.

    They have the same loss, no other task or dataset and, if one dataset is not known, the same
    project.
    """
    if (one.metric, one.loss_word) != (other.metric, other.loss_word):
        return False
    pairs = {
        name: (_word(getattr(one, name)), _word(getattr(other, name)))
        for name in ("project", "task", "dataset")
    }
    known = {name: mine == theirs for name, (mine, theirs) in pairs.items() if mine and theirs}
    same_data = known.get("task", True) and known.get("dataset", True)
    return same_data and (known.get("project", False) or known.get("dataset", False))


def fair(past: RunInfo, steps: int, run: RunInfo, schedule: LRSchedule) -> bool:
    """Whether a past run of so many steps had no more to get where it got than another one has.

    Comparable, of the same model, at most 10% larger, and with at most 10% more steps or, where
    both sizes of batches are known, data.
    """
    larger = past.n_params and run.n_params and past.n_params > _NO_MORE * run.n_params
    same_model = _word(past.model) == _word(run.model)
    batches = past.batch_size / run.batch_size if past.batch_size and run.batch_size else 1.0
    longer = batches * steps > _NO_MORE * schedule.total_steps
    return comparable(past, run) and same_model and not longer and not larger


def nearest(
    past: Sequence[PastRun], run: RunInfo, schedule: LRSchedule
) -> list[tuple[PastRun, FloatArray]]:
    """The past runs to learn from, most alike first, with how unlike they are, (3,) each.

    Runs that failed are not among them: they say nothing of one that does not. Of copies of a run,
    as of one that was recorded and its log imported, there is one.
    """
    found = [(each, unlike) for each in past if (unlike := each.unlike(run, schedule)) is not None]
    if not found:
        return []
    usual = float(np.median([each.ended for each, _ in found]))
    sound = [pair for pair in found if not pair[0].failed and pair[0].ended <= _FAILED * usual]
    kept: list[tuple[PastRun, FloatArray]] = []
    for each, unlike in sorted(sound, key=lambda pair: float(pair[1].sum())):
        if len(kept) < _MOST and not any(each.copies(other) for other, _ in kept):
            kept.append((each, unlike))
    return kept


def _word(text: str | None) -> str:
    return " ".join((text or "").lower().split())
