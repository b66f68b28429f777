"""The same sweep with Optuna without pruning and with several pruners: steps used and best loss.

python examples/sweep_optuna.py --trials 30
"""

import argparse
import time
from functools import partial

import optuna
from gpt import standard_library
from sweep import plan_of, train
from torch import Tensor

from lossforecast import LRSchedule, RunInfo
from lossforecast.callbacks import ForecastPruner


def objective(trial: optuna.Trial, steps: int, text: Tensor) -> float:
    """Train a trial; return the validation loss at its end."""
    trial.suggest_float("lr", 1e-4, 3e-2, log=True)
    trial.suggest_float("decay", 0.1, 0.9)
    trial.suggest_float("weight_decay", 1e-3, 1.0, log=True)
    for step, loss, _ in train(trial.params, steps, text):
        trial.report(loss, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return loss


def main() -> None:
    """Run the sweep with every pruner and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of a trial")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def plan(trial: optuna.trial.FrozenTrial) -> LRSchedule:
        return plan_of(trial.params, args.steps)

    run = RunInfo(metric="val", optimizer="adamw")
    pruners = {
        "no pruning": optuna.pruners.NopPruner(),
        "by forecast": ForecastPruner(plan, run),
        "worthwhile": ForecastPruner(plan, run, rule="worthwhile"),
        "halving by forecast": ForecastPruner(plan, run, rule="halving"),
        "median": optuna.pruners.MedianPruner(),
        "median of forecasts": ForecastPruner(plan, run, stock=optuna.pruners.MedianPruner()),
    }
    measured = partial(objective, steps=args.steps, text=standard_library())
    print(f"{args.trials} trials of {args.steps} steps")
    print(f"  {'':20}  steps trained  pruned  best loss  of trial  seconds")
    for name, pruner in pruners.items():
        began = time.monotonic()
        study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.RandomSampler(0))
        study.optimize(measured, n_trials=args.trials)
        used = sum(trial.last_step or 0 for trial in study.trials) / (args.trials * args.steps)
        pruned = len(study.get_trials(states=(optuna.trial.TrialState.PRUNED,)))
        print(
            f"  {name:20}  {used:12.0%}  {pruned:6}  {study.best_value:9.4f}  "
            f"{study.best_trial.number:8}  {time.monotonic() - began:7.0f}"
        )


if __name__ == "__main__":
    main()
