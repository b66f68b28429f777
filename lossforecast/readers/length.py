"""`Length`: the planned length of a run, from what its log says beside the steps."""

from dataclasses import dataclass

from lossforecast.readers.rate_end import RateEnd
from lossforecast.readers.source import Source

__all__ = ["Length"]

_HINT = "give --total-steps to change that"
_TOLERANCE = 0.02  # of a length: a run that came as near to it is over


@dataclass(frozen=True)
class Length:
    """The planned length of a run.

    Attributes:
        total_steps: optimizer steps, or what else is counted; None if the log does not tell.
        note: a remark for people.
    """

    total_steps: int | None
    note: str | None = None

    @classmethod
    def of(
        cls, source: Source, steps_taken: int, steps_per_epoch: float | None, end: RateEnd | None
    ) -> "Length":
        """The length that the log names, in steps or in epochs, or that it implies.

        It is implied by a decay of the learning rate to 0, or by a longer run in the same log.

        Args:
            source: the log, which has been read.
            steps_taken: optimizer steps of the run so far.
            steps_per_epoch: optimizer steps of an epoch, if known.
            end: where the logged learning rates reach 0, if they tell.
        """
        if source.total_steps is not None:
            return cls(source.total_steps)
        if source.total_epochs is not None and steps_per_epoch and source.counts == "steps":
            total = _not_below(source.total_epochs * steps_per_epoch, steps_taken)
            if total is not None:
                epochs = f"{source.total_epochs:,.6g} epochs of {steps_per_epoch:,.6g} steps"
                return cls(total, f"the length of the run is taken to be {total:,} steps, {epochs}")
        if end is not None and end.step * (1 - _TOLERANCE) > steps_taken:
            return cls(
                end.step,
                f"the length of the run is taken to be {end.step:,} {source.counts}, where the "
                f"logged rates reach 0 ({end.shape}, to {end.distance:.2%}); {_HINT}",
            )
        beyond = steps_taken - max(source.columns.values(), default=steps_taken)
        longest = source.longest + max(beyond, 0)
        if source.n_runs > 1 and longest * (1 - _TOLERANCE) > steps_taken:
            return cls(
                longest,
                f"the length of the run is taken to be {longest:,} {source.counts}, as of the "
                f"longest run in this log; {_HINT}",
            )
        return cls(None)


def _not_below(total: float, steps_taken: int) -> int | None:
    """A length that may be off by some steps; None if the run is longer."""
    if abs(total - steps_taken) <= _TOLERANCE * total:
        return steps_taken
    return round(total) if total > steps_taken else None
