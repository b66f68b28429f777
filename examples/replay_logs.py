"""Replays a folder of logs: what would have been forecast, and what would that have saved?

python examples/replay_logs.py FOLDER

The runs are replayed in the order in which they ended. Each is forecast as if it were running, once
by itself and once with the runs before it as past runs in a store. With them, it would have been
stopped when it could no longer beat the best of them. Without a folder, four small runs are trained
first.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lossforecast import LossForecastError, RunInfo, RunStore
from lossforecast.backtest import LookBack, look_back
from lossforecast.readers import Log, read_log
from lossforecast.runs import observed

RATES = (1e-3, 4e-3, 2e-4, 2e-3)  # peak learning rates of the runs that are trained


@dataclass(frozen=True)
class Row:
    """A replayed run, without the runs before it and with them."""

    log: Log
    alone: LookBack
    learned: LookBack


def main() -> None:
    """Find the logs, replay each, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="folder of the logs")
    parser.add_argument("--steps", type=int, default=400, help="length of the trained runs")
    parser.add_argument("--optimizer", default="adamw", help="optimizer of the runs")
    parser.add_argument(
        "--share", type=float, default=0.25, help="share of each run at which to forecast"
    )
    args = parser.parse_args()
    folder = args.folder
    if folder is None:
        folder = Path("runs/replay")
        train(folder, args.steps)
    rows = []
    with TemporaryDirectory() as temporary:
        store = RunStore(Path(temporary) / "runs.db")
        for log in logs(folder):
            try:
                rows.append(looked_back(log, store, args.optimizer))
            except LossForecastError as error:
                print(f"left out: {log.path}: {error}")
    report(rows, args.share)


def logs(folder: Path) -> Iterator[Log]:
    """Yield one log of every run below a folder, in the order in which the runs ended."""
    seen = set()
    for path in sorted(found_below(folder), key=ended):
        try:
            log = read_log(path)
        except LossForecastError as error:
            print(f"left out: {path}: {error}")
            continue
        if (key := fingerprint(log)) in seen:
            print(f"left out: {path}: the same run as one before it")
            continue
        seen.add(key)
        yield log


def found_below(folder: Path) -> set[Path]:
    """Return the newest state of each output folder of the Trainer, event folders, and tables."""
    states: dict[Path, Path] = {}
    for path in sorted(folder.rglob("trainer_state.json"), key=ended):
        in_checkpoint = path.parent.name.startswith("checkpoint-")
        states[path.parents[1] if in_checkpoint else path.parent] = path
    events = {path.parent for path in folder.rglob("*tfevents*")}
    events = {path for path in events if states.keys().isdisjoint([path, *path.parents])}
    tables = {path for kind in ("*.csv", "*.jsonl") for path in folder.rglob(kind)}
    return set(states.values()) | events | {path for path in tables if path.parent not in events}


def ended(path: Path) -> float:
    """Return the time at which a log was last written."""
    files = path.iterdir() if path.is_dir() else [path]
    return max(file.stat().st_mtime for file in files)


def fingerprint(log: Log) -> tuple[str, ...]:
    """Return a value that two logs of the same run have in common."""
    return tuple(f"{loss:.4g}" for loss in log.history.bins().mean[:10])


def looked_back(log: Log, store: RunStore, optimizer: str) -> Row:
    """Replay a run, then add it to the store for the runs after it."""
    run = RunInfo(log.metric, optimizer, project="these logs", monitor=log.column)
    plan = log.plan()
    alone = look_back(log.history, plan, run, steps_taken=log.steps_taken)
    prior, best = store.prior(run, plan), store.best(run, plan)
    learned = look_back(
        log.history, plan, run, prior=prior, target=best, steps_taken=log.steps_taken
    )
    store.add(log.name, run, plan, *observed(log.history), steps_taken=log.steps_taken)
    return Row(log, alone, learned)


def report(rows: list[Row], share: float) -> None:
    """Print the forecasts made at a share of each run, and the steps that stopping saves."""
    errors: list[tuple[float, float]] = []
    print(f"\n{'run':32}{'ended':>8}  {f'forecast at {share:.0%}':26}{'with those before it':26}")
    for row in rows:
        if row.alone.outcome is None or row.alone.outcome.loss == 0:
            print(f"{row.log.name:32}{'-':>8}  no outcome: ended early, in nan or at 0")
            continue
        truth = row.alone.outcome.loss
        both = [back.at(share).forecast for back in (row.alone, row.learned)]
        errors.append((abs(both[0].median / truth - 1), abs(both[1].median / truth - 1)))
        texts = [f"{f.median:.3f} ({f.interval()[0]:.3f} to {f.interval()[1]:.3f})" for f in both]
        stop = row.learned.stop
        end = "" if stop is None else f"stopped at {stop.share:.0%}"
        print(f"{row.log.name:32}{truth:8.4f}  {texts[0]:26}{texts[1]:26}{end}")
    if errors:
        alone, learned = np.median(errors, axis=0)
        print(f"\nmedian error {alone:.2%}, with the runs before {learned:.2%}")
        saved = np.mean([row.learned.saved for row in rows])
        wrong = sum(row.learned.rightly is False for row in rows)
        print(f"stopping runs that cannot beat the best saves {saved:.0%} of all steps; ", end="")
        print(f"{wrong} stopped wrongly")


def train(folder: Path, steps: int) -> None:
    """Train a small GPT at several rates, with logs for TensorBoard."""
    import torch
    from gpt import GPT, Batches, standard_library, wsd_factor
    from torch.utils.tensorboard import SummaryWriter

    text = standard_library()
    for rate in RATES:
        print(f"training {steps} steps at {rate:g}")
        torch.manual_seed(0)
        model = GPT()
        batches = Batches(text, batch=16, length=64, seed=1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1)
        factor = partial(wsd_factor, total=steps, warmup=max(steps // 20, 1))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        with SummaryWriter(str(folder / f"rate-{rate:g}")) as writer:
            for step in range(steps):
                loss = model(*batches())
                writer.add_scalar("train/loss", loss.item(), step)
                writer.add_scalar("lr", scheduler.get_last_lr()[0], step + 1)
                loss.backward()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()


if __name__ == "__main__":
    main()
