"""Check the advice on schedules by training ten small GPTs under the advised decay and others.

    python tests/benchmarks/advice_trials.py                  # all ten, about 25 minutes
    python tests/benchmarks/advice_trials.py --only 3         # one of them

Each trial trains at a constant rate to 60% of its steps, asks for the best decay, and continues
from there under the plan (constant rate), the advised decay and a grid of other decays, all on the
same batches. Writes tests/benchmarks/results/advice.csv, then prints how close the advised decay
came to the best of the grid and how well its gain was predicted.
"""

import argparse
import copy
import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from gpt import GPT, Batches, standard_library  # type: ignore[import-not-found]

from lossforecast import Forecaster, LRSchedule, RunInfo
from lossforecast.advice import decays

TRIALS = [(peak, seed) for peak in (1e-3, 2e-3, 3e-3, 5e-3, 8e-3) for seed in (0, 1)]
SEEN = 0.6  # share of the steps at which advice is asked for
STARTS = (0.6, 0.7, 0.8, 0.9)  # of the decays in the grid
GRID = [(start, "linear") for start in STARTS] + [(0.8, "sqrt")]
COLUMNS = ("trial", "peak", "seed", "schedule", "start", "shape", "loss", "gain", "lower", "upper")
NEAR = 0.005  # relative distance from the best of the grid
RESULTS = Path(__file__).parent / "results" / "advice.csv"


class Run:
    """A training run that can be saved and restored."""

    def __init__(self, peak: float, seed: int, text: torch.Tensor) -> None:
        torch.manual_seed(seed)
        self.model = GPT()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=peak, weight_decay=0.1)
        self.draw = Batches(text[:-400_000], 16, 64, seed)
        self.held = Batches(text[-400_000:], 256, 64, seed=10_000)()
        self.done = 0

    def train(self, schedule: LRSchedule, stop: int, every: int) -> list[tuple[int, float]]:
        """Train until a step; returns (step, validation loss) every `every` steps."""
        rates, seen = schedule.to_array(), []
        while self.done < stop:
            self.optimizer.param_groups[0]["lr"] = float(rates[self.done])
            self.model(*self.draw()).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.done += 1
            if self.done % every == 0:
                with torch.no_grad():
                    seen.append((self.done, float(self.model(*self.held))))
        return seen

    def state(self) -> dict[str, Any]:
        """Everything needed to continue from here."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "draw": self.draw.generator.get_state(),
            "done": self.done,
        }
        return copy.deepcopy(state)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        state = copy.deepcopy(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.draw.generator.set_state(state["draw"])
        self.done = state["done"]


def trial(index: int, steps: int, text: torch.Tensor) -> list[list[Any]]:
    peak, seed = TRIALS[index]
    plan = LRSchedule.constant(steps, peak, warmup=steps // 20)
    run, every = Run(peak, seed, text), max(steps // 100, 1)
    forecaster = Forecaster(plan, RunInfo("val", "adamw", task="language modelling"))
    forecaster.observe_many(*zip(*run.train(plan, round(SEEN * steps), every), strict=True))
    best = decays(forecaster.forecast())[0]
    assert best.decay is not None
    begin, form = best.decay.start, best.decay.shape
    states = {run.done: run.state()}
    held: list[tuple[int, float]] = []
    for start in sorted({*(round(share * steps) for share in STARTS), begin}):
        held += run.train(plan, start, every)
        states[start] = run.state()
    held += run.train(plan, steps, every)

    def row(name: str, start: int, shape: str, curve: list[tuple[int, float]]) -> list[Any]:
        loss = np.mean([value for step, value in curve if step >= 0.98 * steps])
        gain = best.gain if name == "advised" else None
        ends = [] if gain is None else [f"{x:.5f}" for x in (gain, gain.lower, gain.upper)]
        sys.stdout.write(
            f"trial {index}: {name} {shape} from {start}: {loss:.4f} {' '.join(ends)}\n"
        )
        return [index, peak, seed, name, start, shape, f"{loss:.5f}", *ends]

    rows = [row("plan", steps, "", held)]
    options = [("grid", round(share * steps), shape) for share, shape in GRID]
    for name, start, shape in [("advised", begin, form), *options]:
        run.restore(states[start])
        schedule = plan.with_decay(start=start, shape=shape)
        rows.append(row(name, start, shape, run.train(schedule, steps, every)))
    return rows


def report() -> None:
    """Print, for the trials in the file, the advised decay against the grid and its gain."""
    with RESULTS.open() as file:
        rows = list(csv.DictReader(file))
    n_near = n_inside = 0
    trials = sorted({int(row["trial"]) for row in rows})
    for index in trials:
        mine = [row for row in rows if int(row["trial"]) == index]
        loss = {
            name: [float(r["loss"]) for r in mine if r["schedule"] == name]
            for name in ("plan", "advised", "grid")
        }
        advised = next(row for row in mine if row["schedule"] == "advised")
        behind = loss["advised"][0] / min(loss["grid"]) - 1
        gain = loss["plan"][0] - loss["advised"][0]
        inside = float(advised["lower"]) <= gain <= float(advised["upper"])
        n_near, n_inside = n_near + (behind <= NEAR), n_inside + inside
        sys.stdout.write(
            f"trial {index}: {behind:+.2%} of the best of the grid; gain {gain:.4f}, predicted "
            f"{advised['gain']} ({advised['lower']} to {advised['upper']})\n"
        )
    sys.stdout.write(
        f"within {NEAR:.1%} of the best of the grid: {n_near} of {len(trials)}; "
        f"gain inside the 80% interval: {n_inside} of {len(trials)}\n"
    )


def main() -> None:
    """Run the trials; with all of them, write the file and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, choices=range(len(TRIALS)))
    parser.add_argument("--steps", type=int, default=3_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    text, rows = standard_library(), []
    for index in range(len(TRIALS)) if args.only is None else [args.only]:
        rows += trial(index, args.steps, text)
    if args.only is None:
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        report()


if __name__ == "__main__":
    main()
