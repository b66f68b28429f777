"""Record stable phases with the gaps of weight averages, and the real drops of decays from them.

    python tests/benchmarks/probe_pairs.py                 # all runs that are not recorded yet
    python tests/benchmarks/probe_pairs.py --only language # those of one task

Each run trains at a constant rate. The gap between the loss of its weights and that of their
averages is measured regularly, on the same held-out batches. At 80% of the run three decays branch
off (linear and cosine over a fifth of the run, linear over a twentieth), at 40% a linear one over a
tenth. The drop of a decay is the loss at the constant rate after the same S1 minus the loss at the
end of the decay. Appends to results/probe_runs.csv (one line per run), results/probe_curves.csv
(losses and gaps) and results/probe_pairs.csv (one line per decay).
"""

import argparse
import copy
import csv
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from probe_tasks import TASKS, Batch

from lossforecast import LRSchedule
from lossforecast.callbacks.probe.averages import WeightAverages
from lossforecast.callbacks.probe.undisturbed import undisturbed

RESULTS = Path(__file__).with_name("results")
SHARES = (80, 20)  # a horizon of the probe is the length of the run over one of these
# name: start and length as shares of the run, and shape
DECAYS = {
    "linear": (0.8, 0.2, "linear"),
    "cosine": (0.8, 0.2, "cosine"),
    "short": (0.8, 0.05, "linear"),
    "early": (0.4, 0.1, "linear"),
}
GAP_BATCHES, LOSS_BATCHES = 4, 16  # held-out batches of twice the usual size
WINDOW = 20  # measurements at the constant rate within 2% of the step with the S1 of a decay


@dataclass(frozen=True)
class Config:
    """The settings of one run; its number identifies it in the files."""

    number: int
    task: str
    optimizer: str
    rate: float
    batch: int


def configs() -> list[Config]:
    """For every task its optimizers and rates, and two other batch sizes."""
    settings = []
    for name, task in TASKS.items():
        for optimizer, rates in task.rates.items():
            settings += [(name, optimizer, rate, task.batch) for rate in rates]
        middle = task.rates["adamw"][1]
        settings += [(name, "adamw", middle, size) for size in (task.batch // 4, task.batch * 3)]
    return [
        Config(number=number, task=task, optimizer=optimizer, rate=rate, batch=batch)
        for number, (task, optimizer, rate, batch) in enumerate(settings)
    ]


def optimizer_of(config: Config, model: torch.nn.Module) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=config.rate, weight_decay=0.05)
    if config.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=config.rate, momentum=0.9)
    return torch.optim.RMSprop(model.parameters(), lr=config.rate)


class Run:
    """A training run that can be saved and restored."""

    def __init__(self, config: Config, steps: int) -> None:
        torch.manual_seed(0)
        task = TASKS[config.task]
        self.draw, self.batch = task.draw, config.batch
        self.model = task.model()
        self.optimizer = optimizer_of(config, self.model)
        self.batches = torch.Generator().manual_seed(0)
        self.horizons = [steps // share for share in SHARES]
        self.every = max(self.horizons[0] // 10, 1)
        self.averages = WeightAverages(self.model, self.horizons, self.every)
        self.done = 0
        unseen = torch.Generator().manual_seed(10_000)
        self.held = [task.draw(2 * task.batch, unseen, True) for _ in range(LOSS_BATCHES)]

    def train(self, rates: np.ndarray, stop: int) -> None:
        """Train until a step, at these rates."""
        while self.done < stop:
            rate = float(rates[self.done])
            self.optimizer.param_groups[0]["lr"] = rate
            self.model(*self.draw(self.batch, self.batches, False)).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.done += 1
            if self.done % self.every == 0:
                self.averages.update()

    def losses(self, batches: list[Batch]) -> np.ndarray:
        with torch.no_grad():
            return torch.stack([self.model(*batch) for batch in batches]).double().numpy()

    def loss(self) -> float:
        """Mean loss of the held-out batches, in evaluation mode."""
        self.model.eval()
        loss = float(self.losses(self.held).mean())
        self.model.train()
        return loss

    def gaps(self) -> list[float]:
        """Mean and standard error of the gap for each horizon."""
        held = self.held[:GAP_BATCHES]
        with undisturbed(self.model), self.averages.exposed() as exposed:
            raw, cells = self.losses(held), []
            for horizon in self.horizons:
                exposed.show(horizon)
                gap = raw - self.losses(held)
                cells += [float(gap.mean()), float(gap.std(ddof=1) / GAP_BATCHES**0.5)]
        return cells

    def state(self) -> dict[str, Any]:
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "batches": self.batches.get_state(),
                "rng": torch.get_rng_state(),
                "averages": self.averages.averages,
                "done": self.done,
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.set_state(state["batches"])
        torch.set_rng_state(state["rng"])
        self.averages.averages = state["averages"]
        self.done = state["done"]


def record(config: Config, scale: float) -> tuple[list[Any], list[list[Any]], list[list[Any]]]:
    """Train one run and its decays: rows for the three files."""
    torch.set_num_threads(1)
    steps = round(TASKS[config.task].steps * scale / 100) * 100
    plan = LRSchedule.constant(steps, config.rate, warmup=steps // 20)
    run = Run(config, steps)
    pace = steps // 100
    curve: list[list[Any]] = []
    states, held_on = {}, []

    def measure(branch: str, rate: float, with_gaps: bool) -> None:
        loss = run.loss()
        gaps = run.gaps() if with_gaps else [None] * (2 * len(SHARES))
        curve.append([config.number, branch, run.done, rate, loss, *gaps])

    rates = plan.to_array()
    middles = sorted({round((start + length / 2) * steps) for start, length, _ in DECAYS.values()})
    near = np.linspace(-0.02, 0.02, WINDOW + 1)
    windows = {middle + round(x * steps) for middle in middles for x in near}
    grid = set(range(pace, round(0.95 * steps) + 1, pace))
    for step in sorted(grid | windows):
        run.train(rates, step)
        if step in windows:
            held_on.append((step, run.loss()))
        if step in grid:
            measure("main", config.rate, step % (2 * pace) == 0)
        if step in {round(start * steps) for start, *_ in DECAYS.values()}:
            states[step] = run.state()
    pairs = []
    for name, (start, length, shape) in DECAYS.items():
        begin, over = round(start * steps), round(length * steps)
        run.restore(states[begin])
        share = np.arange(1, over + 1) / over
        factor = 1 - share if shape == "linear" else 0.5 + 0.5 * np.cos(np.pi * share)
        rates = np.concatenate([np.zeros(begin), config.rate * factor])
        for step in range(begin + pace, begin + over + 1, pace):
            run.train(rates, step)
            if name == "linear":
                measure(name, float(rates[run.done - 1]), step % (2 * pace) == 0)
        ended, matched = run.loss(), begin + over / 2
        held = [loss for step, loss in held_on if abs(step - matched) <= 0.0205 * steps]
        spread = float(np.std(held, ddof=1)) / len(held) ** 0.5
        pairs.append(
            [config.number, name, begin, over, float(np.mean(held)) - ended, spread, ended]
        )
    about = [config.number, config.task, config.optimizer, config.rate, config.batch]
    n_params = sum(p.numel() for p in run.model.parameters())
    return [*about, steps, n_params], curve, pairs


FILES = {
    "probe_runs.csv": ["run", "task", "optimizer", "rate", "batch", "steps", "n_params"],
    "probe_curves.csv": [
        *["run", "branch", "step", "rate", "loss"],
        *(f"{kind}{share}" for share in SHARES for kind in ("gap", "stderr")),
    ],
    "probe_pairs.csv": ["run", "decay", "begin", "steps", "drop", "drop_stderr", "loss_after"],
}


def append(folder: Path, name: str, rows: list[list[Any]]) -> None:
    path = folder / name
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(FILES[name])
        writer.writerows(
            [f"{cell:.5g}" if isinstance(cell, float) else cell for cell in row] for row in rows
        )


def tidy(path: Path) -> None:
    """Sort the rows by run: they are appended in the order in which runs end."""
    head, *rows = path.read_text().splitlines(keepends=True)
    rows.sort(key=lambda row: int(row.partition(",")[0]))
    path.write_text("".join([head, *rows]))


def main() -> None:
    """Record the requested runs that are not in the files yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=sorted(TASKS), help="tasks; default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the length of the runs")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    recorded = set()
    if (args.out / "probe_runs.csv").exists():
        with (args.out / "probe_runs.csv").open() as file:
            recorded = {int(row["run"]) for row in csv.DictReader(file)}
    todo = [c for c in configs() if c.number not in recorded and c.task in (args.only or TASKS)]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        work = {pool.submit(record, config, args.scale): config for config in todo}
        for done in as_completed(work):
            about, curve, pairs = done.result()
            append(args.out, "probe_curves.csv", curve)
            append(args.out, "probe_pairs.csv", pairs)
            append(args.out, "probe_runs.csv", [about])
            drops = " ".join(f"{row[1]} {row[4]:.4f}+-{row[5]:.4f}" for row in pairs)
            sys.stdout.write(f"{' '.join(map(str, about[1:5]))}: {pairs[0][6]:.4f}; {drops}\n")
            sys.stdout.flush()
    for name in FILES:
        tidy(args.out / name)


if __name__ == "__main__":
    main()
