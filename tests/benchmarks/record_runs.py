"""Train small GPTs under four schedules and three peak rates, and record their live forecasts.

    python tests/benchmarks/record_runs.py                          # all twelve, on a GPU if any
    python tests/benchmarks/record_runs.py --only cosine-0.001      # one of them

Writes two files per run under tests/benchmarks/results: NAME.curve.csv (training loss, validation
loss and learning rate, every 1% of the run) and NAME.forecasts.csv (each forecast of the final
validation loss and the step it was made at). Then prints the errors and the coverage of all
forecasts found there.
"""

import argparse
import csv
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from gpt import GPT, Batches, standard_library  # type: ignore[import-not-found]

from lossforecast import LRSchedule, RunInfo
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.monitor.update import Update

PEAKS = (3e-4, 1e-3, 3e-3)
SCHEDULES = ("cosine", "linear", "wsd", "step_decay")
FRACTIONS = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the run, at which its forecasts are scored
VALIDATION_BATCHES = 32


def schedule_of(name: str, peak: float, steps: int) -> LRSchedule:
    if name == "step_decay":
        return LRSchedule.step_decay(steps, peak, milestones=[steps // 2, 3 * steps // 4])
    schedule: LRSchedule = getattr(LRSchedule, name)(steps, peak, warmup=steps // 20)
    return schedule


def record(name: str, peak: float, args: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    plan = schedule_of(name, peak, args.steps)
    model = GPT(args.width, args.depth, max(args.width // 64, 1), args.length).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.1)
    rates = plan.to_array()
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: rates[min(done, args.steps - 1)] / peak
    )
    text = standard_library()
    held_out = text.numel() * 9 // 10
    draw = Batches(text[:held_out], args.batch, args.length, seed=1)
    draw_held_out = Batches(text[held_out:], args.batch, args.length, seed=2)
    validation_batches = [
        tuple(part.to(device) for part in draw_held_out()) for _ in range(VALIDATION_BATCHES)
    ]
    updates: list[Update] = []
    curve: list[list[Any]] = []
    interval, loss_sum = max(args.steps // 100, 1), torch.zeros((), device=device)
    start = time.perf_counter()

    def loss_of(batch: Any) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss: torch.Tensor = model(*batch)
        return loss.float()

    with TorchLossForecast(
        optimizer,
        scheduler,
        args.steps,
        metric="val",
        run=RunInfo(task="language model", n_params=sum(p.numel() for p in model.parameters())),
        sinks=[updates.append],
    ) as monitor:
        for step in range(1, args.steps + 1):
            loss = loss_of([part.to(device, non_blocking=True) for part in draw()])
            monitor.step(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            loss_sum += loss.detach()
            if step % interval == 0:
                with torch.no_grad():
                    losses = torch.stack([loss_of(batch) for batch in validation_batches])
                validation_loss = float(losses.mean())
                monitor.validation(validation_loss)
                curve.append([step, float(loss_sum) / interval, validation_loss, rates[step - 1]])
                loss_sum.zero_()
    forecasts = [
        [
            update.step,
            update.forecast.mean,
            *update.forecast.interval(0.8),
            *update.forecast.interval(0.95),
            update.forecast.status.value,
        ]
        for update in updates
    ]
    stem = f"{name}-{peak:g}"
    write(args.out / f"{stem}.curve.csv", "step train_loss val_loss lr", curve)
    header = "step mean lower80 upper80 lower95 upper95 status"
    write(args.out / f"{stem}.forecasts.csv", header, forecasts)
    seconds = time.perf_counter() - start
    spent = sum(monitor.forecaster_of(m).seconds_spent for m in ("train", "val"))
    sys.stdout.write(
        f"{stem}: {args.steps} steps on {device} in {seconds:.0f} s, {spent:.2f} s of it "
        f"forecasting; ended at {curve[-1][2]:.4f}\n"
    )


def write(path: Path, header: str, rows: list[list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split())
        writer.writerows(
            [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows
        )


def summary(folder: Path) -> str:
    """Errors and coverage of the forecasts recorded in a folder, by the share of the run seen."""
    lines = ["seen   runs  median |error|  in 80%  in 95%"]
    scores: dict[float, list[tuple[float, bool, bool]]] = {seen: [] for seen in FRACTIONS}
    for path in sorted(folder.glob("*.forecasts.csv")):
        with path.with_name(path.name.replace(".forecasts.", ".curve.")).open() as file:
            curve = list(csv.DictReader(file))
        with path.open() as file:
            forecasts = list(csv.DictReader(file))
        end = int(curve[-1]["step"])
        truth = float(np.mean([float(row["val_loss"]) for row in curve[-2:]]))
        for seen in FRACTIONS:
            past = [row for row in forecasts if int(row["step"]) <= seen * end]
            if past:
                row = {key: float(value) for key, value in past[-1].items() if key != "status"}
                error = abs(row["mean"] / truth - 1)
                in80 = row["lower80"] <= truth <= row["upper80"]
                scores[seen].append((error, in80, row["lower95"] <= truth <= row["upper95"]))
    for seen, of_runs in scores.items():
        if of_runs:
            error, in80, in95 = np.array(of_runs, dtype=float).T
            lines.append(
                f"{seen:4.0%} {len(of_runs):6d} {np.median(error):14.2%} "
                f"{in80.mean():8.0%} {in95.mean():7.0%}"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", nargs="*", help="runs such as wsd-0.003; default: all")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    args = parser.parse_args()
    runs = {f"{name}-{peak:g}": (name, peak) for name in SCHEDULES for peak in PEAKS}
    unknown = set(args.only or ()) - set(runs)
    if unknown:
        parser.error(f"no runs called {', '.join(sorted(unknown))}; there are {', '.join(runs)}")
    for stem in args.only or runs:
        record(*runs[stem], args)
    sys.stdout.write(summary(args.out))


if __name__ == "__main__":
    main()
