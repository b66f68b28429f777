"""How the annealing probe fares on recorded runs, by rules that have not seen their task."""

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

OUTER = 1.2816  # standard deviations on each side of 80%


@dataclass(frozen=True)
class Prediction:
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


def predictions_of(
    runs: Sequence[Recorded], rules: dict[str, GapRule], seen: float | None = None
) -> list[Prediction]:
    """Predictions of all pairs, at the beginning of their decay or from a share of the run."""
    found = []
    for run in runs:
        for pair in run.pairs.values():
            now = pair.begin if seen is None else round(seen * (pair.begin + pair.steps))
            predicted = run.predicted_drop(pair, now, rules[run.task])
            if predicted is not None:
                found.append(Prediction(run, pair, now, *predicted))
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


@dataclass(frozen=True)
class Advised:
    """What annealing now was said to gain over the held rate, in as many steps, and what it did."""

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


def advised(run: Recorded, rule: GapRule | None, decay: str) -> Advised:
    """Asked where a decay begins; the held rate is recorded to where it ends, and a little on."""
    pair, main = run.pairs[decay], run.branches["main"]
    end = pair.begin + pair.steps
    held = LRSchedule.constant(end, run.rate, warmup=run.warmup)
    found = forecaster_of(run, rule, pair.begin / run.steps, held).forecast()
    near = np.abs(main.step - end) <= 0.0205 * run.steps
    real = float(main.loss[near].mean()) - pair.loss_after
    return Advised(found.gain(run.plan(pair)), real, pair.loss_after)


def line(name: str, predicted: Sequence[Prediction]) -> str:
    error = np.median([each.error for each in predicted])
    bias = np.median([each.mean / each.pair.drop for each in predicted])
    held = np.mean([each.held for each in predicted])
    return f"{name:24s} {len(predicted):5d} {error:8.1%} {bias:8.2f} {held:8.0%}"


def report(runs: Sequence[Recorded], rules: dict[str, GapRule]) -> None:
    say = sys.stdout.write
    begun = predictions_of(runs, rules)
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
    half = [e for e in predictions_of(runs, rules, 0.5) if e.pair.decay in ("linear", "cosine")]
    say(line("from half of the run", half) + "\n\n")
    say("final loss of WSD runs    median |error| without, with the probe; in 80%; width\n")
    for seen in (0.25, 0.5, 0.75):
        blind = [forecast(run, None, seen) for run in runs]
        predicted = [forecast(run, rules[run.task], seen) for run in runs]
        for group in (*rules, None):
            mine = [i for i, run in enumerate(runs) if group in (run.task, None)]
            cells = [[kind[i] for i in mine] for kind in (blind, predicted)]
            say(
                f"{seen:4.0%} {group or 'all':20s}"
                + "".join(f" {np.median([abs(c.error) for c in each]):7.2%}" for each in cells)
                + "".join(f" {np.mean([c.held for c in each]):7.0%}" for each in cells)
                + "".join(f" {np.median([c.width for c in each]):7.1%}" for each in cells)
                + "\n"
            )


def report_advice(runs: Sequence[Recorded], rules: dict[str, GapRule]) -> None:
    say = sys.stdout.write
    say("\ngain of annealing now over the held rate    without, with the probe: median |error|, ")
    say("in 80%, width over the loss, surely above 0\n")
    for decay, what in (("early", "at 40%, for 10% of the run"), ("short", "at 80%, for 5%")):
        for group in (*rules, None):
            mine = [run for run in runs if group in (run.task, None)]
            say(f"{what:27s} {group or 'all':12s}")
            for probe in (False, True):
                found = [advised(run, rules[run.task] if probe else None, decay) for run in mine]
                say(
                    f" {np.median([each.error for each in found]):8.0%}"
                    f" {np.mean([each.held for each in found]):6.0%}"
                    f" {np.median([each.width for each in found]):7.1%}"
                    f" {np.mean([each.gain.lower > 0 for each in found]):6.0%}"
                )
            say("\n")


def draw(runs: Sequence[Recorded], rules: dict[str, GapRule], path: Path) -> None:
    """Predicted drop against real drop, as shares of the loss, by task; with 80% intervals."""
    from matplotlib.figure import Figure

    predicted = predictions_of(runs, rules)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    ends = np.array([1e-3, 1.2])
    axes.loglog(ends, ends, color="0.6", linewidth=1)
    axes.fill_between(ends, 0.85 * ends, 1.15 * ends, color="0.92", linewidth=0)
    for number, task in enumerate(rules):
        mine = [each for each in predicted if each.run.task == task]
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
