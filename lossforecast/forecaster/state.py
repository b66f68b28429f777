"""`SavedForecaster`: the state of a forecaster as plain values."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from lossforecast.errors import StateError
from lossforecast.policies import Outlook
from lossforecast.prior import Gap, Prior
from lossforecast.runs import History, RunInfo
from lossforecast.schedule import LRSchedule

__all__ = ["SavedForecaster", "damage_reported"]

_VERSION = 1


@dataclass(frozen=True)
class SavedForecaster:
    """Everything that a forecaster is made of.

    Attributes:
        schedule: planned learning rate of every step.
        run: what is known about the run.
        laws: names of the laws.
        prior: beliefs before the first loss.
        every_n_steps: steps between forecasts.
        history: losses, learning rates and events.
        gaps: measurements of the annealing probe.
        checks: step and outlook of the latest checks.
        seconds_spent: time spent on fits and forecasts.
    """

    schedule: LRSchedule
    run: RunInfo
    laws: tuple[str, ...]
    prior: Prior
    every_n_steps: int
    history: History
    gaps: list[Gap]
    checks: list[tuple[int, Outlook]]
    seconds_spent: float

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON-able values."""
        return {
            "version": _VERSION,
            "schedule": self.schedule.to_dict(),
            "run": dict(vars(self.run)),
            "laws": list(self.laws),
            "prior": self.prior.to_dict(),
            "every_n_steps": self.every_n_steps,
            "history": self.history.state_dict(),
            "gaps": [list(gap) for gap in self.gaps],
            "looks": [[step, list(outlook.quantiles)] for step, outlook in self.checks],
            "seconds_spent": self.seconds_spent,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` saved.

        Raises:
            StateError: the state is not that of a forecaster, is damaged or has another version.
        """
        if not isinstance(state, Mapping) or "version" not in state:
            raise StateError(f"not a saved forecaster: {state!r:.80}")
        if state["version"] != _VERSION:
            raise StateError(
                f"the state has version {state['version']!r}, this release reads {_VERSION}: "
                "update lossforecast"
            )
        with damage_reported():
            return cls(
                schedule=LRSchedule.from_dict(state["schedule"]),
                run=RunInfo(**state["run"]),
                laws=tuple(state["laws"]),
                prior=Prior.from_dict(state["prior"]),
                every_n_steps=state["every_n_steps"],
                history=History.from_state_dict(state["history"]),
                gaps=[Gap(*gap) for gap in state["gaps"]],
                checks=[(int(at), Outlook(tuple(row))) for at, row in state.get("looks", [])],
                seconds_spent=float(state["seconds_spent"]),
            )


@contextmanager
def damage_reported() -> Iterator[None]:
    """Turn exceptions about the values of a saved state into `StateError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"the saved forecaster is damaged: {error}") from error
