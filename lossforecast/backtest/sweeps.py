"""Recorded sweeps replayed: what a rule would have stopped, what that saves and what it costs.

    from lossforecast.backtest import replay_sweeps

    for score in replay_sweeps("curves", jobs=2):
        print(score.policy, score.sweep, score.arrival, score.compute_used, score.regret)

Runs arrive in "parallel", all at the same share of their steps, or are "sequential": one after the
other in random order, each against those that have ended.
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
from lossforecast.backtest.trails import LOOKS, Trail, followed
from lossforecast.checks import whole
from lossforecast.errors import ConfigurationError
from lossforecast.policies import n_best_runs
from lossforecast.prior import Prior

__all__ = ["SweepScore", "replay_sweeps"]

_ORDERS = 10  # of sequential arrival, averaged
_LEAST = 2  # runs of a sweep


@dataclass(frozen=True)
class SweepScore:
    """What a rule did to a sweep.

    Attributes:
        policy: name of the rule.
        sweep: name of the sweep.
        runs: how many completed runs it has.
        arrival: "parallel" or "sequential"; of the latter these are means over ten orders.
        compute_used: steps trained over the steps of all runs in full.
        regret: how much higher the best survivor ended than the best of all, as a share; nan if
            none survived.
        false_kills: stopped runs that ended among the best 5% (at least one).
        before_decay: those of them that were stopped before their own learning rate had begun to
            fall.
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
        """As a plain object; a regret that is not finite is None."""
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
    """Score rules on every sweep of validation losses with at least two completed runs.

    Args:
        curves: a folder (`load_curves`) or runs.
        jobs: how many processes.
        rules: by name.
        prior_for: the prior to use for a run, which must not have been learnt from it.
        progress: called with the number of runs forecast and of all, after each.

    Raises:
        ConfigurationError: an argument is impossible, or the folder is damaged.
        LossForecastError: a curve cannot be observed; the message names the run.
    """
    jobs = whole("jobs", jobs, ConfigurationError, least=1)
    runs = load_curves(curves) if isinstance(curves, str | Path) else list(curves)
    runs = [run for run in runs if run.what == "val" and run.completed and run.sweep is not None]
    asked = [(run, prior_for(run)) for run in runs]
    sweeps: dict[str, list[Trail]] = {}
    for done, trail in enumerate(mapped(_followed, asked, jobs), start=1):
        if trail is not None:
            sweeps.setdefault(str(runs[done - 1].sweep), []).append(trail)
        if progress is not None:
            progress(done, len(runs))
    work = [
        (policy, rule, sweep, trails)
        for sweep, trails in sweeps.items()
        if len(trails) >= _LEAST
        for policy, rule in rules.items()
    ]
    return [score for scores in mapped(_scored, work, jobs) for score in scores]


def _followed(asked: tuple[RecordedRun, Prior | None]) -> Trail | None:
    return followed(*asked)


def _scored(work: tuple[str, Rule, str, list[Trail]]) -> list[SweepScore]:
    policy, rule, sweep, trails = work
    random = np.random.default_rng(0)
    orders = [random.permutation(len(trails)).tolist() for _ in range(_ORDERS)]
    arrivals = {
        "parallel": [_in_parallel(trails, rule)],
        "sequential": [_in_sequence(trails, rule, order) for order in orders],
    }
    return [
        SweepScore(policy, sweep, len(trails), arrival, *_costs(trails, found))
        for arrival, found in arrivals.items()
    ]


def _in_parallel(trails: Sequence[Trail], rule: Rule) -> NDArray[np.float64]:
    """The share of each run that was trained, (n,)."""
    kills, trained, going = rule(trails), np.ones(len(trails)), list(range(len(trails)))
    for look in range(LOOKS - 1):
        for i in kills(look, going, []):
            trained[i] = (look + 1) / LOOKS
        going = [i for i in going if trained[i] == 1]
    return trained


def _in_sequence(trails: Sequence[Trail], rule: Rule, order: Sequence[int]) -> NDArray[np.float64]:
    """The same for runs one after the other."""
    kills, trained = rule(trails), np.ones(len(trails))
    ended: list[int] = []
    for i in order:
        for look in range(LOOKS - 1):
            if i in kills(look, [i], ended):
                trained[i] = (look + 1) / LOOKS
                break
        else:
            ended.append(i)
    return trained


def _costs(
    trails: Sequence[Trail], found: Sequence[NDArray[np.float64]]
) -> tuple[float, float, float, float]:
    """The last four of a score, each a mean over what was found."""
    truths = np.array([trail.truth for trail in trails])
    steps = np.array([trail.total_steps for trail in trails], float)
    best = np.argsort(truths)[: n_best_runs(len(trails))]
    decays = np.array([trails[i].decays if trails[i].decays < 1 else 0.0 for i in best])
    survivors = [truths[trained == 1] for trained in found]
    lost = [(kept.min() - truths.min()) / abs(truths.min()) for kept in survivors if kept.size]
    return (
        float(np.mean([trained @ steps / steps.sum() for trained in found])),
        float(np.mean(lost)) if len(lost) == len(found) else math.nan,
        float(np.mean([(trained[best] < 1).sum() for trained in found])),
        float(np.mean([(trained[best] < decays).sum() for trained in found])),
    )
