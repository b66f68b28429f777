"""record_runs.py on short runs, and the runs that it recorded."""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from own_optimizers import optimizers_of
from own_runs import MAX_RISE, MIN_LOSS, Curve, Recording, completion_of, record
from own_settings import OPTIMIZERS, SCHEDULES, Settings, draw_settings, scheduler_of
from own_tasks import TASKS
from record_runs import RESULTS, main

from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.runs import outcome_of_curve

SCRIPT = Path(__file__).with_name("record_runs.py")
README = Path(__file__).with_name("README.md")
PACKED = (RESULTS / "own_runs.npz", RESULTS / "own_runs.json")
QUICK = (
    *("pictures cnn", "digits vae", "letters lstm", "cancer table", "clicks"),
    *("modular addition", "sparse parity"),
)


def settings_of(task: str, run: int = 0, steps: int = 40) -> Settings:
    return replace(draw_settings(task, TASKS[task].choices, run), total_steps=steps)


def recorded(task: str, run: int = 0, steps: int = 40) -> Recording:
    return record(TASKS[task], settings_of(task, run, steps))


# ---------------------------------------------------------------------- settings


def rates_of(settings: Settings) -> Sequence[float]:
    """The learning rate of every step."""
    weight = torch.nn.Linear(1, 1)
    (optimizer,) = optimizers_of("AdamW", weight, settings.peak_lr, 0.0)
    scheduler = scheduler_of(settings, optimizer)
    rates = []
    for _ in range(settings.total_steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "options", "at_half", "at_end"),
    [
        ("cosine", {"end": 0.1}, 0.55, 0.1),
        ("linear", {"end": 0.0}, 0.5, 0.0),
        ("wsd", {"decay": 0.2}, 1.0, 0.0),
        ("step_decay", {"milestones": [0.4, 0.75], "factor": 10.0}, 0.1, 0.01),
        ("constant", {}, 1.0, 1.0),
        ("exponential", {"end": 0.01}, 0.1, 0.01),
        ("inverse_sqrt", {"hold": 0.02}, 0.2, 0.02**0.5),
        ("polynomial", {"power": 2.0}, 0.25, 0.0),
        ("restarts", {"cycles": 2, "growth": 1}, 1.0, 0.0),
        ("one_cycle", {"rise": 0.3}, 0.81, 0.0),
    ],
)
def test_schedules_follow_their_formula(
    schedule: str, options: dict[str, object], at_half: float, at_end: float
) -> None:
    drawn = replace(
        settings_of("sparse parity", steps=1_000),
        schedule=schedule,
        options=options,
        peak_lr=1.0,
        warmup=0.3 if schedule == "one_cycle" else 0.0,
    )
    rates = rates_of(drawn)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[500] == pytest.approx(at_half, abs=0.01)
    assert rates[-1] == pytest.approx(at_end, abs=0.01)


def test_a_warm_up_comes_before_every_other_schedule() -> None:
    for schedule in sorted(set(SCHEDULES) - {"one_cycle"}):
        drawn = next(
            each
            for each in (settings_of("clicks", run, steps=1_000) for run in range(400))
            if each.schedule == schedule and each.warmup_steps >= 20
        )
        rates = rates_of(drawn)
        rise = np.arange(1, drawn.warmup_steps + 1) / (drawn.warmup_steps + 1)
        assert rates[: drawn.warmup_steps] == pytest.approx(rise * drawn.peak_lr, rel=1e-6)
        assert rates[drawn.warmup_steps] == pytest.approx(drawn.peak_lr)


def test_settings_are_drawn_alike_and_every_run_differs() -> None:
    drawn = [draw_settings("clicks", TASKS["clicks"].choices, run) for run in range(60)]
    again = [draw_settings("clicks", TASKS["clicks"].choices, run) for run in range(60)]
    assert drawn == again
    assert len({each.seed for each in drawn}) == 60
    assert len({each.total_steps for each in drawn if each.in_sweep}) == 1
    assert len({each.total_steps for each in drawn if not each.in_sweep}) > 20
    assert {each.optimizer for each in drawn} == set(OPTIMIZERS) - {"Muon"}
    assert {each.schedule for each in drawn} == set(SCHEDULES)


# ---------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    "task",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in TASKS],
)
def test_every_task_trains(task: str) -> None:
    run = recorded(task, steps=12)
    assert run.train.step.tolist() == run.val.step.tolist() == list(range(1, 13))
    assert np.isfinite(run.train.loss).all()
    assert np.isfinite(run.val.loss).all()
    assert np.ptp(run.val.loss) > 0
    assert 1_000 <= run.entry["n_params"] <= 1_000_000


def test_a_run_is_the_same_again() -> None:
    first, second = (recorded("pictures transformer", run=3, steps=8) for _ in range(2))
    other = recorded("pictures transformer", run=5, steps=8)
    for one, same, different in (
        (first.train, second.train, other.train),
        (first.val, second.val, other.val),
    ):
        np.testing.assert_array_equal(one.loss, same.loss)
        np.testing.assert_array_equal(one.lr, same.lr)
        assert not np.array_equal(one.loss, different.loss)


def test_training_losses_are_means_between_the_recorded_steps() -> None:
    """The same run of 40 steps in 40 and in 10 bins."""
    whole = recorded("graphs", run=1).train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("own_runs.TRAIN_BINS", 10)
        binned = recorded("graphs", run=1).train
    assert binned.step.tolist() == list(range(4, 41, 4))
    np.testing.assert_allclose(binned.loss, whole.loss.reshape(10, 4).mean(1), rtol=1e-5)
    np.testing.assert_array_equal(binned.lr, whole.lr[3::4])


def test_a_run_that_diverges_is_recorded_to_its_end() -> None:
    settings = replace(
        settings_of("taught regression"), optimizer="SGD", peak_lr=1e6, schedule="linear"
    )
    run = record(TASKS["taught regression"], replace(settings, options={"end": 0.0}))
    assert run.train.step[-1] == 40
    assert np.isfinite(run.train.loss[0])
    assert np.isnan(run.train.loss[-1])
    assert np.isnan(run.val.loss[-1])
    assert (run.train.lr >= 0).all()
    assert run.entry["completion"].startswith("diverged by step ")


@pytest.mark.parametrize(
    ("losses", "completion"),
    [
        ([2.0, 2.1, 1.0, 0.5], "reached the last step"),
        ([2.0, 2 * MAX_RISE, 19.0, 18.0], "reached the last step"),
        ([2.0, 21.0, 1.0, 0.5], "diverged by step 20"),
        ([2.0, 1.0, np.nan, np.nan], "diverged by step 30"),
        ([2.0, 1.0, 2 * MIN_LOSS, MIN_LOSS / 2], "fell below 1e-06 by step 40"),
    ],
)
def test_the_completion_says_why_a_run_has_no_outcome(losses: list[float], completion: str) -> None:
    step = np.arange(10, 50, 10)
    curve = Curve(step, np.ones(4), np.array(losses, np.float32))
    assert completion_of(curve) == completion


@pytest.fixture
def script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs record_runs.py with these arguments and returns what it prints."""

    def run(*arguments: str) -> str:
        folders = [f"--work={tmp_path / 'work'}", f"--out={tmp_path / 'out'}"]
        monkeypatch.setattr(sys, "argv", ["record_runs.py", *folders, *arguments])
        threads = torch.get_num_threads()
        try:
            main()
        finally:
            torch.set_num_threads(threads)
        return capsys.readouterr().out

    return run


def test_an_interrupted_recording_goes_on(script: Callable[..., str], tmp_path: Path) -> None:
    chosen = ("--runs-per-task=2", "--steps=60", "--tasks", "sparse parity", "weak regression")
    said = script(*chosen)
    assert re.findall(r"(\d/\d) ([a-z ]+ \d): 60 steps", said) == [
        ("1/4", "sparse parity 0"),
        ("2/4", "weak regression 0"),
        ("3/4", "sparse parity 1"),
        ("4/4", "weak regression 1"),
    ]
    before = load_curves(tmp_path / "out")
    (tmp_path / "work" / "weak-regression-0.json").unlink()
    assert "3 of 4 runs" in script("--pack", *chosen)
    assert "1/1 weak regression 0: 60 steps" in script(*chosen)
    after = load_curves(tmp_path / "out")
    assert len(after) == len(before) == 8
    for one, same in zip(before, after, strict=True):
        assert one.run_id == same.run_id
        np.testing.assert_array_equal(one.loss, same.loss)


@pytest.mark.slow
def test_the_script_runs_in_any_folder(run_python: Callable[..., str], tmp_path: Path) -> None:
    few = ("--tasks", "weak regression", "--runs-per-task=1", "--steps=20")
    said = run_python(str(SCRIPT), "--work=work", "--out=out", *few, cwd=tmp_path)
    assert "1 of 1 runs in out/own_runs.npz" in said
    assert len(load_curves(tmp_path / "out")) == 2


def test_live_forecasts_are_printed_with_what_came(script: Callable[..., str]) -> None:
    said = script("--live=2", "--steps=120", "--tasks", "sparse parity", "weak regression")
    runs = re.findall(r"^([a-z ]+ 100\d): 120 steps of", said, re.MULTILINE)
    assert runs == ["sparse parity 1000", "weak regression 1001"]
    lines = re.findall(r"^  (val|train) +(\d+)% .* outcome [\d.]+ +(held|missed)$", said, re.M)
    assert len(lines) == 2 * 2 * 4
    totals = re.findall(r"^ *(\d+)%  (val|train) +2 +[\d.]+% +(\d+)%$", said, re.MULTILINE)
    held = {(seen, metric): 0 for metric, seen, _ in lines}
    for metric, seen, word in lines:
        held[seen, metric] += word == "held"
    assert {(seen, metric): int(share) for seen, metric, share in totals} == {
        key: 50 * count for key, count in held.items()
    }


# ---------------------------------------------------------------------- the recorded runs


@pytest.fixture(scope="module")
def runs() -> list[RecordedRun]:
    return [run for run in load_curves(RESULTS) if run.source == "own_runs"]


def test_the_recorded_runs_are_as_many_and_as_large_as_the_readme_says(
    runs: list[RecordedRun],
) -> None:
    sizes = [run.metadata["n_params"] for run in runs]
    lengths = [run.total_steps for run in runs]
    n_runs, n_tasks = len({run.cluster for run in runs}), len({run.fold for run in runs})
    claim = (
        f"hold {n_runs} runs of {n_tasks} tasks on a CPU, with {min(sizes):,} to {max(sizes):,} "
        f"parameters and {min(lengths):,} to {max(lengths):,} steps"
    )
    assert claim in " ".join(README.read_text("utf-8").split())
    assert (n_runs, n_tasks) == (sum(task.runs for task in TASKS.values()), len(TASKS))
    assert len(runs) == 2 * n_runs
    assert sum(path.stat().st_size for path in PACKED) <= 5e6


def test_the_recorded_runs_are_described(runs: list[RecordedRun]) -> None:
    for run in runs:
        assert run.schedule_type in SCHEDULES
        assert run.optimizer in OPTIMIZERS
        assert run.group == f"small model {run.metric}"
        assert run.step[-1] == run.total_steps
        assert run.fold == run.metadata["task"]
        assert run.metadata["language_model"] in (None, "causal", "masked")
    assert {run.schedule_type for run in runs} == set(SCHEDULES)
    assert {run.optimizer for run in runs} == set(OPTIMIZERS)


def test_every_task_has_both_losses_a_sweep_and_several_lengths(runs: list[RecordedRun]) -> None:
    for fold in {run.fold for run in runs}:
        chosen = [run for run in runs if run.fold == fold]
        metrics = [run.metric for run in chosen]
        assert metrics.count("train") == metrics.count("val") >= 8
        assert len({run.sweep for run in chosen} - {None}) == 1
        assert sum(run.sweep is not None for run in chosen if run.metric == "val") >= 4
        assert len({run.total_steps for run in chosen}) >= 4


def test_all_recorded_runs_but_four_have_an_outcome(runs: list[RecordedRun]) -> None:
    assert {run.cluster for run in runs if not run.completed} == {
        "modular addition 2",
        "patches autoencoder 7",
        "recommender 1",
        "recommender 10",
    }
    for run in runs:
        if run.metric == "train":
            curve = Curve(run.step, run.lr, run.loss.astype(np.float32))
            assert run.metadata["completion"] == completion_of(curve)
        if run.completed:
            assert np.isfinite(run.loss).all()
            assert outcome_of_curve(run.step, run.loss, run.total_steps) is not None


def test_the_recorded_rates_are_those_of_the_schedules(runs: list[RecordedRun]) -> None:
    """The first run of every task; its settings can be drawn again."""
    first = {run.cluster: run for run in runs if run.cluster == f"{run.fold} 0"}
    assert len(first) == len(TASKS)
    for run in first.values():
        drawn = draw_settings(run.fold, TASKS[run.fold].choices, 0)
        assert (run.optimizer, run.total_steps) == (drawn.optimizer, drawn.total_steps)
        rates = np.array(rates_of(drawn))[run.step - 1]
        np.testing.assert_allclose(run.lr, rates, rtol=1e-5, atol=1e-7 * drawn.peak_lr)


@pytest.mark.slow
def test_recorded_runs_are_made_again(runs: list[RecordedRun]) -> None:
    """The first losses of some runs; later ones differ between processors."""
    for task in ("taught regression", "sparse parity", "graphs"):
        settings = draw_settings(task, TASKS[task].choices, 0)
        again = record(TASKS[task], settings)
        (kept,) = (run for run in runs if run.cluster == settings.name and run.metric == "val")
        np.testing.assert_array_equal(kept.step, again.val.step)
        np.testing.assert_allclose(kept.lr, again.val.lr, rtol=1e-6)
        np.testing.assert_allclose(kept.loss[:3], again.val.loss[:3], rtol=1e-3)
