"""How often `diverged` stops runs restarted from annealed weights, and how soon runs that diverge.

    python tests/benchmarks/divergence.py [--restarts=200] [--accidents=50] [--steps=3000]

Small runs of many tasks are trained to the end of their schedule; their weights are then trained on
with a new warm-up to 0.3 to 3 times the rate. Other runs meet an accident between 10 and 80% of
their steps, after which they never come back: a rate that is too high from there on, one update
that is far too large, or weights that overflow.
"""

import argparse
import logging
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from own_runs import Training
from own_settings import Settings, draw_settings
from own_tasks import TASKS

from lossforecast.callbacks import TorchLossForecast
from lossforecast.policies import Action, Reason

RESTARTED_STEPS = 600  # of each run that is restarted, and of its restart
FIRST_RUN = 2_000  # numbers from here on are not recorded
FOLLOWED = ("cosine", "linear", "wsd")  # schedules that anneal
ANNEALED = {"end": 0.0, "decay": 0.3}
LOST = 0.5  # of the improvement before the accident, at the end of a run that never came back
BROKEN = (Reason.DIVERGED, Reason.NON_FINITE)


@dataclass(frozen=True)
class Watched:
    """A run with its losses, (n,), and the step at which it would have been stopped as broken."""

    losses: list[float]
    stopped_at: int | None


def trained(training: Training, total: int, accident: Callable[[Training], None]) -> Watched:
    """Train a run to its end, whatever is recommended; `accident` is called after every update."""
    losses: list[float] = []
    stopped_at: int | None = None
    with TorchLossForecast(
        training.optimizer, training.scheduler, total, store=False, verbose=False
    ) as monitor:
        for step in range(1, total + 1):
            loss = training.loss()
            monitor.step(loss)
            training.update(loss)
            accident(training)
            losses.append(loss.item())
            advice = monitor.recommendation
            if stopped_at is None and advice is not None and advice.action is Action.STOP:
                stopped_at = step if advice.reason in BROKEN else None
    return Watched(losses, stopped_at)


def nothing(training: Training) -> None:
    """No accident."""


def restarted(settings: Settings, factor: float) -> Watched:
    """A run from annealed weights, its peak rate `factor` times that of the first."""
    task = TASKS[settings.task]
    first = Training(task, settings)
    for _ in range(settings.total_steps):
        first.update(first.loss())
    again = replace(settings, seed=settings.seed + 1, peak_lr=factor * settings.peak_lr)
    second = Training(task, again)
    second.model.load_state_dict(first.model.state_dict())
    return trained(second, settings.total_steps, nothing)


def high_rate(at: int, factor: float) -> Callable[[Training], None]:
    """From step `at` on, updates are `factor` times as large."""
    before: list[torch.Tensor] = []

    @torch.no_grad()
    def accident(training: Training) -> None:
        weights = list(training.model.parameters())
        if training.steps > at:
            for weight, old in zip(weights, before, strict=True):
                weight.add_((factor - 1) * (weight - old))
        if training.steps >= at:
            before[:] = [weight.clone() for weight in weights]

    return accident


def large_update(at: int, factor: float) -> Callable[[Training], None]:
    """At step `at`, weights move by `factor` of their size."""

    @torch.no_grad()
    def accident(training: Training) -> None:
        if training.steps == at:
            for weight in training.model.parameters():
                weight.add_(factor * weight.abs().mean() * torch.randn_like(weight))

    return accident


def overflow(at: int, factor: float) -> Callable[[Training], None]:
    """At step `at`, weights are too large for their sums."""

    @torch.no_grad()
    def accident(training: Training) -> None:
        if training.steps == at:
            for weight in training.model.parameters():
                weight.mul_(1e30 * factor)

    return accident


ACCIDENTS = {"high rate": high_rate, "large update": large_update, "overflow": overflow}


def never_came_back(losses: list[float], at: int) -> bool:
    """Return whether a run ended with much of the improvement before step `at` lost."""
    total = len(losses)
    end = float(np.mean(losses[-total // 10 :]))
    before = float(np.median(losses[max(at - total // 20, 1) : at]))
    start = float(np.median(losses[:5]))
    return not math.isfinite(end) or end > start + LOST * (start - before)


def settings_of(number: int, total: int, *, annealed: bool) -> Settings:
    """Settings of a run of one of the tasks in turn."""
    names = list(TASKS)
    task = names[number % len(names)]
    drawn = draw_settings(task, TASKS[task].choices, FIRST_RUN + number)
    if annealed:
        drawn = replace(drawn, schedule=FOLLOWED[number % len(FOLLOWED)], options=ANNEALED)
    return replace(drawn, total_steps=total)


def main(restarts: int, accidents: int, steps: int) -> None:
    """Train all runs and print what was stopped, and when."""
    torch.set_num_threads(1)
    logging.getLogger("lossforecast").setLevel(logging.ERROR)
    chance = np.random.default_rng(0)
    wrongly = 0
    for number in range(restarts):
        settings = settings_of(number, RESTARTED_STEPS, annealed=True)
        factor = float(np.exp(chance.uniform(math.log(0.3), math.log(3.0))))
        run = restarted(settings, factor)
        if run.stopped_at is not None:
            wrongly += 1
            rise = np.mean(run.losses[-RESTARTED_STEPS // 10 :]) / np.median(run.losses[:5])
            said = f"stopped at {run.stopped_at}, ended at {rise:.3g} times its first loss"
            sys.stdout.write(f"{settings.name}, {factor:.2f} times the rate: {said}\n")
    sys.stdout.write(f"restarts stopped: {wrongly} of {restarts}\n")
    found: list[float] = []
    number = restarts
    while len(found) < accidents:
        number += 1
        name = list(ACCIDENTS)[number % len(ACCIDENTS)]
        at, factor = int(chance.uniform(0.1, 0.8) * steps), float(10 ** chance.uniform(1, 3))
        settings = settings_of(number, steps, annealed=False)
        run = trained(Training(TASKS[settings.task], settings), steps, ACCIDENTS[name](at, factor))
        if not never_came_back(run.losses, at):
            continue
        late = math.inf if run.stopped_at is None else (run.stopped_at - at) / steps
        found.append(late)
        sys.stdout.write(f"{settings.name}, {name} at {at}: stopped {late:+.1%} later\n")
        sys.stdout.flush()
    if not found:
        return
    inside = sum(0 <= late <= 0.02 for late in found)
    sys.stdout.write(
        f"accidents stopped within 2% of the run: {inside} of {accidents}; "
        f"median {np.median(found):.1%}, at most {max(found):.1%}\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--restarts", type=int, default=200)
    parser.add_argument("--accidents", type=int, default=50)
    parser.add_argument("--steps", type=int, default=3_000, help="of each run with an accident")
    main(**vars(parser.parse_args()))
