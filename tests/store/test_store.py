"""Runs written to a database and read back: real files and a real server."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.stored_runs import INFO, LOSSES, PLAN, STEPS, filled

from lossforecast import (
    ConfigurationError,
    Forecaster,
    LRSchedule,
    RunInfo,
    StoreError,
)
from lossforecast.policies import target_miss
from lossforecast.runs.history import History
from lossforecast.store.run_store import RunStore


def test_a_run_comes_back_as_it_was(where: str) -> None:
    store, key = filled(where)
    found = RunStore(where).run(key)
    assert (found.name, found.run, found.state, found.step) == ("first", INFO, "finished", 10_000)
    assert found.schedule.to_dict() == PLAN.to_dict()
    assert found.outcome == pytest.approx(LOSSES[-3:].mean())
    assert not found.excluded
    bins = store.history(key).bins()
    assert bins.last.tolist() == STEPS.tolist()
    assert bins.mean.tolist() == LOSSES.tolist()
    assert store.runs() == [found]
    assert store.run(key[:8]) == found


def test_a_run_is_the_same_with_epochs_and_without(where: str) -> None:
    """Runs were added before the length of an epoch was known."""
    store, key = filled(where)
    same, again = filled(where, steps_per_epoch=39.0)
    assert again == key
    assert [run.run for run in same.runs()] == [INFO]  # as it was added first
    assert store.past(replace(INFO, steps_per_epoch=39.0), PLAN)[0].name == key


def test_forecasts_and_decisions_are_kept_and_rewound(where: str) -> None:
    store = RunStore(where)
    watch = Forecaster(PLAN, INFO)
    key = store.begin("run", INFO, PLAN)
    assert store.run(key).state == "running"
    assert math.isnan(store.run(key).outcome)
    for until in (20, 40, 60):
        watch.observe_many(STEPS[until - 20 : until], LOSSES[until - 20 : until])
        advice = watch.recommend(target=2.0, policy=target_miss())
        decided = [(int(STEPS[until - 1]), advice)]
        store.save(key, watch.history, PLAN, [watch.forecast()], decided)
    kept = store.forecasts(key)
    assert [row["made_at"] for row in kept] == [2_000, 4_000, 6_000]
    assert kept[-1]["mean"] == watch.forecast().mean
    assert kept[-1]["median"] == watch.forecast().median
    assert (kept[-1]["lower80"], kept[-1]["upper80"]) == watch.forecast().interval(0.8)
    assert kept[-1]["gain_source"] == "prior"
    assert [row["step"] for row in store.decisions(key)] == [2_000, 4_000, 6_000]
    assert store.decisions(key)[0]["message"]
    again = Forecaster(PLAN, INFO)  # from a checkpoint
    again.observe_many(STEPS[:30], LOSSES[:30])
    store.save(key, again.history, PLAN, [again.forecast()])
    assert [row["made_at"] for row in store.forecasts(key)] == [2_000, 3_000]


def test_a_long_run_is_thinned(where: str) -> None:
    store = RunStore(where)
    plan = LRSchedule.cosine(200_000, 1e-3)
    steps = np.arange(200_000)
    noise = np.random.default_rng(0).normal(0, 0.05, steps.size)
    key = store.add("long", RunInfo(), plan, steps, 3 + noise)
    history = store.history(key)
    assert len(history) <= 512
    assert history.n_observed == 200_000
    assert history.bins().variance.mean() == pytest.approx(0.05**2, rel=0.05)
    assert store.run(key).outcome == pytest.approx(3, abs=0.01)


def test_what_is_not_a_number_is_kept_apart(where: str) -> None:
    store = RunStore(where)
    losses = np.where(STEPS > 5_000, np.nan, LOSSES)
    key = store.add("broken", INFO, PLAN, STEPS, losses)
    assert store.history(key).n_non_finite == 50
    empty = store.begin("empty", INFO, PLAN)
    store.save(empty, History(), PLAN)
    store.end(empty, "failed")
    assert math.isnan(store.run(empty).outcome)


def test_a_run_is_finished_if_its_losses_reach_the_end(where: str) -> None:
    store = RunStore(where)
    for upto, state, outcome in ((100, "finished", 100.0), (97, "stopped", math.nan)):
        steps = np.arange(0, 101, 1)[: upto + 1]
        key = store.add("run", INFO, LRSchedule.constant(100, 1e-3), steps, steps)
        found = store.run(key)
        assert found.state == state
        assert found.outcome == pytest.approx(99.0 if state == "finished" else outcome, nan_ok=True)


def test_a_run_beyond_its_plan_is_compared_by_the_steps_that_it_took(where: str) -> None:
    store, steps = RunStore(where), np.arange(100, 15_001, 100)
    store.add("longer", INFO, PLAN, steps, 1.0 + 1 / steps)
    assert store.best(INFO, PLAN) is None
    assert store.best(INFO, LRSchedule.constant(14_000, 1e-3)) == pytest.approx(1.0, abs=1e-3)


def test_runs_are_asked_for_by_what_they_are(where: str) -> None:
    store, first = filled(where)
    other = store.begin("second", RunInfo("train", project="else"), PLAN)
    assert [run.key for run in store.runs()] == [other, first]
    assert [run.key for run in store.runs(project="else")] == [other]
    assert [run.key for run in store.runs(state="finished", metric="val")] == [first]
    assert store.runs(project="else'; DROP TABLE lossforecast_runs; --") == []
    with pytest.raises(ConfigurationError, match="'colour'"):
        store.runs(colour="blue")
    store.forget(first)
    assert [run.key for run in store.runs()] == [other]
    assert store.forecasts(first) == []


@pytest.mark.parametrize("name", ["<img onerror=x>", "../../etc", "🙂" * 1_000, "x" * 4_000, ""])
def test_any_name_will_do(where: str, name: str) -> None:
    store = RunStore(where)
    key = store.begin(name, RunInfo(project=name), PLAN)
    assert store.run(key).name == name
    assert store.run(key).run.project == name


def test_keys_that_are_not_there(where: str) -> None:
    store, key = filled(where)
    for call in (
        lambda: store.run("0" * 32),
        lambda: store.run(""),
        lambda: store.history("nothing"),
        lambda: store.forget("nothing"),
        lambda: store.exclude("nothing"),
        lambda: store.end("nothing", "failed", 1.0),
        lambda: store.save("nothing", History(), PLAN),
    ):
        with pytest.raises(StoreError, match="no run"):
            call()
    with pytest.raises(ConfigurationError, match="finished, stopped, failed"):
        store.end(key, "running")
