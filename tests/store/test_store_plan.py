"""`RunStore.plan` and the command `plan`."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from support.command_line import result_of, run, written_by
from support.families import info_of, losses_of, plan_of, run_of

from lossforecast import ConfigurationError, LRSchedule, RunInfo, RunStore
from lossforecast.store import plot_plan

LARGE = 4e8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Two sizes with two lengths each."""
    made = RunStore(tmp_path_factory.mktemp("store") / "runs.db")
    for size in (1e8, 2e8):
        for length in (0.5, 1.0):
            plan, steps, losses = run_of(size, length=length)
            made.add(f"{size:g} x {length:g}", info_of(size), plan, steps, losses)
    return made


def test_a_run_and_its_splits_are_predicted(store: RunStore) -> None:
    schedule = plan_of(LARGE)
    found = store.plan(info_of(LARGE), schedule)
    end = losses_of(LARGE, schedule, [schedule.total_steps], noise=0.0)[0]
    assert found.forecast.median == pytest.approx(end, rel=0.01)
    assert found.n_smaller_runs == 4
    compute = [split.n_params * split.total_steps for split in found.splits]
    assert np.ptp(compute) < 1e-3 * compute[0]
    sizes = [split.n_params for split in found.splits]
    assert sizes == sorted(sizes)
    assert LARGE in sizes
    same = found.splits[sizes.index(LARGE)]
    assert same.final_loss == found.forecast.median
    assert found.best_split is not None
    assert all(found.best_split.final_loss <= split.final_loss for split in found.splits)
    assert all(split.final_loss.lower < split.final_loss.upper for split in found.splits)


def test_splits_far_from_the_runs_are_predicted_with_honest_width(tmp_path: Path) -> None:
    made = RunStore(tmp_path / "runs.db")
    for size in (28e3, 44e3, 84e3, 137e3, 279e3):
        plan = small_plan(size)
        steps = np.unique(np.linspace(plan.total_steps / 40, plan.total_steps, 40).astype(int))
        noise = np.exp(np.random.default_rng(0).normal(0, 0.003, steps.size))
        made.add(f"{size:g}", small_info(size), plan, steps, loss_of_laws(size, steps) * noise)
    found = made.plan(small_info(585e3), small_plan(585e3))
    for split in found.splits:
        end = loss_of_laws(split.n_params, split.total_steps)
        assert split.final_loss.lower < end < split.final_loss.upper


def small_info(n_params: float) -> RunInfo:
    return RunInfo(
        "val", "adamw", "bytes", "language modelling", n_params=n_params, batch_size=1024
    )


def small_plan(n_params: float) -> LRSchedule:
    """A cosine of ten tokens per parameter."""
    total = round(10 * n_params / 1024)
    return LRSchedule.cosine(total, 3e-3, end=3e-4, warmup=total // 20)


def loss_of_laws(n_params: float, steps: ArrayLike) -> NDArray[np.float64]:
    """``0.8 + 7.75 N^-0.2 + 26 D^-0.3``: the law of Hoffmann et al. 2022 (arXiv:2203.15556)."""
    loss: NDArray[np.float64] = (
        0.8 + 7.75 * n_params**-0.2 + 26 * (1024 * np.asarray(steps)) ** -0.3
    )
    return loss


def test_the_picture_shows_every_size_the_plan_and_its_splits(store: RunStore) -> None:
    found = store.plan(info_of(LARGE), plan_of(LARGE))
    courses, splits = plot_plan(found).axes
    _, names = courses.get_legend_handles_labels()
    assert names == ["100M", "200M", "planned: 400M"]
    assert len(courses.lines) == 5
    compute = 6 * LARGE * plan_of(LARGE).total_steps
    x, y = np.asarray(courses.lines[-1].get_data())
    assert x[-1] == pytest.approx(compute * (info_of(LARGE).batch_size or 1))
    assert y[-1] == pytest.approx(found.forecast.median)
    assert splits.lines[0].get_ydata() == pytest.approx([float(s.final_loss) for s in found.splits])


def test_the_picture_of_a_run_of_unknown_size_is_over_steps(store: RunStore) -> None:
    unknown = RunInfo("val", "adamw", "family", "language modelling", dataset="web")
    found = store.plan(unknown, plan_of(1e8))
    (courses,) = plot_plan(found).axes
    assert courses.get_xlabel() == "optimizer step"
    assert np.asarray(courses.lines[-1].get_xdata())[-1] == plan_of(1e8).total_steps


def test_the_command_draws_the_picture(store: RunStore, tmp_path: Path) -> None:
    arguments = (
        *("--store", store.full_url, "--project", "family", "--dataset", "web"),
        *("--schedule", "cosine:peak=0.001", "--total-steps", 8000, "--optimizer", "adamw"),
    )
    picture = tmp_path / "plan.png"
    run("plan", *arguments, "--plot", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    refused = run("plan", *arguments, "--plot", tmp_path / "plan.txt")
    assert refused.returncode != 0
    assert "its name must end in one of" in refused.stderr


def test_without_a_size_there_are_no_splits(store: RunStore) -> None:
    unknown = RunInfo("val", "adamw", "family", "language modelling", dataset="web")
    assert store.plan(unknown, plan_of(1e8)).splits == ()


def test_sweeps_in_the_store_tell_the_best_rate(store: RunStore, tmp_path: Path) -> None:
    assert store.plan(info_of(LARGE), plan_of(LARGE)).best_peak is None
    made = RunStore(tmp_path / "runs.db")
    for size in (1e8, 2e8):
        plan, steps, losses = run_of(size)
        for factor, excess in ((0.25, 0.02), (0.5, 0.005), (1.0, 0.0), (2.0, 0.005)):
            scaled = plan.scaled_from(0, factor)
            made.add(f"{size:g}, {factor}", info_of(size), scaled, steps, losses * (1 + excess))
    found = made.plan(info_of(LARGE), plan_of(LARGE))
    assert found.best_batch is None
    assert found.best_peak is not None
    assert (found.best_peak.n_sweeps, found.best_peak.n_runs) == (2, 8)
    assert found.best_peak.best.lower < 1e-3 < found.best_peak.best.upper
    arguments = (
        *("--store", made.full_url, "--project", "family", "--dataset", "web"),
        *("--n-params", int(LARGE), "--task", "language modelling", "--optimizer", "adamw"),
        *("--schedule", "cosine:peak=0.001,end=0.0001,warmup=800"),
        *("--total-steps", plan_of(LARGE).total_steps),
    )
    written = result_of("plan", *arguments)
    assert written["best_batch"] is None
    assert written["best_peak"]["median"] == pytest.approx(float(found.best_peak.best))
    assert written["best_peak"]["cost_of_factor_2"]["median"] == pytest.approx(0.005, rel=0.3)
    shown = run("plan", *arguments).stdout
    assert "peak rate" in shown
    assert "2 (8 runs)" in shown


def test_an_optimum_beyond_the_rates_tried_is_noted(tmp_path: Path) -> None:
    made = RunStore(tmp_path / "runs.db")
    plan, steps, losses = run_of(1e8)
    for factor in (0.25, 0.5, 1.0):
        scaled = plan.scaled_from(0, factor)
        made.add(f"{factor}", info_of(1e8), scaled, steps, losses * (1.02 - 0.02 * factor))
    done = run(
        *("plan", "--store", made.full_url, "--project", "family", "--dataset", "web"),
        *("--n-params", int(1e8), "--task", "language modelling", "--optimizer", "adamw"),
        *("--schedule", "cosine:peak=0.001", "--total-steps", plan.total_steps),
    )
    assert done.returncode == 0, done.stderr
    assert "the optimum lies beyond the values tried" in done.stderr


def test_nothing_to_plan_from_is_an_error(store: RunStore) -> None:
    with pytest.raises(ConfigurationError, match="nothing to plan from"):
        store.plan(RunInfo("val", project="unheard of"), plan_of(1e8))


def test_the_command_prints_and_writes_the_plan(store: RunStore, tmp_path: Path) -> None:
    out, total = tmp_path / "plan.json", plan_of(LARGE).total_steps
    arguments = (
        *("--store", store.full_url, "--project", "family", "--dataset", "web"),
        *("--n-params", int(LARGE), "--task", "language modelling", "--optimizer", "adamw"),
        *("--schedule", f"cosine:peak=0.001,end=0.0001,warmup={total // 50}"),
    )
    done = run("plan", *arguments, "--total-steps", total, "--json", out)
    assert done.returncode == 0, done.stderr
    found = written_by("plan", out.read_text())
    expected = store.plan(info_of(LARGE), plan_of(LARGE))
    assert found["median"] == pytest.approx(expected.forecast.median, rel=1e-3)
    assert found["course"][-1]["median"] == pytest.approx(found["median"], rel=1e-9)
    assert len(found["splits"]) == len(expected.splits)
    assert "from 4 smaller runs" in done.stdout
    refused = run("plan", *arguments)
    assert refused.returncode != 0
    assert "--total-steps" in refused.stderr
