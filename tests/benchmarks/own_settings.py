"""Settings of the small training runs, drawn at random: optimizer, rate, schedule, length.

Run k of a task is drawn by a generator of its own, so that it can be made again without the others.
The runs with an even number belong to a sweep: they have one length and one data set, and one would
choose the best of them.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from own_optimizers import SHARE_OF_ADAM_RATE

__all__ = ["Choices", "Settings", "draw_settings", "scheduler_of"]

Random = np.random.Generator
Options = dict[str, Any]
Scheduler = torch.optim.lr_scheduler.LRScheduler

RATE_DECADES = 1.5  # width of the log-uniform distribution of the peak rate
VALIDATIONS = (40, 120)  # of one run, least and most
OPTIMIZERS = {
    "AdamW": 0.31,
    "Adam": 0.2,
    "SGD": 0.2,
    "RMSprop": 0.1,
    "Muon": 0.1,
    "Adagrad": 0.05,
    "Lion": 0.04,
}  # and how often each is drawn
DECOUPLED = (0.0, 0.01, 0.05, 0.1)  # weight decays of AdamW, Muon and Lion
ADDED_TO_GRADIENT = {"SGD": (0.0, 1e-4, 5e-4, 2e-3)}  # weight decays of the others
ADDED_TO_ADAPTIVE = (0.0, 0.0, 1e-5, 1e-4)
SCHEDULES = {
    "cosine": 0.2,
    "wsd": 0.15,
    "linear": 0.13,
    "step_decay": 0.12,
    "constant": 0.1,
    "one_cycle": 0.08,
    "exponential": 0.06,
    "inverse_sqrt": 0.06,
    "polynomial": 0.05,
    "restarts": 0.05,
}


@dataclass(frozen=True)
class Choices:
    """The settings that may be drawn for the runs of one task.

    Attributes:
        steps: least and greatest length of a run, in optimizer steps.
        adam: a sensible peak rate for Adam; those of other optimizers follow from it.
        sgd: a sensible peak rate for SGD with momentum; None if SGD does not train the task.
        batch: batch sizes.
        dropout: shares of dropout.
        smoothing: label smoothing of the training loss.
        weight_decay: decoupled weight decays.
        muon: whether hidden weights are matrices, as Muon needs.
    """

    steps: tuple[int, int]
    adam: float
    sgd: float | None = None
    batch: tuple[int, ...] = (32,)
    dropout: tuple[float, ...] = (0.0,)
    smoothing: tuple[float, ...] = (0.0,)
    weight_decay: tuple[float, ...] = DECOUPLED
    muon: bool = False

    def optimizers(self) -> dict[str, float]:
        """The optimizers that suit the task, and how often each is drawn."""
        unsuited = {"SGD": self.sgd is None, "Muon": not self.muon}
        return {name: often for name, often in OPTIMIZERS.items() if not unsuited.get(name)}


@dataclass(frozen=True)
class Settings:
    """The settings of one run.

    Attributes:
        task: name of the task.
        run: number of the run in its task.
        seed: of weights, batches and dropout.
        optimizer: class name of the optimizer.
        peak_lr: highest learning rate.
        schedule: type of the schedule.
        options: its settings; lengths and milestones as shares of the steps after the warm-up.
        warmup: share of the run in which the rate rises linearly.
        total_steps: length in optimizer steps.
        batch: batch size.
        weight_decay: of the optimizer.
        dropout: share of dropout.
        smoothing: label smoothing of the training loss.
        validations: number of validations, evenly spaced.
        in_sweep: whether the run belongs to the sweep of its task.
    """

    task: str
    run: int
    seed: int
    optimizer: str
    peak_lr: float
    schedule: str
    options: Options
    warmup: float
    total_steps: int
    batch: int
    weight_decay: float
    dropout: float
    smoothing: float
    validations: int
    in_sweep: bool

    @property
    def name(self) -> str:
        return f"{self.task} {self.run}"

    @property
    def sweep(self) -> str | None:
        """Name of the sweep that the run belongs to."""
        return f"{self.task}, {self.total_steps} steps" if self.in_sweep else None

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup * self.total_steps)


def draw_settings(task: str, choices: Choices, run: int) -> Settings:
    """The settings of run number `run` of a task."""
    number = zlib.crc32(task.encode())
    rng, of_sweep = np.random.default_rng([number, run + 1]), np.random.default_rng([number, 0])
    in_sweep = run % 2 == 0
    total_steps = _draw_length(of_sweep if in_sweep else rng, choices)
    optimizer = _weighted(rng, choices.optimizers())
    schedule = _weighted(rng, SCHEDULES)
    options = _OPTIONS[schedule](rng)
    return Settings(
        task=task,
        run=run,
        seed=int(rng.integers(2**31)),
        optimizer=optimizer,
        peak_lr=_draw_peak(rng, choices, optimizer),
        schedule=schedule,
        options=options,
        warmup=_draw_warmup(rng, schedule, options),
        total_steps=total_steps,
        batch=int(rng.choice(choices.batch)),
        weight_decay=_draw_weight_decay(rng, choices, optimizer),
        dropout=float(rng.choice(choices.dropout)),
        smoothing=float(rng.choice(choices.smoothing)),
        validations=int(rng.integers(VALIDATIONS[0], VALIDATIONS[1] + 1)),
        in_sweep=in_sweep,
    )


def _weighted(rng: Random, weights: dict[str, float]) -> str:
    share = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=share / share.sum()))


def _draw_length(rng: Random, choices: Choices) -> int:
    """A length in steps, log-uniform, rounded to 20."""
    least, most = choices.steps
    return 20 * round(float(least * (most / least) ** rng.random() / 20))


def _draw_peak(rng: Random, choices: Choices, optimizer: str) -> float:
    sensible = choices.sgd
    if optimizer != "SGD" or sensible is None:
        sensible = choices.adam * SHARE_OF_ADAM_RATE[optimizer]
    return float(f"{sensible * 10 ** rng.uniform(-RATE_DECADES / 2, RATE_DECADES / 2):.3g}")


def _draw_weight_decay(rng: Random, choices: Choices, optimizer: str) -> float:
    if optimizer in ("AdamW", "Muon", "Lion"):
        return float(rng.choice(choices.weight_decay))
    return float(rng.choice(ADDED_TO_GRADIENT.get(optimizer, ADDED_TO_ADAPTIVE)))


def _draw_warmup(rng: Random, schedule: str, options: Options) -> float:
    if schedule == "one_cycle":
        return float(options["rise"])
    return 0.0 if rng.random() < 0.35 else round(float(rng.uniform(0.01, 0.1)), 3)


# ---------------------------------------------------------------------- schedules


def _uniform(rng: Random, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 3)


def _draw_cosine(rng: Random) -> Options:
    return {"end": float(rng.choice([0.0, 0.1]))}


def _draw_linear(rng: Random) -> Options:
    return {"end": float(rng.choice([0.0, 0.0, 0.1]))}


def _draw_wsd(rng: Random) -> Options:
    return {"decay": _uniform(rng, 0.1, 0.3)}


def _draw_step_decay(rng: Random) -> Options:
    milestones = [[0.5, 0.75], [0.6, 0.85], [0.33, 0.67], [0.3, 0.6, 0.9]][rng.integers(4)]
    return {"milestones": milestones, "factor": float(rng.choice([3.0, 5.0, 10.0]))}


def _draw_one_cycle(rng: Random) -> Options:
    return {"rise": float(rng.choice([0.1, 0.2, 0.3]))}


def _draw_exponential(rng: Random) -> Options:
    return {"end": round(10 ** float(rng.uniform(-2.5, -1)), 4)}


def _draw_inverse_sqrt(rng: Random) -> Options:
    return {"hold": _uniform(rng, 0.02, 0.08)}


def _draw_polynomial(rng: Random) -> Options:
    return {"power": float(rng.choice([0.5, 2.0, 3.0]))}


def _draw_restarts(rng: Random) -> Options:
    return {"cycles": int(rng.integers(2, 5)), "growth": int(rng.choice([1, 2]))}


def _draw_nothing(rng: Random) -> Options:
    return {}


_OPTIONS: dict[str, Callable[[Random], Options]] = {
    "cosine": _draw_cosine,
    "linear": _draw_linear,
    "wsd": _draw_wsd,
    "step_decay": _draw_step_decay,
    "constant": _draw_nothing,
    "one_cycle": _draw_one_cycle,
    "exponential": _draw_exponential,
    "inverse_sqrt": _draw_inverse_sqrt,
    "polynomial": _draw_polynomial,
    "restarts": _draw_restarts,
}


def scheduler_of(settings: Settings, optimizer: torch.optim.Optimizer) -> Scheduler:
    """The scheduler of a run, to be stepped after every step of the optimizer."""
    schedulers = torch.optim.lr_scheduler
    if settings.schedule == "one_cycle":
        return schedulers.OneCycleLR(
            optimizer,
            settings.peak_lr,
            settings.total_steps,
            pct_start=settings.options["rise"],
            cycle_momentum=settings.optimizer in ("SGD", "Adam", "AdamW"),
        )
    warmup = settings.warmup_steps
    if warmup == 0:
        return _after_warmup(settings, optimizer, settings.total_steps)
    rise = schedulers.LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
    rest = _after_warmup(settings, optimizer, settings.total_steps - warmup)
    return schedulers.SequentialLR(optimizer, [rise, rest], [warmup])


def _after_warmup(settings: Settings, optimizer: torch.optim.Optimizer, steps: int) -> Scheduler:
    """The scheduler of the `steps` steps after the warm-up."""
    schedulers, options = torch.optim.lr_scheduler, settings.options
    match settings.schedule:
        case "cosine":
            end = options["end"] * settings.peak_lr
            return schedulers.CosineAnnealingLR(optimizer, steps, eta_min=end)
        case "linear":
            return schedulers.LinearLR(optimizer, 1.0, options["end"], total_iters=steps)
        case "wsd":
            decay = max(round(options["decay"] * steps), 1)
            return schedulers.LambdaLR(optimizer, lambda done: min(1.0, (steps - done) / decay))
        case "step_decay":
            milestones = [round(share * steps) for share in options["milestones"]]
            return schedulers.MultiStepLR(optimizer, milestones, 1 / options["factor"])
        case "exponential":
            return schedulers.ExponentialLR(optimizer, options["end"] ** (1 / steps))
        case "inverse_sqrt":
            hold = max(options["hold"] * steps, 1.0)
            return schedulers.LambdaLR(optimizer, lambda done: math.sqrt(hold / max(hold, done)))
        case "polynomial":
            return schedulers.PolynomialLR(optimizer, steps, options["power"])
        case "restarts":
            growth = options["growth"]
            shares = sum(growth**cycle for cycle in range(options["cycles"]))
            first = math.ceil(steps / shares)
            return schedulers.CosineAnnealingWarmRestarts(optimizer, first, growth)
    return schedulers.LambdaLR(optimizer, lambda done: 1.0)
