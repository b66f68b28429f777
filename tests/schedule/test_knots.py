"""Knots: few straight lines that reconstruct a schedule and its sums."""

import numpy as np
import pytest

from lossforecast.schedule.lr_schedule import LRSchedule

PEAK = 1e-3


def traced(total: int) -> dict[str, LRSchedule]:
    warm = total // 20 + 3
    crowd = np.arange(600)  # so many points that the pieces after them must share the attention
    crowded = LRSchedule.from_points(crowd, (0.9 + crowd / 6_000) * PEAK, total_steps=total)
    named = {
        "constant": LRSchedule.constant(total, PEAK, warmup=warm),
        "linear": LRSchedule.linear(total, PEAK, warmup=warm),
        "cosine": LRSchedule.cosine(total, PEAK, warmup=warm),
        "wsd linear": LRSchedule.wsd(total, PEAK, shape="linear", warmup=warm),
        "wsd sqrt": LRSchedule.wsd(total, PEAK, shape="sqrt", warmup=warm),
        "wsd exp": LRSchedule.wsd(total, PEAK, shape="exp", warmup=warm),
        "short sqrt": LRSchedule.wsd(total, PEAK, shape="sqrt", decay_fraction=0.01),
        "inverse sqrt": LRSchedule.inverse_sqrt(total, PEAK, warmup=warm),
        "one cycle": LRSchedule.one_cycle(total, PEAK),
        "steps": LRSchedule.step_decay(
            total, PEAK, milestones=range(warm, total, total // 50), factor=0.9, warmup=warm
        ),
        "restart": LRSchedule.cosine(total // 2, PEAK).joined(
            total // 2 - 1, LRSchedule.cosine(total, PEAK)
        ),
        "crowded, then sqrt": crowded.with_decay(
            start=total // 2, steps=total - total // 2, shape="sqrt"
        ),
    }
    arrays = {f"{name}, array": LRSchedule.from_array(s.to_array()) for name, s in named.items()}
    return named | arrays


@pytest.mark.parametrize("total", [1, 2, 400, 2_000, 300_000])
def test_knots_reconstruct_rates_and_sums(total: int) -> None:
    schedules = traced(total) if total > 200 else {"short": LRSchedule.cosine(total, PEAK)}
    for name, schedule in schedules.items():
        knots, rates = schedule.knots
        assert knots[[0, -1]].tolist() == [1, total], name
        assert np.all(np.diff(knots) > 0), name
        assert knots.size <= 1_400, name
        exact = schedule.to_array()
        drawn = np.interp(np.arange(1, total + 1), knots, rates)
        variation = np.abs(np.diff(exact)).sum()
        tolerance = 0.0 if total <= 512 else variation / 128
        assert np.abs(drawn - exact).max() <= tolerance, name
        sums, drawn_sums = np.cumsum(exact), np.cumsum(drawn)
        assert np.abs(drawn_sums - sums).max() <= 1e-3 * sums[-1], name


def test_jumps_stay_jumps_wherever_they_are() -> None:
    rates = np.full(400_000, PEAK)
    rates[123_457:] = PEAK / 10  # inside the stride at which so long an array is looked at
    rates[300_001:] = 0
    schedule = LRSchedule.from_array(rates)
    knots, _ = schedule.knots
    assert {123_457, 123_458, 300_001, 300_002} <= set(knots.tolist())
    knots, _ = LRSchedule.linear(10_000, PEAK).scaled_from(3_210, 0.5).knots
    assert {3_210, 3_211} <= set(knots.tolist())  # amid a decay, where it is no turning point


def test_what_is_too_restless_to_trace_keeps_its_largest_turns() -> None:
    """Noise has more turns than knots; the large cycle below it must survive."""
    rng = np.random.default_rng(0)
    steps = np.arange(1, 50_001)
    cycle = 1 + np.cos(2 * np.pi * steps / 10_000)
    schedule = LRSchedule.from_array(cycle + 0.01 * rng.random(steps.size))
    knots, rates = schedule.knots
    assert knots.size <= 1_400
    drawn = np.interp(steps, knots, rates)
    assert np.abs(drawn - cycle).max() < 0.05
