"""The same sweep with Ray Tune under several schedulers: steps used and best loss.

python examples/sweep_ray.py --trials 32
"""

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from gpt import standard_library
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from sweep import plan_of, train
from torch import Tensor

from lossforecast import RunInfo
from lossforecast.callbacks import ForecastScheduler

SPACE = {
    "lr": tune.loguniform(1e-4, 3e-2),
    "decay": tune.uniform(0.1, 0.9),
    "weight_decay": tune.loguniform(1e-3, 1.0),
}


def trainable(config: dict[str, Any], steps: int, text: Tensor) -> None:
    """Train a trial, from its checkpoint if it was paused."""
    torch.set_num_threads(1)
    state = None
    if begun := tune.get_checkpoint():
        with begun.as_directory() as folder:
            state = torch.load(Path(folder, "state.pt"))
    for step, loss, reached in train(config, steps, text, state):
        with tempfile.TemporaryDirectory() as folder:
            torch.save(reached, Path(folder, "state.pt"))
            saved = tune.Checkpoint.from_directory(folder)
            tune.report({"val_loss": loss, "step": step}, checkpoint=saved)


def schedulers(steps: int) -> dict[str, TrialScheduler]:
    """Return the schedulers to compare by name."""
    plan, run = partial(plan_of, steps=steps), RunInfo(metric="val", optimizer="adamw")

    def asha() -> ASHAScheduler:
        return ASHAScheduler("step", max_t=steps, grace_period=steps // 9, reduction_factor=3)

    def median() -> MedianStoppingRule:
        # a time slice as long as a trial: it pauses none
        return MedianStoppingRule("step", grace_period=steps // 9, min_time_slice=steps)

    forecast = partial(ForecastScheduler, plan, run, time_attr="step")
    return {
        "no stopping": FIFOScheduler(),
        "by forecast": forecast(),
        "worthwhile": forecast(rule="worthwhile"),
        "halving by forecast": forecast(rule="halving"),
        "halving, paused": forecast(rule="halving", pause=True),
        "ASHA": asha(),
        "ASHA of forecasts": forecast(stock=asha()),
        "median": median(),
        "median of forecasts": forecast(stock=median()),
    }


def main() -> None:
    """Run the sweep with every scheduler and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of a trial")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the schedulers")
    args = parser.parse_args()

    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AIR_NEW_OUTPUT="0")  # no telemetry
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    measured = tune.with_parameters(trainable, steps=args.steps, text=standard_library())
    print(f"{args.trials} trials of {args.steps} steps, two at a time")
    print(f"  {'':20}  steps trained  stopped  best loss  of trial  seconds")
    for name, scheduler in schedulers(args.steps).items():
        if args.only and name not in args.only:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            results = tune.Tuner(
                measured,
                param_space=SPACE,
                tune_config=tune.TuneConfig(
                    metric="val_loss",
                    mode="min",
                    scheduler=scheduler,
                    search_alg=tune.search.BasicVariantGenerator(random_state=0),
                    num_samples=args.trials,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(storage_path=folder, verbose=0),
            ).fit()
        if results.errors:
            raise results.errors[0]
        last = [result.metrics for result in results]
        used = sum(metrics["step"] for metrics in last) / (args.trials * args.steps)
        stopped = sum(metrics["step"] < args.steps for metrics in last)
        best = min(range(args.trials), key=lambda i: last[i]["val_loss"])
        print(
            f"  {name:20}  {used:12.0%}  {stopped:7}  {last[best]['val_loss']:9.4f}  "
            f"{best:8}  {time.monotonic() - began:7.0f}",
            flush=True,
        )
    ray.shutdown()


if __name__ == "__main__":
    main()
