"""How often policies with a risk would have stopped recorded runs wrongly.

    python tests/benchmarks/policy_risk.py --curves DIR --jobs 2

Every completed run of a recorded sweep is looked at 49 times, with a prior learnt without its
project or task. `target_miss` is given the very loss that the run ended with as its target, so
every stop is wrong. `no_room` asks for a gain of 1% of the loss; a stop is wrong if the run gained
more.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from lossforecast import Action, Forecaster, RunInfo
from lossforecast.backtest.backtest import prior_without_fold
from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.backtest.parallel import mapped
from lossforecast.backtest.replay import outcome
from lossforecast.backtest.trails import LOOKS, decay_begins, patience_ends
from lossforecast.policies import no_room, target_miss

Stops = tuple[bool, bool, bool, bool]
COLUMNS = ("missed its own end", "had no room", "of these wrongly", "before the last tenth")


def stops(run: RecordedRun) -> Stops:
    """Whether the target rule stops it; whether `no_room` does, wrongly, and early."""
    end = outcome(run)
    assert end is not None
    info = RunInfo(metric=run.what, optimizer=run.optimizer)
    forecaster = Forecaster(run.plan, info, prior=prior_without_fold(run))
    seen, missed, roomless, wrong, early = 0, False, False, False, False
    for look in range(1, LOOKS):
        n = int(np.searchsorted(run.step, look / LOOKS * run.total_steps, side="right"))
        if n == seen:
            continue
        forecaster.observe_many(run.step[seen:n], run.loss[seen:n])
        seen = n
        advice = forecaster.recommend(target=end.loss, policy=target_miss())
        missed = missed or advice.action is Action.STOP
        if roomless or n < 3:
            continue
        now = float(np.mean(run.loss[max(n - 2, 0) : n + 2]))
        least = 0.01 * abs(now)
        if forecaster.recommend(policy=no_room(least)).action is Action.STOP:
            roomless, wrong, early = True, now - end.loss > least, look < 0.9 * LOOKS
    return missed, roomless, wrong, early


def impatience(runs: list[RecordedRun]) -> tuple[int, int]:
    """How many runs a patience of three stops before their decay; of the better half of a sweep."""
    ends: dict[str, list[float]] = {}
    for run in runs:
        ends.setdefault(str(run.sweep), []).append(truth(run))
    stopped = [run for run in runs if patience_ends(run) < decay_begins(run) < np.inf]
    better = [run for run in stopped if truth(run) < np.median(ends[str(run.sweep)])]
    return len(stopped), len(better)


def truth(run: RecordedRun) -> float:
    """How it ended."""
    end = outcome(run)
    assert end is not None
    return end.loss


def main() -> None:
    """Replay and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    runs = [run for run in load_curves(args.curves) if run.what == "val" and run.sweep is not None]
    runs = [run for run in runs if run.completed and outcome(run) is not None]
    found = list(mapped(stops, runs, args.jobs))
    for name, algoperf in (("language models", False), ("AlgoPerf", True)):
        mine = [
            each
            for run, each in zip(runs, found, strict=True)
            if run.source.startswith("algoperf") is algoperf
        ]
        counts = np.sum(mine, axis=0)
        shares = ", ".join(
            f"{heading} {count} ({count / len(mine):.1%})"
            for heading, count in zip(COLUMNS, counts, strict=True)
        )
        sys.stdout.write(f"{name}, {len(mine)} runs: {shares}\n")
        stopped, better = impatience(
            [r for r in runs if r.source.startswith("algoperf") is algoperf]
        )
        sys.stdout.write(
            f"  a patience of three validations stops {stopped} before their decay, {better} of "
            "the better half of their sweep\n"
        )


if __name__ == "__main__":
    main()
