"""Recorded sweeps replayed: the arithmetic on scripted rules, then the real ones."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lossforecast import LRSchedule
from lossforecast.backtest.curves import RecordedRun
from lossforecast.backtest.rules import RULES, Rule, Stopper
from lossforecast.backtest.sweep_runs import CHECKS_PER_RUN, SweepRun, sweep_run
from lossforecast.backtest.sweeps import SweepScore, replay_sweeps

TOTAL = 1_000
LEVELS = [2.0, 2.2, 2.001, 3.0, 2.5, 2.1]


def recorded(
    level: float, name: str, *, total: int = TOTAL, completion: str = "reached"
) -> RecordedRun:
    step = np.arange(20, total + 1, 20)
    lr = LRSchedule.cosine(total, 1e-3, warmup=50).lr(step)
    loss = level + 2 * (step + 20.0) ** -0.5 + 50 * lr
    metadata = {"sweep_of": "made", "completion": completion}
    return RecordedRun(
        source="tests", run_id=name, metric="val", step=step, lr=lr, loss=loss, total_steps=total,
        optimizer="adamw", metadata=metadata,
    )  # fmt: skip


RUNS = [recorded(level, f"run {i}") for i, level in enumerate(LEVELS)]


def scripted(stops: dict[int, int]) -> Rule:
    """A rule that stops some runs, each at a check of its own."""

    def rule(runs: Sequence[SweepRun]) -> Stopper:
        def stopper(check: int, active: Sequence[int], finished: Sequence[int]) -> list[int]:
            return [i for i in active if stops.get(i) == check]

        return stopper

    return rule


def score(stops: dict[int, int], runs: Sequence[RecordedRun] = RUNS) -> list[SweepScore]:
    return replay_sweeps(runs, rules={"scripted": scripted(stops)})


@pytest.mark.slow
def test_nothing_stopped_costs_everything_and_loses_nothing() -> None:
    for found in score({}):
        assert (found.compute_used, found.regret, found.false_kills) == (1, 0, 0)
    assert [found.arrival for found in score({})] == ["parallel", "sequential"]


def test_what_is_saved_and_lost() -> None:
    # runs 0 and 3 after a fifth and a half of their steps; run 0 is the best, run 2 comes next
    for found in score({0: 9, 3: 24}):
        assert found.compute_used == pytest.approx((4 + 0.2 + 0.5) / 6)
        ends = [sweep_run(run).truth for run in RUNS]  # type: ignore[union-attr]
        assert found.regret == pytest.approx((ends[2] - ends[0]) / ends[0])
        assert found.false_kills == 1
        assert found.runs == 6


def test_who_was_stopped_before_the_decay_is_counted() -> None:
    def held(level: float, share: float) -> RecordedRun:
        plan = LRSchedule.wsd(TOTAL, 1e-3, decay_fraction=share)
        return replace(recorded(level, f"{level}"), lr=plan.lr(np.arange(20, TOTAL + 1, 20)))

    best, other = held(2.0, 0.3), held(2.5, 0.3)
    for check, before in ((30, 1), (40, 0)):
        found = score({0: check}, [best, other])[0]
        assert (found.false_kills, found.before_decay) == (1, before)
    never = replace(best, lr=np.full_like(best.lr, 1e-3))
    assert score({0: 30}, [never, other])[0].before_decay == 0, "it had no decay to come"


def test_patience_counts_validations() -> None:
    run = RUNS[0]
    loss = run.loss.copy()
    loss[run.step == 400] = 1.0
    found = replay_sweeps(
        [replace(run, loss=loss), RUNS[3]], rules={"patience": RULES["patience"]}
    )[0]
    assert found.compute_used == pytest.approx((460 / TOTAL + 1) / 2)


def test_compute_is_counted_in_steps() -> None:
    runs = [*RUNS[:2], recorded(2.3, "long", total=4 * TOTAL)]
    assert score({2: 24}, runs)[0].compute_used == pytest.approx((1 + 1 + 2) / 6)


def test_without_a_survivor_there_is_no_regret_to_give() -> None:
    found = score(dict.fromkeys(range(6), 0))[0]
    assert math.isnan(found.regret)
    assert found.to_json()["regret"] is None
    assert json.dumps(found.to_json(), allow_nan=False)


def test_only_completed_validation_runs_of_a_sweep_count() -> None:
    others = [
        recorded(1.0, "broken off", completion="stopped at 300"),
        replace(recorded(1.0, "training"), metric="train"),
        replace(recorded(1.0, "alone"), metadata={}),
    ]
    assert score({}, [*RUNS, *others])[0].runs == 6
    assert score({}, RUNS[:1]) == []


def test_a_check_sees_nothing_of_the_future() -> None:
    run = RUNS[0]
    changed = run.loss.copy()
    changed[run.step > 500] += 1.0
    before, after = sweep_run(run), sweep_run(replace(run, loss=changed))
    assert before is not None
    assert after is not None
    half = CHECKS_PER_RUN // 2
    assert before.outlooks[:half] == after.outlooks[:half]
    assert before.outlooks[half] != after.outlooks[half]
    assert before.latest[:half].tolist() == after.latest[:half].tolist()
    assert before.is_open[0], "one loss tells little"
    assert not before.is_open[half]
    assert before.outlooks[0].known


@pytest.mark.parametrize(
    "name",
    [n if n == "dominated" else pytest.param(n, marks=pytest.mark.slow) for n in RULES],
)
def test_every_rule_keeps_a_good_run_and_saves_something(name: str) -> None:
    runs = [recorded(2 + 0.05 * i, f"run {i}") for i in range(8)]
    parallel, sequential = replay_sweeps(runs, rules={name: RULES[name]})
    assert parallel.regret < 0.03
    assert sequential.regret < 0.03
    if name in ("median", "patience"):  # compare with runs that have ended, and with nobody
        assert parallel.compute_used == 1
    else:
        assert parallel.compute_used < 0.9
    assert sequential.compute_used < 1 or name == "patience"


@pytest.mark.slow
def test_processes_change_nothing() -> None:
    rules = {name: RULES[name] for name in ("dominated", "hyperband")}
    assert replay_sweeps(RUNS, rules=rules) == replay_sweeps(RUNS, rules=rules, jobs=2)


@pytest.mark.slow
def test_sweeps_are_told_apart() -> None:
    other = [replace(run, metadata={"sweep_of": "other"}) for run in RUNS[:3]]
    repeats = [replace(run, metadata={"sweep_of": None}) for run in RUNS]
    found = score({}, [*RUNS, *other, *repeats])
    assert [(each.sweep, each.runs) for each in found if each.arrival == "parallel"] == [
        ("made", 6), ("other", 3),
    ]  # fmt: skip
