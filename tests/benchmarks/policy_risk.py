"""How often policies with a risk stop recorded runs wrongly, by kind and by family of runs.

    python tests/benchmarks/policy_risk.py --curves DIR --jobs 2

Every completed run is looked at 48 times, evenly spread over its steps, with a prior learned
without its fold. Counted are the runs that any look stops:

* `target_miss` with a target 1% above the outcome: every stop is wrong.
* `target_miss` with a target 10% below the outcome, which is hopeless: told by half of the run.
* `no_room`, asked for a gain of 1% of the loss; a stop is wrong if the run gained more.

A family is the runs of one fold with one metric. The share of a family counts each of its clusters
once, and that of a kind each of its families. At the end, what a patience of three validations does
to the validation losses of recorded sweeps.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lossforecast import Action, Forecaster
from lossforecast.backtest.backtest import prior_without_fold
from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.backtest.families import select_per_family
from lossforecast.backtest.parallel import mapped
from lossforecast.backtest.replay import Told, described, outcome
from lossforecast.backtest.scores import cluster_mean
from lossforecast.backtest.sweep_runs import patience_end
from lossforecast.policies import Setup, no_room, target_miss
from lossforecast.runs import RunKind

LOOKS = 48  # of a run
MISSED_BY = 0.01  # share of the outcome by which a run ends below the target it reaches
HOPELESS_BY = 0.1  # share of the outcome by which it ends above the target out of reach
GAIN_SHARE = 0.01  # of the present loss, the gain that no_room asks for
MIN_LOSSES = 3  # before no_room is asked
HEADINGS = ("wrong kills", "hopeless told", "no_room stops", "wrongly")
NAME_WIDTH, COLUMN_WIDTH = 34, 15


@dataclass(frozen=True)
class Stops:
    """Stops that the looks at one run advised.

    Attributes:
        wrongly: whether `target_miss` stopped it, although it reached the target.
        wrongly_at: share of the run after which it did; nan if it did not.
        hopeless: whether `target_miss` stopped it for the hopeless target by half of the run.
        no_room: whether `no_room` stopped it.
        no_room_wrongly: whether it gained more after that than `no_room` was asked for.
    """

    wrongly: bool
    wrongly_at: float
    hopeless: bool
    no_room: bool
    no_room_wrongly: bool

    @property
    def counted(self) -> tuple[bool, bool, bool, bool]:
        """True for each of `HEADINGS` that applies."""
        return self.wrongly, self.hopeless, self.no_room, self.no_room_wrongly


@dataclass(frozen=True)
class FamilyStops:
    """One family: its name, its number of runs, and the share of them for each of `HEADINGS`."""

    kind: RunKind
    fold: str
    metric: str
    n: int
    shares: tuple[float, ...]
    wrongly_at: float


def stops(run: RecordedRun, told: Told) -> Stops:
    """Look at a run 48 times."""
    truth = outcome_of(run)
    reached, hopeless = (truth + share * abs(truth) for share in (MISSED_BY, -HOPELESS_BY))
    forecaster = Forecaster(run.plan, described(run, told), prior=prior_without_fold(run))
    seen, wrongly_at, hopeless_told, no_room_stops, no_room_wrongly = 0, np.nan, False, False, False
    for share in np.arange(1, LOOKS + 1) / (LOOKS + 1):
        n = int(np.searchsorted(run.step, share * run.total_steps, side="right"))
        if n == seen:
            continue
        forecaster.observe_many(run.step[seen:n], run.loss[seen:n])
        seen = n
        if np.isnan(wrongly_at) and stopped_by_target(forecaster, reached):
            wrongly_at = float(share)
        if share <= 0.5 and not hopeless_told:
            hopeless_told = stopped_by_target(forecaster, hopeless)
        if no_room_stops or n < MIN_LOSSES:
            continue
        present = float(np.mean(run.loss[max(n - 2, 0) : n + 2]))
        min_gain = GAIN_SHARE * abs(present)
        if forecaster.recommend(policy=no_room(min_gain)).action is Action.STOP:
            no_room_stops, no_room_wrongly = True, present - truth > min_gain
    return Stops(
        wrongly=not np.isnan(wrongly_at),
        wrongly_at=wrongly_at,
        hopeless=hopeless_told,
        no_room=no_room_stops,
        no_room_wrongly=no_room_wrongly,
    )


def stopped_by_target(forecaster: Forecaster, target: float) -> bool:
    """Return whether `target_miss` stops the run now."""
    return forecaster.recommend(target=target, policy=target_miss()).action is Action.STOP


def outcome_of(run: RecordedRun) -> float:
    """The loss that the run ended with."""
    end = outcome(run)
    assert end is not None
    return end.loss


def by_family(runs: Sequence[RecordedRun], results: Sequence[Stops]) -> list[FamilyStops]:
    """The shares of each family, sorted by kind, fold and metric."""
    members: defaultdict[tuple[RunKind, str, str], list[int]] = defaultdict(list)
    for i, run in enumerate(runs):
        members[run.family].append(i)
    families = []
    for (kind, fold, metric), mine in members.items():
        clusters = [runs[i].cluster for i in mine]
        counted = zip(*(results[i].counted for i in mine), strict=True)
        shares = tuple(cluster_mean(column, clusters) for column in counted)
        at = [results[i].wrongly_at for i in mine if results[i].wrongly]
        middle = float(np.median(at)) if at else float("nan")
        families.append(FamilyStops(kind, fold, metric, len(mine), shares, middle))
    kinds = list(RunKind)
    return sorted(families, key=lambda f: (kinds.index(f.kind), f.fold, f.metric))


def report(families: Sequence[FamilyStops]) -> Iterator[str]:
    """Lines of the table: kinds, of both metrics together and of each, and then families."""
    yield _line("kind", "families", "runs", *HEADINGS)
    for kind in RunKind:
        for metric in (None, "val", "train"):
            mine = [f for f in families if f.kind is kind and metric in (None, f.metric)]
            if mine:
                shares = np.mean([family.shares for family in mine], axis=0)
                name = f"{kind} {metric}" if metric else str(kind)
                yield _line(name, len(mine), sum(f.n for f in mine), *_percents(shares))
    yield ""
    yield _line("family", "", "runs", *HEADINGS, "killed at")
    for family in families:
        at = "" if np.isnan(family.wrongly_at) else f"{family.wrongly_at:.0%}"
        name = f"{family.fold} {family.metric}"
        yield _line(name, "", family.n, *_percents(family.shares), at)


def _percents(shares: Iterable[float]) -> list[str]:
    return [f"{share:.1%}" for share in shares]


def _line(name: str, *cells: object) -> str:
    return f"{name:<{NAME_WIDTH}}" + "".join(f"{cell!s:>{COLUMN_WIDTH}}" for cell in cells)


def _decay_start(run: RecordedRun) -> float:
    return Setup.of("", run.plan).decay_start


def impatience(runs: Sequence[RecordedRun]) -> tuple[int, int]:
    """Number of runs that a patience of 3 stops before their decay, and of good ones among them."""
    ends: defaultdict[str, list[float]] = defaultdict(list)
    for run in runs:
        ends[str(run.sweep)].append(outcome_of(run))
    stopped = [run for run in runs if patience_end(run) < _decay_start(run) < 1]
    better = [run for run in stopped if outcome_of(run) < np.median(ends[str(run.sweep)])]
    return len(stopped), len(better)


def main(arguments: Sequence[str] | None = None) -> None:
    """Look at all runs and print the shares that are stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--told", type=Told, choices=list(Told), default=Told.FOUND)
    parser.add_argument("--max-per-family", type=int, help="spread over its clusters")
    args = parser.parse_args(arguments)
    recorded = [run for run in load_curves(args.curves) if outcome(run) is not None]
    most = args.max_per_family or len(recorded)
    runs = select_per_family(recorded, most)
    results = list(mapped(partial(stops, told=args.told), runs, args.jobs))
    sys.stdout.write(f"{len(runs)} runs, told: {args.told}\n\n")
    sys.stdout.writelines(f"{line}\n" for line in report(by_family(runs, results)))
    sys.stdout.write("\nstopped before their decay by a patience of three validations:\n")
    for kind in RunKind:
        swept = [r for r in recorded if r.kind is kind and r.metric == "val" and r.sweep]
        stopped, better = impatience(swept)
        sys.stdout.write(
            f"{kind}, sweeps: {stopped} of {len(swept)} runs, {better} of them in the better half "
            "of their sweep\n"
        )


if __name__ == "__main__":
    main()
