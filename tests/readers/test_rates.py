"""Logged learning rates: the column that counts, and the schedule that they tell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.log_files import loss_at
from transformers import get_scheduler

from lossforecast import Caveat, LRSchedule
from lossforecast.readers import Log, read_log
from lossforecast.readers.rate_shape import rate_shape

TOTAL = 4_000
SCHEDULES = {
    "linear": LRSchedule.linear(TOTAL, 1e-4, warmup=100),
    "linear to a tenth": LRSchedule.linear(TOTAL, 3e-4, end=3e-5),
    "cosine": LRSchedule.cosine(TOTAL, 2e-5, warmup=120),
    "cosine to a tenth": LRSchedule.cosine(TOTAL, 6e-4, end=6e-5, warmup=37),
    "stable, then linear": LRSchedule.wsd(TOTAL, 1e-3, warmup=50, decay_fraction=0.9),
}


def write_log(
    path: Path, rates: np.ndarray[Any, Any], steps: np.ndarray[Any, Any], digits: int = 17
) -> Log:
    rows = [
        f"{step},{loss_at(step)},{rate:.{digits}g}"
        for step, rate in zip(steps.tolist(), rates.tolist(), strict=True)
    ]
    path.write_text("\n".join(["step,loss,lr", *rows, ""]))
    return read_log(path)


@pytest.mark.parametrize("digits", [4, 17])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("seen", [0.25, 0.7])
def test_a_decay_that_was_seen_tells_the_rest(
    tmp_path: Path, name: str, seen: float, shift: int, digits: int
) -> None:
    """`shift` 1: the rate of the next step is logged, as by the Hugging Face Trainer."""
    schedule = SCHEDULES[name]
    steps = np.arange(25, round(seen * TOTAL) + 1, 25)
    log = write_log(tmp_path / "log.csv", schedule.lr(steps + shift), steps, digits)
    shape = log.rate_shape(TOTAL)
    assert shape is not None
    assert shape.schedule is not None
    assert shape.description.endswith("at 4,000")
    assert shape.description.startswith("cosine" if "cosine" in name else "linear")
    assert shape.distance < 3e-3
    plan = log.plan(TOTAL)
    assert plan.caveats == frozenset()
    ahead = np.arange(steps[-1] + 1, TOTAL + 1)
    np.testing.assert_allclose(plan.lr(ahead), schedule.lr(ahead), atol=0.02 * schedule.peak)


def polynomial(power: float) -> np.ndarray[Any, Any]:
    """The rates of a polynomial decay after a warm-up, (TOTAL,)."""
    t = np.arange(1, TOTAL + 1)
    rates: np.ndarray[Any, Any] = 1e-3 * (1 - np.clip((t - 100) / (TOTAL - 100), 0, 1)) ** power
    return np.where(t <= 100, 1e-3 * t / 100, rates)


OTHER_DECAYS = {
    "polynomial of power 0.9": polynomial(0.9),
    "polynomial of power 2": polynomial(2.0),
    "1 - sqrt": LRSchedule.wsd(TOTAL, 1e-3, decay_fraction=0.6, shape="sqrt").lr(
        np.arange(1, TOTAL + 1)
    ),
    "steps by a factor of 0.5 every 500": 1e-3 * 0.5 ** (np.arange(TOTAL) // 500),
    "steps by a factor of 0.95 every 100": 1e-3 * 0.95 ** (np.arange(TOTAL) // 100),
    "steps by a factor of 0.999 every 1": 1e-3 * 0.999 ** np.arange(TOTAL),
}


@pytest.mark.parametrize("name", OTHER_DECAYS)
@pytest.mark.parametrize("seen", [0.5, 0.75])
def test_other_decays_are_recognised(tmp_path: Path, name: str, seen: float) -> None:
    rates = OTHER_DECAYS[name]
    steps = np.arange(25, round(seen * TOTAL) + 1, 25)
    log = write_log(tmp_path / "log.csv", rates[steps - 1], steps)
    shape = log.rate_shape(TOTAL)
    assert shape is not None
    words = name.replace("0.999 every 1", "0.975 every 25")  # one step between two logs
    assert shape.description.startswith(words)
    plan = log.plan(TOTAL)
    assert plan.caveats == frozenset()
    ahead = np.arange(steps[-1] + 1, TOTAL + 1)
    away = np.abs(plan.lr(ahead) - rates[ahead - 1])
    assert np.mean(away) < 0.005 * rates.max(), "drops are known to half a log interval"


@pytest.mark.parametrize(
    "schedule",
    [
        LRSchedule.constant(TOTAL, 1e-3, warmup=100),
        LRSchedule.inverse_sqrt(TOTAL, 1e-3, warmup=100),
        LRSchedule.step_decay(TOTAL, 1e-3, milestones=[500, 800]),
        LRSchedule.linear(600, 1e-3).extended_to(TOTAL),
        LRSchedule.linear(2_000, 1e-3).extended_to(TOTAL),
        LRSchedule.wsd(TOTAL, 1e-3, warmup=50),
        LRSchedule.constant(TOTAL, 0.0),
    ],
)
def test_other_rates_are_held(tmp_path: Path, schedule: LRSchedule) -> None:
    steps = np.arange(10, 1_001, 10)
    log = write_log(tmp_path / "log.csv", schedule.lr(steps), steps)
    assert log.rate_shape(TOTAL) is None
    plan = log.plan(TOTAL)
    assert plan.caveats == {Caveat.LR_ASSUMED}
    assert plan.lr([TOTAL])[0] == pytest.approx(schedule.lr([1_000])[0])


def test_noise_on_the_rates_tells_nothing(tmp_path: Path) -> None:
    steps = np.arange(10, 1_001, 10)
    noise = 1 + 0.01 * np.random.default_rng(0).normal(size=steps.size)
    rates = SCHEDULES["linear"].lr(steps) * noise
    assert write_log(tmp_path / "log.csv", rates, steps).rate_shape(TOTAL) is None


def test_decays_that_cannot_be_told_apart_are_both_named(tmp_path: Path) -> None:
    steps = np.arange(20, 301, 20)
    rates = LRSchedule.cosine(TOTAL, 1e-3, end=1e-4).lr(steps)
    log = write_log(tmp_path / "log.csv", rates, steps, digits=4)
    shape = log.rate_shape(TOTAL)
    assert shape is not None
    assert shape.schedule is None
    assert shape.description == "cosine to 0..0.0001 at 4,000"
    assert log.plan(TOTAL).caveats == {Caveat.LR_ASSUMED}


def test_a_schedule_that_is_given_counts(tmp_path: Path) -> None:
    steps = np.arange(25, 1_001, 25)
    log = write_log(tmp_path / "log.csv", SCHEDULES["linear"].lr(steps), steps)
    given = LRSchedule.constant(TOTAL, 5e-5)
    assert log.plan(planned=given).lr([TOTAL])[0] == 5e-5


def test_a_run_that_is_over_needs_no_shape(tmp_path: Path) -> None:
    steps = np.arange(25, TOTAL + 1, 25)
    log = write_log(tmp_path / "log.csv", SCHEDULES["cosine"].lr(steps), steps)
    assert log.rate_shape(TOTAL) is None
    assert log.plan().caveats == frozenset()


@pytest.mark.parametrize("peak", [1e-300, 1e300])
def test_rates_of_any_size_are_compared(peak: float) -> None:
    steps = np.arange(25, 1_001, 25)
    shape = rate_shape(steps, peak * SCHEDULES["linear"].lr(steps), TOTAL)
    assert shape is not None
    assert shape.description == "linear to 0 at 4,000"


@given(
    st.lists(st.floats(0, 1e308), max_size=40),
    st.integers(1, 60),
    st.integers(1, 3),
)
def test_any_rates_have_an_answer(rates: list[float], total: int, every: int) -> None:
    steps = np.arange(1, len(rates) + 1) * every
    shape = rate_shape(steps, np.array(rates), total)
    if shape is not None and shape.schedule is not None:
        assert shape.schedule.total_steps == total


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("linear", "linear to 0 at 600"),
        ("cosine", "cosine to 0 at 600"),
        ("polynomial", "linear to 1e-07 at 600"),
        ("constant_with_warmup", None),
        ("inverse_sqrt", None),
        ("cosine_with_restarts", "cosine to 0 at 600"),  # with one cycle
    ],
)
@pytest.mark.parametrize("seen", [200, 500])
def test_rates_of_the_schedulers_of_transformers(name: str, wanted: str | None, seen: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 2e-5)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=18, num_training_steps=600)
    rates = []
    for _ in range(seen):
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
    steps = np.arange(10, seen + 1, 10)
    shape = rate_shape(steps, np.array(rates)[steps - 1], 600)
    if shape is None or wanted is None:
        assert (shape, wanted) == (None, None)
        return
    assert shape.schedule is not None
    assert shape.description.split()[0] == wanted.split()[0]
    assert shape.schedule.lr([600])[0] == pytest.approx(0, abs=0.01 * 2e-5)


# ---------------------------------------------------------------------- the column


def write_groups(path: Path, **columns: list[float]) -> Log:
    """A log with a rate for each of several parameter groups."""
    n_rows = len(next(iter(columns.values())))
    rows = [
        ",".join(map(str, [i, loss_at(i), *(column[i] for column in columns.values())]))
        for i in range(n_rows)
    ]
    header = ",".join(["step", "loss", *(f"lr/{name}" for name in columns)])
    path.write_text("\n".join([header, *rows, ""]))
    return read_log(path)


FALLING = [0.01 * (1 - i / 60) for i in range(60)]
WARMED_UP = [0.002, 0.004, 0.007, *FALLING[3:]]
WARMED_DOWN = [0.08, 0.05, 0.02, *FALLING[3:]]


def test_a_group_that_only_warms_down_is_not_taken(tmp_path: Path) -> None:
    log = write_groups(tmp_path / "log.csv", pg0=WARMED_DOWN, pg1=WARMED_UP, pg2=WARMED_UP)
    assert (log.rate_column, log.notes) == ("lr/pg1", ())


def test_equal_groups_are_no_matter_of_choice(tmp_path: Path) -> None:
    log = write_groups(tmp_path / "log.csv", pg0=FALLING, pg1=FALLING)
    assert (log.rate_column, log.notes) == ("lr/pg0", ())


def test_groups_that_differ_are_said(tmp_path: Path) -> None:
    halved = [rate / 2 for rate in WARMED_UP]
    log = write_groups(tmp_path / "log.csv", pg0=WARMED_DOWN, pg1=halved, pg2=WARMED_UP)
    assert log.rate_column == "lr/pg2"
    (note,) = log.notes
    assert "using 'lr/pg2' as the learning rate" in note
    assert "--lr-column: 'lr/pg0', 'lr/pg1'" in note


def test_without_a_warm_up_the_largest_is_taken(tmp_path: Path) -> None:
    halved = [rate / 2 for rate in FALLING]
    log = write_groups(tmp_path / "log.csv", pg0=halved, pg1=FALLING, pg2=[0.001] * 60)
    assert log.rate_column == "lr/pg1"
    assert "the largest of 3" in log.notes[0]
