"""`SteerableLR`, alone and steered by the callbacks in real loops and Trainers."""

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from support.lightning_runs import IGNORED_WARNINGS, trainer_of
from support.lint_runs import AdamWScheduleFree

from lossforecast import Action, ConfigurationError, LRSchedule, RunInfo, ScheduleError, StateError
from lossforecast.callbacks import (
    LightningLossForecast,
    SteerableLR,
    TorchLossForecast,
    schedule_from_torch,
)
from lossforecast.policies import Reason, Recommendation, Situation
from lossforecast.schedule.lr_schedule import Decay

pytestmark = IGNORED_WARNINGS

TOTAL, PEAK = 200, 0.5


def optimizer_of(*rates: Any) -> torch.optim.Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=PEAK)


def stepped(scheduler: SteerableLR, steps: int, group: int = 0) -> list[float]:
    """The rates of so many optimizer steps."""
    rates = []
    for _ in range(steps):
        rates.append(float(scheduler.optimizer.param_groups[group]["lr"]))
        scheduler.optimizer.step()
        scheduler.step()
    return rates


# ---------------------------------------------------------------------- the scheduler


@pytest.mark.parametrize("shape", ["linear", "sqrt", "cosine", "exp"])
def test_what_is_not_steered_ends_as_planned(shape: str) -> None:
    scheduler = SteerableLR(optimizer_of(PEAK), TOTAL, warmup=20, decay_fraction=0.3, shape=shape)
    plan = LRSchedule.wsd(TOTAL, PEAK, warmup=20, decay_fraction=0.3, shape=shape)
    rates = stepped(scheduler, TOTAL + 5)
    np.testing.assert_allclose(rates[:TOTAL], plan.to_array(), rtol=1e-12, atol=1e-18)
    assert rates[TOTAL:] == [rates[TOTAL - 1]] * 5, "past the end the last rate is held"


def test_a_decay_begins_after_the_next_step_and_ends_the_run() -> None:
    scheduler = SteerableLR(optimizer_of(PEAK), TOTAL)
    assert stepped(scheduler, 50) == [PEAK] * 50
    begun = [scheduler.begun]
    scheduler.begin_decay(4)
    begun.append(scheduler.begun)
    assert begun == [False, True]
    assert scheduler.total_steps == 55
    assert stepped(scheduler, 6) == [0.5, 0.375, 0.25, 0.125, 0.0, 0.0]


def test_a_decay_may_last_until_the_end_and_begin_later() -> None:
    scheduler = SteerableLR(optimizer_of(PEAK), TOTAL, decay_fraction=0)
    stepped(scheduler, 100)
    scheduler.begin_decay(shape="sqrt", after=30)
    expected = LRSchedule.constant(TOTAL, PEAK).with_decay(start=130, shape="sqrt").to_array()
    np.testing.assert_allclose(stepped(scheduler, 100), expected[100:], rtol=1e-12, atol=1e-18)


def test_a_longer_run_decays_at_its_end() -> None:
    scheduler = SteerableLR(optimizer_of(PEAK), TOTAL, decay_fraction=0.1, shape="cosine")
    rates = stepped(scheduler, 100)
    scheduler.extend_to(2 * TOTAL)
    rates += stepped(scheduler, 2 * TOTAL - 100)
    plan = LRSchedule.wsd(2 * TOTAL, PEAK, decay_fraction=0.05, shape="cosine")
    np.testing.assert_allclose(rates, plan.to_array(), rtol=1e-12, atol=1e-18)


def test_groups_keep_their_ratios_and_tensor_rates_are_written_in_place() -> None:
    rate = torch.tensor(0.25)
    scheduler = SteerableLR(optimizer_of(PEAK, rate), TOTAL)
    stepped(scheduler, 10)
    scheduler.begin_decay(4)
    second = stepped(scheduler, 5, group=1)
    assert second == pytest.approx([0.25, 0.1875, 0.125, 0.0625, 0.0])
    assert scheduler.optimizer.param_groups[1]["lr"] is rate
    assert scheduler.get_last_lr() == [0.0, 0.0]


@pytest.mark.parametrize("at", [0, 30, 60, 100])
def test_a_resumed_run_has_the_same_rates_to_the_bit(at: int) -> None:
    def run(scheduler: SteerableLR, start: int, stop: int) -> list[float]:
        rates = []
        for step in range(start, stop):
            if step == 20:
                scheduler.extend_to(TOTAL + 50)
            if step == 40:
                scheduler.begin_decay(90, "exp")
            rates += stepped(scheduler, 1)
        return rates

    whole = run(SteerableLR(optimizer_of(PEAK), TOTAL, warmup=7), 0, 150)
    first = SteerableLR(optimizer_of(PEAK), TOTAL, warmup=7)
    rates, file = run(first, 0, at), io.BytesIO()
    state = {"scheduler": first.state_dict(), "optimizer": first.optimizer.state_dict()}
    torch.save(state, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = SteerableLR(optimizer_of(PEAK), TOTAL, warmup=7)
    second.optimizer.load_state_dict(saved["optimizer"])
    second.load_state_dict(saved["scheduler"])
    assert rates + run(second, at, 150) == whole


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("total", [TOTAL, 150_000])
def test_its_future_is_known(begun: bool, total: int) -> None:
    scheduler = SteerableLR(optimizer_of(PEAK), total, warmup=20, shape="sqrt")
    stepped(scheduler, 50)
    if begun:
        scheduler.begin_decay(total // 2, "cosine")
    plan = schedule_from_torch(scheduler, total_steps=total, step=50)
    steps = np.unique(np.linspace(51, total, 500).astype(int))
    shares = np.array([PEAK * scheduler.share(int(step)) for step in steps])
    if total == TOTAL:
        assert plan.lr(steps).tolist() == shares.tolist()
    np.testing.assert_allclose(plan.lr(steps), shares, atol=1e-6 * PEAK)


@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        (lambda s: SteerableLR(optimizer_of(PEAK), 0), "total_steps is 0"),
        (
            lambda s: SteerableLR(optimizer_of(PEAK), 10, decay_fraction=1.5),
            "decay_fraction is 1.5",
        ),
        (lambda s: SteerableLR(optimizer_of(PEAK), 10, shape="round"), "unknown decay shape"),
        (lambda s: s.begin_decay(0), "steps of the decay is 0"),
        (lambda s: s.begin_decay(5, "round"), "unknown decay shape"),
        (lambda s: s.begin_decay(after=TOTAL), "the schedule is over at step 200"),
        (lambda s: s.extend_to(TOTAL - 1), "cannot extend a run of 200 steps to 199"),
        (lambda s: (s.begin_decay(5), s.extend_to(300)), "the decay has begun by step 0"),
    ],
)
def test_misuse_is_named(misuse: Callable[[SteerableLR], Any], says: str) -> None:
    scheduler = SteerableLR(optimizer_of(PEAK), TOTAL)
    with pytest.raises(ScheduleError, match=says):
        misuse(scheduler)


@pytest.mark.parametrize("state", [{}, {"schedule": 3, "_planned": None}, {"last_epoch": 3}])
def test_a_foreign_state_changes_nothing(state: dict[str, Any]) -> None:
    scheduler = SteerableLR(optimizer_of(PEAK), TOTAL)
    before = scheduler.state_dict()
    with pytest.raises(StateError, match="not a saved SteerableLR"):
        scheduler.load_state_dict(state)
    assert scheduler.state_dict() == before


# ---------------------------------------------------------------------- steered


def scripted(step: int, rate: float) -> float:
    """A power law, and a drop in proportion to how far the rate has fallen."""
    noise = 0.002 * np.random.default_rng(step).normal()
    return float(2 + 3 * (step + 20.0) ** -0.5 + 0.3 * rate / PEAK + noise)


def advised(start: int, steps: int, seen: int = 0) -> Callable[[Situation], Recommendation | None]:
    """A policy that wants one decay from some step on."""

    def policy(situation: Situation) -> Recommendation | None:
        if situation.history.last_step < seen:
            return None
        return Recommendation(
            Action.CHANGE_SCHEDULE,
            Reason.BETTER_SCHEDULE,
            "change the schedule: scripted",
            decay=Decay(start, steps, "linear"),
        )

    return policy


class Job:
    """A plain loop with a steerable scheduler, whose losses follow the script."""

    def __init__(
        self, total: int | None = TOTAL, planned: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self.weight = torch.zeros(1, requires_grad=True)
        self.optimizer = torch.optim.SGD([self.weight], lr=PEAK)
        self.scheduler = SteerableLR(self.optimizer, TOTAL, **(planned or {"decay_fraction": 0}))
        self.updates: list[Any] = []
        run = RunInfo(optimizer="adamw")
        self.monitor = TorchLossForecast(
            self.optimizer, self.scheduler, total, run=run, sinks=[self.updates.append], **options
        )
        self.step, self.rates = 0, list[float]()

    def train(self, stop: int) -> None:
        while self.step < stop:
            rate = self.optimizer.param_groups[0]["lr"]
            self.rates.append(rate)
            before = self.rates[self.step - 1] if self.step else rate
            loss = self.weight.sum() - self.weight.sum().detach() + scripted(self.step, before)
            self.monitor.step(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
            self.step += 1
        if stop == TOTAL:
            self.monitor.close()

    def state(self) -> Any:
        parts = (self.optimizer, self.scheduler, self.monitor)
        file = io.BytesIO()
        torch.save({"step": self.step, "parts": [part.state_dict() for part in parts]}, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def restore(self, state: Any) -> None:
        parts: list[Any] = [self.optimizer, self.scheduler, self.monitor]
        for part, saved in zip(parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.step = state["step"]
        self.rates = [0.0] * (self.step - 1) + [PEAK * self.scheduler.share(self.step)]

    def forecasts(self) -> dict[int, Any]:
        return {
            update.step: (update.forecast.mean, update.forecast.std, update.recommendation.action)
            for update in self.updates
        }


def test_a_recommended_decay_is_begun_once_where_it_was_recommended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = Job(apply=True, policy=advised(start=77, steps=123))
    job.train(TOTAL)
    plan = LRSchedule.constant(TOTAL, PEAK).with_decay(start=77).to_array()
    np.testing.assert_allclose(job.rates, plan, rtol=1e-12, atol=1e-18)
    begun = [record for record in caplog.messages if "the learning rate decays" in record]
    assert begun == ["the learning rate decays from step 77 to 200 (linear), as recommended"]
    done = [row["step"] for row in job.updates[-1].trail if row.get("done") == "change_schedule"]
    assert len(done) == 1
    assert done[0] <= 77
    final = job.monitor.forecaster.schedule
    np.testing.assert_allclose(final.to_array(), plan, rtol=1e-12, atol=1e-18)
    assert not any("resumed at" in record for record in caplog.messages)


def test_a_late_recommendation_begins_at_once_and_ends_where_it_was_to() -> None:
    job = Job(apply=True, policy=advised(start=20, steps=100, seen=50))
    job.train(TOTAL)
    falling = np.flatnonzero(np.diff(job.rates) < 0)
    assert 50 <= falling[0] < 56, "at the next check"
    assert job.rates[118] > 0
    assert job.rates[119:] == [0.0] * 81


@pytest.mark.parametrize("start", [60, 150])
def test_a_decay_that_would_be_over_is_not_begun(start: int) -> None:
    job = Job(apply=True, policy=advised(start=start, steps=40, seen=start + 39))
    job.train(TOTAL)
    assert job.rates == [PEAK] * TOTAL
    assert job.scheduler.total_steps == TOTAL


def test_the_present_rate_is_held_until_a_recommended_decay() -> None:
    """Though the plan would have decayed already, as what was forecast holds it."""
    job = Job(apply=True, policy=advised(start=100, steps=100), planned={"decay_fraction": 0.6})
    job.train(TOTAL)
    planned = LRSchedule.wsd(TOTAL, PEAK, decay_fraction=0.6)
    now = next(i for i in range(81, 101) if job.rates[i] == job.rates[i - 1])
    assert 96 <= now < 100, "the last step as planned"
    expected = planned.truncated_to(now).extended_to(100).with_decay(start=100, steps=100)
    np.testing.assert_allclose(job.rates, expected.to_array(), rtol=1e-9, atol=1e-15)
    final = job.monitor.forecaster.schedule
    np.testing.assert_allclose(final.to_array(), job.rates, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("apply", [False, True])
def test_a_decay_begun_by_hand_is_followed_and_not_overwritten(apply: bool) -> None:
    job = Job(total=None, apply=apply, policy=advised(start=120, steps=80))
    job.train(90)
    job.scheduler.begin_decay(50, "cosine")
    job.train(TOTAL)
    expected = LRSchedule.constant(TOTAL, PEAK).with_decay(start=91, steps=50, shape="cosine")
    np.testing.assert_allclose(job.rates[:141], expected.to_array(), rtol=1e-9, atol=1e-15)
    assert job.rates[141:] == [0.0] * 59
    after = [update.forecast.step for update in job.updates if update.step in (94, 96, 98)]
    assert set(after) == {141}, "the run ends with its decay"


def test_a_longer_run_is_forecast_at_its_new_end() -> None:
    job = Job(total=None, planned={"decay_fraction": 0.2})
    job.train(90)
    job.scheduler.extend_to(2 * TOTAL)
    job.train(TOTAL - 10)
    assert job.monitor.forecast is not None
    assert job.monitor.forecast.step == 2 * TOTAL
    plan = LRSchedule.wsd(2 * TOTAL, PEAK, decay_fraction=0.1)
    np.testing.assert_allclose(
        job.monitor.forecaster.schedule.to_array(), plan.to_array(), rtol=1e-9, atol=1e-15
    )


def test_a_warm_up_is_not_lost_when_the_run_gets_longer() -> None:
    scheduler = SteerableLR(optimizer_of(PEAK), 60, warmup=50, decay_fraction=0.2)
    rates = stepped(scheduler, 10)
    scheduler.extend_to(300)
    rates += stepped(scheduler, 290)
    plan = LRSchedule.constant(300, PEAK, warmup=50).with_decay(start=288)
    np.testing.assert_allclose(rates, plan.to_array(), rtol=1e-12, atol=1e-18)


def test_a_decay_that_cannot_be_begun_leaves_training_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise ZeroDivisionError("scripted")

    monkeypatch.setattr(SteerableLR, "begin_decay", broken)
    job = Job(apply=True, policy=advised(start=80, steps=100))
    job.train(TOTAL)
    assert job.rates == [PEAK] * TOTAL
    assert sum("could not be started" in record for record in caplog.messages) == 1
    assert not job.monitor.switched_off


def test_a_run_whose_rate_is_0_before_its_end_goes_on_being_forecast() -> None:
    planned = {"decay_fraction": 0.5}
    job = Job(apply=True, planned=planned)
    job.scheduler.begin_decay(60)
    job.train(TOTAL)
    assert job.rates[61:] == [0.0] * (TOTAL - 61)
    assert not job.monitor.switched_off
    assert job.monitor.recommendation is not None


def test_advice_alone_changes_nothing() -> None:
    job = Job(policy=advised(start=77, steps=123))
    job.train(TOTAL)
    assert job.rates == [PEAK] * TOTAL
    assert job.monitor.recommendation is not None
    assert job.monitor.recommendation.action is Action.CHANGE_SCHEDULE


@pytest.mark.slow
def test_the_real_policy_ends_lower_than_the_plan() -> None:
    plan, changed = Job(), Job(apply=True)
    plan.train(TOTAL)
    changed.train(TOTAL)
    assert plan.rates == [PEAK] * TOTAL
    assert changed.rates[-1] < 0.05 * PEAK
    assert scripted(TOTAL, changed.rates[-1]) < scripted(TOTAL, plan.rates[-1]) - 0.2
    (first, *_) = (u for u in changed.updates if u.recommendation.action is Action.CHANGE_SCHEDULE)
    gain = first.recommendation.expected
    assert 0 < gain.lower < gain < gain.upper
    assert first.recommendation.schedule.lr(TOTAL) < 0.05 * PEAK


@pytest.mark.parametrize(
    "saved", [79, *(pytest.param(n, marks=pytest.mark.slow) for n in (40, 75, 77, 81, 120, 160))]
)
def test_a_run_resumed_mid_decay_repeats_it_to_the_bit(
    saved: int, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"apply": True, "policy": [advised(start=80, steps=100)]}
    whole = Job(**options)
    whole.train(TOTAL)
    first = Job(**options)
    first.train(saved)
    second = Job(**options)
    second.restore(first.state())
    caplog.clear()
    second.train(TOTAL)
    assert second.rates[saved:] == whole.rates[saved:]
    later = {step: each for step, each in whole.forecasts().items() if step > saved}
    assert {step: each for step, each in second.forecasts().items() if step in later} == later
    assert not any("resumed at" in record for record in caplog.messages)
    begun = sum("the learning rate decays" in record for record in caplog.messages)
    assert begun == (saved < 76), "two checks before it begins, it is set"


def test_only_a_steerable_scheduler_can_be_steered() -> None:
    optimizer = optimizer_of(PEAK)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TOTAL)
    with pytest.raises(ConfigurationError, match="needs a SteerableLR as the scheduler"):
        TorchLossForecast(optimizer, scheduler, TOTAL, apply=True)
    steerable = SteerableLR(optimizer, TOTAL)
    with pytest.raises(ConfigurationError, match="stepped every 10"):
        TorchLossForecast(optimizer, steerable, TOTAL, steps_per_scheduler_step=10, apply=True)
    plan = LRSchedule.constant(TOTAL, PEAK)
    with pytest.raises(ConfigurationError, match="no other schedule="):
        TorchLossForecast(optimizer, steerable, schedule=plan, apply=True)


def test_an_optimizer_that_averages_is_not_told_to_anneal() -> None:
    optimizer = AdamWScheduleFree([torch.zeros(1, requires_grad=True)], lr=PEAK)
    scheduler = SteerableLR(optimizer, TOTAL, decay_fraction=0)
    run = RunInfo(optimizer="adamw")  # whatever its user calls it
    monitor = TorchLossForecast(optimizer, scheduler, TOTAL, run=run, apply=True)
    for step in range(TOTAL):
        monitor.step(scripted(step, PEAK))
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == PEAK
    monitor.close()
    assert monitor.recommendation is not None
    assert monitor.recommendation.action is Action.CONTINUE


# ---------------------------------------------------------------------- in Lightning


class Module(pl.LightningModule):
    """Losses by the script; notes the rate of every step."""

    def __init__(self, interval: str = "step") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.interval = interval
        self.rates: dict[int, float] = {}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        step = self.trainer.global_step
        self.rates[step] = rate
        before = self.rates.get(step - 1, rate)
        return self.weight.sum() - self.weight.sum().detach() + scripted(step, before)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=PEAK)
        scheduler = SteerableLR(optimizer, TOTAL, decay_fraction=0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.interval},
        }


def fit(
    module: Module, folder: Path, *callbacks: pl.Callback, ckpt_path: str | None = None
) -> pl.Trainer:
    trainer = trainer_of(*callbacks, max_steps=TOTAL, default_root_dir=folder)
    batches: Any = torch.utils.data.DataLoader(torch.zeros(20, 1))  # type: ignore[arg-type]
    trainer.fit(module, batches, ckpt_path=ckpt_path, weights_only=False)
    return trainer


def test_lightning_decays_once_and_resumes_mid_decay_exactly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def watch() -> LightningLossForecast:
        return LightningLossForecast(apply=True, policy=[advised(start=80, steps=100)])

    saving = pl.callbacks.ModelCheckpoint(tmp_path, "at-{step}", every_n_train_steps=120)
    whole = Module()
    fit(whole, tmp_path, watch(), saving)
    plan = LRSchedule.constant(TOTAL, PEAK).with_decay(start=80, steps=100)
    expected = [*plan.to_array(), *[0.0] * 20]
    np.testing.assert_allclose([whole.rates[i] for i in range(TOTAL)], expected, atol=1e-15)
    assert sum("the learning rate decays" in each for each in caplog.messages) == 1
    caplog.clear()
    resumed = Module()
    fit(resumed, tmp_path, watch(), ckpt_path=str(tmp_path / "at-step=120.ckpt"))
    assert resumed.rates == {step: rate for step, rate in whole.rates.items() if step >= 120}
    assert not any("decays from" in each or "resumed at" in each for each in caplog.messages)


def test_lightning_says_what_it_needs_to_steer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "lossforecast")
    module = Module(interval="epoch")
    fit(module, tmp_path, LightningLossForecast(apply=True, policy=[advised(80, 100)]))
    assert set(module.rates.values()) == {PEAK}
    assert any("no decay will be started" in each for each in caplog.messages)
