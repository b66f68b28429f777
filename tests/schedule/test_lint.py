"""`lint`: silent on the schedules that people use, one finding on each kind of mistake."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossforecast import LRSchedule
from lossforecast.backtest.curves import load_curves
from lossforecast.schedule.lint import Finding, Flaw, climbs_again, falls_once, lint

N = 10_000


def waves(total: int, period: float, low: float = 0.0) -> LRSchedule:
    """A cosine that goes down and up again, as torch's does past its T_max."""
    phase = 2 * math.pi * np.arange(total) / period
    return LRSchedule.from_array(low + (1 - low) * (1 + np.cos(phase)) / 2)


def restarts(total: int, period: int, factor: int = 1, low: float = 0.0) -> LRSchedule:
    """Cosines with warm restarts, each `factor` times as long as the one before."""
    rates = list[float]()
    while len(rates) < total:
        rates += (low + (1 - low) * (1 + np.cos(np.pi * np.arange(period) / period)) / 2).tolist()
        period *= factor
    return LRSchedule.from_array(rates[:total])


def triangles(total: int, half: int, low: float = 0.1) -> LRSchedule:
    """Up and down in straight lines, from and to `low`."""
    away = np.abs(np.arange(total) % (2 * half) - half) / half
    return LRSchedule.from_array(1 - (1 - low) * away)


def stairs(schedule: LRSchedule, an_epoch: int) -> LRSchedule:
    """The same for a scheduler stepped once an epoch, of which `schedule` has the rates."""
    return LRSchedule.from_array(np.repeat(schedule.to_array(), an_epoch))


def exponential(total: int, end: float) -> LRSchedule:
    return LRSchedule.from_array(end ** (np.arange(total) / (total - 1)))


COSINE = LRSchedule.cosine(N, 1e-3, warmup=200)
STEPS = LRSchedule.constant(N, 1.0)

LEGITIMATE = {
    "constant": STEPS,
    "constant with warm-up": LRSchedule.constant(N, 3e-4, warmup=500),
    "constant 0": LRSchedule.constant(N, 0.0),
    "one step": LRSchedule.constant(1, 0.1),
    "warm-up as long as the run": LRSchedule.constant(N, 0.1, warmup=N),
    "cosine": COSINE,
    "cosine to 10%": LRSchedule.cosine(N, 1e-3, end=1e-4, warmup=200),
    "cosine to a third": LRSchedule.cosine(N, 3e-4, end=1e-4),
    "cosine to 10%, held for the last 13%": LRSchedule.cosine(8_700, 1.0, end=0.1).extended_to(N),
    "cosine of 20 steps": LRSchedule.cosine(20, 1.0, warmup=3),
    "cosine of 10 million steps": LRSchedule.cosine(10**7, 1e-3, end=1e-5, warmup=2_000),
    "cosine stepped each of 5 epochs": stairs(restarts(5, 5), 400),
    "cosine stepped each of 3 epochs": stairs(restarts(3, 3), 400),
    "linear": LRSchedule.linear(N, 5e-5, warmup=600),
    "linear to 10%": LRSchedule.linear(N, 5e-5, end=5e-6),
    "linear stepped each of 3 epochs": stairs(
        LRSchedule.from_array([1.0, 2 / 3, 1 / 3]), an_epoch=333
    ),
    "wsd": LRSchedule.wsd(N, 1e-3, warmup=100),
    "wsd, 5% decay": LRSchedule.wsd(N, 1e-3, decay_fraction=0.05),
    "wsd, sqrt": LRSchedule.wsd(N, 1e-3, shape="sqrt", end=1e-4),
    "wsd, exp": LRSchedule.wsd(N, 1e-3, shape="exp"),
    "drops at 50 and 75%": LRSchedule.step_decay(N, 0.1, milestones=[5_000, 7_500]),
    "drops after 30, 60 and 80 of 100 epochs": LRSchedule.step_decay(
        N, 0.1, milestones=[3_000, 6_000, 8_000]
    ),
    "halved five times": LRSchedule.step_decay(
        N, 0.1, milestones=[1_500, 3_000, 4_500, 6_000, 7_500], factor=0.5
    ),
    "one drop at half": LRSchedule.step_decay(N, 0.1, milestones=[5_000]),
    "one drop to 30%": LRSchedule.step_decay(N, 3e-4, milestones=[5_000], factor=0.3),
    "exponential to 1%": exponential(N, 0.01),
    "exponential to 20%": exponential(N, 0.2),
    "inverse square root": LRSchedule.inverse_sqrt(100_000, 1e-3, warmup=4_000),
    "inverse square root with a final decay": LRSchedule.inverse_sqrt(
        N, 1e-3, warmup=4_000
    ).with_decay(start=9_000),
    "one cycle": LRSchedule.one_cycle(N, 0.1),
    "one cycle stepped each of 4 epochs": stairs(LRSchedule.one_cycle(4, 0.1), an_epoch=100),
    "restarts, the last ends with the run": restarts(N, 2_500),
    "restarts ever longer": restarts(7_000, 1_000, factor=2),
    "20 restarts of 500 steps": restarts(N, 500),
    "triangles": triangles(N, 1_000),
    "many long triangles": triangles(200_000, 2_000),
    "cosine that turned one step before the end": waves(N, 2 * (N - 2)),
    "T_max 5% short": waves(N, 2 * 9_500),
    "second stage from half": STEPS.with_decay(start=4_000, steps=1_000, end=0.1).joined(
        5_000, STEPS.scaled_from(5_000, 0.5)
    ),
}

FAULTY = {
    "cosine for 60% of the run, then 0": (
        LRSchedule.cosine(6_000, 1e-3).extended_to(N),
        Flaw.HORIZON_SHORT,
        ("after 5,9", "of 10,000 steps", "last 40%", "make the schedule for 10,000 steps"),
    ),
    "cosine for 60% of the run, then 10%": (
        LRSchedule.cosine(6_000, 1e-3, end=1e-4).extended_to(N),
        Flaw.HORIZON_SHORT,
        ("down to 0.0001 after 6,000 of", "last 40%"),
    ),
    "linear for 90% of the run, then 0": (
        LRSchedule.linear(9_000, 1e-3).extended_to(N),
        Flaw.HORIZON_SHORT,
        ("after 9,000 of", "last 10%"),
    ),
    "linear for half of the run, then 1%": (
        LRSchedule.linear(5_000, 1e-3, end=1e-5).extended_to(N),
        Flaw.HORIZON_SHORT,
        ("down to 1e-05 after 5,000 of", "last 50%"),
    ),
    "7 of 10 epochs, then 0": (
        stairs(LRSchedule.linear(7, 1.0).extended_to(10), an_epoch=100),
        Flaw.HORIZON_SHORT,
        ("after 601 of 1,000",),
    ),
    "drops at 30, 60 and 80 steps instead of epochs": (
        LRSchedule.step_decay(N, 0.1, milestones=[30, 60, 80]),
        Flaw.HORIZON_SHORT,
        ("after 81 of", "last 99%"),
    ),
    "a factor of 0.9 each step instead of each epoch": (
        LRSchedule.from_array(0.9 ** np.arange(N)),
        Flaw.HORIZON_SHORT,
        ("of 10,000 steps",),
    ),
    "cosine cut at 40%": (
        LRSchedule.cosine(25_000, 1e-3).truncated_to(N),
        Flaw.NEVER_LOW,
        ("ends at 0.000655, 65% of its peak", "for 10,000 steps", "10%"),
    ),
    "linear cut at half": (
        LRSchedule.linear(2 * N, 1e-3, warmup=100).truncated_to(N),
        Flaw.NEVER_LOW,
        ("50% of its peak",),
    ),
    "inverse square root with a long warm-up": (
        LRSchedule.inverse_sqrt(N, 1e-3, warmup=2_000),
        Flaw.NEVER_LOW,
        ("45% of its peak", "end with a decay to 10% of the peak or less"),
    ),
    "the last of the restarts cut": (restarts(N, 1_000, factor=2), Flaw.NEVER_LOW, ("69%",)),
    "cosine that climbs again from 80%": (
        waves(N, 16_000),
        Flaw.RISES_AT_END,
        ("after step 8,001, from 0", "ends at 0.146, 15% of its peak", "at step 10,000"),
    ),
    "cosine that is back at its peak": (waves(N, N), Flaw.RISES_AT_END, ("100% of its peak",)),
    "a restart at the last step": (restarts(N, N - 1), Flaw.RISES_AT_END, ("after step 9,999",)),
    "a restart at 95%": (restarts(N, 9_500), Flaw.RISES_AT_END, ("after step 9,500",)),
    "a triangle that the run cuts on its way up": (
        triangles(N, 1_300),
        Flaw.RISES_AT_END,
        ("after step 7,801",),
    ),
    "140 cosines": (
        waves(28_000, 200),
        Flaw.MANY_CYCLES,
        ("140 times in 28,000 steps, every 200 steps", "epochs", "28,000 for one decay"),
    ),
    "a thousand restarts of 10 steps": (restarts(N, 10), Flaw.MANY_CYCLES, ("in 10,000 steps",)),
}


@pytest.mark.parametrize("schedule", LEGITIMATE.values(), ids=LEGITIMATE.keys())
def test_legitimate_schedules_have_no_finding(schedule: LRSchedule) -> None:
    assert lint(schedule) == ()


@pytest.mark.parametrize(("schedule", "flaw", "words"), FAULTY.values(), ids=FAULTY.keys())
def test_a_faulty_schedule_has_one_finding(
    schedule: LRSchedule, flaw: Flaw, words: tuple[str, ...]
) -> None:
    (finding,) = lint(schedule)
    assert finding.flaw is flaw
    for word in words:
        assert word in finding.message


@pytest.mark.parametrize("schedule", LEGITIMATE.values(), ids=LEGITIMATE.keys())
def test_legitimate_schedules_that_rest_after_the_run_have_no_finding(
    schedule: LRSchedule,
) -> None:
    assert lint(schedule, beyond=schedule.extended_to(4 * schedule.total_steps)) == ()


# ---------------------------------------------------------------------- beyond the run


@pytest.mark.parametrize(
    ("whole", "made_for"),
    [
        (LRSchedule.cosine(25_000, 1e-3, warmup=500), "25,000"),
        (LRSchedule.cosine(13_000, 1e-3), "13,000"),
        (LRSchedule.linear(11_000, 1e-3), "11,000"),
        (LRSchedule.wsd(11_000, 1e-3), "11,000"),
        (restarts(15_000, 1_000, factor=2), "15,000"),
    ],
    ids=["cosine", "cosine of a third more", "linear of a tenth more", "wsd", "restarts"],
)
def test_a_decay_that_the_run_cuts_off_tells_what_it_was_made_for(
    whole: LRSchedule, made_for: str
) -> None:
    beyond = whole.extended_to(4 * N)
    (finding,) = lint(whole.truncated_to(N), beyond=beyond)
    assert finding.flaw is Flaw.HORIZON_LONG
    assert f"until about step {made_for}: make it for 10,000." in finding.message


@pytest.mark.parametrize(
    "beyond",
    [
        LRSchedule.cosine(10_500, 1e-3).extended_to(4 * N),
        stairs(waves(8, 4), an_epoch=5_000),
        exponential(4 * N, 1e-3),
        stairs(exponential(40, 1e-3), an_epoch=1_000),
        LRSchedule.inverse_sqrt(4 * N, 1e-3, warmup=1_000),
        LRSchedule.step_decay(4 * N, 0.1, milestones=[6_000, 12_000, 18_000, 24_000]),
        waves(4 * N, 2 * N, low=0.2),
    ],
    ids=[
        "5% to go",
        "due at the next step",
        "no end",
        "no end, by epochs",
        "inverse square root",
        "drops",
        "turns",
    ],
)
def test_a_decay_with_little_left_or_without_an_end_is_not_cut_off(beyond: LRSchedule) -> None:
    assert lint(beyond.truncated_to(N), beyond=beyond) == ()


# ---------------------------------------------------------------------- the optimizer


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "schedule_free_adamw", "Schedule-Free SGD"])
def test_a_schedule_free_optimizer_is_told_about(name: str) -> None:
    (finding,) = lint(LRSchedule.constant(N, 1e-3, warmup=100), optimizer=name)
    assert finding.flaw is Flaw.SCHEDULE_FREE
    assert name in finding.message
    assert "advice on annealing is off" in finding.message
    assert "here" not in finding.message


def test_a_decay_under_a_schedule_free_optimizer_is_named() -> None:
    (finding,) = lint(COSINE.truncated_to(4_000), optimizer="RAdamScheduleFree")
    assert finding.flaw is Flaw.SCHEDULE_FREE
    assert "here it falls to" in finding.message


@pytest.mark.parametrize("name", [None, "adamw", "SGD", "muon"])
def test_other_optimizers_are_not(name: str | None) -> None:
    assert lint(COSINE, optimizer=name) == ()


# ---------------------------------------------------------------------- properties


@pytest.mark.parametrize(
    ("schedule", "once", "climbs"),
    [
        (COSINE, True, False),
        (LRSchedule.cosine(N, 1e-3), True, False),
        (LRSchedule.cosine(N * N, 1e-3).truncated_to(N), False, False),
        (LRSchedule.constant(N, 1e-3, warmup=100), False, False),
        (restarts(N, 2_500), False, False),
        (stairs(restarts(8, 4), an_epoch=100), False, False),
        (waves(N, 16_000), False, True),
        (triangles(N, 1_000), False, True),
    ],
)
def test_what_falls_once_and_what_climbs_again(
    schedule: LRSchedule, once: bool, climbs: bool
) -> None:
    assert falls_once(schedule) is once
    assert climbs_again(schedule) is climbs


@settings(max_examples=200, deadline=None)
@given(
    rates=st.lists(st.floats(0, 1e3) | st.sampled_from([0.0, 1e-300, 1.0]), min_size=1),
    scale=st.floats(1e-6, 1e6),
    stretch=st.integers(1, 50),
)
def test_any_schedule_has_one_finding_at_most_whatever_its_unit(
    rates: list[float], scale: float, stretch: int
) -> None:
    array = np.repeat(rates, stretch)
    found = lint(LRSchedule.from_array(array))
    assert len(found) <= 1
    assert all(isinstance(each, Finding) for each in found)
    powers = 2.0 ** round(math.log2(scale))  # exact, where nothing is lost near 0
    if array.max() * powers < 1e300 and array[array > 0].min(initial=1) > 1e-200:
        scaled = lint(LRSchedule.from_array(array * powers))
        assert [each.flaw for each in scaled] == [each.flaw for each in found]


def holds(flaw: Flaw, plan: LRSchedule) -> bool:
    """Whether the rates of a plan are what a finding says of them."""
    steps, rates = plan.knots
    peak, last = plan.peak, rates[-1]
    if flaw is Flaw.NEVER_LOW:
        return bool(last > 0.35 * peak)
    if flaw is Flaw.HORIZON_SHORT:
        higher = steps[rates > last + 1e-9 * peak]
        return bool(plan.total_steps - higher[-1] > 0.05 * plan.total_steps)
    if flaw is Flaw.RISES_AT_END:
        return bool(last - rates[np.argmax(rates) :].min() > 0.02 * peak)
    turns = np.diff(np.sign(np.diff(rates)))
    return flaw is Flaw.MANY_CYCLES and bool((turns != 0).sum() >= 25)


def falls_to_a_high_rate(plan: LRSchedule) -> bool:
    """Whether the rate ends at its lowest since the peak, but above 35% of the peak."""
    rates = plan.knots[1]
    since = rates[np.argmax(rates) :]
    return bool(since[-1] == since.min() and 0.35 * plan.peak < since[-1] < 0.98 * plan.peak)


def test_findings_about_recorded_schedules_are_true(curves_dir: object) -> None:
    """Of any run whatsoever: a finding is what its rates show, and no high end is passed over."""
    plans = {run.plan for run in load_curves(str(curves_dir)) if run.completed and run.step.size}
    found = {plan: [each.flaw for each in lint(plan)] for plan in plans}
    assert all(len(flaws) <= 1 for flaws in found.values())
    assert all(holds(flaw, plan) for plan, flaws in found.items() for flaw in flaws)
    silent = [plan for plan, flaws in found.items() if not flaws]
    assert not any(falls_to_a_high_rate(plan) for plan in silent)
