"""The spread of repeats in recorded runs, and how often two repeats are told apart by mistake.

    python tests/benchmarks/seed_spread.py --curves DIR

Runs are repeats if their descriptions are equal, apart from names and seeds. The spread of a recipe
is a draw from the scaled inverse chi-squared distribution that `lossforecast.comparison` packages;
its two parameters maximise the likelihood, with every fold counted once.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import minimize
from scipy.stats import f as f_distribution

from lossforecast import History, RunInfo
from lossforecast.backtest import RecordedRun, load_curves
from lossforecast.comparison import ComparedRun, Comparison, Contender, Spread
from lossforecast.estimate import Estimate
from lossforecast.runs import RunKind, outcome_of_curve

DESCRIPTION = (
    *("what", "metric", "model", "dataset", "schedule", "total_steps", "warmup_steps", "optimizer"),
    *("batch_tokens", "n_params", "val_set", "sweep", "fold"),
)

MIN_RUNS = 3  # of a recipe: a pair is often a rerun with the same seed


@dataclass(frozen=True)
class Repeats:
    """The runs of one recipe: outcomes, and the standard error of one as read off its curve."""

    fold: str
    kind: RunKind
    metric: str
    outcomes: tuple[float, ...]
    noise: float

    @property
    def std(self) -> float:
        return float(np.std(np.log(self.outcomes), ddof=1))


def recipe(run: RecordedRun) -> str:
    hparams = {k: v for k, v in (run.metadata.get("hparams") or {}).items() if "seed" not in k}
    facts = [run.source, *(run.metadata.get(name) for name in DESCRIPTION), hparams]
    return json.dumps(facts, sort_keys=True, default=str)


def compared(run: RecordedRun) -> ComparedRun | None:
    """A run that was trained from its own start to its end; None for others."""
    end = outcome_of_curve(run.step, run.loss, run.total_steps)
    planned = str(run.metadata.get("completion")).startswith("reached its quality target")
    if not run.completed or planned or run.metadata.get("base_run") or end is None or end.loss <= 0:
        return None
    history = History()
    history.observe_many(run.step, run.loss, run.lr)
    info = RunInfo(run.metric, n_params=run.metadata.get("n_params"))
    return ComparedRun(run.run_id, info, run.plan, history, end.loss)


def all_repeats(folder: str) -> list[Repeats]:
    groups: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in load_curves(folder):
        groups[recipe(run)].append(run)
    made = []
    for group in groups.values():
        if len(group) >= MIN_RUNS:
            runs = [one for run in group if (one := compared(run)) is not None]
            runs = [a for i, a in enumerate(runs) if not any(map(a.duplicates, runs[:i]))]
            if len(runs) >= MIN_RUNS:
                noise = float(np.median([run.evaluation_noise for run in runs]))
                outcomes = tuple(run.outcome for run in runs)
                made.append(Repeats(group[0].fold, group[0].kind, group[0].metric, outcomes, noise))
    return made


def fitted(groups: Sequence[Repeats], *, noisy: bool) -> tuple[float, float]:
    """Scale and degrees of freedom."""
    per_fold = {one.fold: sum(one.fold == other.fold for other in groups) for one in groups}

    def loss(logs: np.ndarray) -> float:
        scale, dof = np.exp(logs)
        total = 0.0
        for one in groups:
            variance = scale**2 + (one.noise**2 if noisy else 0.0)
            ratio = one.std**2 / variance
            density = f_distribution.logpdf(ratio, len(one.outcomes) - 1, dof) - np.log(variance)
            total -= density / per_fold[one.fold]
        return total

    found = minimize(loss, np.log([0.003, 2.0]), method="Nelder-Mead")
    scale, dof = np.exp(found.x)
    return float(scale), float(dof)


def told(groups: Sequence[Repeats], scale: float, dof: float, n_repeats: int) -> tuple[float, int]:
    """Share of pairs of repeats told apart, every recipe counted once, with so many others known.

    Returns:
        The share, and the number of recipes.
    """
    shares = []
    for one in groups:
        spread, right = Spread(max(np.hypot(scale, one.noise), 1e-6), dof), []
        for pair in list(combinations(range(len(one.outcomes)), 2))[:50]:
            others = [loss for i, loss in enumerate(one.outcomes) if i not in pair][:n_repeats]
            if len(others) == n_repeats:
                first, second = (Estimate(*[one.outcomes[i]] * 3) for i in pair)
                sides = Contender("first", first, 0.0), Contender("second", second, 0.0)
                right.append(Comparison(*sides, spread.learned([others])).differ)
        if right:
            shares.append(float(np.mean(right)))
    return (float(np.mean(shares)) if shares else np.nan), len(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--curves", required=True, help="folder of recorded runs")
    repeats = all_repeats(parser.parse_args().curves)
    language = [one for one in repeats if one.kind is RunKind.LARGE_LANGUAGE_MODEL]
    other = [one for one in repeats if one.kind is not RunKind.LARGE_LANGUAGE_MODEL]
    families = {
        "large language models": (language, False),
        "others, val": ([one for one in other if one.metric == "val"], False),
        "others, train": ([one for one in other if one.metric == "train"], True),
    }
    for name, (groups, noisy) in families.items():
        scale, dof = fitted(groups, noisy=noisy)
        sys.stdout.write(f"{name}: scale {scale:.4%}, {dof:.2f} degrees of freedom\n")
        for fold in sorted({one.fold for one in groups}):
            inside = [one for one in groups if one.fold == fold]
            rest = [one for one in groups if one.fold != fold]
            packaged = fitted(rest, noisy=noisy) if rest else (scale, dof)
            rates = {n: told(inside, *packaged, n) for n in (0, 2, 3)}
            stds = np.array([one.std for one in inside])
            rates_told = ", ".join(f"{rate:.1%} of {n} with {k}" for k, (rate, n) in rates.items())
            sys.stdout.write(
                f"  {fold}: {len(inside)} recipes, {sum(len(one.outcomes) for one in inside)} runs,"
                f" std {stds.min():.3%} to {stds.max():.3%}, median {np.median(stds):.3%}; "
                f"told apart: {rates_told}\n"
            )


if __name__ == "__main__":
    main()
