"""What the next run learns from stored runs, and which run writes where."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
from support.families import info_of, run_of
from support.stored_runs import INFO, LOSSES, PLAN, STEPS, filled

from lossforecast import (
    Forecaster,
    LRSchedule,
    RunInfo,
    Status,
    StoreError,
)
from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.runs.history import History
from lossforecast.store.run_store import RunStore


def test_the_prior_of_the_next_run_knows_the_finished_ones(where: str) -> None:
    store, key = filled(where)
    plan = LRSchedule.cosine(15_000, 1e-3, warmup=200)
    prior = store.prior(INFO, plan)
    assert [run.name for run in prior.past] == [key]
    found = Forecaster(plan, INFO, prior=prior).forecast()
    assert math.isfinite(found.mean)
    assert store.best(INFO, plan) == store.run(key).outcome
    store.exclude(key)
    assert store.prior(INFO, plan).past == ()
    assert store.best(INFO, plan) is None
    store.exclude(key, False)
    assert len(store.prior(INFO, plan).past) == 1
    store.forget(key)
    blind = Forecaster(plan, INFO, prior=store.prior(INFO, plan)).forecast()
    assert blind.status is Status.NO_DATA


def test_too_few_losses_to_learn_from_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lossforecast")
    store, said = RunStore(tmp_path / "runs.db"), "with too few losses to learn from: few"
    store.add("few", INFO, PLAN, STEPS[19::20], LOSSES[19::20])
    assert store.prior(RunInfo("train", project=INFO.project), PLAN).past == ()
    assert said not in caplog.text
    assert store.prior(INFO, PLAN).past == ()
    assert said in caplog.text
    store.add("many", INFO, PLAN, STEPS, LOSSES)
    assert len(store.prior(INFO, PLAN).past) == 1


def test_nothing_is_learnt_from_other_metrics_projects_and_unfinished_runs(where: str) -> None:
    store, _ = filled(where, metric="train")
    filled(where, project="other")
    store.begin("running", INFO, PLAN)
    store.end(store.begin("failed", INFO, PLAN), "failed", 2.0)
    store.add("stopped", INFO, PLAN, STEPS[:50], LOSSES[:50])
    assert store.prior(INFO, PLAN).past == ()
    assert store.best(INFO, PLAN) is None


def test_a_stored_run_teaches_what_it_would_unstored(where: str, curves_dir: Path) -> None:
    """One finished run of the recorded 124M model: the next, at step 0, is forecast within 1%."""
    runs: dict[str, RecordedRun] = {
        run.run_id: run for run in load_curves(curves_dir) if run.source == "lr-scheduling-convex"
    }
    wsd = [r for r in runs.values() if r.metric == "val" and r.schedule_type == "wsd"]
    cosine = [r for r in runs.values() if r.metric == "val" and r.schedule_type == "cosine"]
    old = next(r for r in wsd if r.total_steps == 25_000 and abs(r.lr.max() - 1e-3) < 1e-6)
    new = next(r for r in cosine if r.total_steps == 50_000 and abs(r.lr.max() - 1e-3) < 1e-5)
    about = RunInfo("val", "adamw", project="124M")
    store = RunStore(where)
    store.add(old.run_id, about, old.plan, old.step, old.loss, old.lr)
    prior = store.prior(about, new.plan)
    truth = float(new.loss[-5:].mean())
    found = Forecaster(new.plan, about, prior=prior).forecast()
    assert found.quantile(0.5) == pytest.approx(truth, rel=0.01)


def test_a_run_that_is_resumed_goes_on_and_one_that_has_ended_stays(where: str) -> None:
    store = RunStore(where)
    key = store.begin("run", INFO, PLAN, "0" * 32)
    assert key == "0" * 32
    store.end(key, "failed", 3.0)
    assert store.begin("run", INFO, PLAN, key) == key
    assert store.run(key).state == "running"
    store.end(key, "finished", 2.0)
    branch = store.begin("branch", INFO, PLAN, key)
    assert branch != key
    assert (store.run(key).state, store.run(branch).state) == ("finished", "running")


def test_who_goes_on_with_a_run_is_its_only_writer(where: str) -> None:
    store = RunStore(where)
    key = store.begin("run", INFO, PLAN, owner="first")
    store.save(key, History(), PLAN, owner="first")
    for state in ("running", "stopped", "failed"):
        if state != "running":
            store.end(key, state, owner="second")
        assert RunStore(where).begin("run", INFO, PLAN, key, owner="second") == key
        assert store.owner(key) == "second"
        for other in ("first", ""):
            with pytest.raises(StoreError, match="another process resumed it"):
                store.save(key, History(), PLAN, owner=other)
            with pytest.raises(StoreError, match="another process resumed it"):
                store.end(key, "finished", 1.0, owner=other)
        assert store.run(key).state == "running"
    store.end(key, "finished", 2.0, owner="second")
    with pytest.raises(StoreError, match="has ended"):
        store.save(key, History(), PLAN, owner="second")
    assert store.begin("run", INFO, PLAN, key, owner="third") != key
    assert store.run(key).outcome == 2.0
    assert store.owner("nothing") is None


def test_the_best_had_no_more_to_get_there(where: str) -> None:
    store = RunStore(where)
    for steps, n_params, model, outcome, batch in (
        (10_500, 1e6, "a", 2.0, 64),
        (20_000, 1e6, "a", 1.9, 64),  # longer
        (9_000, 2e6, "a", 1.8, 64),  # larger
        (9_000, 1e6, "b", 1.7, 64),  # another model
        (9_000, 1e6, "a", 1.85, 256),  # more data
        (9_000, 1e6, "a", 2.1, None),
    ):
        about = RunInfo(
            "val", "adamw", project="p", n_params=n_params, model=model, batch_size=batch
        )
        key = store.begin("past", about, LRSchedule.cosine(steps, 1e-3))
        store.end(key, "finished", outcome)
    run = RunInfo("val", "adamw", project="P", n_params=1e6, model="A", batch_size=64)
    assert store.best(run, PLAN) == 2.0
    assert store.best(replace(run, batch_size=256), PLAN) == 1.85
    assert store.best(run, LRSchedule.cosine(30_000, 1e-3)) == 1.9
    assert store.best(RunInfo("val", project="q"), PLAN) is None


def test_losses_of_other_names_are_not_mixed(where: str) -> None:
    store, key = filled(where, monitor="val_perplexity")
    assert store.prior(INFO, PLAN).past == ()
    _, plain = filled(where, monitor="eval/loss")
    assert [run.name for run in store.prior(INFO, PLAN).past] == [plain]
    other = RunInfo(**{**vars(INFO), "monitor": "Val_Perplexity"})
    assert [run.name for run in store.prior(other, PLAN).past] == [key]


def test_smaller_runs_of_the_project_are_a_ladder(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs.db")
    for size in (1e8, 2e8):
        plan, steps, losses = run_of(size)
        store.add(f"{size:g}", info_of(size), plan, steps, losses)
    plan, _, losses = run_of(4e8)
    prior = store.prior(info_of(4e8), plan)
    found = Forecaster(plan, info_of(4e8), prior=prior)
    assert found.n_smaller_runs == 2
    assert found.forecast().median == pytest.approx(losses[-1], rel=0.01)
    smallest = Forecaster(plan, info_of(1e8), prior=store.prior(info_of(1e8), plan))
    assert smallest.n_smaller_runs == 0
