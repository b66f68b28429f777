"""Rules that stop runs of a sweep early: those of this package, and those in common use.

A rule is given the runs of a sweep and returns a `Stopper`, which is called at every check and
returns the active runs to stop. Runs are numbered by their position in the sweep.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lossforecast.backtest.sweep_runs import CHECKS_PER_RUN, SweepRun
from lossforecast.policies import (
    GAIN_PER_RUN,
    RISK_BESIDE_HALVING,
    Halving,
    Ladder,
    Outlook,
    SweepErrors,
    n_best_runs,
    prob_among_best,
    stop_threshold,
)

if TYPE_CHECKING:
    import optuna

__all__ = ["OUR_RULES", "RULES", "Rule", "Stopper"]

Stopper = Callable[[int, Sequence[int], Sequence[int]], Collection[int]]
"""Returns the runs to stop, given the check (0..48), the active runs and the finished ones."""

Rule = Callable[[Sequence[SweepRun]], Stopper]

_REDUCTION_FACTOR = 3  # successive halving and Hyperband keep one run of three
_GRACE_SHARE = 0.1  # of a run, before `last_value` stops it
_MARGIN_SHARE = 0.05  # a run may be above the best latest loss by this share of it
_LATE_RUNG = 0.06  # of a run: first rung of a halving that uses more compute and has less regret


class _Corrected:
    """Forecasts of the runs of a sweep, corrected by the errors of those that have finished."""

    def __init__(self, runs: Sequence[SweepRun]) -> None:
        self._runs, self._errors = runs, SweepErrors[int]()
        self._finished: set[int] = set()

    def outlooks(self, check: int, active: Sequence[int], finished: Sequence[int]) -> list[Outlook]:
        """The forecasts of the active runs at a check."""
        for i in finished:
            if i not in self._finished:
                self._finished.add(i)
                self._record(i, range(CHECKS_PER_RUN - 1))
                self._errors.end(i, self._runs[i].truth)
        if not finished:
            return [self._runs[i].outlooks[check] for i in active]
        for i in active:
            self._record(i, [check])
        share = (check + 1) / CHECKS_PER_RUN
        return [self._errors.corrected(i, share, self._runs[i].outlooks[check]) for i in active]

    def _record(self, i: int, checks: Iterable[int]) -> None:
        run = self._runs[i]
        for check in checks:
            share = (check + 1) / CHECKS_PER_RUN
            self._errors.record(i, run.setup, share, run.outlooks[check])


def dominated(runs: Sequence[SweepRun], threshold: float = stop_threshold()) -> Stopper:
    """The policy `lossforecast.policies.dominated` for all runs at once."""
    best, forecasts = n_best_runs(len(runs)), _Corrected(runs)

    def stopper(check: int, active: Sequence[int], finished: Sequence[int]) -> list[int]:
        if all(runs[i].is_open[check] for i in active):
            return []
        outlooks = forecasts.outlooks(check, active, finished) + _best_ended(runs, finished, best)
        probabilities = prob_among_best(outlooks, best, runs[0].alike)
        return [
            i
            for i, probability in zip(active, probabilities, strict=False)
            if probability < threshold and not runs[i].is_open[check]
        ]

    return stopper


def worthwhile(runs: Sequence[SweepRun], gain_per_run: float = GAIN_PER_RUN) -> Stopper:
    """`lossforecast.policies.worthwhile`, and `dominated` among the runs that it leaves."""
    forecasts, hopeless = _Corrected(runs), dominated(runs)

    def stopper(check: int, active: Sequence[int], finished: Sequence[int]) -> list[int]:
        best = min((runs[i].truth for i in finished), default=math.inf)
        price = gain_per_run * (1 - (check + 1) / CHECKS_PER_RUN)
        outlooks = forecasts.outlooks(check, active, finished)
        stopped = [
            i
            for i, outlook in zip(active, outlooks, strict=True)
            if outlook.expected_gain(best) < price and not runs[i].is_open[check]
        ]
        left = [i for i in active if i not in stopped]
        return [*stopped, *hopeless(check, left, finished)]

    return stopper


def _best_ended(runs: Sequence[SweepRun], finished: Sequence[int], n: int) -> list[Outlook]:
    """Outlooks of the n best finished runs; worse ones change no comparison."""
    return [Outlook.ended(loss) for loss in sorted(runs[i].truth for i in finished)[:n]]


def halving(runs: Sequence[SweepRun], first: float = Halving.first) -> Stopper:
    """`lossforecast.policies.Halving`, and `dominated` among the runs that it leaves."""
    ladder = Ladder[int](Halving(first=first))
    hopeless = dominated(runs, stop_threshold(RISK_BESIDE_HALVING))

    def stopper(check: int, active: Sequence[int], finished: Sequence[int]) -> list[int]:
        share = (check + 1) / CHECKS_PER_RUN
        for i in active:
            ladder.record(i, runs[i].group, share, runs[i].outlooks[check].median)
        stopped = [i for i in active if ladder.behind(i)]
        left = [i for i in active if i not in stopped]
        return [*stopped, *hopeless(check, left, finished)]

    return stopper


def last_value(runs: Sequence[SweepRun]) -> Stopper:
    """Stop a run, after 10% of it, whose latest loss is over 5% above the lowest at that check."""

    def stopper(check: int, active: Sequence[int], finished: Sequence[int]) -> list[int]:
        latest = {i: runs[i].latest[check] for i in (*active, *finished)}
        finite = [loss for loss in latest.values() if np.isfinite(loss)]
        if (check + 1) / CHECKS_PER_RUN < _GRACE_SHARE or not finite:
            return []
        limit = min(finite) + _MARGIN_SHARE * abs(min(finite))
        return [i for i in active if latest[i] > limit]

    return stopper


def patience(runs: Sequence[SweepRun]) -> Stopper:
    """Stop a run after three validation losses in a row without improvement."""

    def stopper(check: int, active: Sequence[int], finished: Sequence[int]) -> list[int]:
        return [i for i in active if (check + 1) / CHECKS_PER_RUN >= runs[i].patience_end]

    return stopper


def successive_halving(runs: Sequence[SweepRun]) -> Stopper:
    """Optuna's asynchronous successive halving, from the first check on."""
    from optuna.pruners import SuccessiveHalvingPruner

    pruner = SuccessiveHalvingPruner(min_resource=1, reduction_factor=_REDUCTION_FACTOR)
    return _pruner_stopper(runs, pruner)


def hyperband(runs: Sequence[SweepRun]) -> Stopper:
    """Optuna's Hyperband, with checks as the resource."""
    from optuna.pruners import HyperbandPruner

    pruner = HyperbandPruner(
        min_resource=1, max_resource=CHECKS_PER_RUN, reduction_factor=_REDUCTION_FACTOR
    )
    return _pruner_stopper(runs, pruner)


def median(runs: Sequence[SweepRun]) -> Stopper:
    """Optuna's median rule, which compares with the finished runs."""
    from optuna.pruners import MedianPruner

    return _pruner_stopper(runs, MedianPruner())


def _pruner_stopper(runs: Sequence[SweepRun], pruner: "optuna.pruners.BasePruner") -> Stopper:
    """An Optuna pruner as a stopper: one trial per run, one report per check."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(
            pruner=pruner,
            sampler=optuna.samplers.RandomSampler(0),
            study_name="replay",  # Hyperband assigns trials to brackets by a hash of it
        )
    finally:
        optuna.logging.set_verbosity(verbosity)
    trials: dict[int, optuna.Trial] = {}
    reported: set[int] = set()

    def stopper(check: int, active: Sequence[int], finished: Sequence[int]) -> list[int]:
        for i in set(finished) - reported:
            study.tell(trials[i], runs[i].truth)
            reported.add(i)
        stopped = []
        for i in active:
            if i not in trials:
                trials[i] = study.ask()
            loss = float(runs[i].latest[check])
            if np.isnan(loss):
                continue
            trials[i].report(loss, check + 1)
            if trials[i].should_prune():
                study.tell(trials[i], state=optuna.trial.TrialState.PRUNED)
                stopped.append(i)
        return stopped

    return stopper


OUR_RULES: dict[str, Rule] = {
    "halving": halving,
    "halving from 6%": partial(halving, first=_LATE_RUNG),
    "worthwhile": worthwhile,
    "dominated": dominated,
}
"""The rules of this package by name."""

RULES: dict[str, Rule] = {
    **OUR_RULES,
    "successive-halving": successive_halving,
    "hyperband": hyperband,
    "median": median,
    "last-value": last_value,
    "patience": patience,
}
"""All rules by name; successive halving, Hyperband and the median rule need Optuna."""
