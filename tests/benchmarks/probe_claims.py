"""Scores of the annealing probe on recorded runs, with rules learned from the other tasks."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from probe_data import Pair, Recorded, forecaster_of

from lossforecast import LRSchedule
from lossforecast.backtest.curves import RecordedRun
from lossforecast.backtest.rules import RULES
from lossforecast.backtest.sweeps import SweepScore, replay_sweeps
from lossforecast.forecast import Estimate
from lossforecast.prior.prior import Prior
from lossforecast.prior.probe_gaps import GapRule

Z80 = 1.2816  # half width of the 80% interval in standard deviations


@dataclass(frozen=True)
class PredictedDrop:
    """The drop of a pair as predicted by a rule that was learned without its task."""

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
        std = np.hypot(self.std, self.pair.drop_stderr)
        return bool(abs(self.mean - self.pair.drop) < Z80 * std)


def predict_drops(
    runs: Sequence[Recorded], rules: dict[str, GapRule], seen: float | None = None
) -> list[PredictedDrop]:
    """Predict the drop of every pair, at the start of its decay or at a share of the run."""
    predictions = []
    for run in runs:
        for pair in run.pairs.values():
            now = pair.begin if seen is None else round(seen * (pair.begin + pair.steps))
            predicted = run.predicted_drop(pair, now, rules[run.task])
            if predicted is not None:
                mean, std = predicted
                predictions.append(PredictedDrop(run=run, pair=pair, now=now, mean=mean, std=std))
    return predictions


@dataclass(frozen=True)
class FinalForecast:
    """A forecast of the final loss of a recorded WSD run; error and width relative to the truth."""

    run: Recorded
    error: float
    held: bool
    width: float
    source: str


def forecast(run: Recorded, rule: GapRule | None, seen: float) -> FinalForecast:
    """The forecast at a share of the run, with the probe if a rule is given."""
    made, truth = forecaster_of(run, rule, seen).forecast(), run.pairs["linear"].loss_after
    low, high = made.interval(0.8)
    return FinalForecast(
        run=run,
        error=made.median / truth - 1,
        held=low <= truth <= high,
        width=(high - low) / truth,
        source=made.anneal_gain.source,
    )


@dataclass(frozen=True)
class PredictedGain:
    """The predicted gain of annealing now over a constant rate for as many steps, and the real."""

    gain: Estimate
    real: float
    level: float

    @property
    def error(self) -> float:
        return abs(self.gain / self.real - 1)

    @property
    def held(self) -> bool:
        return self.gain.lower <= self.real <= self.gain.upper

    @property
    def width(self) -> float:
        return (self.gain.upper - self.gain.lower) / self.level


def predict_gain(run: Recorded, rule: GapRule | None, decay: str) -> PredictedGain:
    """The gain predicted at the start of a decay; the constant rate was recorded beyond its end."""
    pair, main = run.pairs[decay], run.branches["main"]
    end = pair.begin + pair.steps
    held = LRSchedule.constant(end, run.rate, warmup=run.warmup)
    made = forecaster_of(run, rule, pair.begin / run.steps, held).forecast()
    near = np.abs(main.step - end) <= 0.0205 * run.steps
    real = float(main.loss[near].mean()) - pair.loss_after
    return PredictedGain(gain=made.gain(run.plan(pair)), real=real, level=pair.loss_after)


def line(name: str, drops: Sequence[PredictedDrop]) -> str:
    error = np.median([drop.error for drop in drops])
    bias = np.median([drop.mean / drop.pair.drop for drop in drops])
    held = np.mean([drop.held for drop in drops])
    return f"{name:24s} {len(drops):5d} {error:8.1%} {bias:8.2f} {held:8.0%}"


def report(runs: Sequence[Recorded], rules: dict[str, GapRule]) -> None:
    """Print the errors of predicted drops, and of final losses without and with the probe."""
    say = sys.stdout.write
    drops = predict_drops(runs, rules)
    say(
        f"{'drop, at the start':24s} {'pairs':>5s} {'|error|':>8s} {'mean/real':>9s} "
        f"{'in 80%':>8s}\n"
    )
    for task in rules:
        say(line(task, [drop for drop in drops if drop.run.task == task]) + "\n")
    for decay in ("linear", "cosine", "short", "early"):
        say(line(decay, [drop for drop in drops if drop.pair.decay == decay]) + "\n")
    for optimizer in ("adamw", "sgd", "rmsprop"):
        say(line(optimizer, [drop for drop in drops if drop.run.optimizer == optimizer]) + "\n")
    say(line("all", drops) + "\n")
    long_decays = ("linear", "cosine")
    at_half = [d for d in predict_drops(runs, rules, 0.5) if d.pair.decay in long_decays]
    say(line("at half of the run", at_half) + "\n\n")
    say("final loss of WSD runs    median |error| without, with the probe; in 80%; width\n")
    for seen in (0.25, 0.5, 0.75):
        without = [forecast(run, None, seen) for run in runs]
        with_probe = [forecast(run, rules[run.task], seen) for run in runs]
        for group in (*rules, None):
            mine = [i for i, run in enumerate(runs) if group in (run.task, None)]
            columns = [[made[i] for i in mine] for made in (without, with_probe)]
            say(
                f"{seen:4.0%} {group or 'all':20s}"
                + "".join(f" {np.median([abs(f.error) for f in made]):7.2%}" for made in columns)
                + "".join(f" {np.mean([f.held for f in made]):7.0%}" for made in columns)
                + "".join(f" {np.median([f.width for f in made]):7.1%}" for made in columns)
                + "\n"
            )


def report_advice(runs: Sequence[Recorded], rules: dict[str, GapRule]) -> None:
    """Print the errors of the predicted gain of annealing now, without and with the probe."""
    say = sys.stdout.write
    say("\ngain of annealing now over a constant rate  without, with the probe: median |error|, ")
    say("in 80%, width over the loss, lower end above 0\n")
    for decay, name in (("early", "at 40%, for 10% of the run"), ("short", "at 80%, for 5%")):
        for group in (*rules, None):
            mine = [run for run in runs if group in (run.task, None)]
            say(f"{name:27s} {group or 'all':12s}")
            for probe in (False, True):
                gains = [predict_gain(r, rules[r.task] if probe else None, decay) for r in mine]
                say(
                    f" {np.median([gain.error for gain in gains]):8.0%}"
                    f" {np.mean([gain.held for gain in gains]):6.0%}"
                    f" {np.median([gain.width for gain in gains]):7.1%}"
                    f" {np.mean([gain.gain.lower > 0 for gain in gains]):6.0%}"
                )
            say("\n")


def draw(runs: Sequence[Recorded], rules: dict[str, GapRule], path: Path) -> None:
    """Draw predicted against real drops as shares of the loss, by task, with 80% intervals."""
    from matplotlib.figure import Figure

    drops = predict_drops(runs, rules)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    ends = np.array([1e-3, 1.2])
    axes.loglog(ends, ends, color="0.6", linewidth=1)
    axes.fill_between(ends, 0.85 * ends, 1.15 * ends, color="0.92", linewidth=0)
    for number, task in enumerate(rules):
        mine = [drop for drop in drops if drop.run.task == task]
        level = np.array([drop.pair.loss_after for drop in mine])
        real = np.array([drop.pair.drop for drop in mine]) / level
        mean = np.array([drop.mean for drop in mine]) / level
        error = Z80 * np.array([drop.std for drop in mine]) / level
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
        ylabel="drop predicted by the probe before the decay",
        xlim=ends,
        ylim=ends,
    )
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def sweep_runs(runs: Sequence[Recorded], *, probe: bool) -> list[RecordedRun]:
    """The WSD runs as recorded runs; those of one task are a sweep."""
    converted = []
    for run in runs:
        main, tail = run.branches["main"], run.branches["linear"]
        held = main.step <= run.pairs["linear"].begin
        step = np.concatenate([main.step[held], tail.step])
        gaps = tuple(gap for gap in main.gaps if gap.step <= step[int(held.sum()) - 1])
        converted.append(
            RecordedRun(
                source=run.task,
                run_id=run.name,
                metric="val",
                step=step,
                lr=run.wsd.lr(step),
                loss=np.concatenate([main.loss[held], tail.loss]),
                total_steps=run.steps,
                optimizer=run.optimizer,
                metadata={"sweep_of": run.task},
                gaps=gaps if probe else (),
            )
        )
    return converted


def score_sweeps(
    runs: Sequence[Recorded], rules: dict[str, GapRule], *, probe: bool
) -> list[SweepScore]:
    """Cost and savings of stopping the dominated runs of each task."""
    return replay_sweeps(
        sweep_runs(runs, probe=probe),
        rules={"dominated": RULES["dominated"]},
        prior_for=lambda run: replace(Prior(), gaps=rules[run.source]),
    )


def report_sweeps(runs: Sequence[Recorded], rules: dict[str, GapRule]) -> None:
    """Print what stopping dominated runs costs and saves, without and with the probe."""
    sys.stdout.write("\nsweeps, dominated: steps used, regret of the best survivor, false kills\n")
    scores = {probe: score_sweeps(runs, rules, probe=probe) for probe in (False, True)}
    for arrival in ("parallel", "sequential"):
        for probe, both_arrivals in scores.items():
            mine = [score for score in both_arrivals if score.arrival == arrival]
            name = "with the probe" if probe else "without"
            sys.stdout.write(
                f"{arrival:10s} {name:15s} "
                f"{np.mean([score.compute_used for score in mine]):7.1%} "
                f"{np.mean([score.regret for score in mine]):7.2%} "
                f"{np.sum([score.false_kills for score in mine]):5.1f}  "
                + " ".join(f"{s.sweep} {s.compute_used:.0%}/{s.regret:.1%}" for s in mine)
                + "\n"
            )
