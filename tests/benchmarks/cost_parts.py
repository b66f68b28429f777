"""Costs of the parts of a forecast: a refit, a check, a what-if, the start of a run, a store."""

import resource
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import torch
from cost_loops import unseen
from cost_table import Ratio, of_all
from cost_turns import Pause, Subject, measured
from support.references import load_reference
from support.sizes import bytes_of

from lossforecast import Forecaster, LRSchedule, RunInfo
from lossforecast.callbacks import TorchLossForecast, schedule_from_torch
from lossforecast.callbacks.monitor import RunMonitor
from lossforecast.policies import reschedule, target_miss

__all__ = ["checks", "imports", "memory", "multi_power", "start_of_a_run"]


def observed(total: int, seen: int = 10_000) -> Forecaster:
    """Return a forecaster in the middle of a run that is to decay."""
    forecaster = Forecaster(
        LRSchedule.wsd(total, 1e-3, warmup=total // 50), RunInfo("val", "adamw")
    )
    steps = np.unique(np.linspace(0, total // 2, seen, dtype=np.int64))
    noise = 1e-2 * np.random.default_rng(0).normal(size=steps.size)
    forecaster.observe_many(steps, 2.5 + (steps / total + 0.01) ** -0.5 * 0.3 + noise)
    return forecaster


def repeated(calls: int, prepare: Callable[[], Callable[[], object]]) -> Subject:
    """Return a subject of so many turns, each of them one call of what `prepare` returns."""

    def subject(pause: Pause) -> None:
        call = prepare()
        pause()
        for _ in range(calls):
            call()
            pause()

    return subject


def checks(scale: float) -> list[Ratio]:
    """Measure what is more than a refit with its forecast, and refits of longer runs."""

    def refits(total: int) -> Callable[[], Callable[[], object]]:
        def prepare() -> Callable[[], object]:
            forecaster = observed(total)

            def refit() -> float:
                forecaster.observe(forecaster.history.last_step + 1, 2.8)
                return forecaster.forecast().median

            return refit

        return prepare

    def checked(advises: bool) -> Callable[[], Callable[[], object]]:
        def prepare() -> Callable[[], object]:
            forecaster = observed(100_000)
            policy = [target_miss(), reschedule()] if advises else None
            monitor = RunMonitor(forecaster, target=2.7, policy=policy, sinks=[unseen])

            def check() -> object:
                step = forecaster.history.last_step + 1
                forecaster.observe(step, 2.8)
                return monitor.check(step + 1)

            return check

        return prepare

    def what_if() -> Callable[[], object]:
        forecaster = observed(100_000)
        other = forecaster.schedule.with_decay(start=60_000, steps=10_000, shape="sqrt")

        def supposed() -> float:
            return forecaster.forecast(schedule=other).median

        supposed()
        return supposed

    calls = max(int(20 * scale), 2)
    subjects = {
        "short": refits(1_000),
        "refit": refits(100_000),
        "long": refits(10**7),
        "check": checked(advises=False),
        "advice": checked(advises=True),
        "what if": what_if,
    }
    times = measured({name: repeated(calls, each) for name, each in subjects.items()}, warm_up=2)
    refit = "a refit and forecast"
    return [
        of_all(times, "check", "refit", "a check of a run", refit, 2.0),
        of_all(times, "advice", "refit", "a check of a run with `reschedule`", refit, 6.0),
        of_all(times, "what if", "refit", "a what-if", refit, 0.5),
        of_all(times, "long", "short", f"{refit} in ten million steps", "one in a thousand"),
    ]


def multi_power(scale: float) -> list[Ratio]:
    """Measure a forecast beside the fit of the multi-power law by nonlinear least squares."""
    plan = LRSchedule.cosine(24_000, 3e-4, end=3e-5, warmup=2_160)
    n_steps = 12_000 if scale == 1 else 3_000
    steps = np.arange(2_160, n_steps + 1, 128)
    noise = 1e-3 * np.random.default_rng(0).normal(size=steps.size)
    losses = 3.0 + 0.6 * (plan.s1(steps) + 0.1) ** -0.5 + noise
    slow = load_reference("multi_power_fit")

    def ours() -> float:
        median = 0.0
        for _ in range(10):
            forecaster = Forecaster(plan, RunInfo("val", "adamw"))
            forecaster.observe_many(steps, losses)
            median = forecaster.forecast().median
        return median

    def theirs() -> object:
        return slow.fit_multi_power([slow.Curve(plan.to_array()[:n_steps], steps, losses)])

    calls = 2 if scale == 1 else 1
    subjects = {"ten": repeated(calls, lambda: ours), "fit": repeated(calls, lambda: theirs)}
    times = measured(subjects)
    times["fit"] = times["fit"][:calls] * 10
    times["ten"] = times["ten"][:calls]
    what, over = "a forecast from nothing", "a fit of the multi-power law"
    return [of_all(times, "ten", "fit", what, over, 1 / 2_000)]


def start_of_a_run(scale: float) -> list[Ratio]:
    """Measure the start of a callback, and the reading of a plan of a million steps."""
    calls, steps = max(int(20 * scale), 2), 10**6

    def new_optimizer() -> torch.optim.Optimizer:
        model = torch.nn.Sequential(*(torch.nn.Linear(32, 32) for _ in range(12)))
        return torch.optim.AdamW(model.parameters(), lr=1e-3)

    def started() -> Callable[[], object]:
        def start() -> None:
            TorchLossForecast(new_optimizer(), total_steps=1_000, sinks=[unseen])

        return start

    def cosine() -> Callable[[], object]:
        optimizer = new_optimizer()
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return lambda: schedule_from_torch(scheduler, total_steps=steps)

    def unknown() -> Callable[[], object]:
        optimizer = new_optimizer()
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 + k / 100) ** -0.5)
        return lambda: schedule_from_torch(scheduler, total_steps=steps)

    def stepped() -> Callable[[], object]:
        optimizer = new_optimizer()
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        optimizer.step()

        def thousand() -> None:
            for _ in range(1_000):
                scheduler.step()

        return thousand

    subjects = {"start": started, "cosine": cosine, "lambda": unknown, "stepped": stepped}
    times = measured({name: repeated(calls, each) for name, each in subjects.items()}, warm_up=2)
    over = "1,000 steps of `CosineAnnealingLR`"
    return [
        of_all(times, "start", "stepped", "the start of `TorchLossForecast`", over),
        of_all(times, "cosine", "stepped", f"the plan of a cosine of {steps:,} steps", over),
        of_all(times, "lambda", "stepped", f"the plan of a `LambdaLR` of {steps:,} steps", over),
    ]


def imports(scale: float) -> list[Ratio]:
    """Measure imports, each in a fresh Python, less the start of Python itself."""
    rounds = max(int(7 * scale), 1)
    code = {"python": "pass", "numpy": "import numpy", "lossforecast": "import lossforecast"}
    spent: dict[str, list[float]] = {name: [] for name in code}
    for _ in range(rounds + 1):
        for name, line in code.items():
            spent[name].append(_child_seconds(line))
    medians = {name: np.array([np.median(each[1:])]) for name, each in spent.items()}
    times = {name: medians[name] - medians["python"] for name in ("numpy", "lossforecast")}
    return [of_all(times, "lossforecast", "numpy", "`import lossforecast`", "`import numpy`")]


def memory(scale: float) -> list[Ratio]:
    """Measure what a forecaster keeps of many losses, in bytes."""
    sizes = [bytes_of(observed(10**7, seen)) for seen in (10_000, max(int(10**6 * scale), 20_000))]
    times = dict(zip(("few", "many"), map(np.atleast_1d, map(float, sizes)), strict=True))
    what = "the bytes kept of a hundred times as many losses"
    return [of_all(times, "many", "few", what, "those of 10,000 losses", 1.0)]


def _child_seconds(line: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", line], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
