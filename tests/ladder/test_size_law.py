"""The law over sizes: what one, two and many sizes tell."""

import numpy as np
import pytest

from lossforecast.ladder import SizeLaw

SIZES = np.array([2e7, 4e7, 8e7, 1.6e8, 3.2e8])


def law(n_params: float | np.ndarray) -> np.ndarray:
    return np.log(1.8 + 62 * np.asarray(n_params) ** -0.22)


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_the_law_that_made_the_losses_is_within_the_spread(scale: float) -> None:
    for k in range(1, 6):
        found = SizeLaw.of(SIZES[:k], law(SIZES[:k]), np.full(k, 5e-4), scale)
        mean, std = found.predict(2 * SIZES[k - 1])
        assert abs(mean - law(2 * SIZES[k - 1])) < 1.3 * std
        assert found.weight.sum() == pytest.approx(1.0)


def test_more_sizes_make_it_sure() -> None:
    stds = [
        SizeLaw.of(SIZES[:k], law(SIZES[:k]), np.full(k, 5e-4)).predict(6.4e8)[1] for k in (1, 2, 5)
    ]
    assert stds[0] > 2 * stds[1] > 4 * stds[2]


def test_a_larger_step_is_less_sure() -> None:
    found = SizeLaw.of(SIZES[:2], law(SIZES[:2]), np.full(2, 5e-4))
    spread = [found.predict(n)[1] for n in (8e7, 1.6e8, 1.6e9)]
    assert spread == sorted(spread)
    assert spread[2] > 2 * spread[0]


def test_a_steeper_trend_than_usual_is_learnt_from_two_sizes() -> None:
    steep = 0.2 * np.log(SIZES / SIZES[0])  # twice the usual fall
    found = SizeLaw.of(SIZES[:2], -steep[:2], np.full(2, 5e-4))
    blind = SizeLaw.of(SIZES[1:2], -steep[1:2], np.full(1, 5e-4))
    errors = [abs(each.predict(SIZES[2])[0] + steep[2]) for each in (found, blind)]
    assert errors[0] < errors[1] / 2


def test_irregular_sizes_are_evidence_for_a_large_scale() -> None:
    irregular = law(SIZES) + np.array([0, 0.01, -0.01, 0.01, 0])
    regular = law(SIZES)
    for losses, likelier in ((irregular, 4.0), (regular, 1.0)):
        evidence = {
            scale: SizeLaw.of(SIZES, losses, np.full(5, 5e-4), scale).log_evidence
            for scale in (1.0, 4.0)
        }
        assert max(evidence, key=lambda scale: evidence[scale]) == likelier
