"""What recorded runs teach the prior: `learn_prior`, and the same with each fold left out.

Four things are learnt. The rule of the drop where the optimizer is known: a regression of the
drops of finished runs on peak rate and length of the decay. The drop elsewhere: its typical size
in lawful runs, and its ratio to the slope of a young loss in loose ones. And how much wider
intervals must be than the model says: runs are replayed with a prior that was learnt without their
own fold, and the factors are those at which intervals hold what they promise. The same errors tell
how far forecasts of the runs of one sweep err alike.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from lossforecast.arrays import FloatArray
from lossforecast.backtest.backtest import FRACTIONS
from lossforecast.backtest.curves import RecordedRun
from lossforecast.backtest.parallel import mapped
from lossforecast.backtest.replay import outcome
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.laws import LAWS, full_anneal
from lossforecast.numerics import NO_CALIBRATION, Calibration, Mixture, tail_density
from lossforecast.posterior import Posterior, fit
from lossforecast.prior import DropComponent, DropRule, Prior
from lossforecast.runs import History, RunInfo, gather
from lossforecast.schedule import LRSchedule

__all__ = ["Error", "Lessons", "calibration_of", "error_of", "learn_prior"]

Progress = Callable[[int, int], None]

_BURN_IN = 0.12  # share of a run that is left out where its drop and its slope are measured
_YOUNG = 0.25  # share of a run at which its slope is set against the drop to come
_DEEP = 0.2  # share of the peak by which the rate must fall for a drop to be measured
_CERTAIN = 0.5  # largest relative error of a measured drop
_EXPONENTS = ((0.3, 0.15), (0.15, 0.1))  # of peak and share, with the spread believed beforehand
_BETWEEN = 0.2  # least spread between set-ups: two or three of them cannot show it
_FALLBACK = DropRule(0.06, 0.3, 0.15, 0.5)
_FEW = 4  # runs of a fold that count
_STRETCHES = ((1.0, 1.2, 1.5, 2.0), (1.5, 2.5, 4.0))
_FARTHEST = 12.0  # standard deviations: an error beyond says no more
_SWEEP = 15  # runs of a sweep that show how their errors go together
_EARLY = 0.5  # share of a run up to which they are asked
_LARGEST = 3.5  # standard deviations: a larger error counts as that
_UNKNOWN_SHARES = (0.45, 0.2)  # where there is no such sweep
_VAGUE = DropRule(0.06, 0.3, 0.15, 1.5)
_VAGUE_LOOSE = (DropComponent(1.0, 0.2, 1.5),)


@dataclass(frozen=True)
class _Drop:
    """The drop that the decay of one finished run brought, and what might have foretold it."""

    fold: str
    cluster: str
    known: bool
    lawful: float
    peak: float
    share: float
    size: float
    error: float
    ratio: float
    """Size over the slope of the young loss; nan if that was not falling."""
    jitter: float
    """Size over (noise / 0.01)^0.6 of the young validation loss; nan for training losses."""


@dataclass(frozen=True)
class Error:
    """One forecast replayed, its error in standard deviations of the model's own interval."""

    fold: str
    what: str
    known: bool
    fraction: float
    z: float
    sweep: str | None
    kind: str
    """The optimizer."""


@dataclass(frozen=True)
class Lessons:
    """What was learnt from all runs, and from all but those of each fold.

    Attributes:
        all: the prior for runs never seen.
        without: for each fold, the prior that has not seen it.
        provenance: sources, numbers of runs and the like.
    """

    all: Prior
    without: Mapping[str, Prior]
    provenance: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The table in the package, as plain values."""
        return {
            "provenance": dict(self.provenance),
            "all": _plain(self.all),
            "without": {fold: _plain(prior) for fold, prior in self.without.items()},
        }


def learn_prior(
    runs: Sequence[RecordedRun],
    *,
    fold_of: Callable[[RecordedRun], str] = lambda run: run.fold,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Lessons:
    """Learn the prior from recorded runs, and again without each fold of them.

    Args:
        runs: recorded runs; those that did not finish teach nothing.
        fold_of: what is left out together.
        jobs: how many processes; above 1, call it from under ``if __name__ == "__main__":``.
        progress: called with the numbers of runs done and of all, twice over the runs.

    Raises:
        ConfigurationError: no run finished and decayed its rate.
    """
    whole("jobs", jobs, ConfigurationError, least=1)
    tell = progress or (lambda done, total: None)
    measured: list[_Drop] = []
    for done, (run, drop) in enumerate(zip(runs, mapped(_measure, runs, jobs), strict=True), 1):
        if drop is not None:
            measured.append(replace(drop, fold=fold_of(run)))
        tell(done, 2 * len(runs))
    if not measured:
        raise ConfigurationError(
            f"none of {len(runs)} runs finished with a decayed learning rate: nothing to learn"
        )
    folds = sorted({fold_of(run) for run in runs})
    blind = {fold: _uncalibrated([d for d in measured if d.fold != fold]) for fold in folds}
    errors: list[Error] = []
    work = [(run, blind[fold_of(run)]) for run in runs]
    for done, (run, found) in enumerate(zip(runs, mapped(_errors, work, jobs), strict=True), 1):
        errors += [replace(error, fold=fold_of(run)) for error in found]
        tell(len(runs) + done, 2 * len(runs))
    return Lessons(
        all=_calibrated(_uncalibrated(measured), errors),
        without={
            fold: _calibrated(prior, [e for e in errors if e.fold != fold])
            for fold, prior in blind.items()
        },
        provenance={
            "command": "lossforecast learn-prior --curves DIR",
            "runs": len(runs),
            "drops_measured": len(measured),
            "forecasts_replayed": len(errors),
            "sources": sorted({run.source for run in runs}),
        },
    )


def _uncalibrated(drops: Sequence[_Drop]) -> Prior:
    return replace(
        Prior(),
        known=_rule(drops),
        unknown_drops=_elsewhere(drops),
        loose_drops=_loose(drops),
        calibration=(NO_CALIBRATION, NO_CALIBRATION),
    )


def _calibrated(prior: Prior, errors: Sequence[Error]) -> Prior:
    known, unknown = ([e for e in errors if e.known is kind] for kind in (True, False))
    calibration = calibration_of(known), calibration_of(unknown)
    return replace(prior, calibration=calibration, alike=_alike(errors))


def _plain(prior: Prior) -> dict[str, Any]:
    """What was learnt of a prior, rounded to what can be known."""
    state = prior.to_dict()
    names = ("known", "unknown_drops", "loose_drops", "calibration", "alike")
    plain: dict[str, Any] = _rounded({name: state[name] for name in names})
    return plain


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _posterior(
    run: RecordedRun,
    plan: LRSchedule,
    prior: Prior,
    fraction: float,
    burn_in: float | None = None,
) -> Posterior:
    seen = run.step <= fraction * plan.total_steps
    history = History()
    history.observe_many(run.step[seen], run.loss[seen], run.lr[seen])
    beliefs = prior.for_run(RunInfo(run.what, run.optimizer), plan, tuple(LAWS))
    evidence = gather(history.bins(), plan, burn_in or beliefs.burn_in)
    return fit(evidence, plan, history.last_step, beliefs)


def _measure(run: RecordedRun) -> _Drop | None:
    """The drop of a finished run, under a vague prior; None where it cannot be told."""
    if outcome(run) is None or np.isfinite(run.loss).sum() < 20:
        return None
    vague = replace(
        Prior(),
        known=_VAGUE,
        unknown_drops=(_VAGUE.component(1e-3, 1.0),),
        loose_drops=_VAGUE_LOOSE,
        lawful_share=(0.5, 0.5),
    )
    plan = run.plan
    share, depth = full_anneal(plan)
    if depth < _DEEP:
        return None
    drop, spread, lawful = _posterior(run, plan, vague, 1.0, _BURN_IN).full_drop()
    if drop <= 0 or spread > _CERTAIN * drop:
        return None
    ratio = jitter = np.nan
    if run.enough_seen(_YOUNG):
        young = _posterior(run, plan, vague, _YOUNG, _BURN_IN)
        ratio = drop / young.slope if young.slope > 1e-3 else np.nan
        if run.what == "val":
            unit, _ = DropComponent(1.0, 0.0, 0.0, jitters=1.0).belief(0.0, young.noise)
            jitter = drop / unit
    return _Drop(
        fold=run.fold,
        cluster=run.cluster,
        known=Prior().knows(RunInfo(run.what, run.optimizer), plan),
        lawful=lawful,
        peak=plan.peak,
        share=share,
        size=drop,
        error=spread / drop,
        ratio=ratio,
        jitter=jitter,
    )


def _rule(drops: Iterable[_Drop]) -> DropRule:
    """The rule of the drop, from runs whose optimizer is known.

    Regression of log drop on log peak rate and log share of the decay with an intercept for each
    fold, families of runs weighted alike. Weak priors hold exponents that the runs do not vary.
    """
    seen = [d for d in drops if d.known]
    counts = Counter(d.fold for d in seen)
    folds = sorted(fold for fold, count in counts.items() if count >= _FEW)
    seen = [d for d in seen if d.fold in folds]
    if not seen:
        return _FALLBACK
    rows = [
        [*(float(d.fold == f) for f in folds), np.log(d.peak / 1e-3), np.log(max(d.share, 1e-3))]
        for d in seen
    ]
    weight = _balanced([d.cluster for d in seen]) / np.hypot([d.error for d in seen], 0.1) ** 2
    weight *= len(seen) / weight.sum()
    design, target = np.array(rows), np.log([d.size for d in seen])
    held = np.zeros((len(folds) + 2, len(folds) + 2))
    centre = np.zeros(len(folds) + 2)
    for row, (value, spread) in zip((-2, -1), _EXPONENTS, strict=True):
        held[row, row], centre[row] = (0.1 / spread) ** 2, value
    gram = design.T @ (weight[:, np.newaxis] * design) + held
    solution = np.linalg.solve(gram, design.T @ (weight * target) + held @ centre)
    residual = float(np.sqrt(weight @ (target - design @ solution) ** 2 / weight.sum()))
    between = float(np.std(solution[:-2])) if len(folds) > 1 else 0.0
    size = float(np.exp(np.mean(solution[:-2])))
    spread = float(np.hypot(residual, max(between, _BETWEEN)))
    return DropRule(size, float(solution[-2]), float(solution[-1]), spread)


def _elsewhere(drops: Sequence[_Drop]) -> tuple[DropComponent, ...]:
    """The drop of a lawful run whose rule is not known: that of the runs where one is."""
    size = _typical([d for d in drops if d.known], lambda d: d.size, _FALLBACK.size)
    return (DropComponent(1.0, size, 0.4),)


def _loose(drops: Sequence[_Drop]) -> tuple[DropComponent, ...]:
    """The drop in the loose regime: as the loss jumps about, as it slopes, or anything."""
    jitters = _typical([d for d in drops if np.isfinite(d.jitter)], lambda d: d.jitter, 0.2)
    strangers = [d for d in drops if not d.known and np.isfinite(d.ratio)]
    slopes = _typical(strangers, lambda d: d.ratio, 1.5)
    return (
        DropComponent(0.55, 0.005, 0.5, jitters=jitters),
        DropComponent(0.25, 0.005, 0.8, slopes=slopes),
        DropComponent(0.2, 0.25, 1.0),
    )


def _typical(drops: Sequence[_Drop], value: Callable[[_Drop], float], default: float) -> float:
    """Geometric mean over folds of the median in each."""
    logs = [np.log([value(d) for d in drops if d.fold == f]) for f in {d.fold for d in drops}]
    medians = sorted(float(np.median(each)) for each in logs if each.size >= _FEW)
    return float(np.exp(np.mean(medians))) if medians else default


def _balanced(families: Sequence[Hashable]) -> FloatArray:
    """Weights that make every family count alike, however many members it has."""
    counts = Counter(families)
    return np.array([1 / counts[family] for family in families])


def _errors(work: tuple[RecordedRun, Prior]) -> list[Error]:
    """The errors of an uncalibrated prior at each fraction of a run."""
    run, prior = work
    end = outcome(run)
    if end is None:
        return []
    plan = run.plan
    known = prior.knows(RunInfo(run.what, run.optimizer), plan)
    found = []
    for fraction in FRACTIONS:
        if end.first_step <= fraction * run.total_steps or not run.enough_seen(fraction):
            continue
        mixture = _posterior(run, plan, prior, fraction).predict(plan, np.array([end.step]))
        z = error_of(mixture, end.loss)
        kind = run.optimizer or ""
        found.append(Error(run.fold, run.what, known, fraction, z, run.sweep, kind))
    return found


def error_of(mixture: Mixture, truth: float) -> float:
    """What came, in standard deviations from the mean of a forecast of one place."""
    value = np.log(truth) if mixture.logarithmic and truth > 0 else truth
    centre = float(mixture.weight @ mixture.mean[:, 0])
    variance = mixture.std[:, 0] ** 2 + (mixture.mean[:, 0] - centre) ** 2
    return float((value - centre) / np.sqrt(mixture.weight @ variance))


def calibration_of(errors: Sequence[Error]) -> Calibration:
    """For each fraction the scale and tail under which the errors are likeliest."""
    rows = []
    for fraction in FRACTIONS:
        mine = [e for e in errors if e.fraction == fraction]
        if len({e.fold for e in mine}) < 2:
            continue
        weight = _balanced([(e.fold, e.what) for e in mine])
        z = np.clip([e.z for e in mine], -_FARTHEST, _FARTHEST)
        likelihood = {
            each: float(weight @ np.log(tail_density(z, *each))) for each in product(*_STRETCHES)
        }
        rows.append((fraction, *max(likelihood, key=lambda each: likelihood[each])))
    return tuple(rows) or NO_CALIBRATION


def _alike(errors: Sequence[Error]) -> tuple[float, float]:
    """Shares of the variance of errors that are common to a sweep, and to an optimizer in it.

    Means over sweeps and early fractions of the square of the mean error, of the variance of the
    optimizers' means and of the variance around those.
    """
    groups: dict[tuple[str, float], list[Error]] = {}
    for error in errors:
        if error.what == "val" and error.sweep is not None and error.fraction <= _EARLY:
            groups.setdefault((error.sweep, error.fraction), []).append(error)
    parts: dict[str, list[tuple[float, float, float]]] = {}
    for (sweep, _), mine in groups.items():
        if len(mine) < _SWEEP:
            continue
        z = np.clip([e.z for e in mine], -_LARGEST, _LARGEST)
        kinds = np.array([e.kind for e in mine])
        means = {kind: float(z[kinds == kind].mean()) for kind in np.unique(kinds)}
        common = np.array(list(means.values()))
        own = z - np.array([means[kind] for kind in kinds])
        parts.setdefault(sweep, []).append(
            (float(common.mean() ** 2), float(common.var()), float((own**2).mean()))
        )
    if not parts:
        return _UNKNOWN_SHARES
    shares = np.mean([np.mean(each, axis=0) for each in parts.values()], axis=0)
    sweep_share, kind_share, _ = shares / shares.sum()
    return float(sweep_share), float(kind_share)
