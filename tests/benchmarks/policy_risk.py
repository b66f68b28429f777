"""How often policies with a risk would have stopped recorded runs wrongly.

    python tests/benchmarks/policy_risk.py --curves DIR --jobs 2

Every completed run of a recorded sweep is checked 49 times, with a prior learned without its fold.
`target_miss` gets the loss that the run ended with as its target, so every stop is wrong. `no_room`
asks for a gain of 1% of the loss; a stop is wrong if the run gained more.
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
from lossforecast.backtest.sweep_runs import CHECKS_PER_RUN, decay_start, patience_end
from lossforecast.policies import no_room, target_miss

Stops = tuple[bool, bool, bool, bool]
COLUMNS = (
    "stopped by target_miss",
    "by no_room",
    "wrongly by no_room",
    "by no_room before the last 10%",
)
MIN_LOSSES = 3  # before no_room is asked
GAIN_SHARE = 0.01  # of the present loss, the gain that no_room asks for


def stops(run: RecordedRun) -> Stops:
    """True for each of `COLUMNS` that applies to the run."""
    end = outcome(run)
    assert end is not None
    info = RunInfo(metric=run.metric, optimizer=run.optimizer)
    forecaster = Forecaster(run.plan, info, prior=prior_without_fold(run))
    seen, missed, no_room_left, wrong, early = 0, False, False, False, False
    for check in range(1, CHECKS_PER_RUN):
        n = int(np.searchsorted(run.step, check / CHECKS_PER_RUN * run.total_steps, side="right"))
        if n == seen:
            continue
        forecaster.observe_many(run.step[seen:n], run.loss[seen:n])
        seen = n
        advice = forecaster.recommend(target=end.loss, policy=target_miss())
        missed = missed or advice.action is Action.STOP
        if no_room_left or n < MIN_LOSSES:
            continue
        present = float(np.mean(run.loss[max(n - 2, 0) : n + 2]))
        min_gain = GAIN_SHARE * abs(present)
        if forecaster.recommend(policy=no_room(min_gain)).action is Action.STOP:
            no_room_left, wrong = True, present - end.loss > min_gain
            early = check < 0.9 * CHECKS_PER_RUN
    return missed, no_room_left, wrong, early


def impatience(runs: list[RecordedRun]) -> tuple[int, int]:
    """Number of runs that a patience of 3 stops before their decay, and of good ones among them."""
    ends: dict[str, list[float]] = {}
    for run in runs:
        ends.setdefault(str(run.sweep), []).append(truth(run))
    stopped = [run for run in runs if patience_end(run) < decay_start(run) < np.inf]
    better = [run for run in stopped if truth(run) < np.median(ends[str(run.sweep)])]
    return len(stopped), len(better)


def truth(run: RecordedRun) -> float:
    """The loss that the run ended with."""
    end = outcome(run)
    assert end is not None
    return end.loss


def main() -> None:
    """Replay all sweeps and count the stops, by kind of run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    runs = [
        run for run in load_curves(args.curves) if run.metric == "val" and run.sweep is not None
    ]
    runs = [run for run in runs if run.completed and outcome(run) is not None]
    stops_of_run = list(mapped(stops, runs, args.jobs))
    for group in sorted({run.group for run in runs}):
        of_group = [run.group == group for run in runs]
        counts = np.sum(np.array(stops_of_run)[of_group], axis=0)
        n = sum(of_group)
        shares = ", ".join(
            f"{heading} {count} ({count / n:.1%})"
            for heading, count in zip(COLUMNS, counts, strict=True)
        )
        sys.stdout.write(f"{group}, {n} runs: {shares}\n")
        stopped, better = impatience([run for run in runs if run.group == group])
        sys.stdout.write(
            f"  a patience of three validations stops {stopped} before their decay, {better} of "
            "them in the better half of their sweep\n"
        )


if __name__ == "__main__":
    main()
