import numpy as np
import pytest

from lossforecast.numerics.mixture import Mixture

PLAIN = Mixture(np.array([0.3, 0.7]), np.array([[0.0], [4.0]]), np.array([[1.0], [2.0]]))
LOG = Mixture(np.array([0.3, 0.7]), np.array([[0.0], [0.4]]), np.array([[0.1], [0.2]]), True)
Q = np.array([0.025, 0.1, 0.5, 0.9, 0.975])


def draws(mixture: Mixture, n: int = 400_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    which = rng.choice(mixture.weight.size, n, p=mixture.weight)
    z: np.ndarray = mixture.mean[which, 0] + mixture.std[which, 0] * rng.normal(size=n)
    return np.exp(z) if mixture.logarithmic else z


@pytest.mark.parametrize("mixture", [PLAIN, LOG], ids=["plain", "logarithmic"])
def test_moments_quantiles_and_probabilities_are_those_of_draws(mixture: Mixture) -> None:
    sample = draws(mixture)
    mean, std = mixture.moments()
    assert mean[0] == pytest.approx(sample.mean(), abs=5 * sample.std() / 600)
    assert std[0] == pytest.approx(sample.std(), rel=0.01)
    quantiles = mixture.quantiles(Q)[:, 0]
    assert quantiles == pytest.approx(np.quantile(sample, Q), abs=0.02 * sample.std() * 3)
    assert mixture.cdf(quantiles[:, np.newaxis])[:, 0] == pytest.approx(Q, abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_quantiles_are_found_between_narrow_peaks_far_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k, m = int(rng.integers(2, 3_000)), int(rng.integers(1, 4))
    weight = rng.dirichlet(np.full(k, 0.1)) + 1e-12
    peaks = 10 ** rng.uniform(-4, 1, (k, m))
    mixture = Mixture(weight / weight.sum(), 100 * rng.normal(size=(k, m)), peaks)
    found = mixture.quantiles(Q)
    assert mixture.cdf(found) == pytest.approx(np.tile(Q, (m, 1)).T, abs=1e-3)
    assert (np.diff(found, axis=0) > 0).all()
    for i in range(len(Q)):
        assert (mixture.quantiles(Q[i : i + 1])[0] == found[i]).all(), "whatever else is asked for"


@pytest.mark.parametrize("seed", range(5))
def test_merging_what_is_alike_changes_no_probability(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.dirichlet(np.full(2_000, 0.3))
    std = 10 ** rng.normal(-1, 0.3, (2_000, 4))
    mixture = Mixture(weight, 0.3 * rng.normal(size=(2_000, 4)), std, logarithmic=True)
    found = mixture.quantiles(Q)
    assert mixture._merged.shape[1] < 1_000
    assert mixture.cdf(found) == pytest.approx(np.tile(Q, (4, 1)).T, abs=1e-3)


def test_a_loss_of_zero_or_below_has_no_probability_where_losses_are_positive() -> None:
    assert LOG.cdf(np.array([[-1.0], [0.0]])).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("mixture", [PLAIN, LOG], ids=["plain", "logarithmic"])
def test_noise_adds_to_the_spread(mixture: Mixture) -> None:
    quiet, noisy = mixture.moments()[1][0], mixture.with_noise(0.2).moments()[1][0]
    assert noisy == pytest.approx(np.hypot(quiet, 0.2), rel=0.05)


def test_the_noise_of_a_log_normal_loss_has_the_variance_asked_for() -> None:
    """Also where it is much larger than the loss, which exp(noise / loss) would blow up."""
    exact = Mixture(np.ones(1), np.zeros((1, 1)), np.full((1, 1), 1e-9), True)  # a loss of 1
    for noise in (0.01, 0.3, 3.0):
        mean, std = exact.with_noise(noise).moments()
        assert std[0] / mean[0] == pytest.approx(noise)
    assert np.isfinite(exact.with_noise(1e300).std).all()
    assert exact.with_noise(0.0) is exact


def test_a_bound_narrows_what_reaches_above_it_and_nothing_else() -> None:
    far = Mixture(
        np.full(3, 1 / 3), np.array([[0.0], [0.0], [9.0]]), np.array([[0.5], [4.0], [0.1]]), True
    )
    bounded = far.below(2.0)
    assert bounded.mean.ravel().tolist() == [0.0, 0.0, 1.0]
    assert bounded.std.ravel().tolist() == [0.5, 1.0, 0.1]
    assert (bounded.quantiles(Q) <= np.exp(2.0)).all()
    sample = draws(bounded)
    mean, std = bounded.moments()
    assert mean[0] == pytest.approx(sample.mean(), rel=0.01)
    assert std[0] == pytest.approx(sample.std(), rel=0.03)
    unbounded = LOG.below(np.inf)
    assert (unbounded.mean == LOG.mean).all()
    assert (unbounded.std == LOG.std).all()


@pytest.mark.parametrize("mixture", [PLAIN, LOG], ids=["plain", "logarithmic"])
def test_calibration_that_changes_nothing(mixture: Mixture) -> None:
    same = mixture.calibrated(1.0, 1.0)
    assert same.quantiles(Q) == pytest.approx(mixture.quantiles(Q))


def test_calibration_stretches_about_the_centre() -> None:
    wide = PLAIN.calibrated(2.0, 2.0)
    centre, std = PLAIN.moments()
    assert wide.moments()[0] == pytest.approx(centre)
    assert wide.moments()[1] == pytest.approx(2 * std)
    tailed = PLAIN.calibrated(1.0, 3.0)
    assert tailed.moments()[0] == pytest.approx(centre)
    assert tailed.moments()[1] ** 2 == pytest.approx((0.8 + 0.2 * 9) * std**2)


@pytest.mark.parametrize("logarithmic", [False, True], ids=["plain", "logarithmic"])
def test_widening_stretches_about_the_median(logarithmic: bool) -> None:
    skewed = Mixture(
        np.array([0.3, 0.7]), np.array([[-1.0], [0.4]]), np.array([[0.8], [0.2]]), logarithmic
    )
    assert skewed.widened(1.0) is skewed
    low, _, median, _, high = skewed.quantiles(Q)[:, 0]
    wide_low, _, wide_median, _, wide_high = skewed.widened(3.0).quantiles(Q)[:, 0]
    assert wide_median == pytest.approx(median)
    assert wide_low < low
    assert wide_high > high
