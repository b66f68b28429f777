"""Decisions of `ForecastPruner` and of the Ray schedulers among many trials.

A decision is what a trial waits for after it has reported a value: its own forecast, and the
comparison with all others. CPU time is counted, because the wall clock of a shared machine shows
its other work as well.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from scale_table import Figure

from lossforecast import LRSchedule, RunInfo
from lossforecast.callbacks import ForecastPruner
from lossforecast.callbacks.sweeps.ray_trials import SweepTrials
from lossforecast.policies import MAX_ENDED_RUNS

__all__ = ["OptunaSweep", "RaySweep", "optuna_figures", "ray_figures"]

TOTAL, EVERY = 1_000, 20  # steps of a trial, and between two of its reports
COMPLETE_SHARE = 0.15  # of the trials that are over; the others were pruned
RUN = RunInfo("val", "adamw")
N_DECISIONS = 20


def loss_at(step: int, level: float, noise: float) -> float:
    """The loss of a trial: a power law above its level, a cosine decay, and noise."""
    decay = 0.04 * (1 + np.cos(np.pi * step / TOTAL))
    return float(level + 2 * (step + 20.0) ** -0.5 + decay + 0.002 * noise)


@dataclass
class OptunaSweep:
    """A study in memory, with the trials that are still running.

    Attributes:
        study: the study.
        running: its running trials.
        random: draws the settings and losses.
    """

    study: optuna.Study
    running: list[optuna.Trial] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    _steps: dict[int, int] = field(default_factory=dict)
    _levels: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, n_trials: int, n_running: int, *, n_reports: int = 12) -> "OptunaSweep":
        """A sweep whose trials are over but for `n_running`, which have made some reports."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = ForecastPruner(lambda trial: LRSchedule.cosine(TOTAL, trial.params["lr"]), RUN)
        sampler = optuna.samplers.RandomSampler(0)
        sweep = cls(optuna.create_study(sampler=sampler, pruner=pruner))
        n_over = n_trials - n_running
        n_complete = round(COMPLETE_SHARE * n_over)
        for i in range(n_over):
            trial = sweep.begin()
            if i < n_complete:
                sweep.finish(trial)
            else:
                sweep.report(trial, n_reports)
                sweep.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        sweep.running = [sweep.begin() for _ in range(n_running)]
        for trial in sweep.running:
            sweep.report(trial, n_reports)
        return sweep

    def begin(self) -> optuna.Trial:
        """Start a trial."""
        trial = self.study.ask()
        trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        self._steps[trial.number] = 0
        self._levels[trial.number] = 2 + 0.3 * self.random.random()
        return trial

    def report(self, trial: optuna.Trial, times: int = 1) -> None:
        """Report the next values of a trial."""
        for _ in range(times):
            self._steps[trial.number] += EVERY
            step = self._steps[trial.number]
            trial.report(loss_at(step, self._levels[trial.number], self.random.normal()), step)

    def report_all(self, trial: optuna.Trial) -> None:
        """Report the rest of a trial."""
        self.report(trial, (TOTAL - self._steps[trial.number]) // EVERY)

    def finish(self, trial: optuna.Trial) -> None:
        """Report the rest of a trial, which then is complete."""
        self.report_all(trial)
        self.study.tell(trial, loss_at(TOTAL, self._levels[trial.number], 0.0))

    def decide(self, trial: optuna.Trial) -> bool:
        """Report a value and ask whether to prune."""
        self.report(trial)
        return trial.should_prune()


@dataclass
class RaySweep:
    """The trials of a Ray sweep, as `ForecastScheduler` keeps them: all that it does by result."""

    trials: SweepTrials
    names: list[str] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    _steps: dict[str, int] = field(default_factory=dict)
    _levels: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, n_trials: int, n_running: int, *, n_reports: int = 12) -> "RaySweep":
        """A sweep whose trials are over but for `n_running`, which have made some reports."""
        trials = SweepTrials(
            lambda config: LRSchedule.cosine(TOTAL, config["lr"]),
            RUN,
            time_attr="step",
            rule="dominated",
            policy=None,
            target=None,
            shadow=True,
        )
        trials.measure("loss", "min")
        sweep = cls(trials)
        n_complete = round(COMPLETE_SHARE * (n_trials - n_running))
        for i in range(n_complete):
            learned = i >= n_complete - MAX_ENDED_RUNS  # of the others only the end counts
            sweep.report(f"over {i}", TOTAL // EVERY if learned else 1, last=not learned)
            trials.close(f"over {i}")
        sweep.names = [f"running {i}" for i in range(n_running)]
        for name in sweep.names:
            sweep.report(name, n_reports)
        return sweep

    def report(self, name: str, times: int = 1, *, last: bool = False) -> None:
        """Report the next values of a trial, or only its last one."""
        level = self._levels.setdefault(name, 2 + 0.3 * self.random.random())
        rate = {"lr": float(10 ** self.random.uniform(-4, -2))}
        for _ in range(times):
            step = TOTAL if last else self._steps.get(name, 0) + EVERY
            self._steps[name] = step
            value = loss_at(step, level, self.random.normal())
            self.trials.observe(name, rate, {"loss": value, "step": step})

    def decide(self, name: str) -> object:
        """Report a value and ask what to do."""
        self.report(name)
        return self.trials.verdict(name)


def optuna_figures(scale: float) -> list[Figure]:
    """Measure decisions among 1,000 and 10,000 trials, of which 64 or all 1,000 are running."""
    sizes = [(1_000, 64, 20.0), (10_000, 64, 200.0), (1_000, 1_000, None)]
    return [figure for size in sizes for figure in _optuna_figures(scale, *size)]


def _optuna_figures(scale: float, n_trials: int, n_running: int, aim: float | None) -> list[Figure]:
    n, running = max(int(scale * n_trials), 20), max(int(scale * n_running), 10)
    before = memory_mb()
    sweep = OptunaSweep.of(n, running)
    trials = list(sweep.running)
    joined = cpu_ms(trials[0].should_prune)
    decisions = [cpu_ms(partial(sweep.decide, trial)) for trial in trials[:N_DECISIONS]]
    sweep.report_all(trials[-1])
    sweep.decide(trials[0])  # forecasts the other trial at all of its new values
    sweep.finish(trials[-1])
    ended = cpu_ms(partial(sweep.decide, trials[0]))
    name = f"Optuna, {n:,} trials, {running:,} running"
    return [
        Figure(f"{name}: a decision", float(np.median(decisions)), "ms", aim),
        Figure(f"{name}: the first after a trial has ended", ended, "ms"),
        Figure(f"{name}: the first of a process that joins the study", joined / 1e3, "s"),
        Figure(f"{name}: memory", memory_mb() - before, "MB"),
    ]


def ray_figures(scale: float) -> list[Figure]:
    """Measure decisions of the Ray schedulers among as many trials."""
    sizes = [(1_000, 64, 20.0), (10_000, 64, 200.0)]
    return [_ray_figure(scale, *size) for size in sizes]


def _ray_figure(scale: float, n_trials: int, n_running: int, aim: float) -> Figure:
    n, running = max(int(scale * n_trials), 20), max(int(scale * n_running), 10)
    sweep = RaySweep.of(n, running)
    sweep.decide(sweep.names[0])  # corrects all forecasts
    decisions = [cpu_ms(partial(sweep.decide, name)) for name in sweep.names[1:N_DECISIONS]]
    what = f"Ray, {n:,} trials, {running:,} running: a decision"
    return Figure(what, float(np.median(decisions)), "ms", aim)


def cpu_ms(call: Callable[[], object]) -> float:
    """CPU time of a call in this process, in milliseconds."""
    began = time.process_time()
    call()
    return 1e3 * (time.process_time() - began)


def memory_mb() -> float:
    """Resident memory of this process in megabytes; 0 where Linux does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
