"""`Spread`: the belief about the spread of repeats."""

import numpy as np
import pytest
from scipy import stats

from lossforecast import RunInfo
from lossforecast.comparison import Spread


def test_the_nodes_are_those_of_the_scaled_inverse_chi_squared_distribution() -> None:
    spread = Spread(0.002, 6.0)
    exact = stats.invgamma(a=3.0, scale=3.0 * 0.002**2)
    assert np.quantile(spread.nodes**2, [0.1, 0.5, 0.9]) == pytest.approx(
        exact.ppf([0.1, 0.5, 0.9]), rel=0.02
    )
    assert (np.diff(spread.nodes) > 0).all()


def test_many_repeats_teach_the_true_spread() -> None:
    rng = np.random.default_rng(0)
    rows = [level * np.exp(0.004 * rng.normal(size=5)) for level in np.linspace(1, 4, 40)]
    learned = Spread(0.1, 1.0).learned(rows)
    assert (learned.n_runs, learned.n_recipes, learned.dof) == (200, 40, 161.0)
    assert Spread(0.004, 1.0).learned(rows).scale == pytest.approx(0.004, rel=0.15)
    assert learned.scale < 0.01


def test_a_recipe_with_a_single_run_teaches_nothing() -> None:
    assert Spread(0.002, 2.0).learned([[2.5], []]) == Spread(0.002, 2.0)


def test_the_packaged_spread_knows_little_and_grows_with_the_noise_of_training_losses() -> None:
    for run in (RunInfo("val"), RunInfo("train"), RunInfo("val", task="language modelling")):
        assert 0.0005 < Spread.packaged(run).scale < 0.01
        assert Spread.packaged(run).dof < 3
        assert Spread.packaged(run).n_runs == 0
    assert Spread.packaged(RunInfo("train"), noise=0.03).scale == pytest.approx(0.03, rel=0.05)


@pytest.mark.parametrize("difference", [0.002, 0.005, 0.02])
def test_so_many_seeds_do_tell_in_four_of_five_cases(difference: float) -> None:
    sigma, dof = 0.003, 20.0
    seeds = Spread(sigma, dof).seeds_to_tell(difference, 1_000)
    assert seeds is not None
    rng = np.random.default_rng(1)

    def power(n: int) -> float:
        """Share of drawn pairs of recipes told apart by a t test that pools earlier repeats."""
        one, other = rng.normal(0, sigma, (2, 4_000, n))
        earlier = sigma**2 * rng.chisquare(dof, 4_000)
        within = n * (one.var(axis=1) + other.var(axis=1)) + earlier
        freedom = dof + 2 * (n - 1)
        limit = stats.t.ppf(0.975, freedom) * np.sqrt(within / freedom * 2 / n)
        away = np.abs(one.mean(axis=1) - other.mean(axis=1) + difference)
        return float((away > limit).mean())

    assert power(seeds) > 0.77
    assert seeds == 1 or power(seeds - 1) < 0.83


def test_no_number_of_seeds_tells_no_difference() -> None:
    assert Spread(0.003, 20.0).seeds_to_tell(0.0, 1_000) is None
    assert Spread(0.003, 20.0).seeds_to_tell(1e-5, 1_000) is None
