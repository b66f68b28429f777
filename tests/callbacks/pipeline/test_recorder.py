"""Runs that are recorded while they train: real loops, real stores, real trouble."""

import json
import logging
import signal
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from support.lightning_runs import loader, trainer_of
from support.logs import warnings_in
from support.processes import SUPPORT, torchrun
from support.recorded import train
from support.warm import WarmProcess, run_warm

from lossforecast import (
    Action,
    ConfigurationError,
    Prior,
    Reason,
    Recommendation,
    RunInfo,
    RunStore,
)
from lossforecast.callbacks import LightningLossForecast, TorchLossForecast
from lossforecast.callbacks.pipeline import flush, recorder
from lossforecast.callbacks.pipeline.describe import project_name

SCRIPT = SUPPORT / "recorded.py"


class Scripted:
    """A run of 400 steps that is taken on by and by."""

    def __init__(self, store: Any, saved: Any = None) -> None:
        self.optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
        self.monitor = TorchLossForecast(
            self.optimizer, None, 400, store=store, every_n_steps=20, run=RunInfo(project="p")
        )
        if saved is not None:
            self.monitor.load_state_dict(saved)

    def go(self, until: int) -> None:
        for step in range(self.monitor.steps, until):
            self.monitor.step(2 + 3 * (step + 5.0) ** -0.5)
            self.optimizer.step()


def test_a_run_is_recorded_from_its_first_forecast_to_its_end(tmp_path: Path) -> None:
    monitor = train(tmp_path / "runs.db")
    store = RunStore(tmp_path / "runs.db")
    (run,) = store.runs()
    assert (run.state, run.step) == ("finished", 399)
    assert (run.run.metric, run.run.optimizer, run.run.n_params) == ("train", "SGD", 3)
    assert run.run.project is not None  # that of pytest
    assert run.outcome == pytest.approx(2.15, abs=0.01)
    assert run.schedule.to_dict() == monitor.forecaster.schedule.to_dict()
    kept, seen = store.history(run.key).bins(), monitor.forecaster.history.bins()
    assert kept.mean.tolist() == seen.mean.tolist()
    made = store.forecasts(run.key)
    assert [row["made_at"] for row in made] == [*range(19, 400, 20)]
    assert monitor.forecast is not None
    assert made[-1]["mean"] == monitor.forecast.mean
    first, *_ = store.decisions(run.key)
    assert (first["step"], first["action"]) == (20, "abstain")


def test_the_store_changes_nothing_in_training(tmp_path: Path) -> None:
    with_store, without = train(tmp_path / "runs.db"), train(None)
    assert with_store.forecast is not None
    assert without.forecast is not None
    assert with_store.forecast.mean == without.forecast.mean


def test_the_next_run_learns_and_aims(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lossforecast")
    about = RunInfo(project="one")
    train(tmp_path / "runs.db", run=about)
    store = RunStore(tmp_path / "runs.db")
    (first,) = store.runs()
    second = train(store, total=500, run=about, until=24)
    assert [past.name for past in second.forecaster.prior.past] == [first.key]
    assert second._pipeline.monitor.target == first.outcome
    assert second.forecast is not None
    assert second.forecast.mean == pytest.approx(2.1335, abs=0.03)  # unlearnt 2.21
    assert any(
        f"past runs used for the prior: {first.name}; target: the best of them, 2.15" in r.message
        for r in caplog.records
    )
    own = Prior()
    assert train(store, run=about, target=1.0, until=20)._pipeline.monitor.target == 1.0
    assert train(store, run=about, prior=own, until=20).forecaster.prior.past
    other = train(store, run=RunInfo(project="two"), until=20)
    assert other.forecaster.prior.past == ()
    assert other._pipeline.monitor.target is None


def test_a_guessed_project_gives_no_target(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lossforecast")
    train(tmp_path / "runs.db")
    other = train(tmp_path / "runs.db", level=4.0, stop=True)
    assert not other.should_stop
    assert other._pipeline.monitor.target is None
    assert other.forecaster.prior.past
    said = "none of them sets a target, because RunInfo names no project or dataset"
    assert caplog.text.count(said) == 2
    about = RunInfo(dataset="this")
    assert train(tmp_path / "runs.db", run=about)._pipeline.monitor.target is None
    assert train(tmp_path / "runs.db", run=about, until=1)._pipeline.monitor.target is not None
    assert caplog.text.count(said) == 2


def test_a_project_is_told_by_its_path_in_its_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path("src") / "train.py"
    for name in ("repoA", "repoB", "none"):
        (tmp_path / name / "src").mkdir(parents=True)
        if name != "none":
            (tmp_path / name / ".git").mkdir()
    main = sys.modules["__main__"]
    for name, project in (
        ("repoA", "repoA/src/train"),
        ("repoB", "repoB/src/train"),
        ("none", f"{tmp_path.as_posix()}/none/src/train"),
    ):
        monkeypatch.setattr(main, "__file__", str(tmp_path / name / script), raising=False)
        assert project_name() == project
    monkeypatch.delattr(main, "__file__")
    for name, project in (("repoA", "repoA/src"), ("none", f"{tmp_path.as_posix()}/none/src")):
        monkeypatch.chdir(tmp_path / name / "src")
        assert project_name() == project


def test_a_run_that_cannot_beat_the_best_is_stopped(tmp_path: Path) -> None:
    about = RunInfo(project="one")
    train(tmp_path / "runs.db", run=about)
    worse = train(tmp_path / "runs.db", level=4.0, stop=True, run=about)
    assert worse.should_stop
    assert worse.steps < 200
    run, _ = RunStore(tmp_path / "runs.db").runs()
    assert run.state == "stopped"
    last = RunStore(tmp_path / "runs.db").decisions(run.key)[-1]
    assert (last["action"], last["reason"]) == ("stop", "target_miss")


def test_a_resumed_run_goes_on_in_its_record(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole.db")
    part: Any = train(tmp_path / "runs.db", until=210)
    store = RunStore(tmp_path / "runs.db")
    train(tmp_path / "runs.db", until=290, state=part.saved)  # lost after that
    train(tmp_path / "runs.db", state=part.saved)
    (run,) = store.runs()
    assert run.state == "finished"
    assert [row["made_at"] for row in store.forecasts(run.key)] == [*range(19, 400, 20)]
    made = RunStore(tmp_path / "whole.db")
    (other,) = made.runs()
    for one, two in zip(store.forecasts(run.key), made.forecasts(other.key), strict=True):
        assert one["mean"] == two["mean"]
    assert whole.forecast is not None
    train(tmp_path / "runs.db", state=part.saved)  # a branch: what is finished stays
    assert [run.state for run in store.runs()] == ["finished", "finished"]


def test_two_that_go_on_from_one_checkpoint_have_a_record_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that lives on while another is resumed from its checkpoint, and finishes first."""
    caplog.set_level(logging.INFO, "lossforecast")
    store = RunStore(tmp_path / "runs.db")  # shared by both
    first = Scripted(store)
    first.go(100)
    saved = first.monitor.state_dict()
    second = Scripted(store, saved)
    second.go(400)
    second.monitor.close()
    (done,) = store.runs()
    first.go(400)
    first.monitor.close()
    own, kept = store.runs()
    assert kept == done
    assert [run.state for run in (own, kept)] == ["finished", "finished"]
    assert own.key == first.monitor._pipeline.monitor.recorder.key  # type: ignore[union-attr]
    assert store.history(own.key).n_observed == 400
    refusals = [each.message for each in caplog.records if "another run continues" in each.message]
    assert len(refusals) == 1


def test_a_run_that_was_stopped_goes_on_in_its_record(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs.db")
    first = Scripted(store)
    first.go(200)
    saved = first.monitor.state_dict()
    first.monitor.close()
    assert [run.state for run in store.runs()] == ["stopped"]
    second = Scripted(store, saved)
    second.go(400)
    second.monitor.close()
    assert [run.state for run in store.runs()] == ["finished"]


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_could_not_be_watched_to_its_end_is_not_finished(tmp_path: Path) -> None:
    """Its losses are nan in the end, or forecasting failed before."""
    store = RunStore(tmp_path / "runs.db")
    broken, failed = Scripted(store), Scripted(store)
    broken.go(395)
    for _ in range(5):
        broken.monitor.step(float("nan"))
        broken.optimizer.step()
    broken.monitor.close()
    failed.go(395)
    failed.monitor.switched_off = True
    failed.go(400)
    failed.monitor.close()
    runs = store.runs()
    assert [run.state for run in runs] == ["stopped", "stopped"]
    assert all(run.outcome != run.outcome for run in runs)


@pytest.mark.parametrize(
    ("until", "state", "in_use"),
    [
        (400, "finished", True),
        pytest.param(210, "stopped", False, marks=pytest.mark.slow),
        pytest.param(400, "finished", False, marks=pytest.mark.slow),
        pytest.param(210, "stopped", True, marks=pytest.mark.slow),
    ],
)
def test_a_loop_that_nobody_closes_is_stored_to_its_end(
    tmp_path: Path, until: int, state: str, in_use: bool
) -> None:
    """Its last losses come after its last forecast, at step 380 or 200."""
    call = f"recorded.train({str(tmp_path / 'runs.db')!r}, until={until})"
    script = f"from support import recorded; {'monitor = ' * in_use}{call}"
    assert run_warm("-c", script, output=tmp_path / "out.txt") == ""
    store = RunStore(tmp_path / "runs.db")
    (run,) = store.runs()
    assert (run.state, run.step) == (state, until - 1)
    assert store.forecasts(run.key)[-1]["made_at"] == until - 1


def test_a_monitor_that_is_let_go_of_ends_its_run(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs.db")
    run = Scripted(store)
    run.go(30)
    del run.monitor
    assert [run.state for run in store.runs()] == ["stopped"]


def test_a_run_that_is_forgotten_is_written_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = RunStore(tmp_path / "runs.db")
    run = Scripted(store)
    run.go(200)
    deadline = time.monotonic() + 30
    while not store.runs() and time.monotonic() < deadline:
        time.sleep(0.02)
    store.forget(store.runs()[0].key)
    run.go(400)
    run.monitor.close()
    assert store.runs() == []
    assert [each for each in warnings_in(caplog) if "is no longer recorded" in each] == warnings_in(
        caplog
    )
    assert len(warnings_in(caplog)) == 1


def test_a_run_that_fails_is_marked(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)

    def loop(error: BaseException) -> None:
        with TorchLossForecast(optimizer, None, 100, store=tmp_path / "runs.db") as monitor:
            for _ in range(30):
                monitor.step(1.0)
                optimizer.step()
            raise error

    for error in (ValueError("the user's own"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            loop(error)
    states = [run.state for run in RunStore(tmp_path / "runs.db").runs()]
    assert states == ["stopped", "failed"]


# ---------------------------------------------------------------------- trouble


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    for wrong, why in (
        (3, "must be True, a path"),
        ("nonsense://somewhere", "nor a database URL"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            train(wrong)
        with pytest.raises(ConfigurationError, match=why):
            LightningLossForecast(store=wrong)  # type: ignore[arg-type]
    assert train(False, until=1)._pipeline.monitor.recorder is None


def test_a_store_that_is_down_is_told_once_and_training_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_LAST_WRITE_TIMEOUT_S", 5.0)
    down = "postgresql+psycopg://me:secret@127.0.0.1:1/runs"
    monitor = train(down)
    assert monitor.forecast is not None
    assert not monitor.switched_off
    first, last = warnings_in(caplog)
    assert "127.0.0.1" in first
    assert "training goes on" in first
    assert "secret" not in first
    assert last == "the end of this run could not be written to the store"


def test_what_a_locked_store_could_not_take_comes_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds the file for half of the run."""
    monkeypatch.setattr("lossforecast.store.engines._SQLITE_WRITE_LOCK_TIMEOUT_S", 0.1)
    RunStore(tmp_path / "runs.db")
    raw = sqlite3.connect(tmp_path / "runs.db", isolation_level=None, check_same_thread=False)
    raw.execute("BEGIN IMMEDIATE")
    free = threading.Timer(1.0, raw.execute, ["ROLLBACK"])
    free.start()
    train(tmp_path / "runs.db", pause=0.004)
    free.join()
    raw.close()
    assert len(warnings_in(caplog)) == 1
    assert "locked" in warnings_in(caplog)[0]
    store = RunStore(tmp_path / "runs.db")
    (run,) = store.runs()
    assert run.state == "finished"
    assert [row["made_at"] for row in store.forecasts(run.key)] == [*range(19, 400, 20)]


def test_no_decision_is_lost_while_the_store_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decisions come later than the validation losses that they are made from."""
    monkeypatch.setattr("lossforecast.store.engines._SQLITE_WRITE_LOCK_TIMEOUT_S", 0.1)
    RunStore(tmp_path / "runs.db")
    raw = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    raw.execute("BEGIN IMMEDIATE")
    messages = iter(f"scripted {i}" for i in range(10))

    def policy(situation: Any) -> Recommendation:
        message = next(messages)
        action = Action.CONTINUE if message[-1] in "02468" else Action.ABSTAIN
        return Recommendation(action, Reason.NO_ROOM, message)

    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
    with TorchLossForecast(
        optimizer,
        None,
        100,
        metric="val",
        every_n_steps=10,
        policy=policy,
        store=tmp_path / "runs.db",
    ) as monitor:
        for step in range(100):
            if step % 25 == 0:
                monitor.validation(2.0 + (step + 5.0) ** -0.5)
            monitor.step(1.0)
            optimizer.step()
        raw.execute("ROLLBACK")
    raw.close()
    store = RunStore(tmp_path / "runs.db")
    (run,) = store.runs()
    assert [row["step"] for row in store.decisions(run.key)] == [*range(10, 101, 10)]


def test_whatever_goes_wrong_with_the_past_training_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(RunStore, "prior", fail)
    assert train(tmp_path / "runs.db").forecast is not None
    assert [each.split(";")[0] for each in warnings_in(caplog)] == ["a bug"]
    assert [run.state for run in RunStore(tmp_path / "runs.db").runs()] == ["finished"]


def test_what_waits_for_a_store_that_is_down_stays_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "_LAST_WRITE_TIMEOUT_S", 5.0)
    monkeypatch.setattr(flush, "_MAX_WAITING_FORECASTS", 10)
    waiting: list[Any] = []
    written = recorder.RunRecorder._write

    def watched(self: Any, flush: Any) -> None:
        waiting.append(flush.forecasts)
        written(self, flush)

    monkeypatch.setattr(recorder.RunRecorder, "_write", watched)
    train("postgresql+psycopg://me@127.0.0.1:1/runs", every_n_steps=5)  # 80 forecasts
    assert max(len(each) for each in waiting) <= 10
    made = [row["made_at"] for row in waiting[-1]]
    assert made[-1] == 399
    assert made[0] < 200
    assert made == sorted(made)
    assert len(json.dumps(waiting[-1])) < 10_000  # plain rows, not whole forecasts


def test_a_file_that_is_no_store_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("some notes\n" * 500)
    monitor = train(notes)
    assert monitor.forecast is not None
    assert "not a database" in warnings_in(caplog)[0]
    assert notes.read_text() == "some notes\n" * 500


def test_a_killed_run_loses_no_more_than_the_last_flush(tmp_path: Path) -> None:
    writer = WarmProcess(SCRIPT, tmp_path / "runs.db", "killed", output=tmp_path / "out.txt")
    deadline = time.monotonic() + 120
    kept: list[dict[str, Any]] = []
    while len(kept) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
        if (tmp_path / "runs.db").exists() and RunStore(tmp_path / "runs.db").runs():
            store = RunStore(tmp_path / "runs.db")
            kept = store.forecasts(store.runs()[0].key)
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
    store = RunStore(tmp_path / "runs.db")
    (run,) = store.runs()
    assert run.state == "running"
    made = [row["made_at"] for row in store.forecasts(run.key)]
    assert made == [20 * n - 1 for n in range(1, len(made) + 1)]
    assert len(made) >= 5
    assert run.step in (made[-1], store.history(run.key).last_step)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_only_the_first_of_two_processes_writes(tmp_path: Path) -> None:
    torchrun(SCRIPT, tmp_path / "runs.db", "together", limit=240)
    store = RunStore(tmp_path / "runs.db")
    (run,) = store.runs()
    assert (run.state, run.step) == ("finished", 399)
    assert [row["made_at"] for row in store.forecasts(run.key)] == [*range(19, 400, 20)]


# ---------------------------------------------------------------------- Lightning


class Module(pl.LightningModule):
    """Falls towards 2, and maybe fails."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.fail_at = fail_at

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == self.fail_at:
            raise ValueError("the user's own")
        still: torch.Tensor = (self.weight - self.weight.detach()).sum()
        return still + float(2 + 3 / (self.global_step + 5.0) ** 0.5)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", 2 + 3 / (self.global_step + 5.0) ** 0.5)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, *callbacks: Any, fail_at: int | None = None, **options: Any) -> pl.Trainer:
    data = loader(100)
    trainer = trainer_of(
        *callbacks,
        default_root_dir=folder,
        max_steps=200,
        val_check_interval=20,
        logger=True,
        enable_checkpointing=True,
        **options,
    )
    trainer.fit(Module(fail_at), data, loader(1))
    return trainer


@pytest.mark.filterwarnings("ignore")
def test_lightning_runs_are_recorded_under_their_names(tmp_path: Path) -> None:
    where = tmp_path / "runs.db"
    about = RunInfo(project="light")
    for monitor in (None, "val_loss"):
        fit(tmp_path, LightningLossForecast(monitor, store=where, run=about, every_n_steps=20))
    store = RunStore(where)
    val, train_ = store.runs()
    assert (val.run.metric, val.run.monitor, val.name) == (
        "val",
        "val_loss",
        "lightning_logs/version_1",
    )
    assert (train_.run.metric, train_.run.monitor) == ("train", None)
    assert (val.run.model, val.run.n_params) == ("Module", 4)
    assert [run.state for run in (val, train_)] == ["finished", "finished"]
    with pytest.raises(ValueError, match="own"):
        fit(tmp_path, LightningLossForecast(store=where, run=about, every_n_steps=20), fail_at=150)
    assert store.runs()[0].state == "failed"
    callback = LightningLossForecast(store=where, run=about, every_n_steps=20)
    fit(tmp_path, callback)
    assert callback.forecaster is not None
    assert [past.name for past in callback.forecaster.prior.past] == [train_.key]


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_lightning_run_goes_on_in_its_record(tmp_path: Path) -> None:
    where = tmp_path / "runs.db"
    saver = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=60, save_top_k=-1)
    with pytest.raises(ValueError, match="own"):
        fit(tmp_path, LightningLossForecast(store=where, every_n_steps=10), saver, fail_at=130)
    trainer = trainer_of(LightningLossForecast(store=where, every_n_steps=10), max_steps=200)
    data = loader(100)
    (path,) = tmp_path.glob("*step=120.ckpt")
    trainer.fit(Module(), data, ckpt_path=path, weights_only=False)
    store = RunStore(where)
    (run,) = store.runs()
    assert run.state == "finished"
    made = [row["made_at"] for row in store.forecasts(run.key)]
    assert made == sorted(set(made))
    assert json.dumps(run.run.project)
