import numpy as np
import pytest

from lossforecast import History, LRSchedule
from lossforecast.runs.evidence import gather

PLAN = LRSchedule.cosine(10_000, 1e-3, warmup=500)


def history_of(steps: np.ndarray, losses: np.ndarray) -> History:
    history = History()
    history.observe_many(steps, losses)
    return history


@pytest.mark.parametrize("n", [60, 3_000, 9_000])
def test_noise_of_one_observation_is_estimated(n: int) -> None:
    rng = np.random.default_rng(n)
    steps = np.linspace(0, 9_000, n).astype(int)
    steps = np.unique(steps)
    losses = 3 + 5 * (steps + 50.0) ** -0.5 + 0.1 * rng.normal(size=steps.size)
    found = gather(history_of(steps, losses).bins(), PLAN, 0.2)
    assert found.noise == pytest.approx(0.1, rel=0.35 if n == 60 else 0.15)
    assert len(found) <= 128


@pytest.mark.parametrize("in_a_bin", [1, 2, 4, 8, 64])
def test_noise_is_the_same_however_many_losses_are_in_a_bin(in_a_bin: int) -> None:
    """Bins of two made it a third too small, and the laws a misfit, of 4,097 to 8,192 losses."""
    n, plan = 256 * in_a_bin, LRSchedule.constant(100_000, 1e-3)
    found = []
    for seed in range(20):
        losses = 3 + 0.12 * np.random.default_rng(seed).normal(size=n)
        bins = history_of(np.arange(n), losses).thinned(256).bins()
        assert np.median(bins.count) == in_a_bin
        found.append(gather(bins, plan, 0.1).noise)
    assert np.mean(found) == pytest.approx(0.12, rel=0.05)


def test_warm_up_and_the_start_are_left_out_unless_little_else_is_there() -> None:
    steps = np.arange(0, 4_000)
    flat = np.full(steps.size, 3.0)
    found = gather(history_of(steps, flat).bins(), PLAN, 0.2)
    assert found.step.min() >= 500
    early = gather(history_of(steps[:20], flat[:20]).bins(), PLAN, 0.2)
    assert early.step.min() >= 9  # of a warm-up under way, only the first half


def test_a_spike_keeps_its_place_and_loses_its_weight() -> None:
    steps = np.arange(500, 1_500)
    losses = np.full(1_000, 3.0) + 0.01 * np.random.default_rng(0).normal(size=1_000)
    losses[700] = 1e30
    found = gather(history_of(steps, losses).bins(), PLAN, 0.2)
    hit = np.argmax(found.loss)
    assert found.variance[hit] > 1e50
    rest = np.delete(np.arange(len(found)), hit)
    assert np.abs(found.loss[rest] - 3.0).max() < 0.02
    assert found.variance[rest].max() < 1e-3


def test_nothing_observed_is_no_evidence() -> None:
    assert len(gather(History().bins(), PLAN, 0.2)) == 0
