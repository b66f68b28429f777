"""Runs in a database: real files, a real server, real processes that are killed."""

import json
import logging
import math
import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from support.postgres import server

from lossforecast import (
    ConfigurationError,
    Forecaster,
    LRSchedule,
    RunInfo,
    Status,
    StoreError,
)
from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.callbacks.pipeline.recorder import RunRecorder
from lossforecast.policies import target_miss
from lossforecast.runs.history import History
from lossforecast.runs.outcome import ended
from lossforecast.store import database as database_room
from lossforecast.store.database import MIGRATIONS, Tables, default_path
from lossforecast.store.run_store import RunStore

VERSION_1 = Path(__file__).parents[1] / "states" / "store-1.sql"
SUPPORT = Path(__file__).parents[1] / "support"
WRITER = SUPPORT / "store_writer.py"
INFO = RunInfo("val", "adamw", project="small models", n_params=1e6)
PLAN = LRSchedule.wsd(10_000, 1e-3, warmup=200)
STEPS = np.arange(100, 10_001, 100)
LOSSES = 2.0 + 20.0 * (PLAN.s1(STEPS) / 1e-3) ** -0.45


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store that is empty: a file, or a database of a server."""
    if request.param == "sqlite":
        yield str(tmp_path / "runs.db")
        return
    url = request.getfixturevalue("postgres")
    yield url
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        sa.MetaData().reflect(connection)
        for name in sa.inspect(connection).get_table_names():
            connection.execute(sa.text(f'DROP TABLE "{name}"'))
    engine.dispose()


def filled(where: str, **about: Any) -> tuple[RunStore, str]:
    store = RunStore(where)
    run = RunInfo(**{**vars(INFO), **about})
    return store, store.add("first", run, PLAN, STEPS, LOSSES)


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


def curve(*steps: int, broken: int = 0) -> History:
    """Losses that are the step over 1000, the last ones nan."""
    found = History()
    losses = np.array(steps) / 1_000
    losses[len(steps) - broken :] = np.nan
    found.observe_many(steps, losses)
    return found


@pytest.mark.parametrize(
    ("losses", "total", "outcome"),
    [
        (curve(*range(1_000)), 1_000, np.arange(980, 1_000).mean() / 1e3),
        (curve(*range(10)), 10, 0.009),
        (curve(*range(100, 1_001, 100)), 1_000, 1.0),  # one validation is of the last 2%
        (curve(*range(100, 901, 100)), 1_000, 0.9),  # there was no room for another one
        (curve(*range(100, 901, 100)), 1_010, math.nan),
        (curve(*range(200, 801, 200)), 1_000, math.nan),  # too far from the end
        (curve(950), 1_000, math.nan),
        (curve(*range(970)), 1_000, math.nan),
        (curve(*range(1_000), broken=1), 1_000, math.nan),
        (curve(*range(1_015)), 1_000, np.arange(980, 1_015).mean() / 1e3),
        (curve(*range(2_000)), 1_000, np.arange(1_960, 2_000).mean() / 1e3),  # beyond its plan
        (History(), 1_000, math.nan),
    ],
)
def test_a_run_ended_with_its_last_losses_of_the_plan(
    losses: History, total: int, outcome: float
) -> None:
    assert ended(losses, total) == pytest.approx(outcome, nan_ok=True)


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


# ---------------------------------------------------------------------- learning


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
            with pytest.raises(StoreError, match="goes on elsewhere"):
                store.save(key, History(), PLAN, owner=other)
            with pytest.raises(StoreError, match="goes on elsewhere"):
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


# ---------------------------------------------------------------------- many processes


def start(where: str, count: int, flushes: int, victims: int = 0) -> list[subprocess.Popen[str]]:
    """Writers; the first `victims` of them have more to write than they will live for."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(WRITER), where, f"writer {i}", str(n)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i, n in enumerate([10_000] * victims + [flushes] * (count - victims))
    ]


def test_many_write_at_once_and_some_are_killed(where: str) -> None:
    """No record is lost or torn: what a writer said was flushed is there, whole."""
    full = bool(os.environ.get("LOSSFORECAST_FULL"))
    count, flushes, victims = (32, 200, 5) if full else (8, 25, 2)
    RunStore(where)
    writers = start(where, count, flushes, victims)
    chance = random.Random(0)
    said: list[list[str]] = [[] for _ in writers]
    doomed = {i: chance.randrange(flushes // 4, flushes // 2) for i in range(victims)}
    for i, last in doomed.items():
        with writers[i] as writer:
            assert writer.stdout is not None
            while len(said[i]) <= last:
                said[i].append(writer.stdout.readline().strip())
            time.sleep(chance.random() * 0.05)  # somewhere within the next flush
            writer.send_signal(signal.SIGKILL)
            said[i] += writer.stdout.read().split()
    for i, writer in enumerate(writers):
        rest, errors = ("", "") if i in doomed else writer.communicate(timeout=500)
        said[i] += rest.split()
        assert writer.returncode == (-signal.SIGKILL if i in doomed else 0), errors
    store = RunStore(where)
    found = {run.key: run for run in store.runs()}
    assert len(found) == count
    for i, (key, *flushed) in enumerate(said):
        run, history, kept = found[key], store.history(key), store.forecasts(key)
        at_least = int(flushed[-1]) if flushed else 0
        done = (run.step + 1) // 20
        assert done == flushes if i not in doomed else done in (at_least, at_least + 1)
        assert run.state == ("running" if i in doomed else "finished")
        assert history.last_step == run.step
        assert [row["made_at"] for row in kept] == [20 * n - 1 for n in range(1, done + 1)]
        bins = history.bins()
        assert bins.count.sum() == 20 * done
        exact = [
            np.mean(2 + 1 / (np.arange(a, b + 1) + 1))
            for a, b in zip(bins.first, bins.last, strict=True)
        ]
        assert bins.mean.tolist() == pytest.approx(exact)


def test_many_open_a_new_store_at_once(where: str) -> None:
    writers = start(where, 6, 1)
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    assert len(RunStore(where).runs()) == 6


def test_a_store_goes_to_another_process(where: str) -> None:
    store, key = filled(where)
    assert pickle.loads(pickle.dumps(store)).run(key).key == key


# ---------------------------------------------------------------------- versions


def test_an_older_store_is_brought_up_to_date(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1 with a run, opened by a release that has added a column."""
    store, key = filled(where)

    def add_notes(connection: sa.Connection) -> None:
        connection.execute(sa.text("ALTER TABLE lossforecast_runs ADD COLUMN notes TEXT"))

    monkeypatch.setattr(database_room, "MIGRATIONS", [*MIGRATIONS, add_notes])
    newer = RunStore(where)
    assert newer.run(key).name == "first"
    with store._database.transaction("read") as connection:
        columns = sa.inspect(connection).get_columns("lossforecast_runs")
    assert "notes" in {column["name"] for column in columns}
    RunStore(where)  # once only
    monkeypatch.setattr(database_room, "MIGRATIONS", MIGRATIONS)
    with pytest.raises(StoreError, match="update lossforecast"):
        RunStore(where)


def test_a_store_of_version_1_becomes_what_a_new_one_is(where: str) -> None:
    """Made by the statements of the first release, which never change."""
    engine = sa.create_engine(where if "://" in where else f"sqlite:///{where}")
    with engine.begin() as connection:
        for statement in VERSION_1.read_text().split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    engine.dispose()
    store = RunStore(where)
    (run,) = store.runs()
    assert (run.name, run.state, run.outcome) == ("first", "finished", 2.5)
    assert store.owner(run.key) == ""
    assert store.best(run.run, run.schedule) == 2.5
    (forecast,), (decision,) = store.forecasts(run.key), store.decisions(run.key)
    assert (forecast["mean"], decision["action"]) == (2.75, "stop")
    with store._database.transaction("read") as connection:
        inspector = sa.inspect(connection)
        for table in Tables.make().metadata.sorted_tables:
            found = {column["name"] for column in inspector.get_columns(table.name)}
            assert found == {column.name for column in table.columns}
        version = connection.execute(sa.select(Tables.make().version)).scalar_one()
    assert version == 2
    store.end(store.begin("second", INFO, PLAN, owner="me"), "stopped", owner="me")


def test_a_store_that_is_only_read_is_not_made(where: str) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        RunStore(where, make=False)
    _, key = filled(where)
    assert RunStore(where, make=False).run(key).key == key


def test_a_new_store_needs_no_migration(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: sa.Connection) -> None:
        raise AssertionError

    monkeypatch.setattr(database_room, "MIGRATIONS", [*MIGRATIONS, never])
    assert RunStore(where).runs() == []


def test_a_migration_that_fails_leaves_the_store_as_it_was(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = filled(where)

    def half(connection: sa.Connection) -> None:
        connection.execute(sa.text("ALTER TABLE lossforecast_runs ADD COLUMN notes TEXT"))
        connection.execute(sa.text("SELECT step FROM nowhere"))

    monkeypatch.setattr(database_room, "MIGRATIONS", [*MIGRATIONS, half])
    with pytest.raises(StoreError, match="nowhere"):
        RunStore(where)
    monkeypatch.setattr(database_room, "MIGRATIONS", MIGRATIONS)
    store = RunStore(where)
    assert store.run(key).name == "first"
    with store._database.transaction("read") as connection:
        columns = sa.inspect(connection).get_columns("lossforecast_runs")
    assert "notes" not in {column["name"] for column in columns}


# ---------------------------------------------------------------------- trouble


def test_places_that_are_no_store(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are no runs at all, only some notes\n" * 100)
    with pytest.raises(StoreError, match="not a database"):
        RunStore(text)
    assert text.read_text().startswith("these are no runs")
    with pytest.raises(StoreError, match="cannot be opened"):
        RunStore(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        RunStore(tmp_path / "file" / "runs.db")
    with pytest.raises(ConfigurationError, match="no database URL"):
        RunStore("nonsense://somewhere")
    with pytest.raises(ConfigurationError, match=r"oracle://me:\*\*\*@host"):
        RunStore("oracle://me:secret@host/name")


@pytest.mark.parametrize("name", ["a?b.db", "50%25.db", "50%.db", "a b#c.db", "file::memory:"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    store, key = filled(str(tmp_path / name))
    assert {each.name.split("-")[0] for each in tmp_path.iterdir()} == {name}
    assert pickle.loads(pickle.dumps(store)).run(key).key == key


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@word:secret@host:5432/db",
        "postgresql://me:secret@secret@host/db",
        "postgresql://me@host:secret/db",
    ],
)
def test_a_malformed_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="quote_plus") as caught:
        RunStore(url)
    assert "secret" not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__context__ is None  # that of the driver shows parts of it


def test_a_store_in_memory_is_refused() -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"):
        with pytest.raises(ConfigurationError, match="in memory"):
            RunStore(url)


def test_a_server_that_does_not_answer_is_not_waited_for(
    postgres: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another session holds the runs; options of the URL stand beside the time limits."""
    monkeypatch.setattr(database_room, "_ANSWER", 1.0)
    url = f"{postgres}&options=-c%20application_name%3Dmine"
    store = RunStore(url)
    with store._database.transaction("read", writes=False) as connection:
        for setting, value in (
            ("application_name", "mine"),
            ("lock_timeout", "1s"),
            ("statement_timeout", "1s"),
        ):
            assert connection.exec_driver_sql(f"SHOW {setting}").scalar() == value
    engine = sa.create_engine(postgres, poolclass=sa.NullPool)
    with engine.begin() as other:
        other.exec_driver_sql("LOCK TABLE lossforecast_runs IN ACCESS EXCLUSIVE MODE")
        recorder, start = RunRecorder(url, "run", INFO, PLAN), time.monotonic()
        assert recorder.prior(None) is None
        assert time.monotonic() - start < 10
        assert "timeout" in caplog.text
    with engine.begin() as connection:
        for name in sa.inspect(connection).get_table_names():
            connection.execute(sa.text(f'DROP TABLE "{name}"'))
    engine.dispose()


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(StoreError) as caught:
        RunStore("postgresql+psycopg://me:secret@127.0.0.1:1/runs")
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "read"),
    [
        ("schedule = '{}'", False),
        ("schedule = 'no json'", False),
        ("started = 'yesterday'", False),
        ("curve = '{'", True),
        ("curve = '{}'", True),
        ("project = CAST(x'eda080' AS TEXT), dataset = 'text'", True),  # a lone surrogate
    ],
)
def test_a_damaged_record_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, read: bool
) -> None:
    store, key = filled(str(tmp_path / "runs.db"), dataset="text")
    sound = store.add("second", RunInfo(**{**vars(INFO), "dataset": "text"}), PLAN, STEPS, LOSSES)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as raw, raw:
        raw.execute(f"UPDATE lossforecast_runs SET {damage} WHERE key = ?", [key])
    about = RunInfo("val", "adamw", dataset="text")
    assert [run.key for run in store.runs() if run.key != key] == [sound]
    assert {past.name for past in store.prior(about, PLAN).past} - {key} == {sound}
    assert store.best(about, PLAN) is not None
    if "project" not in damage:
        assert key in caplog.text
    if not read:
        with pytest.raises(StoreError, match=f"{key}.*damaged"):
            store.run(key)
    assert store.find(key[:8]) == (key, "first")
    store.forget(key)
    assert [run.key for run in store.runs()] == [sound]


def test_words_that_no_database_takes_are_made_plain(where: str) -> None:
    odd = RunInfo("val", project="a\udc80b\0")
    store = RunStore(where)
    key = store.add("n\udc80\0", odd, PLAN, STEPS, LOSSES)
    assert (store.run(key).name, store.run(key).run.project) == ("n?", "a?b")
    assert [run.key for run in store.runs(project="a\udc80b")] == [key]
    assert store.best(store.run(key).run, PLAN) is not None
    store.prior(odd, PLAN)


def test_a_full_disk_is_an_error_and_nothing_is_torn(tmp_path: Path) -> None:
    store, key = filled(str(tmp_path / "runs.db"))
    before = json.dumps(store.history(key).state_dict())
    engine = store._database.engine

    @sa.event.listens_for(engine, "connect")
    def shrink(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    history = History()
    steps = np.arange(50_000)
    history.observe_many(steps, np.random.default_rng(0).normal(3, 1, steps.size))
    with pytest.raises(StoreError, match="full"):
        store.save(key, history, PLAN)
    sa.event.remove(engine, "connect", shrink)
    assert json.dumps(store.history(key).state_dict()) == before


def test_the_store_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSFORECAST_STORE", str(tmp_path / "mine.db"))
    assert default_path() == tmp_path / "mine.db"
    RunStore()
    assert (tmp_path / "mine.db").exists()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOSSFORECAST_STORE", f"sqlite:///{tmp_path}/other.db")
    RunStore()
    assert (tmp_path / "other.db").exists()
    assert not (tmp_path / "sqlite:").exists()
    monkeypatch.delenv("LOSSFORECAST_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    if sys.platform == "linux":
        assert default_path() == tmp_path / "data" / "lossforecast" / "runs.db"
