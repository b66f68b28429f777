"""Record small training runs of many tasks, with their learning rates, on one CPU thread.

    python tests/benchmarks/record_runs.py              # record what is missing, then pack
    python tests/benchmarks/record_runs.py --tasks clicks graphs --runs-per-task 2 --out /tmp/few
    python tests/benchmarks/record_runs.py --pack       # only pack what is recorded
    python tests/benchmarks/record_runs.py --live 20    # other runs, with live forecasts

Some tasks use the data sets that come with scikit-learn: `pip install scikit-learn`. Nothing is
downloaded. Finished runs lie in a folder of their own (--work), so that an interrupted recording
goes on where it ended; packed, they are results/own_runs.npz and .json, which
`lossforecast.backtest.load_curves` reads. Tasks take turns, so that a part of the recording has all
of them.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from own_live import live_settings, train_live
from own_runs import pack, record, store, stored
from own_settings import Settings, draw_settings
from own_tasks import TASKS

RESULTS = Path(__file__).with_name("results")
WORK = Path(tempfile.gettempdir()) / "lossforecast_own_runs"


def settings_of(tasks: Sequence[str], runs_per_task: int | None) -> list[Settings]:
    """The settings of all runs: the first of every task, then the second, and so on."""
    counts = {name: runs_per_task or TASKS[name].runs for name in tasks}
    return [
        draw_settings(name, TASKS[name].choices, run)
        for run in range(max(counts.values()))
        for name in tasks
        if run < counts[name]
    ]


def record_missing(runs: Sequence[Settings], work: Path) -> None:
    missing = [each for each in runs if not stored(work, each).with_suffix(".json").exists()]
    for number, settings in enumerate(missing, 1):
        recording = record(TASKS[settings.task], settings)
        store(recording, stored(work, settings))
        sys.stdout.write(
            f"{number}/{len(missing)} {settings.name}: {settings.total_steps} steps of "
            f"{settings.optimizer}, {settings.schedule} from {settings.peak_lr:g}, in "
            f"{recording.entry['seconds']} s; training loss {recording.train.loss[0]:.4g} to "
            f"{recording.train.loss[-1]:.4g}, validation loss {recording.val.loss[-1]:.4g}\n"
        )
        sys.stdout.flush()


def pack_recorded(runs: Sequence[Settings], work: Path, out: Path) -> None:
    """Pack the finished ones of some runs, sorted by task."""
    paths = [stored(work, each) for each in sorted(runs, key=lambda each: (each.task, each.run))]
    finished = [path for path in paths if path.with_suffix(".json").exists()]
    if not finished:
        sys.exit(f"no finished runs in {work}")
    out.mkdir(parents=True, exist_ok=True)
    target = out / "own_runs.npz"
    count = pack(finished, target)
    size = sum(path.stat().st_size for path in (target, target.with_suffix(".json")))
    sys.stdout.write(f"{count} of {len(runs)} runs in {target}, {size / 1e6:.2f} MB\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="names of tasks; default: all")
    parser.add_argument("--runs-per-task", type=int, metavar="N", help="default: 8, or 14 if quick")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of finished runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the packed runs")
    parser.add_argument("--pack", action="store_true", help="pack what is recorded, train nothing")
    parser.add_argument("--live", type=int, metavar="N", help="train N other runs with forecasts")
    parser.add_argument("--steps", type=int, help="length of every run, for a short trial")
    args = parser.parse_args()
    tasks = args.tasks or list(TASKS)
    unknown = set(tasks) - set(TASKS)
    if unknown:
        parser.error(f"no tasks called {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    torch.set_num_threads(1)
    live = args.live is not None
    runs = live_settings(tasks, args.live) if live else settings_of(tasks, args.runs_per_task)
    if args.steps is not None:
        runs = [replace(each, total_steps=args.steps) for each in runs]
    if live:
        train_live(runs)
        return
    if not args.pack:
        record_missing(runs, args.work)
    pack_recorded(runs, args.work, args.out)


if __name__ == "__main__":
    main()
