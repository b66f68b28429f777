"""The best peak rate and batch size, from sweeps: `Optimum`, `best_peak`, `best_batch`."""

import json
import math
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lossforecast import LRSchedule, RunInfo
from lossforecast.backtest import load_curves
from lossforecast.ladder import FinalLoss, best_batch, best_peak
from lossforecast.runs import outcome_of_curve

OWN_SWEEPS = Path(__file__).parents[1] / "benchmarks" / "results" / "rate_sweeps.json"
BEND = 0.012
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)
STEPS = 1_000


def info(n_params: float, batch: float | None = None, project: str = "p") -> RunInfo:
    return RunInfo("val", "adamw", project, n_params=n_params, batch_size=batch)


def true_peak(n_params: float, steps: int, shift: float = 0.0) -> float:
    return float(6e-4 * (n_params / 1e8) ** -0.4 * (steps / STEPS) ** -0.1 * math.exp(shift))


def rate_sweep(
    n_params: float, steps: int = STEPS, *, shift: float = 0.0, noise: float = 0.0, seed: int = 0
) -> list[FinalLoss]:
    """Cosines with four rates, and one that diverged."""
    rng = np.random.default_rng(seed)
    made = []
    for rate in RATES:
        away = math.log(rate / true_peak(n_params, steps, shift))
        loss = (2 + 60 * n_params**-0.22) * math.exp(BEND * away**2 + noise * rng.normal())
        made.append(FinalLoss(info(n_params), LRSchedule.cosine(steps, rate), loss))
    return [*made, FinalLoss(info(n_params), LRSchedule.cosine(steps, 8e-3), 9.0)]


def test_the_law_of_the_best_rate_is_found() -> None:
    sizes = ((2.5e7, 1_000), (5e7, 1_000), (1e8, 1_000), (1e8, 4_000))
    finals = [run for size, steps in sizes for run in rate_sweep(size, steps)]
    found = best_peak(finals, info(4e8), LRSchedule.cosine(4_000, 1e-3))
    assert found is not None
    assert found.best == pytest.approx(true_peak(4e8, 4_000), rel=0.15)
    assert found.exponents["n_params"] == pytest.approx(-0.4, abs=0.1)
    assert found.exponents["tokens"] == pytest.approx(-0.1, abs=0.1)
    assert found.cost_of_factor_2 == pytest.approx(math.expm1(BEND * math.log(2) ** 2), rel=0.1)
    assert (found.n_sweeps, found.n_bracketed, found.n_runs) == (4, 4, 16)


def test_intervals_hold_the_truth_as_often_as_stated() -> None:
    rng = np.random.default_rng(0)
    held = []
    for seed in range(60):
        finals = [
            run
            for i, size in enumerate((2.5e7, 5e7, 1e8))
            for run in rate_sweep(size, shift=rng.normal(0, 0.15), noise=1e-3, seed=3 * seed + i)
        ]
        found = best_peak(finals, info(2e8), LRSchedule.cosine(STEPS, 1e-3))
        assert found is not None
        truth = true_peak(2e8, STEPS, rng.normal(0, 0.15))
        held.append(found.best.lower <= truth <= found.best.upper)
    assert 0.65 < np.mean(held) <= 0.95


def test_a_single_sweep_leaves_the_exponents_to_the_prior() -> None:
    near = best_peak(rate_sweep(1e8), info(1e8), LRSchedule.cosine(STEPS, 1e-3))
    far = best_peak(rate_sweep(1e8), info(1e10), LRSchedule.cosine(STEPS, 1e-3))
    assert near is not None
    assert far is not None
    assert near.best == pytest.approx(true_peak(1e8, STEPS), rel=0.1)
    assert far.best.upper / far.best.lower > 3 * near.best.upper / near.best.lower
    exponent = far.exponents["n_params"]
    assert exponent.upper - exponent.lower > 0.6


@pytest.mark.parametrize(
    "finals",
    [
        [],
        rate_sweep(1e8)[:2],
        [FinalLoss(info(1e8, project="other"), one.schedule, one.loss) for one in rate_sweep(1e8)],
        [FinalLoss(one.run, one.schedule, math.nan) for one in rate_sweep(1e8)],
        [
            FinalLoss(info(size), LRSchedule.cosine(STEPS, rate), 2.5)
            for size, rate in zip((1e7, 3e7, 1e8), RATES, strict=False)
        ],
    ],
    ids=["none", "two rates", "another project", "unknown outcomes", "other sizes"],
)
def test_without_a_sweep_there_is_no_advice(finals: list[FinalLoss]) -> None:
    assert best_peak(finals, info(1e8), LRSchedule.cosine(STEPS, 1e-3)) is None
    assert best_batch(finals, info(1e8, 64), LRSchedule.cosine(STEPS, 1e-3)) is None


def test_an_optimum_beyond_the_rates_tried_is_said_to_be_a_guess() -> None:
    finals = [run for size in (1e6, 3e6) for run in rate_sweep(size, shift=2.0)]
    found = best_peak(finals, info(1e7), LRSchedule.cosine(STEPS, 1e-3))
    assert found is not None
    assert (found.n_sweeps, found.n_bracketed) == (2, 0)
    assert found.best.upper / found.best.lower > 2


def test_on_our_own_sweeps_the_advised_rate_costs_little_at_the_largest_of_four_sizes() -> None:
    """Measured by `tests/benchmarks/rate_advice.py`: 0.06% against the best rate of the grid."""
    *smaller, largest = json.loads(OWN_SWEEPS.read_text())
    rates = [1e-3 * 2.0**i for i in range(len(largest["losses"]))]
    finals = [
        FinalLoss(info(size["n_params"]), LRSchedule.cosine(500, rate, warmup=25), loss)
        for size in smaller
        for rate, loss in zip(rates, size["losses"], strict=True)
    ]
    found = best_peak(finals, info(largest["n_params"]), LRSchedule.cosine(500, 1e-3, warmup=25))
    assert found is not None
    at = np.interp(np.log(found.best), np.log(rates), largest["losses"])
    assert at < 1.003 * min(largest["losses"])


def test_the_best_batch_grows_with_the_data_seen() -> None:
    finals = []
    for tokens in (64_000, 256_000):
        best = 64 * (tokens / 64_000) ** 0.6
        for batch in (16, 32, 64, 128, 256):
            loss = 2.5 * math.exp(0.008 * math.log(batch / best) ** 2)
            for rate, more in ((5e-4, 0.02), (1e-3, 0.0)):
                plan = LRSchedule.cosine(tokens // batch, rate)
                finals.append(FinalLoss(info(1e8, batch), plan, loss + more))
    found = best_batch(finals, info(1e8, 100), LRSchedule.cosine(10_240, 1e-3))
    assert found is not None
    assert found.best == pytest.approx(64 * 16**0.6, rel=0.25)
    assert found.exponents["tokens"] == pytest.approx(0.6, abs=0.12)
    assert (found.n_sweeps, found.n_runs) == (2, 10)


def test_on_recorded_sweeps_the_advised_rate_costs_little_at_the_largest_length(
    curves_dir: Path,
) -> None:
    """Sweeps of up to 35,000 steps advise those of 50,000, for ten shapes of decays."""
    run, longest = info(1.24e8), 50_000
    finals = []
    for one in load_curves(curves_dir):
        if one.source == "lr-scheduling-convex" and one.metric == "val":
            end = outcome_of_curve(one.step, one.loss, one.total_steps)
            if end is not None and one.schedule_type in ("cosine", "wsd"):
                finals.append(FinalLoss(run, one.plan, end.loss))
    shorter = [final for final in finals if final.schedule.total_steps < longest]
    grids = defaultdict(list)
    for final in finals:
        if final.schedule.total_steps == longest and final.loss < 4:
            total = float(final.schedule.s1(longest)) / final.schedule.peak
            grids[round(total / longest, 2)].append(final)
    costs = []
    for grid in grids.values():
        losses = defaultdict(list)
        for final in grid:
            losses[float(f"{final.schedule.peak:.2g}")].append(final.loss)
        rates = sorted(losses)
        if len(rates) >= 5:
            found = best_peak(shorter, run, grid[0].schedule)
            assert found is not None
            means = np.array([np.mean(losses[rate]) for rate in rates])
            at = np.interp(np.log(found.best), np.log(rates), means)  # above the true bowl
            costs.append(at / means.min() - 1)
            assert any(low <= found.best <= high for low, high in pairwise(rates))
    assert len(costs) >= 8
    assert max(costs) < 0.003
