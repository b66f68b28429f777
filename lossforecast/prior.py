"""What is believed of a run before it starts: `Prior`, given what is known of it: `RunInfo`."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from lossforecast.checks import non_negative
from lossforecast.errors import ConfigurationError
from lossforecast.laws import LAWS
from lossforecast.relaxation import Relaxation

__all__ = ["Beliefs", "DropComponent", "Member", "Prior", "RunInfo"]


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run. All of it is optional; an unknown word means a wide prior.

    Attributes:
        metric: "train" (every step, noisy) or "val" (sparse, clean): which loss is observed.
        optimizer: its name, such as "adamw" or "sgd".
        project: what the run belongs to.
        task: what is learnt, such as "language modelling".
        model: the architecture.
        dataset: the data.
        n_params: number of parameters.
        batch_size: samples or tokens per optimizer step.
    """

    metric: str = "train"
    optimizer: str | None = None
    project: str | None = None
    task: str | None = None
    model: str | None = None
    dataset: str | None = None
    n_params: float | None = None
    batch_size: float | None = None

    def __post_init__(self) -> None:
        if self.metric not in ("train", "val"):
            raise ConfigurationError(f'metric is {self.metric!r}; it must be "train" or "val"')
        for name in ("optimizer", "project", "task", "model", "dataset"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigurationError(f"{name} must be a string or None, not {value!r}")
        for name in ("n_params", "batch_size"):
            if getattr(self, name) is not None:
                non_negative(name, getattr(self, name), ConfigurationError)

    @property
    def optimizer_word(self) -> str:
        """The optimizer in lower case, cut at the first character outside a-z, 0-9."""
        match = re.match("[a-z0-9]*", (self.optimizer or "").lower())
        return match.group() if match else ""


@dataclass(frozen=True)
class Member:
    """One member of the model average: a law's relaxation, or the power law in steps (None)."""

    law: str
    relaxation: Relaxation | None
    weight: float


@dataclass(frozen=True)
class DropComponent:
    """One Gaussian of the mixture believed of the full-anneal drop, as shares of the loss."""

    weight: float
    mean: float
    std: float


@dataclass(frozen=True)
class Beliefs:
    """The prior of one run, in numbers. Shares are of the present level of the loss."""

    alphas: tuple[tuple[float, float], ...]
    """Exponents alpha with their weights."""
    members: tuple[Member, ...]
    drops: tuple[DropComponent, ...]
    walks: tuple[tuple[float, float], ...]
    """Sizes of the discrepancy (share of the loss per unit of total S1 / S1) with weights."""
    reducible: float
    """Standard deviation of what the power law has still to lose, as a share of the loss."""


_ADAM_FAMILY = {"adam", "adamw", "nadamw", "nadam", "lion", "adafactor", "ademamix"}
_MEMBERS = (
    Member("annealing", Relaxation("annealing", lag=0.02), 0.15),
    Member("annealing", Relaxation("annealing", lag=0.05), 0.25),
    Member("annealing", Relaxation("annealing", lag=0.12), 0.15),
    Member("multi-power", Relaxation("multi-power", lag=0.02, beta=0.5, gamma=0.5), 0.15),
    Member("multi-power", Relaxation("multi-power", lag=0.05, beta=1.0, gamma=0.5), 0.15),
    Member("memoryless", Relaxation("memoryless"), 0.10),
    Member("power", None, 0.05),
)


@dataclass(frozen=True)
class Prior:
    """What is believed of the laws' parameters before a run; the default is the packaged one.

    The size of the annealing drop is the hard part: before the learning rate decays a run says
    nothing about it. It is believed to be ``drop * (peak / 1e-3)^drop_exponent`` of the loss for
    optimizers of the Adam family at usual rates, where that was measured on language models of 33M
    to 400M parameters, and anything from none to a fifth elsewhere.

    Attributes:
        drop: full-anneal drop at peak 1e-3 as a share of the loss.
        drop_exponent: growth with the peak learning rate.
        drop_spread: relative standard deviation where the rule applies.
        drop_elsewhere: mean and standard deviation where it does not.
        alpha: centre and spread of the power law's exponent.
        walk: typical size of the discrepancy where the rule applies, as a share of the loss.
        walk_elsewhere: the same where it does not.
    """

    drop: float = 0.075
    drop_exponent: float = 0.36
    drop_spread: float = 0.3
    drop_elsewhere: tuple[float, float] = (0.1, 0.12)
    alpha: tuple[float, float] = (0.5, 0.08)
    walk: float = 0.01
    walk_elsewhere: float = 0.06
    members: tuple[Member, ...] = field(default=_MEMBERS)

    def for_run(self, run: RunInfo, peak: float, laws: tuple[str, ...]) -> Beliefs:
        """The beliefs of one run with a peak learning rate, restricted to some laws."""
        members = tuple(m for m in self.members if m.law in laws)
        if not members:
            raise ConfigurationError(f"no law left of {laws}; choose from {', '.join(LAWS)}")
        centre, spread = self.alpha
        nodes = (-6.0, -3.0, -1.5, -0.75, 0.0, 0.75, 1.5, 3.0, 6.0)
        weights = (0.01, 0.03, 0.10, 0.21, 0.30, 0.21, 0.10, 0.03, 0.01)
        alphas = [(max(centre + spread * z, 0.05), w) for z, w in zip(nodes, weights, strict=True)]
        wide = DropComponent(1.0, *self.drop_elsewhere)
        drops: tuple[DropComponent, ...] = (wide,)
        walk = self.walk_elsewhere
        if run.optimizer_word in _ADAM_FAMILY and 1e-5 <= peak <= 2e-2:
            walk = self.walk
            mean = self.drop * (peak / 1e-3) ** self.drop_exponent
            narrow = DropComponent(0.7, mean, mean * self.drop_spread)
            drops = (narrow, DropComponent(0.3, wide.mean, wide.std))
        walks = ((1.0, 0.5), (3.0, 0.4), (12.0, 0.1))
        return Beliefs(
            alphas=tuple(alphas),
            members=members,
            drops=drops,
            walks=tuple((walk * factor, weight) for factor, weight in walks),
            reducible=0.5,
        )

    def to_dict(self) -> dict[str, Any]:
        """The prior as plain JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The prior that `to_dict` wrote."""
        try:
            values = dict(state)
            values["members"] = tuple(
                Member(m["law"], m["relaxation"] and Relaxation(**m["relaxation"]), m["weight"])
                for m in state["members"]
            )
            for name in ("drop_elsewhere", "alpha"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ConfigurationError(f"not a saved prior: {error!r}") from error
