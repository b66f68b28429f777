"""How often the lowest validation loss so far stays the lowest, against the forecast probability.

    python tests/benchmarks/minimum.py --curves DIR --jobs 2

Every completed validation curve is looked at 48 times, evenly spread over its steps, with a prior
learned without its fold. Losses are means of three neighbouring validations. The lowest so far
stays the lowest if no later one is below it. Printed are, for looks of equal probability, how often
it stayed, every family of runs counted once; and the runs that the policy `overfitting` stopped, of
those whose loss ended at least 1% above its lowest and of the others.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from lossforecast import Action, Forecaster
from lossforecast.backtest.backtest import prior_without_fold
from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.backtest.parallel import mapped
from lossforecast.backtest.replay import Told, described, outcome
from lossforecast.policies import overfitting
from lossforecast.runs import RunKind

LOOKS = 48  # of a run
MIN_LOSSES = 8  # of a run at a look
OVERFITS_BY = 0.01  # share of the lowest loss by which an overfitting run ends above it
EDGES = (0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0)  # of the probabilities


@dataclass(frozen=True)
class Look:
    """One look at a run.

    Attributes:
        share: share of the run seen.
        prob: probability that the minimum has passed.
        stays: whether no later loss is lower.
        inside: whether the 80% interval of the lowest loss of the run holds it.
        stops: whether `overfitting` stops the run.
    """

    share: float
    prob: float
    stays: bool
    inside: bool
    stops: bool


def looks_at(run: RecordedRun) -> tuple[bool, list[Look]]:
    """True if a run ends 1% above its lowest loss, and the looks at it."""
    forecaster = Forecaster(run.plan, described(run, Told.FOUND), prior=prior_without_fold(run))
    finite = np.isfinite(run.loss)
    steps, smooth = run.step[finite], np.convolve(run.loss[finite], np.ones(3) / 3, mode="valid")
    seen, looks = 0, []
    for share in np.arange(1, LOOKS + 1) / (LOOKS + 1):
        n = int(np.searchsorted(run.step, share * run.total_steps, side="right"))
        ended = int(np.searchsorted(steps, share * run.total_steps, side="right")) - 2
        if n == seen or ended + 2 < MIN_LOSSES or ended >= smooth.size:
            continue
        forecaster.observe_many(run.step[seen:n], run.loss[seen:n])
        seen = n
        advice, minimum = forecaster.recommend(policy=overfitting()), forecaster.forecast().minimum
        if minimum is None:
            continue
        lowest, tiny = smooth.min(), 1e-9 * abs(smooth.min())
        looks.append(
            Look(
                share=float(share),
                prob=minimum.prob_passed,
                stays=bool(smooth[ended:].min() >= smooth[:ended].min()),
                inside=bool(minimum.loss.lower - tiny <= lowest <= minimum.loss.upper + tiny),
                stops=advice.action is Action.STOP and advice.reason == "overfitting",
            )
        )
    return bool(smooth[-1] > smooth.min() + OVERFITS_BY * abs(smooth.min())), looks


def report(runs: Sequence[RecordedRun], found: Sequence[tuple[bool, list[Look]]]) -> Iterator[str]:
    """Lines of the tables."""
    sizes = Counter(run.family for run, (_, looks) in zip(runs, found, strict=True) for _ in looks)
    weighed = [
        (look, 1 / sizes[run.family])
        for run, (_, looks) in zip(runs, found, strict=True)
        for look in looks
    ]
    yield f"{len(runs)} runs, {len(weighed)} looks"
    for low, high in pairwise(EDGES):
        mine = [(k, w) for k, w in weighed if low <= k.prob < high or k.prob == high == 1]
        if mine:
            probs, stays = (
                np.average([getattr(look, name) for look, _ in mine], weights=[w for _, w in mine])
                for name in ("prob", "stays")
            )
            yield (
                f"probability {low:.0%} to {high:.0%}: {len(mine)} looks, {probs:.0%} on average, "
                f"stayed the lowest in {stays:.0%}"
            )
    for kind in RunKind:
        of_kind = [i for i, run in enumerate(runs) if run.kind is kind]
        inside = [k for i in of_kind for k in found[i][1]]
        if not inside:
            continue
        weights = [1 / sizes[runs[i].family] for i in of_kind for _ in found[i][1]]
        held = np.average([look.inside for look in inside], weights=weights)
        yield f"{kind}: the 80% interval of the minimum held {held:.0%}"
        for overfits in (True, False):
            chosen = [found[i][1] for i in of_kind if found[i][0] is overfits]
            stops = (next((look for look in looks if look.stops), None) for looks in chosen)
            first = [stop for stop in stops if stop is not None]
            wrong = sum(not look.stays for look in first)
            left = np.mean([1 - look.share for look in first]) if first else 0.0
            name = "overfitting runs" if overfits else "other runs"
            yield (
                f"  {name}: {len(first)} of {len(chosen)} stopped, with {left:.0%} of the steps "
                f"left; {wrong} had a lower loss later"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Look at all validation curves and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args(arguments)
    runs = [
        run for run in load_curves(args.curves) if run.metric == "val" and outcome(run) is not None
    ]
    found = list(mapped(looks_at, runs, args.jobs))
    sys.stdout.writelines(f"{line}\n" for line in report(runs, found))


if __name__ == "__main__":
    main()
