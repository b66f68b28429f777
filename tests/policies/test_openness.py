"""While the data is still to be seen again, nobody can promise where a training loss ends."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lossforecast import Action, Caveat, Forecaster, LRSchedule, Reason, RunInfo, Status
from lossforecast.policies import (
    Outlook,
    Policy,
    dominated,
    is_open,
    no_room,
    patience,
    reschedule,
    target_miss,
)

TOTAL, EPOCH = 1_200, 400
COSINE = LRSchedule.cosine(TOTAL, 1e-3, warmup=50)
HELD = LRSchedule.constant(TOTAL, 1e-3)


def staircase(
    seen: int,
    plan: LRSchedule = COSINE,
    metric: str = "train",
    steps_per_epoch: float | None = EPOCH,
    fall: float = 0.0,
) -> Forecaster:
    """A loss that stands still in each epoch, and falls at each boundary."""
    steps = np.arange(0, seen, 2)
    noise = 0.005 * np.random.default_rng(0).normal(size=steps.size)
    levels = (
        np.array([1.08, 0.72, 0.40])[np.minimum(steps // EPOCH, 2)] + fall * (steps + 20.0) ** -0.5
    )
    run = RunInfo(metric, "adamw", steps_per_epoch=steps_per_epoch)
    forecaster = Forecaster(plan, run)
    forecaster.observe_many(steps, levels + noise)
    return forecaster


@pytest.mark.parametrize(
    ("seen", "changed", "warned"),
    [
        (10, {}, True),
        (EPOCH, {}, True),
        (int(1.1 * EPOCH), {}, True),
        (int(1.1 * EPOCH) + 2, {}, False),
        (EPOCH, {"metric": "val"}, False),
        (EPOCH, {"steps_per_epoch": None}, False),
        (EPOCH, {"steps_per_epoch": TOTAL}, False),
        (EPOCH, {"steps_per_epoch": 0.995 * TOTAL}, False),
        (EPOCH, {"steps_per_epoch": 5 * TOTAL}, False),
        (EPOCH, {"steps_per_epoch": 0.9 * TOTAL}, True),
        (EPOCH, {"steps_per_epoch": 12.5}, False),
    ],
)
def test_the_caveat_holds_until_a_tenth_of_the_second_epoch_was_seen(
    seen: int, changed: dict[str, Any], warned: bool
) -> None:
    forecast = staircase(seen, **changed).forecast()
    assert (Caveat.REPEATED_DATA in forecast.caveats) is warned
    memorises = Caveat.MEMORISING in forecast.caveats
    assert is_open(forecast) is (warned or memorises or forecast.status is Status.TOO_SHORT)


def test_a_what_if_that_ends_with_the_first_epoch_repeats_no_data() -> None:
    forecaster = staircase(200)
    short = COSINE.truncated_to(EPOCH)
    assert Caveat.REPEATED_DATA in forecaster.forecast().caveats
    assert Caveat.REPEATED_DATA not in forecaster.forecast(schedule=short).caveats


def test_before_any_loss_the_caveat_holds_too() -> None:
    forecast = Forecaster(COSINE, RunInfo(steps_per_epoch=EPOCH)).forecast()
    assert (forecast.status, forecast.caveats) == (Status.NO_DATA, (Caveat.REPEATED_DATA,))


def test_the_length_of_an_epoch_can_be_corrected() -> None:
    forecaster = staircase(EPOCH)
    forecaster.follow_epochs(100)
    assert forecaster.run.steps_per_epoch == 100
    assert Caveat.REPEATED_DATA not in forecaster.forecast().caveats
    restored = Forecaster.from_state_dict(forecaster.state_dict())
    assert restored.run == forecaster.run


POLICIES: dict[str, tuple[Callable[[], Policy], LRSchedule, Action]] = {
    "target_miss": (target_miss, COSINE, Action.STOP),
    "dominated": (dominated, COSINE, Action.STOP),
    "no_room": (lambda: no_room(10.0), COSINE, Action.STOP),
    "patience": (lambda: patience(60, min_delta=0.5), HELD, Action.STOP),
    "reschedule": (reschedule, HELD, Action.CHANGE_SCHEDULE),
}


@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_acts_in_the_first_epoch(name: str) -> None:
    make, plan, action = POLICIES[name]
    rivals = [Outlook.ended(loss, "adamw") for loss in (1e-4, 2e-4)]

    def advice(steps_per_epoch: float | None) -> Any:
        falls = 2.0 if name == "reschedule" else 0.0
        forecaster = staircase(380, plan, steps_per_epoch=steps_per_epoch, fall=falls)
        if name == "reschedule":
            forecaster.run = RunInfo(
                "train", "adamw", task="language modelling", steps_per_epoch=steps_per_epoch
            )
        forecaster.recommend(1e-3, make())  # `target_miss` asks for two checks in a row
        forecaster.observe(381, 1.08 + falls * 400.0**-0.5)
        return forecaster.recommend(1e-3, make(), rivals)

    assert advice(None).action is action, "it would act on this run"
    found = advice(EPOCH)
    assert (found.action, found.reason) == (Action.ABSTAIN, Reason.THIN_EVIDENCE)
    assert "no advice yet: the data will be seen again" in found.message
    assert found.expected is not None


@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_acts_while_data_is_memorised(name: str) -> None:
    """The loss stands still since the second epoch began, and yet it will fall."""
    make, plan, _ = POLICIES[name]
    forecaster = staircase(600, plan)
    forecaster.recommend(1e-3, make())
    forecaster.observe(601, 0.72)
    found = forecaster.recommend(1e-3, make(), [Outlook.ended(1e-4, "adamw")] * 2)
    assert found.action is Action.ABSTAIN
    assert "the training data is seen more than once" in found.message


@pytest.mark.parametrize(
    ("changed", "memorises"),
    [
        ({}, True),
        ({"metric": "val"}, False),
        ({"steps_per_epoch": None}, False),
        ({"steps_per_epoch": TOTAL}, False),
        ({"task": "language modelling"}, False),
        ({"task": "language modelling", "steps_per_epoch": TOTAL / 5}, True),
        ({"task": "language modelling", "steps_per_epoch": TOTAL / 5, "n_params": 1e6}, True),
    ],
)
def test_runs_that_may_memorise(changed: dict[str, Any], memorises: bool) -> None:
    forecaster = staircase(600)
    forecaster.run = replace(forecaster.run, **changed)
    assert (Caveat.MEMORISING in forecaster.forecast().caveats) is memorises


def test_the_interval_of_a_loss_in_full_fall_reaches_further_down_if_data_is_seen_again() -> None:
    steps = np.arange(600)
    losses = 2.3 * np.exp(-steps / 400 + 0.02 * np.random.default_rng(0).normal(size=600))
    once, again = (
        Forecaster(COSINE, RunInfo("train", "sgd", steps_per_epoch=steps_per_epoch))
        for steps_per_epoch in (None, 50)
    )
    for forecaster in (once, again):
        forecaster.observe_many(steps, losses)
    assert again.forecast().interval(0.8)[0] < once.forecast().interval(0.8)[0]
    assert again.forecast().interval(0.95)[0] < 0.5 * once.forecast().interval(0.95)[0]


def test_near_its_end_a_run_is_judged_again() -> None:
    """Too little is left of the run to bring much."""
    caveats = [Caveat.MEMORISING in staircase(seen).forecast().caveats for seen in (600, 1_150)]
    assert caveats == [True, False]


def test_checks_of_the_first_epoch_do_not_count_afterwards() -> None:
    forecaster, actions = staircase(432), []
    forecaster.run = replace(forecaster.run, task="language modelling")
    for step in range(432, 444, 2):
        forecaster.observe(step, 0.72)
        actions.append(forecaster.recommend(1e-4, target_miss(checks=2)).action)
    assert actions == [Action.ABSTAIN] * 4 + [Action.CONTINUE, Action.STOP]


def test_broken_runs_are_stopped_whatever_is_still_to_come() -> None:
    forecaster = staircase(300)
    for step in range(300, 320):
        forecaster.observe(step, float("nan"))
    assert forecaster.recommend().reason is Reason.NON_FINITE
