"""What the gaps of the annealing probe tell of the drop: learn it, and check it where not learnt.

    python tests/benchmarks/probe_rule.py             # learn from the recorded runs, report, draw
    python tests/benchmarks/probe_rule.py --write     # and put it into the package

Reads what probe_pairs.py recorded. Every pair is predicted by the rule learnt from the other tasks,
from the gaps and losses before its decay alone. Draws results/probe.png.
"""

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossforecast import Forecaster, LRSchedule, RunInfo
from lossforecast.backtest import FRACTIONS
from lossforecast.curves import RecordedRun
from lossforecast.gaps import Gap, GapRule, Trend
from lossforecast.learn import Error, calibration_of, error_of
from lossforecast.prior import Prior
from lossforecast.rules import RULES
from lossforecast.sweeps import SweepScore, replay_sweeps

RESULTS = Path(__file__).with_name("results")
TABLE = Path(__file__).parents[2] / "lossforecast" / "probe.json"
FloatArray = NDArray[np.float64]

SHARES = (80, 20)  # horizons of the probe, as the length of the run over these
# not learnt: how wrong the lag may be, as the share by which the best correction of it varies
LAG = 0.25
LEAST = 0.05  # spread of the ratio
START = GapRule(1.0, 0.0, 0.1, 0.0, 1.0, 0.0, (0.1, 0.3, 0.3), LAG)
OUTER = 1.2816  # standard deviations on each side of 80%


@dataclass(frozen=True)
class Curve:
    """Losses and gaps of one branch of a run: steps (n,), rates, losses, gaps by step."""

    step: NDArray[np.int64]
    rate: FloatArray
    loss: FloatArray
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class Pair:
    """A decay that branched off a run, and the drop that it brought."""

    decay: str
    begin: int
    steps: int
    drop: float
    drop_stderr: float
    loss_after: float


@dataclass(frozen=True)
class Recorded:
    """One recorded run."""

    name: str
    task: str
    optimizer: str
    rate: float
    steps: int
    branches: dict[str, Curve]
    pairs: dict[str, Pair]

    @property
    def warmup(self) -> int:
        return self.steps // 20

    @property
    def horizons(self) -> list[int]:
        return sorted({gap.horizon for gap in self.branches["main"].gaps})

    def plan(self, pair: Pair) -> LRSchedule:
        held = LRSchedule.constant(pair.begin + pair.steps, self.rate, warmup=self.warmup)
        return held.with_decay(start=pair.begin, steps=pair.steps)

    @cached_property
    def wsd(self) -> LRSchedule:
        return self.plan(self.pairs["linear"])

    def told(self, pair: Pair, now: int, rule: GapRule) -> tuple[float, float] | None:
        """Mean and standard deviation of the drop, by the gaps so far."""
        main = self.branches["main"]
        seen = main.step <= now
        gaps = [gap for gap in main.gaps if gap.step <= now]
        variance = np.full(int(seen.sum()), 1.0)
        steps, losses = main.step[seen], main.loss[seen]
        found = rule.drop(gaps, self.plan(pair), now, steps, losses, variance)
        return None if found is None else (found.mean, found.std)


def recorded(folder: Path = RESULTS, shares: Sequence[int] = SHARES) -> list[Recorded]:
    """All recorded runs."""
    curves: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in read(folder / "probe_curves.csv"):
        curves[row["run"], row["branch"]].append(row)
    pairs: dict[str, dict[str, Pair]] = defaultdict(dict)
    for row in read(folder / "probe_pairs.csv"):
        pairs[row["run"]][row["decay"]] = Pair(
            row["decay"],
            int(row["begin"]),
            int(row["steps"]),
            *(float(row[name]) for name in ("drop", "drop_stderr", "loss_after")),
        )
    return [
        Recorded(
            f"{row['task']}-{row['optimizer']}-{row['rate']}-b{row['batch']}",
            row["task"],
            row["optimizer"],
            float(row["rate"]),
            int(row["steps"]),
            {
                branch: curve(curves[run, branch], int(row["steps"]), shares)
                for run, branch in curves
                if run == row["run"]
            },
            pairs[row["run"]],
        )
        for row in read(folder / "probe_runs.csv")
    ]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def curve(rows: Sequence[dict[str, str]], steps: int, shares: Sequence[int]) -> Curve:
    """One branch; gaps as soon as their averages have forgotten where they began."""
    gaps = [
        Gap(int(row["step"]), float(row[f"gap{share}"]), float(row[f"stderr{share}"]), horizon)
        for row in rows
        for share in shares
        if row[f"gap{share}"] and int(row["step"]) >= 3 * (horizon := steps // share)
    ]
    step, rate, loss = (
        np.array([float(row[name]) for row in rows]) for name in ("step", "rate", "loss")
    )
    return Curve(step.astype(np.int64), rate, loss, tuple(gaps))


# ---------------------------------------------------------------------- learning


def learn(runs: Sequence[Recorded]) -> GapRule:
    """The rule by some runs: how gaps grow, and then what a drop is of them."""
    tasks = [run.task for run in runs]
    powers = [
        tallied([power(run) for run in runs], tasks) for power in (by_horizon, by_time, by_rate)
    ]
    rule = replace(
        START,
        horizon_power=powers[0][0],
        growth=powers[1][0],
        rate_power=powers[2][0],
        apart=(powers[0][1], powers[1][1], powers[2][1]),
    )
    rule = replace(rule, decay_power=tallied([by_decay(run, rule) for run in runs], tasks)[0])
    ratios, kinds, known = [], [], []
    for run in runs:
        for pair in run.pairs.values():
            told = run.told(pair, pair.begin, rule)
            if told is not None and told[1] < 0.5 * told[0] and pair.drop > 3 * pair.drop_stderr:
                ratios.append(np.log(pair.drop / told[0]))
                known.append(np.hypot(told[1] / told[0], pair.drop_stderr / pair.drop))
                kinds.append(run.task)
    centre, apart = tallied(ratios, kinds)
    # what the errors of gap and drop explain, the forecaster knows of
    own = max(apart**2 - float(np.median(known)) ** 2, LEAST**2) ** 0.5
    return replace(rule, ratio=float(np.exp(centre)), spread=own)


def calibrated(rules: dict[str, GapRule], runs: Sequence[Recorded]) -> dict[str, GapRule]:
    """The rules of `without` each task, with how forecasts by them fared in still other tasks."""
    errors = [
        Error(run.task, "val", False, seen, error, None, "")
        for run in runs
        for seen in FRACTIONS
        if (error := uncalibrated(run, rules[run.task], seen)) is not None
    ]
    return {
        task: replace(rule, calibration=calibration_of([e for e in errors if e.fold != task]))
        for task, rule in rules.items()
    }


def uncalibrated(run: Recorded, rule: GapRule, seen: float) -> float | None:
    """Error of a forecast of the final loss, in its own standard deviations."""
    if seen > 0.8:
        return None
    mixture = forecaster_of(run, rule, seen).forecast()._mixture
    assert mixture is not None
    return error_of(mixture, run.pairs["linear"].loss_after)


def tallied(values: Sequence[float], tasks: Sequence[str]) -> tuple[float, float]:
    """Mean over tasks of their medians, and the spread of a run of another task around it."""
    known = {
        task: np.array(
            [v for v, t in zip(values, tasks, strict=True) if t == task and np.isfinite(v)]
        )
        for task in sorted(set(tasks))
    }
    medians = np.array([np.median(each) for each in known.values() if each.size])
    within = [
        1.4826 * np.median(np.abs(each - np.median(each))) for each in known.values() if each.size
    ]
    between = medians.std(ddof=1) if medians.size > 1 else 0.0
    return float(medians.mean()), float(np.hypot(between, np.mean(within)))


def by_horizon(run: Recorded) -> float:
    """Power of the horizon with which the gap grows, in the later half of the held rate."""
    found = [(h, run_gap(run, h, 0.5, 0.8)) for h in run.horizons if h <= 0.05 * run.steps]
    return slope([h for h, _ in found], [gap for _, gap in found])


def by_time(run: Recorded) -> float:
    """Power of the steps taken with which it grows."""
    parts = ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8))
    middles = [np.sqrt(low * high) for low, high in parts]
    return slope(middles, [run_gap(run, run.horizons[0], *part) for part in parts])


def by_rate(run: Recorded) -> float:
    """Power of the learning rate with which it falls in a decay."""
    branch, pair, horizon = run.branches["linear"], run.pairs["linear"], run.horizons[0]
    gaps = [gap for gap in branch.gaps if gap.horizon == horizon]
    rates = run.wsd.lr(np.array([gap.step for gap in gaps])) / run.rate
    inside = [gap.value for gap, rate in zip(gaps, rates, strict=True) if 0.3 <= rate <= 0.7]
    before = run_gap(run, horizon, 0.6, 0.8)
    return slope([0.5, 1.0], [float(np.mean(inside)) + lag_of(run, horizon, pair.begin), before])


def by_decay(run: Recorded, rule: GapRule) -> float:
    """Power of the length of the decay with which drops grow beyond what the horizon explains."""
    pairs = [run.pairs[name] for name in ("short", "linear")]
    told = [run.told(pair, pair.begin, rule) for pair in pairs]
    if None in told:
        return float("nan")
    ratios = [pair.drop / found[0] for pair, found in zip(pairs, told, strict=True) if found]
    return slope([pair.steps for pair in pairs], ratios)


def run_gap(run: Recorded, horizon: int, low: float, high: float) -> float:
    """Mean gap without lag over a part of the run at its held rate."""
    found = [
        gap.value + lag_of(run, horizon, gap.step)
        for gap in run.branches["main"].gaps
        if gap.horizon == horizon and low * run.steps < gap.step <= high * run.steps
    ]
    return float(np.mean(found)) if found else np.nan


def lag_of(run: Recorded, horizon: int, step: int) -> float:
    main = run.branches["main"]
    seen = main.step <= 0.8 * run.steps
    s1 = run.wsd.s1(main.step[seen])
    trend = Trend.of(s1, main.loss[seen], np.ones(int(seen.sum())))
    at = run.wsd.s1(np.array([step - horizon, step]))
    return float(trend.fell(at[:1], at[1:])[0])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Power with which y goes with x; nan where some y is not positive."""
    if len(x) < 2 or min(y) <= 0 or not np.isfinite(y).all():
        return float("nan")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# ---------------------------------------------------------------------- checking


@dataclass(frozen=True)
class Told:
    """What was predicted of a pair by a rule that had not seen its task, and what came."""

    run: Recorded
    pair: Pair
    now: int
    mean: float
    std: float

    @property
    def error(self) -> float:
        return abs(self.mean / self.pair.drop - 1)

    @property
    def held(self) -> bool:
        sure = np.hypot(self.std, self.pair.drop_stderr)
        return bool(abs(self.mean - self.pair.drop) < OUTER * sure)


def foretold(
    runs: Sequence[Recorded], rules: dict[str, GapRule], seen: float | None = None
) -> list[Told]:
    """Predictions of all pairs, at the beginning of their decay or from a share of the run."""
    found = []
    for run in runs:
        for pair in run.pairs.values():
            now = pair.begin if seen is None else round(seen * (pair.begin + pair.steps))
            told = run.told(pair, now, rules[run.task])
            if told is not None:
                found.append(Told(run, pair, now, *told))
    return found


@dataclass(frozen=True)
class Final:
    """A forecast of the final loss of a recorded WSD run, relative to what came."""

    run: Recorded
    error: float
    held: bool
    width: float
    source: str


def forecast(run: Recorded, rule: GapRule | None, seen: float) -> Final:
    """The forecast from a share of the run, with the probe if there is a rule for it."""
    found, truth = forecaster_of(run, rule, seen).forecast(), run.pairs["linear"].loss_after
    low, high = found.interval(0.8)
    error = found.quantile(0.5) / truth - 1
    return Final(run, error, low <= truth <= high, (high - low) / truth, found.anneal_gain.source)


def forecaster_of(run: Recorded, rule: GapRule | None, seen: float) -> Forecaster:
    """A forecaster that has seen a share of a WSD run, with the probe if there is a rule for it."""
    prior = Prior() if rule is None else replace(Prior(), gaps=rule)
    forecaster = Forecaster(run.wsd, RunInfo("val", run.optimizer), prior=prior)
    main, now = run.branches["main"], round(seen * run.steps)
    early = main.step <= now
    forecaster.observe_many(main.step[early], main.loss[early])
    for gap in main.gaps:
        if rule is not None and gap.step <= now:
            forecaster.observe_gap(*gap)
    return forecaster


def line(name: str, told: Sequence[Told]) -> str:
    error = np.median([each.error for each in told])
    bias = np.median([each.mean / each.pair.drop for each in told])
    held = np.mean([each.held for each in told])
    return f"{name:24s} {len(told):5d} {error:8.1%} {bias:8.2f} {held:8.0%}"


def report(runs: Sequence[Recorded], rules: dict[str, GapRule]) -> None:
    say = sys.stdout.write
    begun = foretold(runs, rules)
    say(
        f"{'drop, at its beginning':24s} {'pairs':>5s} {'|error|':>8s} {'told/came':>8s} "
        f"{'in 80%':>8s}\n"
    )
    for task in rules:
        say(line(task, [each for each in begun if each.run.task == task]) + "\n")
    for decay in ("linear", "cosine", "short", "early"):
        say(line(decay, [each for each in begun if each.pair.decay == decay]) + "\n")
    for optimizer in ("adamw", "sgd", "rmsprop"):
        say(line(optimizer, [each for each in begun if each.run.optimizer == optimizer]) + "\n")
    say(line("all", begun) + "\n")
    half = [e for e in foretold(runs, rules, 0.5) if e.pair.decay in ("linear", "cosine")]
    say(line("from half of the run", half) + "\n\n")
    say("final loss of WSD runs    median |error| without, with the probe; in 80%; width\n")
    for seen in (0.25, 0.5, 0.75):
        blind = [forecast(run, None, seen) for run in runs]
        told = [forecast(run, rules[run.task], seen) for run in runs]
        for group in (*rules, None):
            mine = [i for i, run in enumerate(runs) if group in (run.task, None)]
            cells = [[kind[i] for i in mine] for kind in (blind, told)]
            say(
                f"{seen:4.0%} {group or 'all':20s}"
                + "".join(f" {np.median([abs(c.error) for c in each]):7.2%}" for each in cells)
                + "".join(f" {np.mean([c.held for c in each]):7.0%}" for each in cells)
                + "".join(f" {np.median([c.width for c in each]):7.1%}" for each in cells)
                + "\n"
            )


def draw(runs: Sequence[Recorded], rules: dict[str, GapRule], path: Path) -> None:
    """Predicted drop against real drop, as shares of the loss, by task; with 80% intervals."""
    from matplotlib.figure import Figure

    told = foretold(runs, rules)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    ends = np.array([1e-3, 1.2])
    axes.loglog(ends, ends, color="0.6", linewidth=1)
    axes.fill_between(ends, 0.85 * ends, 1.15 * ends, color="0.92", linewidth=0)
    for number, task in enumerate(rules):
        mine = [each for each in told if each.run.task == task]
        level = np.array([each.pair.loss_after for each in mine])
        real = np.array([each.pair.drop for each in mine]) / level
        mean = np.array([each.mean for each in mine]) / level
        error = OUTER * np.array([each.std for each in mine]) / level
        low = np.minimum(error, 0.9 * mean)
        axes.errorbar(
            real,
            mean,
            yerr=[low, error],
            fmt="osD^vPX"[number % 7],
            markersize=4,
            linewidth=0.5,
            label=f"{task} ({len(mine)})",
        )
    axes.set(
        xlabel="real drop, share of the final loss",
        ylabel="drop told by the probe before the decay",
        xlim=ends,
        ylim=ends,
    )
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def sweep_runs(runs: Sequence[Recorded], *, probe: bool) -> list[RecordedRun]:
    """The WSD runs, those of a task as one sweep."""
    found = []
    for run in runs:
        main, tail = run.branches["main"], run.branches["linear"]
        held = main.step <= run.pairs["linear"].begin
        step = np.concatenate([main.step[held], tail.step])
        gaps = tuple(gap for gap in main.gaps if gap.step <= step[int(held.sum()) - 1])
        found.append(
            RecordedRun(
                source=run.task,
                run_id=run.name,
                what="val",
                step=step,
                lr=run.wsd.lr(step),
                loss=np.concatenate([main.loss[held], tail.loss]),
                total_steps=run.steps,
                optimizer=run.optimizer,
                metadata={"sweep_all_optimizers": run.task},
                gaps=gaps if probe else (),
            )
        )
    return found


def swept(runs: Sequence[Recorded], rules: dict[str, GapRule], *, probe: bool) -> list[SweepScore]:
    """What stopping the dominated runs of each task costs and saves."""
    return replay_sweeps(
        sweep_runs(runs, probe=probe),
        rules={"dominated": RULES["dominated"]},
        prior_for=lambda run: replace(Prior(), gaps=rules[run.source]),
    )


def report_sweeps(runs: Sequence[Recorded], rules: dict[str, GapRule]) -> None:
    sys.stdout.write("\nsweeps, dominated: steps used, regret of the best survivor, best stopped\n")
    scores = {probe: swept(runs, rules, probe=probe) for probe in (False, True)}
    for arrival in ("parallel", "sequential"):
        for probe, found in scores.items():
            mine = [score for score in found if score.arrival == arrival]
            name = "with the probe" if probe else "without"
            sys.stdout.write(
                f"{arrival:10s} {name:15s} "
                f"{np.mean([score.compute_used for score in mine]):7.1%} "
                f"{np.mean([score.regret for score in mine]):7.2%} "
                f"{np.sum([score.false_kills for score in mine]):5.1f}  "
                + " ".join(f"{s.sweep} {s.compute_used:.0%}/{s.regret:.1%}" for s in mine)
                + "\n"
            )


def main() -> None:
    """Learn, report, and write what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the rule into the package")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--shares", type=int, nargs="*", default=SHARES, help="of runs: horizons")
    args = parser.parse_args()
    runs = recorded(args.results, args.shares)
    tasks = sorted({run.task for run in runs})
    rules = {task: learn([run for run in runs if run.task != task]) for task in tasks}
    rules = {**rules, "": learn(runs)}  # nothing is called so: without nothing
    rules = calibrated(rules, runs)
    rule = rules.pop("")
    for name, each in (("all", rule), *rules.items()):
        sys.stdout.write(f"{name}: {rounded(asdict(each))}\n")
    report(runs, rules)
    report_sweeps(runs, rules)
    draw(runs, rules, args.results / "probe.png")
    if args.write:
        table = {
            "provenance": {
                "command": "python tests/benchmarks/probe_rule.py --write",
                "runs": len(runs),
                "pairs": sum(len(run.pairs) for run in runs),
                "tasks": {task: sum(run.task == task for run in runs) for task in tasks},
            },
            "all": rounded(asdict(rule)),
            "without": {task: rounded(asdict(each)) for task, each in rules.items()},
        }
        TABLE.write_text(json.dumps(table, indent=1) + "\n")


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
