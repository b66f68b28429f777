"""Rules that stop runs of a sweep, as a replay asks them: ours, and those people use today.

A rule is given the trails of a sweep and answers with a function that is asked at every look: which
of the runs that go on are to be stopped, given those that have ended.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lossforecast.backtest.trails import LOOKS, Trail
from lossforecast.policies import Outlook, n_best_runs, prob_among_best, stop_threshold

if TYPE_CHECKING:
    import optuna

__all__ = ["RULES", "Kills", "Rule"]

Kills = Callable[[int, Sequence[int], Sequence[int]], Collection[int]]
"""Asked with the number of the look (0..48), the runs that go on and those that have ended."""

Rule = Callable[[Sequence[Trail]], Kills]

_ETA = 3  # successive halving and Hyperband keep one of three
_GRACE = 0.1  # of a run in which its last value says nothing
_MARGIN = 0.05  # above the best last value


def dominated(trails: Sequence[Trail]) -> Kills:
    """The policy `lossforecast.policies.dominated`, with its defaults, for all runs at once."""
    best = n_best_runs(len(trails))

    def kills(look: int, going: Sequence[int], ended: Sequence[int]) -> list[int]:
        outlooks = [trails[i].outlooks[look] for i in going]
        outlooks += [Outlook.ended(trails[i].truth) for i in ended]
        found = prob_among_best(outlooks, best, trails[0].alike)
        return [
            i
            for i, chance in zip(going, found, strict=False)
            if chance < stop_threshold(trails[i].statuses[look])
        ]

    return kills


def last_value(trails: Sequence[Trail]) -> Kills:
    """From a tenth of the run on: its latest loss is more than 5% above the best at that point."""

    def kills(look: int, going: Sequence[int], ended: Sequence[int]) -> list[int]:
        latest = {i: trails[i].latest[look] for i in (*going, *ended)}
        known = [value for value in latest.values() if np.isfinite(value)]
        if (look + 1) / LOOKS < _GRACE or not known:
            return []
        limit = min(known) + _MARGIN * abs(min(known))
        return [i for i in going if latest[i] > limit]

    return kills


def patience(trails: Sequence[Trail]) -> Kills:
    """Three validation losses in a row that are no improvement, whatever the other runs do."""

    def kills(look: int, going: Sequence[int], ended: Sequence[int]) -> list[int]:
        return [i for i in going if (look + 1) / LOOKS >= trails[i].impatient]

    return kills


def successive_halving(trails: Sequence[Trail]) -> Kills:
    """Optuna's asynchronous successive halving, from the first look on."""
    from optuna.pruners import SuccessiveHalvingPruner

    return _pruned(trails, SuccessiveHalvingPruner(min_resource=1, reduction_factor=_ETA))


def hyperband(trails: Sequence[Trail]) -> Kills:
    """Optuna's Hyperband over the looks."""
    from optuna.pruners import HyperbandPruner

    pruner = HyperbandPruner(min_resource=1, max_resource=LOOKS, reduction_factor=_ETA)
    return _pruned(trails, pruner)


def median(trails: Sequence[Trail]) -> Kills:
    """Optuna's median rule, which compares with runs that have ended."""
    from optuna.pruners import MedianPruner

    return _pruned(trails, MedianPruner())


def _pruned(trails: Sequence[Trail], pruner: "optuna.pruners.BasePruner") -> Kills:
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(
            pruner=pruner,
            sampler=optuna.samplers.RandomSampler(0),
            study_name="replay",  # Hyperband shares runs out by it
        )
    finally:
        optuna.logging.set_verbosity(before)
    trials: dict[int, optuna.Trial] = {}
    told: set[int] = set()

    def kills(look: int, going: Sequence[int], ended: Sequence[int]) -> list[int]:
        for i in set(ended) - told:
            study.tell(trials[i], trails[i].truth)
            told.add(i)
        stopped = []
        for i in going:
            if i not in trials:
                trials[i] = study.ask()
            loss = float(trails[i].latest[look])
            if np.isnan(loss):
                continue
            trials[i].report(loss, look + 1)
            if trials[i].should_prune():
                study.tell(trials[i], state=optuna.trial.TrialState.PRUNED)
                stopped.append(i)
        return stopped

    return kills


RULES: dict[str, Rule] = {
    "dominated": dominated,
    "successive-halving": successive_halving,
    "hyperband": hyperband,
    "median": median,
    "last-value": last_value,
    "patience": patience,
}
"""By name; successive halving, Hyperband and the median rule need Optuna."""
