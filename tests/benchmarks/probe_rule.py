"""What the gaps of the annealing probe tell of the drop: learn it, and check it where not learnt.

    python tests/benchmarks/probe_rule.py             # learn from the recorded runs, report, draw
    python tests/benchmarks/probe_rule.py --write     # and put it into the package

Reads what probe_pairs.py recorded. Every pair is predicted by the rule learnt from the other tasks,
from the gaps and losses before its decay alone. Draws results/probe.png.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from probe_claims import draw, report, report_advice, report_sweeps
from probe_data import RESULTS, SHARES, Recorded, forecaster_of, recorded

from lossforecast.backtest.backtest import FRACTIONS
from lossforecast.backtest.learn import Error, calibration_of, error_of
from lossforecast.prior.probe_gaps import GapRule, Trend

TABLE = Path(__file__).parents[2] / "lossforecast" / "prior" / "probe.json"

# not learnt: how wrong the lag may be, as the share by which the best correction of it varies
LAG = 0.25
LEAST = 0.05  # spread of the ratio
START = GapRule(1.0, 0.0, 0.1, 0.0, 1.0, 0.0, (0.1, 0.3, 0.3), LAG)


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
            predicted = run.predicted_drop(pair, pair.begin, rule)
            if (
                predicted is not None
                and predicted[1] < 0.5 * predicted[0]
                and pair.drop > 3 * pair.drop_stderr
            ):
                ratios.append(np.log(pair.drop / predicted[0]))
                known.append(np.hypot(predicted[1] / predicted[0], pair.drop_stderr / pair.drop))
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
    predicted = [run.predicted_drop(pair, pair.begin, rule) for pair in pairs]
    if None in predicted:
        return float("nan")
    ratios = [pair.drop / found[0] for pair, found in zip(pairs, predicted, strict=True) if found]
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
    report_advice(runs, rules)
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
