"""`Beliefs`: the prior of one run under one schedule, in the form that the fit uses."""

from dataclasses import dataclass

from lossforecast.laws import Relaxation
from lossforecast.numerics import Calibration
from lossforecast.prior.drops import DropComponent

__all__ = ["Beliefs", "Member", "Regime"]


@dataclass(frozen=True)
class Member:
    """One member of the model average.

    Attributes:
        law: name of the law.
        relaxation: its relaxation G; None for the power law in steps, which ignores the rate.
        weight: prior weight.
    """

    law: str
    relaxation: Relaxation | None
    weight: float


@dataclass(frozen=True)
class Regime:
    """How closely a run follows a law, and the prior of the law's parameters in that case.

    Attributes:
        alpha: centre and spread of the exponent.
        reducible: standard deviation of what the power law can still lose, as a share of the loss.
        walks: pairs (size, weight) of the discrepancy between run and law.
        lr_travel: how much the discrepancy moves while the rate goes from the peak to 0, in the
            units of its clock (`lossforecast.posterior.fit`).
        weight: prior probability of the regime.
        drops: components of the prior of the annealing drop.
    """

    alpha: tuple[float, float]
    reducible: float
    walks: tuple[tuple[float, float], ...]
    lr_travel: float
    weight: float = 1.0
    drops: tuple[DropComponent, ...] = ()


@dataclass(frozen=True)
class Beliefs:
    """The prior of one run under one schedule; sizes are shares of the present loss."""

    alphas: tuple[float, ...]
    """Grid of exponents."""
    members: tuple[Member, ...]
    """Laws and relaxations to average."""
    regimes: tuple[Regime, ...]
    """The lawful regime and the loose one."""
    temper: float
    """Power of the evidence that decides between the regimes."""
    may_be_unsettled: bool
    """True if the run may follow no law yet; large language models follow one from their start."""
    repeats_data: bool
    """True for a training loss that may fall while data seen before is memorised."""
    calibration: Calibration
    """Scale and tail of the intervals by the share of the run seen."""
    transfer_calibration: tuple[float, float]
    """Scale and tail of the intervals of a forecast from past runs alone."""
    burn_in: float
    """Share of the steps so far that is left out, because the start of a run follows no law."""
    window: float
    """Share of the run over which the loss in a forecast is averaged; 0 for the expected loss."""

    @property
    def relaxations(self) -> tuple[Relaxation, ...]:
        """Relaxations of the members whose law depends on the learning rate, in their order."""
        return tuple(m.relaxation for m in self.members if m.relaxation is not None)

    @property
    def uses_lr(self) -> tuple[bool, ...]:
        """For each member, whether its law depends on the learning rate."""
        return tuple(m.relaxation is not None for m in self.members)
