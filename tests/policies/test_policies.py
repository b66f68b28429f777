"""The policies `no_room`, `patience` and `reschedule`, and how they combine."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lossforecast import Action, ConfigurationError, Forecaster, LRSchedule, Reason, RunInfo
from lossforecast.policies import no_room, patience, reschedule, target_miss

TOTAL, PEAK = 2_000, 1e-3
WSD = LRSchedule.wsd(TOTAL, PEAK, warmup=100)
HELD = LRSchedule.constant(TOTAL, PEAK, warmup=100)


def run_of(
    plan: LRSchedule = WSD,
    seen: int = 1_200,
    slope: float = 3.0,
    drop: float = 0.2,
    optimizer: str = "adamw",
    task: str | None = "language modelling",
) -> Forecaster:
    """A run that falls like a power law, and with the learning rate."""
    steps = np.arange(20, seen + 1, 20)
    noise = 0.003 * np.random.default_rng(seen).normal(size=steps.size)
    rates = np.where(steps < 100, PEAK, plan.lr(steps))
    losses = 3 + slope * (steps + 20.0) ** -0.5 + drop * rates / PEAK + noise
    forecaster = Forecaster(plan, RunInfo("val", optimizer, task=task))
    forecaster.observe_many(steps, losses)
    return forecaster


# ---------------------------------------------------------------------- no room


def test_a_plateau_before_the_decay_has_room_and_one_after_it_has_none() -> None:
    young = run_of(slope=0.01).recommend(policy=no_room(0.03))
    assert young.action is Action.CONTINUE
    old = run_of(slope=0.01, seen=1_980).recommend(policy=no_room(0.03))
    assert (old.action, old.reason) == (Action.STOP, Reason.NO_ROOM)
    assert old.steps_saved == 20
    assert old.confidence > 0.95
    assert "annealing included" in old.message


def test_a_plateau_that_will_not_anneal_has_no_room() -> None:
    advice = run_of(HELD, slope=0.01, drop=0.0, seen=1_800).recommend(policy=no_room(0.03))
    assert advice.reason is Reason.NO_ROOM


def test_room_is_a_matter_of_how_much() -> None:
    forecaster = run_of(seen=1_800)
    gain = forecaster.forecast().gain_to_come
    assert forecaster.recommend(policy=no_room(gain.lower)).action is Action.CONTINUE
    assert forecaster.recommend(policy=no_room(2 * gain.upper)).action is Action.STOP


# ---------------------------------------------------------------------- patience


def test_patience_is_suspended_until_the_run_has_annealed() -> None:
    policy = patience(300, min_delta=0.02)
    before = run_of(slope=0.01).recommend(policy=policy)
    assert before.action is Action.CONTINUE, "a plateau, with the decay to come"
    never = run_of(HELD, slope=0.01, drop=0.0).recommend(policy=policy)
    assert (never.action, never.reason) == (Action.STOP, Reason.NO_IMPROVEMENT)
    assert "no improvement by more than 0.02 in 300 steps" in never.message
    assert never.steps_saved == 800


def test_a_run_that_improves_has_patience() -> None:
    assert run_of(HELD, slope=10.0).recommend(policy=patience(600)).action is Action.CONTINUE
    assert run_of(HELD, seen=200).recommend(policy=patience(600)).action is Action.CONTINUE


@pytest.mark.parametrize("falls", [True, False])
def test_the_noise_of_batches_decides_little(falls: bool) -> None:
    """A falling training loss is not stopped, one that stands still is; noise of 0.2 a batch."""
    plan, policy, stopped = LRSchedule.constant(12_800, PEAK), patience(1_000, 0.02), 0
    for seed in range(6):
        forecaster = Forecaster(plan, RunInfo(optimizer="adamw"))
        noise = 0.2 * np.random.default_rng(seed).normal(size=12_800)
        losses = 4 - (1e-4 if falls else 0.0) * np.arange(12_800) + noise
        for start in range(0, 12_800, 1_280):
            steps = np.arange(start, start + 1_280)
            forecaster.observe_many(steps, losses[steps])
            if forecaster.recommend(policy=policy).reason is Reason.NO_IMPROVEMENT:
                stopped += 1
                break
    assert stopped == (0 if falls else 6)


# ---------------------------------------------------------------------- reschedule


def test_a_run_that_is_not_planned_to_decay_is_told_to() -> None:
    advice = run_of(HELD).recommend(policy=reschedule())
    assert (advice.action, advice.reason) == (Action.CHANGE_SCHEDULE, Reason.BETTER_SCHEDULE)
    assert advice.schedule is not None
    assert advice.decay is not None
    assert advice.expected is not None
    assert 0 < advice.expected.lower < advice.expected < advice.expected.upper
    assert 0.9 < advice.confidence <= 1
    assert advice.schedule.total_steps == TOTAL
    assert advice.schedule.lr(advice.decay.start) == PEAK
    assert advice.schedule.lr(TOTAL) < 0.02 * PEAK
    assert advice.steps_saved == 0
    assert f"from step {advice.decay.start} to 2000" in advice.message


def test_a_gain_that_is_not_sure_is_not_recommended() -> None:
    assert run_of(task=None).recommend(policy=reschedule()).action is Action.CONTINUE
    gain = run_of(HELD).recommend(policy=reschedule()).expected
    assert gain is not None
    asked = run_of(HELD).recommend(policy=reschedule(min_gain=1.1 * gain.lower))
    assert asked.action is Action.CONTINUE


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "adamw_schedulefree"])
def test_optimizers_that_average_are_left_alone(name: str) -> None:
    advice = run_of(HELD, optimizer=name).recommend(policy=reschedule())
    assert advice.action is Action.CONTINUE


def test_too_little_is_no_reason_to_change_anything() -> None:
    assert run_of(HELD, seen=100).recommend(policy=reschedule()).action is Action.ABSTAIN


# ---------------------------------------------------------------------- together


def test_the_first_policy_that_answers_counts() -> None:
    forecaster = run_of(HELD)
    both = [no_room(1e3), reschedule()]
    assert forecaster.recommend(policy=both).action is Action.STOP
    assert forecaster.recommend(policy=both[::-1]).action is Action.CHANGE_SCHEDULE
    neither = [target_miss(), patience(600)]
    assert forecaster.recommend(target=10.0, policy=neither).action is Action.CONTINUE


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: no_room(-1.0), "min_gain"),
        (lambda: no_room(0.1, risk=0.0), "risk is 0.0"),
        (lambda: patience(0), "steps"),
        (lambda: patience(10, min_delta=-1), "min_delta"),
        (lambda: reschedule(min_gain=-1), "min_gain"),
        (lambda: reschedule(shapes=["round"]), "unknown shapes"),
    ],
)
def test_misuse_is_named(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()
