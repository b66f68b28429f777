"""Learn how the gaps of the annealing probe predict the drop, and score it on other tasks.

    python tests/benchmarks/probe_rule.py             # learn from the recorded runs, report, draw
    python tests/benchmarks/probe_rule.py --write     # and write the rule into the package

Reads the runs that probe_pairs.py recorded. Every drop is predicted by the rule learned from the
other tasks, from the gaps and losses before its decay only. Draws results/probe.png.
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

from lossforecast.arrays import FloatArray
from lossforecast.backtest.backtest import FRACTIONS
from lossforecast.backtest.calibrate import (
    StandardizedError,
    calibration_of,
    standardized_error,
)
from lossforecast.numerics import MAD_TO_STD
from lossforecast.prior.probe_gaps import GapRule, Trend

TABLE = Path(__file__).parents[2] / "lossforecast" / "prior" / "probe.json"

LAG_SPREAD = 0.25  # relative error of the lag; not learned
MIN_RATIO_SPREAD = 0.05
MAX_PREDICTED_SHARE = 0.8  # of the run: the decay begins there
MAX_RELATIVE_STD = 0.5  # of a predicted drop, to learn the ratio from it
MIN_DROP_STDERRS = 3  # a real drop below so many standard errors teaches nothing
START = GapRule(
    ratio=1.0,
    spread=0.0,
    horizon_power=0.1,
    growth=0.0,
    rate_power=1.0,
    decay_power=0.0,
    apart=(0.1, 0.3, 0.3),
    lag=LAG_SPREAD,
)


def learn(runs: Sequence[Recorded]) -> GapRule:
    """The rule from some runs: first how gaps grow, then the ratio of drop to gap."""
    tasks = [run.task for run in runs]
    powers = [
        over_tasks([power(run) for run in runs], tasks)
        for power in (horizon_power, time_power, rate_power)
    ]
    rule = replace(
        START,
        horizon_power=powers[0][0],
        growth=powers[1][0],
        rate_power=powers[2][0],
        apart=(powers[0][1], powers[1][1], powers[2][1]),
    )
    rule = replace(rule, decay_power=over_tasks([decay_power(run, rule) for run in runs], tasks)[0])
    log_ratios, ratio_tasks, stderrs = [], [], []
    for run in runs:
        for pair in run.pairs.values():
            predicted = run.predicted_drop(pair, pair.begin, rule)
            if predicted is None:
                continue
            mean, std = predicted
            if std < MAX_RELATIVE_STD * mean and pair.drop > MIN_DROP_STDERRS * pair.drop_stderr:
                log_ratios.append(np.log(pair.drop / mean))
                stderrs.append(np.hypot(std / mean, pair.drop_stderr / pair.drop))
                ratio_tasks.append(run.task)
    centre, apart = over_tasks(log_ratios, ratio_tasks)
    # the forecaster accounts for the errors of gap and drop by itself: only the rest is spread
    spread = max(apart**2 - float(np.median(stderrs)) ** 2, MIN_RATIO_SPREAD**2) ** 0.5
    return replace(rule, ratio=float(np.exp(centre)), spread=spread)


def calibrated(rules: dict[str, GapRule], runs: Sequence[Recorded]) -> dict[str, GapRule]:
    """The rules learned without each task, calibrated by the errors of rules in other tasks."""
    errors = [
        StandardizedError(
            fold=run.task,
            metric="val",
            cluster=f"{run.task} {number}",
            kind="small model",
            fraction=seen,
            z=error[0],
            below=error[1],
            sweep=None,
            optimizer="",
        )
        for number, run in enumerate(runs)
        for seen in FRACTIONS
        if (error := uncalibrated(run, rules[run.task], seen)) is not None
    ]
    return {
        task: replace(
            rule,
            calibration=calibration_of([e for e in errors if e.fold != task], "val", "small model"),
        )
        for task, rule in rules.items()
    }


def uncalibrated(run: Recorded, rule: GapRule, seen: float) -> tuple[float, FloatArray] | None:
    """Error of a forecast of the final loss, as `standardized_error` has it."""
    if seen > MAX_PREDICTED_SHARE:
        return None
    mixture = forecaster_of(run, rule, seen).forecast()._mixture
    assert mixture is not None
    return standardized_error(mixture, run.pairs["linear"].loss_after)


def over_tasks(values: Sequence[float], tasks: Sequence[str]) -> tuple[float, float]:
    """Mean over tasks of the median in each, and the spread around it of a run of a new task."""
    by_task = [
        np.array([v for v, t in zip(values, tasks, strict=True) if t == task and np.isfinite(v)])
        for task in sorted(set(tasks))
    ]
    samples = [sample for sample in by_task if sample.size]
    medians = np.array([np.median(sample) for sample in samples])
    within = [MAD_TO_STD * np.median(np.abs(sample - np.median(sample))) for sample in samples]
    between = medians.std(ddof=1) if medians.size > 1 else 0.0
    return float(medians.mean()), float(np.hypot(between, np.mean(within)))


def horizon_power(run: Recorded) -> float:
    """Power of the horizon with which the gap grows, from 50 to 80% of the run."""
    horizons = [h for h in run.horizons if h <= 0.05 * run.steps]
    return slope(horizons, [run_gap(run, h, 0.5, 0.8) for h in horizons])


def time_power(run: Recorded) -> float:
    """Power of the steps taken with which the gap grows."""
    parts = ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8))
    middles = [np.sqrt(low * high) for low, high in parts]
    return slope(middles, [run_gap(run, run.horizons[0], *part) for part in parts])


def rate_power(run: Recorded) -> float:
    """Power of the learning rate with which the gap falls in a decay."""
    branch, pair, horizon = run.branches["linear"], run.pairs["linear"], run.horizons[0]
    gaps = [gap for gap in branch.gaps if gap.horizon == horizon]
    rates = run.wsd.lr(np.array([gap.step for gap in gaps])) / run.rate
    inside = [gap.value for gap, rate in zip(gaps, rates, strict=True) if 0.3 <= rate <= 0.7]
    before = run_gap(run, horizon, 0.6, 0.8)
    return slope([0.5, 1.0], [float(np.mean(inside)) + lag_of(run, horizon, pair.begin), before])


def decay_power(run: Recorded, rule: GapRule) -> float:
    """Power of the length of the decay with which drops grow beyond the effect of the horizon."""
    pairs = [run.pairs[name] for name in ("short", "linear")]
    predictions = [run.predicted_drop(pair, pair.begin, rule) for pair in pairs]
    if None in predictions:
        return float("nan")
    ratios = [pair.drop / drop[0] for pair, drop in zip(pairs, predictions, strict=True) if drop]
    return slope([pair.steps for pair in pairs], ratios)


def run_gap(run: Recorded, horizon: int, low: float, high: float) -> float:
    """Mean gap, corrected for lag, over a part of the stable phase; nan if there is none."""
    gaps = [
        gap.value + lag_of(run, horizon, gap.step)
        for gap in run.branches["main"].gaps
        if gap.horizon == horizon and low * run.steps < gap.step <= high * run.steps
    ]
    return float(np.mean(gaps)) if gaps else np.nan


def lag_of(run: Recorded, horizon: int, step: int) -> float:
    """Fall of the trend of the loss over the horizon before a step."""
    main = run.branches["main"]
    seen = main.step <= 0.8 * run.steps
    s1 = run.wsd.s1(main.step[seen])
    trend = Trend.of(s1, main.loss[seen], np.ones(int(seen.sum())))
    at = run.wsd.s1(np.array([step - horizon, step]))
    return float(trend.fall(at[:1], at[1:])[0])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent of the power law y(x); nan if some y is not positive."""
    if len(x) < 2 or min(y) <= 0 or not np.isfinite(y).all():
        return float("nan")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def main() -> None:
    """Learn the rules, report their errors, draw the picture, write the table if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the rule into the package")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--shares", type=int, nargs="*", default=SHARES, help="horizons are the run over these"
    )
    args = parser.parse_args()
    runs = recorded(args.results, args.shares)
    tasks = sorted({run.task for run in runs})
    rules = {task: learn([run for run in runs if run.task != task]) for task in tasks}
    rules = {**rules, "": learn(runs)}  # no task has this name: learned from all
    rules = calibrated(rules, runs)
    rule = rules.pop("")
    for name, learned in (("all", rule), *rules.items()):
        sys.stdout.write(f"{name}: {rounded(asdict(learned))}\n")
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
            "without": {task: rounded(asdict(learned)) for task, learned in rules.items()},
        }
        TABLE.write_text(json.dumps(table, indent=1) + "\n")


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
