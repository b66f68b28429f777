"""Saved states of `TorchLossForecast`, and runs resumed from them."""

import io
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.torch_runs import Bench, forecasts_of, run, scripted, torch_lr

from lossforecast import (
    Action,
    Caveat,
    Reason,
    Recommendation,
    StateError,
)
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.capture.transfer import Transfer
from lossforecast.callbacks.monitor.update import Update
from lossforecast.policies import Situation

TOTAL = 60
EXAMPLES = 300 if os.environ.get("LOSSFORECAST_FULL") else 15


@dataclass
class Job:
    """A run that can be stopped and resumed in fresh objects, as a scheduler of jobs does it."""

    kind: str
    accumulate: int = 1

    def __post_init__(self) -> None:
        self.bench, self.updates = Bench(), list[Update]()
        self.scheduler: Any = None
        if self.kind in ("cosine", "val"):
            self.scheduler = self.bench.cosine(TOTAL)
        elif self.kind == "plateau":
            self.scheduler = torch_lr.ReduceLROnPlateau(self.bench.optimizer, patience=3)
        self.monitor = TorchLossForecast(
            self.bench.optimizer,
            self.scheduler,
            TOTAL,
            every_n_steps=7,
            target=2.5,
            metric="val" if self.kind == "val" else "train",
            sinks=[self.updates.append],
        )

    def go(self, start: int, stop: int) -> None:
        for i in range(start, stop):
            for micro in range(self.accumulate):
                self.monitor.step(self.bench.loss(scripted(i, micro)))
            if self.kind == "by hand" and i == 23:
                self.bench.optimizer.param_groups[0]["lr"] = 0.01
            self.bench.optimizer.step()
            if self.kind == "plateau":
                self.scheduler.step(scripted(i) if i < 20 else 5.0)
            elif self.scheduler is not None:
                self.scheduler.step()
            if i % 5 == 4:
                self.monitor.validation(scripted(i + 1, 9) + 1)

    def checkpoint(self, way: str) -> Any:
        state = {
            "optimizer": self.bench.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "monitor": self.monitor.state_dict(),
        }
        if way == "json":
            state["monitor"] = json.loads(json.dumps(state["monitor"], allow_nan=False))
            return state
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)

    def resume(self, state: Any, monitor_first: bool) -> None:
        if monitor_first:
            self.monitor.load_state_dict(state["monitor"])
        self.bench.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        if not monitor_first:
            self.monitor.load_state_dict(state["monitor"])


KINDS = ["cosine", "by hand", "plateau", "val"]
WHOLE: dict[tuple[str, int], dict[int, tuple[Any, ...]]] = {}


def uninterrupted(kind: str, accumulate: int) -> dict[int, tuple[Any, ...]]:
    if (kind, accumulate) not in WHOLE:
        job = Job(kind, accumulate)
        job.go(0, TOTAL)
        job.monitor.close()
        WHOLE[kind, accumulate] = forecasts_of(job.updates)
    return WHOLE[kind, accumulate]


@contextmanager
def slow_device(slow: bool = True) -> Iterator[None]:
    """As on a GPU, where what is sent to the host arrives later."""
    with pytest.MonkeyPatch.context() as patch:
        if slow:
            patch.setattr(Transfer, "pending", property(lambda _: True))
        yield


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    slow=st.booleans(),
    kind=st.sampled_from(KINDS),
    stops=st.lists(st.integers(0, TOTAL), min_size=1, max_size=3, unique=True),
    accumulate=st.sampled_from([1, 2]),
    way=st.sampled_from(["json", "torch"]),
    monitor_first=st.booleans(),
    underway=st.booleans(),
)
def test_a_resumed_run_repeats_every_forecast_to_the_bit(
    slow: bool,
    kind: str,
    stops: list[int],
    accumulate: int,
    way: str,
    monitor_first: bool,
    underway: bool,
) -> None:
    whole = uninterrupted(kind, accumulate)
    job, start, repeated = Job(kind, accumulate), 0, dict[int, tuple[Any, ...]]()
    with slow_device(slow):
        for stop in sorted(stops):
            job.go(start, stop)
            if underway:  # losses of a step that is not finished: it will be done again
                job.monitor.step(job.bench.loss(99.0))
            state = job.checkpoint(way)
            repeated |= forecasts_of(job.updates)
            job, start = Job(kind, accumulate), stop
            job.resume(state, monitor_first)
        job.go(start, TOTAL)
        job.monitor.close()
    repeated |= forecasts_of(job.updates)
    assert repeated == whole


@pytest.mark.parametrize("every_n", [1, 3, 8])
def test_on_a_device_forecasts_are_the_same_and_come_a_little_later(every_n: int) -> None:
    def forecasts_on(slow: bool) -> dict[int, tuple[float, int]]:
        """For each step forecast at: the forecast, and the steps taken when it came."""
        bench, came = Bench(), dict[int, tuple[float, int]]()

        def note(update: Update) -> None:
            came[update.step] = update.forecast.mean, monitor.steps

        monitor = TorchLossForecast(
            bench.optimizer, total_steps=60, every_n_steps=every_n, sinks=[note]
        )
        with slow_device(slow), monitor:
            run(bench, monitor, range(60))
        return came

    at_once, later = forecasts_on(slow=False), forecasts_on(slow=True)
    assert {step: each[0] for step, each in later.items()} == {
        step: each[0] for step, each in at_once.items()
    }
    for step in later:
        assert at_once[step][1] == step
        assert later[step][1] == min(step + max(1, every_n // 4), 60)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_says_nothing_about_its_schedule(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    for stop in (3, 24, 25, 35):  # the rate falls after 23 steps, or at some time after 20
        first, second = Job(kind), Job(kind)
        first.go(0, stop)
        second.resume(first.checkpoint("json"), monitor_first=True)
        second.go(stop, TOTAL)
        second.monitor.close()
    assert not [r for r in caplog.records if "resumed" in r.getMessage()]


@pytest.mark.parametrize("kind", ["cosine", "val"])
def test_asking_for_the_state_changes_nothing(kind: str) -> None:
    job = Job(kind, accumulate=2)
    for i in range(TOTAL):
        job.monitor.step(job.bench.loss(scripted(i, 0)))
        job.monitor.state_dict()  # in the middle of a step
        job.monitor.step(job.bench.loss(scripted(i, 1)))
        job.bench.optimizer.step()
        job.monitor.state_dict()
        job.scheduler.step()
        if i % 5 == 4:
            job.monitor.validation(scripted(i + 1, 9) + 1)
            job.monitor.state_dict()
    job.monitor.close()
    assert forecasts_of(job.updates) == uninterrupted(kind, 2)


@pytest.mark.parametrize("saved", [20, 47])
def test_going_back_to_a_saved_state_repeats_what_came_after_it(saved: int) -> None:
    def train(rewound: bool) -> dict[int, tuple[Any, ...]]:
        bench, updates = Bench(), list[Update]()
        with TorchLossForecast(
            bench.optimizer, total_steps=120, every_n_steps=10, sinks=[updates.append]
        ) as monitor:
            run(bench, monitor, range(saved))
            state = monitor.state_dict()
            if rewound:
                run(bench, monitor, range(saved, saved + 38), loss_at=lambda i: 1e6)
                monitor.load_state_dict(state)
                assert monitor.steps == saved
                del updates[saved // 10 :]
            run(bench, monitor, range(saved, 120))
        return forecasts_of(updates)

    assert train(rewound=True) == train(rewound=False)


def test_a_wish_to_stop_is_not_taken_back_to_a_saved_state() -> None:
    wishes = [60]

    def policy(situation: Situation) -> Recommendation | None:
        if not wishes or situation.history.last_step < wishes[0] - 1:
            return None
        return Recommendation(Action.STOP, Reason.TARGET_MISS, "scripted stop")

    bench = Bench()
    with TorchLossForecast(
        bench.optimizer, total_steps=120, every_n_steps=10, stop=True, policy=policy
    ) as monitor:
        run(bench, monitor, range(43))
        state = monitor.state_dict()
        assert run(bench, monitor, range(43, 120)) == 17
        monitor.load_state_dict(state)
        assert not monitor.should_stop
        wishes.clear()
        assert run(bench, monitor, range(43, 120)) == 77


STATES = Path(__file__).parents[1] / "states"


@pytest.mark.parametrize("path", sorted(STATES.glob("torch-*.json")), ids=lambda path: path.stem)
def test_states_of_earlier_versions_are_read(path: Path) -> None:
    bench = Bench()
    with TorchLossForecast(bench.optimizer, bench.cosine(100), 100, every_n_steps=10) as monitor:
        monitor.load_state_dict(json.loads(path.read_text()))
        assert monitor.steps == 47
        bins = monitor.forecaster.history.bins()
        assert bins.last.tolist() == list(range(47))
        assert bins.mean.tolist() == [scripted(i) for i in range(47)]
        assert monitor.forecaster_of("val").history.n_observed == 1
        run(bench, monitor, range(47, 60))
    assert monitor.forecast is not None
    assert (monitor.forecast.made_at, monitor.forecast.step) == (59, 100)
    assert math.isfinite(monitor.forecast.mean)


def test_the_state_holds_both_metrics_and_the_steps_taken() -> None:
    job, fresh = Job("val"), Job("val")
    job.go(0, 33)
    fresh.resume(job.checkpoint("json"), monitor_first=False)
    assert fresh.monitor.steps == 33
    for metric in ("train", "val"):
        wanted = job.monitor.forecaster_of(metric).state_dict()
        assert fresh.monitor.forecaster_of(metric).state_dict() == wanted
    assert fresh.monitor.forecaster is fresh.monitor.forecaster_of("val")


@pytest.mark.parametrize("asked_first", [False, True])
def test_a_longer_run_is_adopted_with_one_warning(
    asked_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job("cosine")
    job.go(0, 28)  # where a forecast is due next
    state = job.checkpoint("json")
    bench, updates = Bench(), list[Update]()
    bench.optimizer.load_state_dict(state["optimizer"])
    scheduler = torch_lr.CosineAnnealingLR(bench.optimizer, T_max=2 * TOTAL, last_epoch=27)
    rates = [0.1 * (1 + math.cos(math.pi * k / 120)) / 2 for k in range(120)]
    bench.optimizer.param_groups[0]["lr"] = rates[28]
    with TorchLossForecast(
        bench.optimizer, scheduler, 2 * TOTAL, stop=True, sinks=[updates.append]
    ) as monitor:
        monitor.load_state_dict(state["monitor"])
        if asked_first:
            assert not monitor.should_stop
        run(bench, monitor, range(28, 2 * TOTAL), scheduler)
    assert {u.forecast.step for u in updates} == {2 * TOTAL}, "from the very first on"
    assert [u.step for u in updates] == [*range(28, 120, 7), 120]
    plan = monitor.forecaster.schedule
    assert plan.total_steps == 2 * TOTAL
    np.testing.assert_allclose(plan.lr(range(29, 121)), bench.optimizer.rates, rtol=1e-12)
    early = np.array(job.bench.optimizer.rates[:27])
    np.testing.assert_allclose(plan.lr(range(1, 28)), early, rtol=1e-12)
    (warning,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "resumed at step 28 with another schedule" in warning.getMessage()
    assert Caveat.LR_OFF_PLAN not in updates[-1].forecast.caveats


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no capture": lambda s: s.pop("capture"),
    "no val": lambda s: s["forecasters"].pop("val"),
    "no history": lambda s: s["forecasters"]["val"].pop("history"),
    "newer": lambda s: s["forecasters"]["train"].update(version=99),
    "checked no number": lambda s: s.update(checked="many"),
    "checked below 0": lambda s: s.update(checked=-1),
    "steps below 0": lambda s: s["capture"].update(steps=-1),
    "no rate": lambda s: s["capture"].pop("last_rate"),
    "nothing": lambda s: s.clear(),
}


@pytest.mark.parametrize("state", [None, [], *DAMAGES], ids=str)
def test_a_damaged_state_is_refused_and_changes_nothing(state: Any) -> None:
    job = Job("cosine")
    job.go(0, 20)
    before = json.dumps(job.monitor.state_dict())
    if isinstance(state, str):
        name, state = state, json.loads(before)
        DAMAGES[name](state)
    with pytest.raises(StateError):
        job.monitor.load_state_dict(state)
    assert json.dumps(job.monitor.state_dict()) == before
    job.go(20, TOTAL)
    job.monitor.close()
    assert forecasts_of(job.updates) == uninterrupted("cosine", 1)
