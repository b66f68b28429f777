"""Two processes that train together, with real gloo: `processes` is what they run."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.loop_processes import scripted
from support.processes import SUPPORT, answers, torchrun
from support.sharded_models import model

from lossforecast.callbacks import TorchLossForecast

SCRIPT = SUPPORT / "loop_processes.py"
REPEATS = 20 if os.environ.get("LOSSFORECAST_FULL") else 1
FAILING = (0, 13, 59, 61, 70, 72, 75, 78)
ALONE = "from here on, forecasts use the losses of process 0 alone and stop no process"

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all scenarios, from one start of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    torchrun(SCRIPT, folder, REPEATS, limit=300 + 60 * REPEATS)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    return answers(folder)


def of(found: Found, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return found[0][name], found[1][name]


def test_losses_are_averaged_and_only_the_first_process_forecasts(
    found: Found,
) -> None:
    first, other = of(found, "averaged")
    values = torch.tensor([[scripted(i, rank) for rank in range(2)] for i in range(120)])
    expected = values.double().mean(dim=1).tolist()
    assert list(first["losses"].values()) == expected
    assert first["losses"] == other["losses"]
    assert list(map(int, first["forecasts"])) == list(range(10, 121, 10))
    assert not other["forecasts"]
    assert (first["log"], other["log"]) == ([], [])
    assert first["collectives"] == other["collectives"] == 12, "one a block"


@pytest.mark.parametrize("name", ["event", "event on the first"])
def test_an_event_may_be_marked_in_all_processes_or_in_the_first(found: Found, name: str) -> None:
    first, other = (each["whole"] for each in of(found, name))
    unmarked, _ = of(found, "unmarked")
    assert first["steps"] == other["steps"] == 120
    assert (first["log"], other["log"], first["off"]) == ([], [], False)
    assert first["events"] == [[64, "other data"]]
    assert other["events"] == ([] if "first" in name else [[64, "other data"]])
    assert first["collectives"] == other["collectives"]
    assert first["forecasts"] == of(found, "event")[0]["whole"]["forecasts"]
    for step in map(str, range(10, 61, 10)):
        assert first["forecasts"][step] == unmarked["forecasts"][step]
    truth = 3 + 3 * 125**-0.5
    errors = [abs(each["forecasts"]["80"][0] - truth) for each in (first, unmarked)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("name", ["event", "event on the first"])
def test_an_event_is_known_to_a_resumed_run(found: Found, name: str) -> None:
    for each in of(found, name):
        assert each["resumed"]["events"] == [[64, "other data"]]
    whole, resumed = (of(found, name)[0][way]["forecasts"] for way in ("whole", "resumed"))
    assert resumed == {step: whole[step] for step in map(str, range(90, 121, 10))} | {
        step: whole[step] for step in resumed if step == "80"
    }


def test_an_event_waits_for_the_forecast_that_was_due_before_it(found: Found) -> None:
    """A slow device makes that forecast late; then the event came before it."""
    (first, other), (slow, slow_other) = (
        of(found, f"early event{how}") for how in ("", ", slow device")
    )
    assert first["forecasts"] == slow["forecasts"]
    assert first["forecasts"]["60"] == of(found, "unmarked")[0]["forecasts"]["60"]
    assert first["forecasts"]["70"] != of(found, "event")[0]["whole"]["forecasts"]["70"]
    for each in (first, other, slow, slow_other):
        assert (each["steps"], each["collectives"], each["log"]) == (120, 12, [])


def test_an_event_that_the_first_process_does_not_know_changes_nothing(found: Found) -> None:
    first, other = of(found, "event on the other")
    assert (first["events"], other["events"]) == ([], [[64, "other data"]])
    assert first["forecasts"] == of(found, "unmarked")[0]["forecasts"]
    assert first["collectives"] == other["collectives"] == 12


@pytest.mark.parametrize("name", ["seldom", "slow to meet"])
def test_no_loss_of_a_long_block_is_dropped(found: Found, name: str) -> None:
    first, other = of(found, name)
    assert first["log"] == other["log"] == []
    assert first["losses"] == {str(700 * i): 2.0 + i for i in range(8)}
    assert first == other


@pytest.mark.parametrize(
    "name",
    [f"stop, {i}" for i in range(REPEATS)] + ["shards", "uneven", "late start", "slow"],
)
def test_all_stop_at_the_same_step(found: Found, name: str) -> None:
    first, other = of(found, name)
    assert first["steps"] == other["steps"]
    assert 70 <= first["steps"] < 120
    assert first["log"] == ["step 60: stop: scripted"]
    assert not other["log"]
    assert list(first["losses"].values()) == list(other["losses"].values())


@pytest.mark.parametrize("name", [f"decay, {i}" for i in range(REPEATS)] + ["decay and stop"])
def test_all_begin_the_decay_at_the_same_step(found: Found, name: str) -> None:
    first, other = of(found, name)
    assert first["rates"] == other["rates"]
    assert first["steps"] == other["steps"] == len(first["rates"])
    falling = np.flatnonzero(np.diff(first["rates"]) < 0)
    assert 50 <= falling[0] + 1 <= 61
    if name == "decay and stop":
        assert 90 <= first["steps"] < 120
    else:
        assert first["rates"][109:] == [0.0] * 11
    begun = [line for line in first["log"] if line.startswith("the learning rate decays from")]
    assert len(begun) == 1
    assert not other["log"]
    assert list(first["losses"].values()) == list(other["losses"].values())


@pytest.mark.parametrize("turn", range(REPEATS))
def test_a_process_that_fails_after_a_decay_was_agreed_begins_it_with_the_others(
    found: Found, turn: int
) -> None:
    first, other = of(found, f"decay then fail, {turn}")
    assert first["off"], "it failed"
    assert first["rates"] == other["rates"]


def test_a_run_of_many_resumes_mid_decay(found: Found) -> None:
    first, other = of(found, "decay and resume")
    for run in (first, other):
        assert run["resumed"]["rates"] == run["whole"]["rates"][87:]
        assert run["resumed"]["losses"] == run["whole"]["losses"]
    later = {step: each for step, each in first["whole"]["forecasts"].items() if int(step) > 80}
    assert first["resumed"]["forecasts"] == later


def test_no_loop_waits_for_a_forecast(found: Found) -> None:
    first, other = of(found, "slow")
    assert not first["off"], "the policy, which waits for the loop to go on, has returned"
    assert not other["off"]


@pytest.mark.parametrize("turn", range(REPEATS))
def test_a_process_that_fails_after_a_stop_was_agreed_stops_with_the_others(
    found: Found, turn: int
) -> None:
    first, other = of(found, f"stop then fail, {turn}")
    assert first["steps"] == other["steps"]
    assert first["steps"] == 120 or first["off"]
    assert first["off"], "it failed"


def test_two_monitors_of_a_kind_do_not_mix(found: Found) -> None:
    for each in of(found, "two"):
        assert each["losses"] == [[1.0] * 40, [11.0] * 40]


def test_who_may_stop_must_be_the_same_in_all(found: Found) -> None:
    first, other = of(found, "one may stop")
    assert first["steps"] == other["steps"] == 120
    assert first["log"][0].startswith("process 1 begins at step 0 (")


def test_an_exception_of_the_users_is_all_that_ends_a_process(folder: Path) -> None:
    assert answers(folder, "caught-") == [35, 39]


@pytest.mark.parametrize("turn", range(REPEATS))
def test_a_process_that_sees_nan_stops_all(found: Found, turn: int) -> None:
    first, other = of(found, f"nan, {turn}")
    assert first["steps"] == other["steps"] < 120
    assert first["non_finite"] == other["non_finite"] == first["steps"] - 40
    assert "nan or infinite" in first["log"][0]


@pytest.mark.parametrize("turn", range(REPEATS))
def test_a_resumed_run_repeats_its_forecasts_to_the_bit(found: Found, turn: int) -> None:
    first, other = of(found, f"resume, {turn}")
    for run in (first, other):
        assert run["resumed"]["losses"] == run["whole"]["losses"]
    later = {step: each for step, each in first["whole"]["forecasts"].items() if int(step) > 40}
    assert first["resumed"]["forecasts"] == later


def test_going_back_to_a_saved_state_repeats_what_came_after_it(found: Found) -> None:
    (first, other), (whole, _) = of(found, "rewind"), of(found, "averaged")
    assert first["steps"] == other["steps"] == 120
    assert first["losses"] == other["losses"] == whole["losses"]
    assert first["forecasts"] == whole["forecasts"]
    assert [*first["log"], *other["log"]] == []


def test_the_state_of_one_process_serves_all(found: Found) -> None:
    first, other = of(found, "other state")
    assert first["resumed"]["losses"] == other["resumed"]["losses"]
    assert list(map(int, first["resumed"]["forecasts"])) == list(range(50, 121, 10))
    assert [*first["resumed"]["log"], *other["resumed"]["log"]] == []
    whole, resumed = first["whole"]["losses"], first["resumed"]["losses"]
    differing = {int(step) for step in whole if whole[step] != resumed[step]}
    assert differing <= set(range(40, 47)), "only what the other had seen since the last exchange"


def test_the_state_of_two_processes_serves_one(found: Found) -> None:
    saved = found[0]["resume, 0"]["whole"]["state"]["monitor"]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
    monitor = TorchLossForecast(optimizer, scheduler, 120, every_n_steps=10)
    monitor.load_state_dict(saved)
    for step in range(47, 60):
        monitor.step(scripted(step, 0))
        optimizer.step()
        scheduler.step()
    monitor.close()
    losses = dict(zip(*(getattr(monitor.forecaster.history.bins(), a).tolist()
                        for a in ("last", "mean")), strict=True))  # fmt: skip
    before = found[0]["averaged"]["losses"]
    assert list(losses) == list(range(60))
    assert all(losses[step] == before[str(step)] for step in range(40))
    own = [losses[step] for step in range(40, 60)]
    assert own == pytest.approx([scripted(step, 0) for step in range(40, 60)], rel=1e-6)


def test_an_uneven_end_makes_nobody_wait(found: Found) -> None:
    first, other = of(found, "uneven end")
    assert (first["steps"], other["steps"]) == (120, 85)
    assert len(first["losses"]) == 120
    assert list(map(int, first["forecasts"])) == list(range(10, 121, 10))


def test_one_process_alone_forecasts_and_stops_nobody(found: Found) -> None:
    first, other = of(found, "only one")
    assert first["steps"] == other["steps"] == 120
    assert first["log"][0] == f"not all processes of this run have a forecasting callback: {ALONE}"
    assert list(map(int, first["forecasts"])) == list(range(10, 121, 10))
    losses = [scripted(step, 0) for step in range(120)]
    assert list(first["losses"].values()) == pytest.approx(losses, rel=1e-6)
    first, other = of(found, "only the other")
    assert first["steps"] == other["steps"] == 120
    assert not other["forecasts"]


def test_a_process_without_its_state_is_named(found: Found) -> None:
    first, other = (run["resumed"] for run in of(found, "one resumes"))
    assert first["steps"] == other["steps"] == 120
    (line,) = first["log"]
    assert line.startswith("process 1 begins at step 0 (")
    assert "process 0 at step 40" in line
    assert line.endswith(ALONE)
    assert list(map(int, first["forecasts"])) == list(range(50, 121, 10))


def test_a_failing_policy_leaves_all_alone(found: Found) -> None:
    first, other = of(found, "policy fails")
    assert first["steps"] == other["steps"] == 120
    assert first["off"]
    assert first["log"] == ["forecasting failed and is switched off; training goes on"]
    assert not other["log"]


@pytest.mark.parametrize("step", FAILING)
@pytest.mark.parametrize("turn", range(REPEATS))
def test_a_failure_in_one_process_parts_nobody(found: Found, step: int, turn: int) -> None:
    first, other = of(found, f"other fails at {step}, {turn}")
    assert other["off"]
    assert first["steps"] == other["steps"]
    if step < 60:
        assert first["steps"] == 120
        assert any(line.endswith(ALONE) for line in first["log"])


def test_parameters_are_counted_alike_or_not_at_all(found: Found) -> None:
    first, other = of(found, "recognised")
    assert first == other
    n_params = sum(weight.numel() for weight in model().parameters())
    task = "language modelling"
    assert first == {
        "ddp": [n_params, task],
        "ddp, optimizer": [n_params, task],
        "zero, optimizer": [n_params, task],
        "fully_shard": [n_params, task],
        "fully_shard, optimizer": [n_params, task],
        "fsdp": [None, task],
        "fsdp, optimizer": [None, None],
        "fsdp, original parameters": [None, task],
        "fsdp, original parameters, optimizer": [None, None],
        "flat, optimizer": [None, None],
    }


@pytest.mark.slow
def test_a_job_that_was_restarted_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    # the store that torchrun shares by default still has the addresses from before the restart
    unshared = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    torchrun("--max-restarts=1", SCRIPT, tmp_path, "elastic", limit=600, **unshared)
    whole, resumed = answers(tmp_path, "whole-"), answers(tmp_path, "resumed-")
    later = {step: each for step, each in whole[0]["forecasts"].items() if int(step) > 40}
    assert resumed[0]["forecasts"] == later
    assert [run["losses"] for run in resumed] == [run["losses"] for run in whole]
    assert all(math.isfinite(loss) for loss in whole[0]["losses"].values())
