"""`Recognition`: facts about a run that its model and its optimizer show."""

from dataclasses import dataclass

__all__ = ["Recognition"]


@dataclass(frozen=True)
class Recognition:
    """Facts about a run that its model and its optimizer show.

    Attributes:
        optimizer: name of the optimizer; None if it is unknown.
        schedule_free: whether the optimizer averages weights instead of annealing.
        model: name of the class of the model; None if it is unknown.
        n_params: number of parameters that are trained; None if they cannot be counted.
        task: the task; None if it is not recognised.
        reason: what the task was recognised by, or why it was not, for the log; may be empty.
    """

    optimizer: str | None = None
    schedule_free: bool = False
    model: str | None = None
    n_params: int | None = None
    task: str | None = None
    reason: str = ""
