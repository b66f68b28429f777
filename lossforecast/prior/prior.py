"""What is believed of a run before it starts, given what is known of it: `Prior`."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from lossforecast.errors import ConfigurationError
from lossforecast.laws import LAWS, Relaxation, decaying, full_anneal
from lossforecast.numerics import Calibration
from lossforecast.prior.drops import DropComponent, DropRule
from lossforecast.prior.past_runs import PastRun
from lossforecast.prior.probe_gaps import GapRule
from lossforecast.runs import RunInfo
from lossforecast.schedule import LRSchedule

__all__ = [
    "Beliefs",
    "Member",
    "Prior",
    "Regime",
    "RunInfo",
    "lessons",
]


@dataclass(frozen=True)
class Member:
    """One member of the model average: a law's relaxation, or the power law in steps (None)."""

    law: str
    relaxation: Relaxation | None
    weight: float


@dataclass(frozen=True)
class Regime:
    """How closely a run follows a law, and what then is believed of its parameters.

    Attributes:
        alpha: centre and spread of the exponent.
        reducible: standard deviation of what the power law has still to lose, share of the loss.
        walks: sizes of the discrepancy between run and law, with weights.
        lr_travel: how much the discrepancy moves while the rate goes from the peak to 0, in the
            units of its clock (`lossforecast.posterior.fit`).
        weight: of the regime.
        drops: what is believed of the drop.
    """

    alpha: tuple[float, float]
    reducible: float
    walks: tuple[tuple[float, float], ...]
    lr_travel: float
    weight: float = 1.0
    drops: tuple[DropComponent, ...] = ()


@dataclass(frozen=True)
class Beliefs:
    """The prior of one run, in numbers. Shares are of the present level of the loss."""

    alphas: tuple[float, ...]
    """Grid of exponents."""
    members: tuple[Member, ...]
    regimes: tuple[Regime, ...]
    temper: float
    """Power of the evidence that decides between the regimes."""
    calibration: Calibration
    """Share of the run seen; scale and tail of a forecast made then, from past ones."""
    burn_in: float
    """Share of the run so far that is left out: the start follows no law."""
    window: float
    """Share of the run over whose noisy observations the loss reported is a mean."""

    @property
    def relaxations(self) -> tuple[Relaxation, ...]:
        """Those of the members that know the learning rate, in their order."""
        return tuple(m.relaxation for m in self.members if m.relaxation is not None)

    @property
    def aware(self) -> tuple[bool, ...]:
        """Which members know the learning rate."""
        return tuple(m.relaxation is not None for m in self.members)


_ADAM_FAMILY = {"adam", "adamw", "nadamw", "nadam", "lion", "adafactor", "ademamix"}
_LANGUAGE = {"language", "lm", "llm", "text", "pretraining"}  # words in the name of a task
_USUAL_RATES = (1e-5, 2e-2)  # peaks to which the rule of the Adam family applies
# share by which validation losses jump about, and the spread of its logarithm: in language models,
# whose validation sets are large and fixed, and elsewhere
_QUIET, _RESTLESS = (0.0015, 1.0), (0.008, 1.2)
# share of lawful runs whose drop is not by the rule, where it is known and where not; the noise of
# a validation loss tells them apart, so that more of them can be allowed for
_FOREIGN = {"train": (0.03, 0.1), "val": (0.15, 0.35)}
_LAWFUL_IF_TOLD = 0.98  # share of lawful runs among those said to be language models
_FOREIGN_DROP = DropComponent(1.0, 0.2, 0.8)
_ALPHAS = (0.05, 0.15, 0.25, 0.33, 0.4, 0.45, 0.5, 0.57, 0.66, 0.8, 1.0, 1.3)


def _annealing(lag: float, concavity: float, weight: float) -> Member:
    return Member("annealing", Relaxation("annealing", lag, concavity=concavity), weight)


def _multi_power(lag: float, beta: float, gamma: float, concavity: float, weight: float) -> Member:
    relaxation = Relaxation("multi-power", lag, beta, gamma, concavity)
    return Member("multi-power", relaxation, weight)


# the law that ignores the learning rate is kept for runs that ignore it: with 5% of the weight it
# made forecasts before a decay worse, with none of the drop in its share of them
_MEMBERS = (
    *(_annealing(0.005, c, 0.05) for c in (0.0, 2.0, 8.0)),
    *(_annealing(0.03, c, 0.05) for c in (0.0, 2.0, 8.0)),
    *(_multi_power(0.002, 1.0, 0.5, c, 0.1) for c in (0.0, 1.0, 4.0)),
    *(_multi_power(0.005, 0.3, 0.0, c, 0.117) for c in (0.0, 1.0, 4.0)),
    Member("memoryless", Relaxation("memoryless"), 0.05),
    Member("power", None, 0.005),
)
_LAWFUL = Regime(
    alpha=(0.42, 0.05),
    reducible=0.2,
    walks=((0.003, 0.3), (0.006, 0.4), (0.012, 0.2), (0.03, 0.1)),
    lr_travel=0.2,
)
_LOOSE = Regime(
    alpha=(0.6, 0.2),
    reducible=0.12,
    walks=((0.03, 0.4), (0.08, 0.4), (0.3, 0.2)),
    lr_travel=0.3,
)


@cache
def _table() -> dict[str, Any]:
    """What was learnt from recorded runs, with its provenance; `lossforecast learn-prior`."""
    found: dict[str, Any] = json.loads(
        files("lossforecast.prior").joinpath("prior.json").read_text()
    )
    return found


def _learnt(name: str) -> Any:
    return _table()["all"][name]


@dataclass(frozen=True)
class Prior:
    """What is believed of the laws' parameters before a run; the default is the packaged one.

    The size of the annealing drop is the hard part: before the learning rate decays a run says
    nothing about it. A run is in one of two regimes. A *lawful* run follows a law closely; its drop
    is what `known` says (optimizers of the Adam family at usual rates) or `unknown_drops` (all
    others). A *loose* run does not, and its drop goes with how its loss jumps about and slopes. The
    evidence decides between the two, tempered, because a young run can look more lawful than it is.

    Attributes:
        known: rule of the drop where optimizer and peak rate are in usual units.
        unknown_drops: the drop of a lawful run elsewhere.
        lawful_share: probability of the lawful regime under `known` and elsewhere.
        loose_drops: the drop in the loose regime.
        calibration: of forecasts where `known` applies and elsewhere, as in `Beliefs`.
        lawful: the lawful regime.
        loose: the loose regime.
        members: the laws and relaxations averaged.
        temper: power of the evidence that decides between the regimes.
        alike: of the variance of forecast errors in a sweep, the share that is common to its runs
            and the share common to those of one optimizer.
        gaps: how the gaps of the annealing probe tell of the drop.
        past: finished runs, of which those that are like a new one say more than all the above.
        provenance: where the learnt numbers come from.
    """

    known: DropRule = field(default_factory=lambda: DropRule(**_learnt("known")))
    unknown_drops: tuple[DropComponent, ...] = field(
        default_factory=lambda: _components(_learnt("unknown_drops"))
    )
    lawful_share: tuple[float, float] = (0.9, 0.3)
    loose_drops: tuple[DropComponent, ...] = field(
        default_factory=lambda: _components(_learnt("loose_drops"))
    )
    calibration: tuple[Calibration, Calibration] = field(
        default_factory=lambda: _calibrations(_learnt("calibration"))
    )
    lawful: Regime = _LAWFUL
    loose: Regime = _LOOSE
    members: tuple[Member, ...] = _MEMBERS
    temper: float = 0.3
    alike: tuple[float, float] = field(default_factory=lambda: _shares(_learnt("alike")))
    gaps: GapRule = field(default_factory=GapRule.packaged)
    past: tuple[PastRun, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=lambda: dict(_table()["provenance"]))

    def for_run(self, run: RunInfo, schedule: LRSchedule, laws: tuple[str, ...]) -> Beliefs:
        """The beliefs of one run under a schedule, restricted to some laws."""
        members = tuple(m for m in self.members if m.law in laws)
        if not members:
            raise ConfigurationError(f"no law left of {laws}; choose from {', '.join(LAWS)}")
        known, told = self.knows(run, schedule), _is_language(run.task)
        lawful_share = self.lawful_share[0 if known else 1]
        if known and told:
            lawful_share = _LAWFUL_IF_TOLD
        lawful, loose = self._drops(run.metric, schedule, known, told)
        return Beliefs(
            alphas=_ALPHAS,
            members=members,
            regimes=(
                replace(self.lawful, weight=lawful_share, drops=lawful),
                replace(self.loose, weight=1 - lawful_share, drops=loose),
            ),
            temper=self.temper,
            calibration=self.calibration[0 if known else 1],
            # noisy losses need more of the run than clean ones to show their slope
            burn_in=0.12 if run.metric == "train" else 0.2,
            window=0.02 if run.metric == "train" else 0.0,
        )

    def _drops(
        self, metric: str, schedule: LRSchedule, known: bool, told: bool
    ) -> tuple[tuple[DropComponent, ...], tuple[DropComponent, ...]]:
        """What is believed of the drop in the lawful regime and in the loose one."""
        share, _ = full_anneal(decaying(schedule))
        rule = self.known.component(schedule.peak, max(share, 1e-3))
        usual = (rule,) if known else self.unknown_drops
        if metric == "val":
            # between validations weights jump about as far as annealing will bring them
            usual = tuple(replace(d, noises=_QUIET) for d in usual)
            loose = tuple(replace(d, noises=_RESTLESS) for d in self.loose_drops)
            foreign = tuple(d for d in loose if d.jitters)
        else:  # the noise of training batches says nothing about that
            loose = tuple(d for d in self.loose_drops if not d.jitters)
            foreign = (_FOREIGN_DROP,)
        stray = _FOREIGN["train" if told else metric][0 if known else 1]
        return (*_weighted(usual, 1 - stray), *_weighted(foreign, stray)), loose

    @classmethod
    def from_table(cls, path: str | Path) -> Self:
        """The prior in a table written by ``lossforecast learn-prior --json PATH``.

        Raises:
            ConfigurationError: the file cannot be read or is no such table.
        """
        try:
            table = json.loads(Path(path).read_text(encoding="utf-8"))
            return replace(cls(), **lessons(table["all"]), provenance=dict(table["provenance"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{path} is no table of a prior: {error!r}") from error

    def knows(self, run: RunInfo, schedule: LRSchedule) -> bool:
        """Whether the rule `known` applies: an optimizer of the Adam family at a usual rate.

        And a language model, if the task is told: from others nothing was learnt of that rule.
        """
        low, high = _USUAL_RATES
        language = run.task is None or _is_language(run.task)
        return language and run.optimizer_word in _ADAM_FAMILY and low <= schedule.peak <= high

    @classmethod
    def without(cls, fold: str) -> Self:
        """The packaged prior as learnt without some of the recorded runs, to be scored on them.

        Args:
            fold: a fold of recorded runs or a task of recorded gaps. A fold from which nothing was
                learnt gives the packaged prior.
        """
        learnt = _table()["without"].get(fold, _table()["all"])
        return replace(cls(), **lessons(learnt), gaps=GapRule.packaged(without=fold))

    def to_dict(self) -> dict[str, Any]:
        """The prior as plain JSON-able values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(replace(self, past=()))))
        return {**plain, "past": [run.to_dict() for run in self.past]}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The prior that `to_dict` wrote."""
        try:
            values = dict(state)
            values["members"] = tuple(
                Member(**{**m, "relaxation": m["relaxation"] and Relaxation(**m["relaxation"])})
                for m in state["members"]
            )
            for name in ("lawful", "loose"):
                values[name] = _regime(state[name])
            values |= lessons(state)
            values["lawful_share"] = tuple(state["lawful_share"])
            values["past"] = tuple(PastRun.from_dict(each) for each in state.get("past", ()))
            if "gaps" in state:
                values["gaps"] = GapRule.from_dict(state["gaps"])
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"not a saved prior: {error!r}") from error


def _is_language(task: str | None) -> bool:
    return task is not None and bool(_LANGUAGE & set(re.findall("[a-z]+", task.lower())))


def _weighted(drops: Iterable[DropComponent], weight: float) -> Iterator[DropComponent]:
    """The components with weights that add up to `weight`."""
    drops = tuple(drops)
    total = sum(d.weight for d in drops)
    return (replace(d, weight=weight * d.weight / total) for d in drops)


def _components(states: Iterable[Mapping[str, Any]]) -> tuple[DropComponent, ...]:
    return tuple(
        DropComponent(**{**state, "noises": tuple(state["noises"]) if state["noises"] else None})
        for state in states
    )


def lessons(learnt: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a `Prior` from a table of plain values."""
    return {
        "known": DropRule(**learnt["known"]),
        "unknown_drops": _components(learnt["unknown_drops"]),
        "loose_drops": _components(learnt["loose_drops"]),
        "calibration": _calibrations(learnt["calibration"]),
        "alike": _shares(learnt.get("alike", _table()["all"]["alike"])),  # older ones have none
    }


def _calibrations(states: Iterable[Any]) -> tuple[Calibration, Calibration]:
    known, unknown = (tuple((a, b, c) for a, b, c in rows) for rows in states)
    return known, unknown


def _shares(state: Iterable[float]) -> tuple[float, float]:
    sweep, kind = state
    return float(sweep), float(kind)


def _regime(state: Mapping[str, Any]) -> Regime:
    walks = tuple((size, weight) for size, weight in state["walks"])
    drops = _components(state["drops"])
    centre, spread = state["alpha"]
    return Regime(**{**state, "walks": walks, "alpha": (centre, spread), "drops": drops})
