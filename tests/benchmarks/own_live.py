"""Live forecasts of small runs that were not recorded, made as a new user would make them."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from own_runs import Training, spaced
from own_settings import Settings, draw_settings
from own_tasks import TASKS

from lossforecast.callbacks import TorchLossForecast
from lossforecast.forecast import Estimate
from lossforecast.runs import outcome_of_curve

__all__ = ["LiveForecast", "live_settings", "train_live", "with_forecasts"]

SHARES = (0.1, 0.25, 0.5, 0.75)  # of the run, at which its forecasts are read
METRICS = ("val", "train")
FIRST_LIVE_RUN = 1_000  # numbers from here on are not recorded


@dataclass(frozen=True)
class LiveForecast:
    """One forecast of the final loss, with its 80% interval, and what came."""

    metric: str
    seen: float
    estimate: Estimate
    status: str
    outcome: float

    @property
    def held(self) -> bool:
        return self.estimate.lower <= self.outcome <= self.estimate.upper

    @property
    def error(self) -> float:
        """Relative error of the estimate."""
        return abs(float(self.estimate) / self.outcome - 1)


def live_settings(tasks: Sequence[str], count: int) -> list[Settings]:
    """Settings of runs with new seeds, of as many tasks as possible."""
    spread = [tasks[number * len(tasks) // count % len(tasks)] for number in range(count)]
    return [
        draw_settings(task, TASKS[task].choices, FIRST_LIVE_RUN + number)
        for number, task in enumerate(spread)
    ]


def with_forecasts(settings: Settings) -> list[LiveForecast]:
    """Train one run with a forecaster that is told its optimizer, scheduler and length only."""
    training, total = Training(TASKS[settings.task], settings), settings.total_steps
    validated = set(spaced(settings.validations, total).tolist())
    moments = {round(share * total): share for share in SHARES}
    losses: dict[str, list[tuple[int, float]]] = {metric: [] for metric in METRICS}
    read: list[tuple[str, float, Estimate, str]] = []
    with TorchLossForecast(training.optimizer, training.scheduler, total, metric="val") as monitor:
        for step in range(1, total + 1):
            loss = training.loss()
            monitor.step(loss)
            training.update(loss)
            losses["train"].append((step - 1, loss.item()))
            if step in validated:
                validation = training.validation_loss()
                monitor.validation(validation)
                losses["val"].append((step, validation))
            if step in moments:
                for metric in METRICS:
                    forecast = monitor.forecaster_of(metric).forecast()
                    status = forecast.status.value
                    read.append((metric, moments[step], forecast.estimate, status))
    outcomes = {metric: outcome_of(losses[metric], total) for metric in METRICS}
    return [
        LiveForecast(metric, seen, estimate, status, outcomes[metric])
        for metric, seen, estimate, status in read
    ]


def outcome_of(losses: Sequence[tuple[int, float]], total_steps: int) -> float:
    """The loss that a run ended with; nan if it diverged."""
    steps, values = zip(*losses, strict=True)
    end = outcome_of_curve(steps, values, total_steps)
    return math.nan if end is None else end.loss


def train_live(runs: Sequence[Settings]) -> None:
    """Train some runs and print each forecast, whether its interval held, and totals."""
    forecasts: list[LiveForecast] = []
    for settings in runs:
        sys.stdout.write(
            f"{settings.name}: {settings.total_steps} steps of {settings.optimizer}, "
            f"{settings.schedule} from {settings.peak_lr:g}\n"
        )
        for each in (made := with_forecasts(settings)):
            sys.stdout.write(
                f"  {each.metric:5} {each.seen:4.0%}  {each.estimate!r:36} {each.status:13} "
                f"outcome {each.outcome:<8.4g} {'held' if each.held else 'missed'}\n"
            )
        sys.stdout.flush()
        forecasts += made
    sys.stdout.write(totals(forecasts))


def totals(forecasts: Sequence[LiveForecast]) -> str:
    """Median error and share of 80% intervals that held, by metric and share of the run seen."""
    lines = ["seen  metric  runs  median |error|  in 80%"]
    for seen in SHARES:
        for metric in METRICS:
            chosen = [
                each
                for each in forecasts
                if (each.seen, each.metric) == (seen, metric) and math.isfinite(each.outcome)
            ]
            if chosen:
                error = float(np.median([each.error for each in chosen]))
                held = float(np.mean([each.held for each in chosen]))
                lines.append(f"{seen:4.0%}  {metric:6} {len(chosen):5d} {error:15.2%} {held:7.0%}")
    return "\n".join(lines) + "\n"
