"""`replay_sweeps`: the compute that stopping rules save on recorded sweeps, and what it costs.

    from lossforecast.backtest import replay_sweeps

    for score in replay_sweeps("curves", jobs=2):
        print(score.policy, score.sweep, score.arrival, score.compute_used, score.regret)

Runs arrive in "parallel", all at the same share of their steps at any time, or are "sequential":
one after the other in random order, each compared with those that have finished.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast.backtest.backtest import prior_without_fold
from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.backtest.parallel import mapped
from lossforecast.backtest.rules import RULES, Rule
from lossforecast.backtest.sweep_runs import CHECKS_PER_RUN, SweepRun, sweep_run
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.policies import n_best_runs
from lossforecast.prior import Prior

__all__ = ["LARGE_SWEEP_RUNS", "SweepScore", "replay_sweeps"]

LARGE_SWEEP_RUNS = 15
"""Least number of runs of a sweep that counts in the means over sweeps."""

_SEQUENTIAL_ORDERS = 10  # random orders of arrival, averaged
_MIN_RUNS_PER_SWEEP = 2


@dataclass(frozen=True)
class SweepScore:
    """The effect of a rule on a sweep.

    Attributes:
        policy: name of the rule.
        sweep: name of the sweep.
        runs: number of completed runs in it.
        arrival: "parallel" or "sequential"; sequential scores are means over ten random orders.
        compute_used: steps trained over the steps of all runs in full.
        regret: ``(a - b) / |b|``, where b is the best final loss of all runs and a that of the
            survivors; nan if none survived.
        false_kills: number of stopped runs that ended among the best 5% (at least one run).
        before_decay: number of these that were stopped before their learning rate began to fall.
    """

    policy: str
    sweep: str
    runs: int
    arrival: str
    compute_used: float
    regret: float
    false_kills: float
    before_decay: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-able values; a regret that is not finite is None."""
        plain = dict(vars(self))
        return plain | {"regret": self.regret if math.isfinite(self.regret) else None}


def replay_sweeps(
    curves: str | Path | Sequence[RecordedRun],
    *,
    jobs: int = 1,
    rules: Mapping[str, Rule] = RULES,
    prior_for: Callable[[RecordedRun], Prior | None] = prior_without_fold,
    progress: Callable[[int, int], None] | None = None,
) -> list[SweepScore]:
    """Score rules on every sweep with validation losses of at least two completed runs.

    Args:
        curves: a folder (`load_curves`) or runs.
        jobs: number of processes.
        rules: rules by name.
        prior_for: returns the prior for a run, which must not have been learned from it.
        progress: called after each run with the number of runs forecast and the number of all.

    Raises:
        ConfigurationError: an argument is invalid, or the folder is damaged.
        LossForecastError: a curve cannot be observed; the message names the run.
    """
    jobs = whole("jobs", jobs, ConfigurationError, least=1)
    runs = load_curves(curves) if isinstance(curves, str | Path) else list(curves)
    runs = [run for run in runs if run.metric == "val" and run.completed and run.sweep is not None]
    tasks = [(run, prior_for(run)) for run in runs]
    sweeps: dict[str, list[SweepRun]] = {}
    for done, replayed in enumerate(mapped(_replay_run, tasks, jobs), start=1):
        if replayed is not None:
            sweeps.setdefault(str(runs[done - 1].sweep), []).append(replayed)
        if progress is not None:
            progress(done, len(runs))
    scoring = [
        (policy, rule, sweep, sweep_runs)
        for sweep, sweep_runs in sweeps.items()
        if len(sweep_runs) >= _MIN_RUNS_PER_SWEEP
        for policy, rule in rules.items()
    ]
    return [score for scores in mapped(_score, scoring, jobs) for score in scores]


def _replay_run(task: tuple[RecordedRun, Prior | None]) -> SweepRun | None:
    return sweep_run(*task)


def _score(task: tuple[str, Rule, str, list[SweepRun]]) -> list[SweepScore]:
    """The scores of a rule on a sweep, one for each arrival."""
    policy, rule, sweep, runs = task
    random = np.random.default_rng(0)
    orders = [random.permutation(len(runs)).tolist() for _ in range(_SEQUENTIAL_ORDERS)]
    trained_by_arrival = {
        "parallel": [_train_in_parallel(runs, rule)],
        "sequential": [_train_in_sequence(runs, rule, order) for order in orders],
    }
    return [
        _sweep_score(policy, sweep, arrival, runs, trained)
        for arrival, trained in trained_by_arrival.items()
    ]


def _train_in_parallel(runs: Sequence[SweepRun], rule: Rule) -> NDArray[np.float64]:
    """Share of each run that is trained if all advance together, shape (n,)."""
    stopper, trained, active = rule(runs), np.ones(len(runs)), list(range(len(runs)))
    for check in range(CHECKS_PER_RUN - 1):
        for i in stopper(check, active, []):
            trained[i] = (check + 1) / CHECKS_PER_RUN
        active = [i for i in active if trained[i] == 1]
    return trained


def _train_in_sequence(
    runs: Sequence[SweepRun], rule: Rule, order: Sequence[int]
) -> NDArray[np.float64]:
    """Share of each run that is trained if one follows the other in `order`, shape (n,)."""
    stopper, trained = rule(runs), np.ones(len(runs))
    finished: list[int] = []
    for i in order:
        for check in range(CHECKS_PER_RUN - 1):
            if i in stopper(check, [i], finished):
                trained[i] = (check + 1) / CHECKS_PER_RUN
                break
        else:
            finished.append(i)
    return trained


def _sweep_score(
    policy: str,
    sweep: str,
    arrival: str,
    runs: Sequence[SweepRun],
    trained_by_order: Sequence[NDArray[np.float64]],
) -> SweepScore:
    """The mean cost over orders of arrival, each with the trained share of every run, (n,)."""
    truths = np.array([run.truth for run in runs])
    steps = np.array([run.total_steps for run in runs], float)
    best = np.argsort(truths)[: n_best_runs(len(runs))]
    starts = [runs[i].setup.decay_start for i in best]
    decays = np.array([start if start < 1 else 0.0 for start in starts])  # 1: there is none
    survivors = [truths[trained == 1] for trained in trained_by_order]
    regrets = [(kept.min() - truths.min()) / abs(truths.min()) for kept in survivors if kept.size]
    some_survive = len(regrets) == len(trained_by_order)
    return SweepScore(
        policy=policy,
        sweep=sweep,
        runs=len(runs),
        arrival=arrival,
        compute_used=float(
            np.mean([trained @ steps / steps.sum() for trained in trained_by_order])
        ),
        regret=float(np.mean(regrets)) if some_survive else math.nan,
        false_kills=float(np.mean([(trained[best] < 1).sum() for trained in trained_by_order])),
        before_decay=float(
            np.mean([(trained[best] < decays).sum() for trained in trained_by_order])
        ),
    )
