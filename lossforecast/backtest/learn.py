"""`learn_prior`: the prior learned from recorded runs, and again without each fold of them.

Four things are learned:

* the rule of the annealing drop of large language models with a known optimizer: a regression of
  the drops of finished runs on peak rate and length of the decay;
* the drop of all other runs: its ratio to the fall of the loss, and to the slope and the jitter of
  a young loss;
* the calibration by kind of run and metric: runs are replayed with a prior learned without their
  fold, and intervals are scaled so that they would have had the nominal coverage;
* the shares of the error variance that the runs of a sweep have in common, from the same errors.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lossforecast.backtest.backtest import FRACTIONS
from lossforecast.backtest.calibrate import (
    StandardizedError,
    calibrations,
    common_error_shares,
    family_weights,
    standardized_error,
)
from lossforecast.backtest.curves import RecordedRun
from lossforecast.backtest.parallel import mapped
from lossforecast.backtest.replay import Told, described, outcome
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.forecaster import Hindsight
from lossforecast.laws import LAWS, full_anneal
from lossforecast.posterior import Posterior, fit
from lossforecast.prior import DropComponent, DropRule, Prior
from lossforecast.runs import History, gather
from lossforecast.schedule import LRSchedule

__all__ = ["Lessons", "learn_prior"]

Progress = Callable[[int, int], None]

_MIN_FINITE_LOSSES = 20  # for a drop to be measured
_BURN_IN_SHARE = 0.12  # of a run, left out where drop and slope are measured
_YOUNG_SHARE = 0.25  # of a run, at which slope and jitter are compared with the drop to come
_MIN_YOUNG_SLOPE = 1e-3  # below it the loss does not fall, and the ratio to the drop means nothing
_MIN_DECAY_DEPTH = 0.2  # share of the peak by which the rate falls, for a drop to be measured
_MAX_RELATIVE_ERROR = 0.5  # of a measured drop
_MIN_RELATIVE_ERROR = 0.1  # the regression trusts no drop more than this
_CLUSTER_SPREAD = 0.25  # of the log drops of similar clusters, as measured
_EXPONENT_PRIORS = ((0.3, 0.15), (0.15, 0.1))  # mean and spread, for peak and for decay length
_MIN_FOLD_SPREAD = 0.2  # of log size: two or three folds cannot show how much set-ups differ
_FALLBACK_RULE = DropRule(size=0.06, peak_exponent=0.3, decay_exponent=0.15, spread=0.5)
_MIN_DROPS_PER_FOLD = 4  # below this number, a fold does not count
_VAGUE_RULE = DropRule(size=0.06, peak_exponent=0.3, decay_exponent=0.15, spread=1.5)
_VAGUE_LOOSE_DROPS = (DropComponent(1.0, 0.2, 1.5),)
_FALLBACK_JITTERS, _FALLBACK_SLOPES, _FALLBACK_FALLS = 0.2, 1.5, 0.2  # ratios of the drop
# of the typical ratio of drop and fall: fits of finished runs count every late fall as a drop, and
# forecasts were best with about half of it
_BELIEVED_FALLS = 0.6
_MIN_FALL = 0.05  # below it the ratio to the drop means nothing


@dataclass(frozen=True)
class _Drop:
    """The annealing drop of one finished run, with the quantities that may predict it.

    Attributes:
        fold: the fold of the run.
        cluster: the cluster of the run.
        known: whether the rule is learned for runs of this kind and optimizer.
        peak: peak learning rate.
        share: share of the run after its rate first leaves the peak.
        size: the drop, as a share of the loss.
        error: its relative standard error.
        slope_ratio: size over the slope of the young loss; nan if that loss was not falling.
        jitter_ratio: size over (noise / 0.01)^0.6 of the young validation loss; nan for training
            losses.
        fall_ratio: size over the rest of the fall of the loss; nan if it did not fall otherwise.
    """

    fold: str
    cluster: str
    known: bool
    peak: float
    share: float
    size: float
    error: float
    slope_ratio: float
    jitter_ratio: float
    fall_ratio: float


@dataclass(frozen=True)
class Lessons:
    """The priors learned from all runs, and from all runs but those of each fold.

    Attributes:
        all: the prior for new runs.
        without: for each fold, the prior learned without it.
        provenance: sources, numbers of runs and the like.
    """

    all: Prior
    without: Mapping[str, Prior]
    provenance: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The table that `Prior.from_table` reads, as plain values."""
        return {
            "provenance": dict(self.provenance),
            "all": _learned_fields(self.all),
            "without": {fold: _learned_fields(prior) for fold, prior in self.without.items()},
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
        runs: recorded runs; unfinished ones are ignored.
        fold_of: the fold of a run: runs that are left out together.
        jobs: number of processes; a script that sets more than 1 must call this under
            ``if __name__ == "__main__":``.
        progress: called with the numbers of runs done and of all; there are two passes over the
            runs.

    Raises:
        ConfigurationError: no run finished with a decayed learning rate.
    """
    whole("jobs", jobs, ConfigurationError, least=1)
    report = progress or (lambda done, total: None)
    drops: list[_Drop] = []
    for done, (run, drop) in enumerate(zip(runs, mapped(_measure, runs, jobs), strict=True), 1):
        if drop is not None:
            drops.append(replace(drop, fold=fold_of(run)))
        report(done, 2 * len(runs))
    if not drops:
        raise ConfigurationError(
            f"none of {len(runs)} runs finished with a decayed learning rate: nothing to learn"
        )
    folds = sorted({fold_of(run) for run in runs})
    without = {fold: _uncalibrated([d for d in drops if d.fold != fold]) for fold in folds}
    errors: list[StandardizedError] = []
    tasks = [(run, without[fold_of(run)]) for run in runs]
    replayed = zip(runs, mapped(_replay_errors, tasks, jobs), strict=True)
    for done, (run, of_run) in enumerate(replayed, 1):
        errors += [replace(error, fold=fold_of(run)) for error in of_run]
        report(len(runs) + done, 2 * len(runs))
    return Lessons(
        all=_calibrated(_uncalibrated(drops), errors),
        without={
            fold: _calibrated(prior, [e for e in errors if e.fold != fold])
            for fold, prior in without.items()
        },
        provenance={
            "command": "lossforecast learn-prior --curves DIR",
            "runs": len(runs),
            "drops_measured": len(drops),
            "forecasts_replayed": len(errors),
            "sources": sorted({run.source for run in runs}),
        },
    )


def _uncalibrated(drops: Sequence[_Drop]) -> Prior:
    return replace(
        Prior(),
        known=_drop_rule(drops),
        language_drops=_language_drops(drops),
        other_drops=_other_drops(drops),
        loose_drops=_loose_drops(drops),
        calibration={},
    )


def _calibrated(prior: Prior, errors: Sequence[StandardizedError]) -> Prior:
    return replace(prior, calibration=calibrations(errors), alike=common_error_shares(errors))


def _learned_fields(prior: Prior) -> dict[str, Any]:
    """The learned fields of a prior, rounded to four significant digits."""
    state = prior.to_dict()
    names = ("known", "language_drops", "other_drops", "loose_drops", "calibration", "alike")
    fields: dict[str, Any] = _rounded({name: state[name] for name in names})
    return fields


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _posterior(
    run: RecordedRun, history: History, plan: LRSchedule, prior: Prior, burn_in: float | None = None
) -> Posterior:
    """The posterior of a run given the losses in a history."""
    beliefs = prior.for_run(described(run, Told.FOUND), plan, tuple(LAWS))
    evidence = gather(history.bins(), plan, burn_in or beliefs.burn_in)
    return fit(evidence, plan, history.last_step, beliefs)


def _history(run: RecordedRun, plan: LRSchedule, fraction: float) -> History:
    """The losses in a fraction of the planned steps."""
    seen = run.step <= fraction * plan.total_steps
    history = History()
    history.observe_many(run.step[seen], run.loss[seen], run.lr[seen])
    return history


def _measure(run: RecordedRun) -> _Drop | None:
    """The annealing drop of a finished run under a vague prior; None if it cannot be measured."""
    if outcome(run) is None or np.isfinite(run.loss).sum() < _MIN_FINITE_LOSSES:
        return None
    vague = replace(
        Prior(),
        known=_VAGUE_RULE,
        language_drops=(_VAGUE_RULE.component(1e-3, 1.0),),
        other_drops=(_VAGUE_RULE.component(1e-3, 1.0),),
        loose_drops=_VAGUE_LOOSE_DROPS,
        lawful_share=(0.5, 0.5),
    )
    plan = run.plan
    share, depth = full_anneal(plan)
    if depth < _MIN_DECAY_DEPTH:
        return None
    finished = _posterior(run, _history(run, plan, 1.0), plan, vague, _BURN_IN_SHARE)
    drop, spread, _ = finished.full_drop()
    if drop <= 0 or spread > _MAX_RELATIVE_ERROR * drop:
        return None
    slope_ratio = jitter_ratio = np.nan
    fall = finished.fall - drop
    if run.enough_seen(_YOUNG_SHARE):
        young_history = _history(run, plan, _YOUNG_SHARE)
        young = _posterior(run, young_history, plan, vague, _BURN_IN_SHARE)
        slope_ratio = drop / young.slope if young.slope > _MIN_YOUNG_SLOPE else np.nan
        if run.metric == "val":
            unit, _ = DropComponent(1.0, 0.0, 0.0, jitters=1.0).moments(0.0, young.noise, 0.0)
            jitter_ratio = drop / unit
    return _Drop(
        fold=run.fold,
        cluster=run.cluster,
        known=Prior().rule_applies(described(run, Told.FOUND), plan),
        peak=plan.peak,
        share=share,
        size=drop,
        error=spread / drop,
        slope_ratio=slope_ratio,
        jitter_ratio=jitter_ratio,
        fall_ratio=drop / fall if fall > _MIN_FALL else np.nan,
    )


def _drop_rule(drops: Iterable[_Drop]) -> DropRule:
    """The rule of the drop, from runs whose optimizer is known.

    Weighted ridge regression over folds f and runs i,

        log size_i = a_f(i) + p log(peak_i / 1e-3) + d log(share_i) + noise,

    with equal total weight for every cluster before its runs are weighted by their errors. Weak
    priors on p and d hold exponents that the runs do not vary. The size of the rule is exp(mean of
    a_f), its spread the root of the residual variance plus the variance of a_f between folds.
    """
    known = [d for d in drops if d.known]
    counts = Counter(d.fold for d in known)
    folds = sorted(fold for fold, count in counts.items() if count >= _MIN_DROPS_PER_FOLD)
    known = [d for d in known if d.fold in folds]
    if not known:
        return _FALLBACK_RULE
    rows = [
        [*(float(d.fold == f) for f in folds), np.log(d.peak / 1e-3), np.log(max(d.share, 1e-3))]
        for d in known
    ]
    errors = np.hypot([d.error for d in known], _MIN_RELATIVE_ERROR)
    weight = family_weights([d.cluster for d in known]) / errors**2
    weight *= len({d.cluster for d in known}) / weight.sum()
    design, target = np.array(rows), np.log([d.size for d in known])
    precision = np.zeros((len(folds) + 2, len(folds) + 2))
    centre = np.zeros(len(folds) + 2)
    for column, (value, spread) in zip((-2, -1), _EXPONENT_PRIORS, strict=True):
        precision[column, column] = (_CLUSTER_SPREAD / spread) ** 2
        centre[column] = value
    gram = design.T @ (weight[:, np.newaxis] * design) + precision
    solution = np.linalg.solve(gram, design.T @ (weight * target) + precision @ centre)
    residual = float(np.sqrt(weight @ (target - design @ solution) ** 2 / weight.sum()))
    fold_sizes = solution[:-2]
    between = float(np.std(fold_sizes)) if len(folds) > 1 else 0.0
    return DropRule(
        size=float(np.exp(np.mean(fold_sizes))),
        peak_exponent=float(solution[-2]),
        decay_exponent=float(solution[-1]),
        spread=float(np.hypot(residual, max(between, _MIN_FOLD_SPREAD))),
    )


def _language_drops(drops: Sequence[_Drop]) -> tuple[DropComponent, ...]:
    """The drop of a large language model with another optimizer: that typical under the rule."""
    size = _typical([d for d in drops if d.known], lambda d: d.size, _FALLBACK_RULE.size)
    return (DropComponent(1.0, size, 0.4),)


def _other_drops(drops: Sequence[_Drop]) -> tuple[DropComponent, ...]:
    """The drop of a lawful run of another kind: in proportion to the fall."""
    return (DropComponent(1.0, 0.005, 0.6, falls=_typical_falls(drops)),)


def _loose_drops(drops: Sequence[_Drop]) -> tuple[DropComponent, ...]:
    """The drop in the loose regime: in proportion to jitter, fall or slope, or anything."""
    with_jitter = [d for d in drops if np.isfinite(d.jitter_ratio)]
    jitters = _typical(with_jitter, lambda d: d.jitter_ratio, _FALLBACK_JITTERS)
    with_slope = [d for d in drops if not d.known and np.isfinite(d.slope_ratio)]
    slopes = _typical(with_slope, lambda d: d.slope_ratio, _FALLBACK_SLOPES)
    return (
        DropComponent(0.3, 0.005, 0.5, jitters=jitters),
        DropComponent(0.4, 0.005, 0.8, falls=_typical_falls(drops)),
        DropComponent(0.15, 0.005, 0.8, slopes=slopes),
        DropComponent(0.15, 0.25, 1.0),
    )


def _typical_falls(drops: Sequence[_Drop]) -> float:
    """Ratio of the drop to the fall that is believed where no rule is known."""
    with_fall = [d for d in drops if not d.known and np.isfinite(d.fall_ratio)]
    return _BELIEVED_FALLS * _typical(with_fall, lambda d: d.fall_ratio, _FALLBACK_FALLS)


def _typical(drops: Sequence[_Drop], value: Callable[[_Drop], float], default: float) -> float:
    """Geometric mean over folds of the median in each."""
    logs = [np.log([value(d) for d in drops if d.fold == f]) for f in {d.fold for d in drops}]
    medians = sorted(float(np.median(row)) for row in logs if row.size >= _MIN_DROPS_PER_FOLD)
    return float(np.exp(np.mean(medians))) if medians else default


def _replay_errors(task: tuple[RecordedRun, Prior]) -> list[StandardizedError]:
    """The errors of an uncalibrated prior at each fraction of a run."""
    run, prior = task
    end = outcome(run)
    if end is None:
        return []
    plan, hindsight = run.plan, Hindsight()

    def fit_to(history: History, followed: LRSchedule) -> Posterior:
        return _posterior(run, history, followed, prior)

    errors = []
    for fraction in FRACTIONS:
        if end.first_step <= fraction * run.total_steps or not run.enough_seen(fraction):
            continue
        history = _history(run, plan, fraction)
        surprise = hindsight.surprise(history, plan, fit_to)
        posterior = replace(fit_to(history, plan), surprise=surprise)
        mixture = posterior.predict(plan, np.array([end.step]))
        z, below = standardized_error(mixture, end.loss)
        errors.append(
            StandardizedError(
                fold=run.fold,
                metric=run.metric,
                cluster=run.cluster,
                kind=described(run, Told.FOUND).kind,
                fraction=fraction,
                z=z,
                below=below,
                sweep=run.sweep,
                optimizer=run.optimizer or "",
            )
        )
    return errors
