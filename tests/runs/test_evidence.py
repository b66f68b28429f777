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


# ---------------------------------------------------------------------- events


def around(at: int, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of a run that changes at a step."""
    return np.arange(at - before.size, at + after.size), np.concatenate([before, after])


def test_losses_before_and_after_an_event_are_not_pooled() -> None:
    steps, losses = around(5_000, np.full(4_400, 3.0), np.full(4_500, 4.0))
    history = History(max_bins=256)
    history.event(5_000, "change")
    history.observe_many(steps, losses)
    found = gather(history.bins(), PLAN, 0.1, history.event_steps)
    assert set(found.loss) == {3.0, 4.0}
    assert (found.loss == 4.0).tolist() == (found.step >= 5_000).tolist()
    assert len(found) <= 129
    assert found.events.tolist() == [5_000]


@pytest.mark.parametrize("max_bins", [4_096, 256], ids=["single losses", "bins"])
def test_the_noise_after_an_event_is_another(max_bins: int) -> None:
    rng = np.random.default_rng(0)
    quiet, loud = (3 + noise * rng.normal(size=1_500) for noise in (0.02, 0.2))
    steps, losses = around(2_500, quiet, loud)
    history = History(max_bins)
    history.event(2_500, "a smaller batch")
    history.observe_many(steps, losses)
    found = gather(history.bins(), PLAN, 0.1, history.event_steps)
    assert found.noise == pytest.approx(0.2, rel=0.15)
    error = np.abs(found.loss - 3) / np.sqrt(found.variance)
    for part in (found.step < 2_500, found.step >= 2_500):
        assert np.median(error[part]) == pytest.approx(0.67, rel=0.4)


def test_with_few_losses_since_an_event_the_noise_is_that_of_the_run() -> None:
    rng = np.random.default_rng(0)
    steps, losses = around(2_500, 3 + 0.05 * rng.normal(size=1_500), np.full(5, 4.0))
    found = gather(history_of(steps, losses).bins(), PLAN, 0.1, np.array([2_500]))
    assert found.noise == pytest.approx(0.05, rel=0.15)


def test_the_first_losses_after_a_jump_are_no_outliers_and_a_spike_still_is() -> None:
    rng = np.random.default_rng(0)
    for n_after in (1, 3, 8, 400):
        after = 4.5 + 0.01 * rng.normal(size=n_after)
        steps, losses = around(2_500, 3 + 0.01 * rng.normal(size=1_500), after)
        found = gather(history_of(steps, losses).bins(), PLAN, 0.1, np.array([2_500]))
        assert found.variance[-1] < 3 * found.noise**2  # the noise is relative to the loss
    losses[-200] = 1e30
    found = gather(history_of(steps, losses).bins(), PLAN, 0.1, np.array([2_500]))
    assert found.variance[np.argmax(found.loss)] > 1e50


@pytest.mark.parametrize("shift", [0.0, 10.0], ids=["positive", "negative"])
def test_jumps_can_be_taken_out(shift: float) -> None:
    steps = np.arange(1_000, 4_000)
    smooth = 3 + 50 / steps
    jumped = smooth * np.where(steps < 2_000, 1.5, np.where(steps < 3_000, 0.7, 1.0))
    if shift:
        jumped = smooth + 2.0 * (steps < 2_000) - 1.0 * (steps < 3_000) - shift
    events = np.array([2_000, 3_000, 3_999, 5_000])
    found = gather(history_of(steps, jumped).bins(), PLAN, 0.0, events)
    level = found.without_jumps()
    np.testing.assert_allclose(level.loss, 3 + 50 / found.step - shift, atol=0.004)
    assert level.initial == pytest.approx(3 + 50 / 1_000 - shift, abs=0.01)
    assert found.loss[0] == pytest.approx(jumped[0], abs=0.01)  # itself it is unchanged


def test_huge_jumps_are_taken_out_without_overflow() -> None:
    steps = np.arange(600, 1_600)
    losses = np.where(steps // 100 % 2, 1e-90, 1e90)
    found = gather(history_of(steps, losses).bins(), PLAN, 0.0, np.arange(700, 1_600, 100))
    level = found.without_jumps()
    assert np.isfinite(level.loss).all()
    assert (level.loss > 0).all()


def test_an_event_before_the_first_loss_does_not_count() -> None:
    steps = np.arange(600, 1_600)
    bins = history_of(steps, np.full(1_000, 3.0)).bins()
    assert gather(bins, PLAN, 0.2, np.array([0, 600, 601, 9_000])).events.tolist() == [601, 9_000]
