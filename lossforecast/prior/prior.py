"""`Prior`: the distribution of the laws' parameters before a run, given its description."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from lossforecast.errors import ConfigurationError
from lossforecast.laws import LAWS, Relaxation, decaying, full_anneal
from lossforecast.numerics import NO_CALIBRATION, Calibration
from lossforecast.prior.beliefs import Beliefs, Member, Regime
from lossforecast.prior.drops import DropComponent, DropRule
from lossforecast.prior.past_runs import PastRun
from lossforecast.prior.probe_gaps import GapRule
from lossforecast.runs import RunInfo, RunKind
from lossforecast.schedule import LRSchedule

__all__ = ["Prior", "calibration_key"]


_ADAM_FAMILY = {"adam", "adamw", "nadamw", "nadam", "lion", "adafactor", "ademamix"}
_USUAL_PEAKS = (1e-5, 2e-2)  # range of peak learning rates to which the rule `known` applies
# noise of validation losses, as a share of the loss: median and standard deviation of its
# logarithm. Language models have large, fixed validation sets
_VAL_NOISE_OF_LANGUAGE = (0.0015, 1.0)
_VAL_NOISE_OF_OTHERS = (0.008, 1.2)
# probability that the drop of a lawful run differs from its prior: where `known` applies, and
# elsewhere by metric. The noise of a validation loss shows such runs, so more can be allowed for
_PROB_OTHER_DROP_WITH_RULE = 0.03
_PROB_OTHER_DROP = {"train": 0.1, "val": 0.35}
_OTHER_DROP = DropComponent(1.0, 0.2, 0.8)  # in training losses, whose noise shows nothing
_ALPHA_GRID = (0.05, 0.15, 0.25, 0.33, 0.4, 0.45, 0.5, 0.57, 0.66, 0.8, 1.0, 1.3)
# up to so many epochs, data that a large language model sees again is about as good as new data
# (Muennighoff et al. 2023, arXiv:2305.16264)
_FRESH_EPOCHS = 4.0
_MIN_DECAY_SHARE = 1e-3  # of a run
_BURN_IN_SHARE = {"train": 0.12, "val": 0.2}  # noisy losses need more of a run to show their slope
_WINDOW_SHARE = {"train": 0.02, "val": 0.0}
# scale and tail of forecasts from past runs alone. With three past runs, on recorded runs other
# than large language models, uncalibrated 80% intervals held 65 to 81% of the outcomes and 95%
# intervals 81 to 95%
_TRANSFER_OF_LANGUAGE, _TRANSFER_OF_OTHERS = (1.0, 2.0), (1.3, 3.0)


def _members(relaxation: Relaxation, concavities: Iterable[float], weight: float) -> list[Member]:
    """One member for each concavity of a relaxation, each of the same weight."""
    return [
        Member(relaxation.law, replace(relaxation, concavity=concavity), weight)
        for concavity in concavities
    ]


# the power law is kept for runs that ignore the learning rate. It predicts no drop: with 5% of the
# weight it made forecasts before a decay worse
_MEMBERS = (
    *_members(Relaxation("annealing", lag=0.005), (0.0, 2.0, 8.0), 0.05),
    *_members(Relaxation("annealing", lag=0.03), (0.0, 2.0, 8.0), 0.05),
    *_members(Relaxation("multi-power", lag=0.002, beta=1.0, gamma=0.5), (0.0, 1.0, 4.0), 0.1),
    *_members(Relaxation("multi-power", lag=0.005, beta=0.3, gamma=0.0), (0.0, 1.0, 4.0), 0.117),
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
    walks=((0.05, 0.4), (0.12, 0.4), (0.4, 0.2)),
    lr_travel=0.3,
)


@cache
def _packaged_table() -> dict[str, Any]:
    """The numbers that `lossforecast learn-prior` learned from recorded runs: `prior.json`."""
    table: dict[str, Any] = json.loads(
        files("lossforecast.prior").joinpath("prior.json").read_text()
    )
    return table


def _packaged(name: str) -> Any:
    return _packaged_table()["all"][name]


@dataclass(frozen=True)
class Prior:
    """Distribution of the laws' parameters before a run; the default is the packaged one.

    The size of the annealing drop is the hard part: before the learning rate decays, the losses do
    not show it. A run is in one of two regimes. A *lawful* run follows a law closely. If it trains
    a large language model with an optimizer of the Adam family at a usual rate, the prior of its
    drop is the rule `known`; for other optimizers and rates it is `language_drops`, and for all
    other runs `other_drops`. A *loose* run follows no law closely; its drop grows with the noise,
    the slope and the fall of its loss. The evidence decides between the two, raised to the power
    `temper`, because a young run can look more lawful than it is.

    Attributes:
        known: rule of the drop of large language models, for optimizers of the Adam family at usual
            peak rates.
        language_drops: prior of the drop of other lawful large language models.
        other_drops: prior of the drop of lawful runs of other kinds.
        loose_drops: prior of the drop in the loose regime.
        lawful_share: probability of the lawful regime for large language models, and elsewhere.
        calibration: calibration of forecasts by kind of run and metric, see `calibration_key`.
        lawful: the lawful regime.
        loose: the loose regime.
        members: the laws and relaxations that are averaged.
        temper: power of the evidence that decides between the regimes.
        alike: shares of the error variance common to all runs of a sweep, and to its runs with one
            optimizer.
        gaps: rule that predicts the drop from gaps of the annealing probe.
        past: finished runs; similar ones outweigh all of the above.
        provenance: sources of the learned numbers.
    """

    known: DropRule = field(default_factory=lambda: DropRule(**_packaged("known")))
    language_drops: tuple[DropComponent, ...] = field(
        default_factory=lambda: _components(_packaged("language_drops"))
    )
    other_drops: tuple[DropComponent, ...] = field(
        default_factory=lambda: _components(_packaged("other_drops"))
    )
    loose_drops: tuple[DropComponent, ...] = field(
        default_factory=lambda: _components(_packaged("loose_drops"))
    )
    lawful_share: tuple[float, float] = (0.98, 0.3)
    calibration: Mapping[str, Calibration] = field(
        default_factory=lambda: _calibrations(_packaged("calibration"))
    )
    lawful: Regime = _LAWFUL
    loose: Regime = _LOOSE
    members: tuple[Member, ...] = _MEMBERS
    temper: float = 0.3
    alike: tuple[float, float] = field(default_factory=lambda: _shares(_packaged("alike")))
    gaps: GapRule = field(default_factory=GapRule.packaged)
    past: tuple[PastRun, ...] = ()
    provenance: Mapping[str, Any] = field(
        default_factory=lambda: dict(_packaged_table()["provenance"])
    )

    def for_run(self, run: RunInfo, schedule: LRSchedule, laws: tuple[str, ...]) -> Beliefs:
        """The prior of one run under a schedule, restricted to some laws.

        Raises:
            ConfigurationError: the prior has a member of none of the laws.
        """
        members = tuple(m for m in self.members if m.law in laws)
        if not members:
            raise ConfigurationError(
                f"none of the laws {laws} is in the prior; choose from {', '.join(LAWS)}"
            )
        is_large = run.kind is RunKind.LARGE_LANGUAGE_MODEL
        lawful_share = self.lawful_share[0 if is_large else 1]
        lawful, loose = self._drops(run, schedule)
        return Beliefs(
            alphas=_ALPHA_GRID,
            members=members,
            regimes=(
                replace(self.lawful, weight=lawful_share, drops=lawful),
                replace(self.loose, weight=1 - lawful_share, drops=loose),
            ),
            temper=self.temper,
            may_be_unsettled=not is_large,
            repeats_data=run.metric == "train"
            and run.epochs_in(schedule.total_steps) > (_FRESH_EPOCHS if is_large else 1.0),
            calibration=self.calibration.get(calibration_key(run.kind, run.metric), NO_CALIBRATION),
            transfer_calibration=_TRANSFER_OF_LANGUAGE if is_large else _TRANSFER_OF_OTHERS,
            burn_in=_BURN_IN_SHARE[run.metric],
            window=_WINDOW_SHARE[run.metric],
        )

    def _drops(
        self, run: RunInfo, schedule: LRSchedule
    ) -> tuple[tuple[DropComponent, ...], tuple[DropComponent, ...]]:
        """Priors of the drop in the lawful regime and in the loose one."""
        prob_other = _PROB_OTHER_DROP[run.metric]
        usual: tuple[DropComponent, ...]
        if self.rule_applies(run, schedule):
            share, _ = full_anneal(decaying(schedule))
            usual = (self.known.component(schedule.peak, max(share, _MIN_DECAY_SHARE)),)
            prob_other = _PROB_OTHER_DROP_WITH_RULE
        elif run.kind is RunKind.LARGE_LANGUAGE_MODEL:
            usual = self.language_drops
        else:
            usual = self.other_drops
        if run.metric == "val":
            # between validations, weights move about as far as annealing will move them: the
            # noise of the loss predicts the drop
            usual = tuple(replace(d, noises=_VAL_NOISE_OF_LANGUAGE) for d in usual)
            loose = tuple(replace(d, noises=_VAL_NOISE_OF_OTHERS) for d in self.loose_drops)
            other = tuple(d for d in loose if d.jitters)
        else:  # the noise of training batches does not
            loose = tuple(d for d in self.loose_drops if not d.jitters)
            other = (_OTHER_DROP,)
        return (*_weighted(usual, 1 - prob_other), *_weighted(other, prob_other)), loose

    @classmethod
    def from_table(cls, path: str | Path) -> Self:
        """Read the table that ``lossforecast learn-prior --json PATH`` wrote.

        Raises:
            ConfigurationError: the file cannot be read or is not such a table.
        """
        try:
            table = json.loads(Path(path).read_text(encoding="utf-8"))
            learned = _learned_fields(_current(table["all"]))
            return replace(cls(), **learned, provenance=dict(table["provenance"]))
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{path} is not a table of a prior: {error!r}") from error

    def rule_applies(self, run: RunInfo, schedule: LRSchedule) -> bool:
        """Return whether the rule `known` holds for a run.

        It does for a large language model with an Adam-like optimizer at a usual peak rate.
        """
        low, high = _USUAL_PEAKS
        language = run.kind is RunKind.LARGE_LANGUAGE_MODEL
        return language and run.optimizer_word in _ADAM_FAMILY and low <= schedule.peak <= high

    @classmethod
    def without(cls, fold: str) -> Self:
        """The packaged prior as learned without some of the recorded runs, to be scored on them.

        Args:
            fold: a fold of recorded runs, or a task of recorded gaps. Any other name gives the
                packaged prior.
        """
        table = _packaged_table()
        learned = _learned_fields(table["without"].get(fold, table["all"]))
        return replace(cls(), **learned, gaps=GapRule.packaged(without=fold))

    def to_dict(self) -> dict[str, Any]:
        """The prior as plain JSON-able values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(replace(self, past=()))))
        return {**plain, "past": [run.to_dict() for run in self.past]}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore the prior that `to_dict` saved.

        Raises:
            ConfigurationError: the state is damaged, or not that of a prior.
        """
        try:
            values = _current(state)
            values["members"] = tuple(_member(member) for member in state["members"])
            for name in ("lawful", "loose"):
                values[name] = _regime(state[name])
            values |= _learned_fields(values)
            values["lawful_share"] = tuple(state["lawful_share"])
            values["past"] = tuple(PastRun.from_dict(run) for run in state.get("past", ()))
            if "gaps" in state:
                values["gaps"] = GapRule.from_dict(state["gaps"])
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"not a saved prior: {error!r}") from error


def _member(state: Mapping[str, Any]) -> Member:
    relaxation = state["relaxation"]
    return Member(
        **{**state, "relaxation": None if relaxation is None else Relaxation(**relaxation)}
    )


def _current(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a saved prior as it is saved today.

    Priors saved before `RunKind` existed have one prior of the drop without a rule, and two
    calibrations: where the rule applies, and elsewhere.
    """
    values = {"alike": _packaged("alike"), **state}
    if "unknown_drops" in values:
        drops = values.pop("unknown_drops")
        known, unknown = values["calibration"]
        values |= {
            "language_drops": drops,
            "other_drops": drops,
            "calibration": {
                calibration_key(kind, metric): (
                    known if kind is RunKind.LARGE_LANGUAGE_MODEL else unknown
                )
                for kind in RunKind
                for metric in ("train", "val")
            },
        }
    return values


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


def _learned_fields(table: Mapping[str, Any]) -> dict[str, Any]:
    """The learned fields of a `Prior` from plain values."""
    names = ("language_drops", "other_drops", "loose_drops")
    drops = {name: _components(table[name]) for name in names}
    return {
        "known": DropRule(**table["known"]),
        **drops,
        "calibration": _calibrations(table["calibration"]),
        "alike": _shares(table["alike"]),
    }


def calibration_key(kind: RunKind, metric: str) -> str:
    """Return the key of runs in `Prior.calibration`, such as "small model val"."""
    return f"{kind} {metric}"


def _calibrations(table: Mapping[str, Any]) -> dict[str, Calibration]:
    return {
        key: tuple((float(seen), float(scale), float(tail)) for seen, scale, tail in rows)
        or NO_CALIBRATION
        for key, rows in table.items()
    }


def _shares(state: Iterable[float]) -> tuple[float, float]:
    sweep, optimizer = state
    return float(sweep), float(optimizer)


def _regime(state: Mapping[str, Any]) -> Regime:
    walks = tuple((size, weight) for size, weight in state["walks"])
    drops = _components(state["drops"])
    centre, spread = state["alpha"]
    return Regime(**{**state, "walks": walks, "alpha": (centre, spread), "drops": drops})
