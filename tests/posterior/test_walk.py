"""The walk of the discrepancy, with jumps at events, against the covariance it stands for."""

import numpy as np
import pytest

from lossforecast.posterior.walk import JUMP_VARIANCE, walks_of
from lossforecast.prior import Regime

SIZES = ((0.01, 0.4), (0.3, 0.6))
REGIME = Regime(alpha=(0.5, 0.2), reducible=0.1, walks=SIZES, lr_travel=0.5)
STEPS = np.array([1, 2, 5, 5, 8, 9, 13, 14, 20])
"""Steps of the observations, a twentieth of which is their time."""
EVENTS = {
    "none": [],
    "before all": [0, 1],
    "between": [3],
    "at an observation": [8],
    "two in one gap": [10, 12],
    "after all": [21],
    "everywhere": [1, 3, 8, 10, 12, 14, 25],
}


def jumps(events: list[int], steps: np.ndarray) -> np.ndarray:
    return np.array([sum(event <= step for event in events) for step in steps])


@pytest.mark.parametrize("events", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize(
    "asked",
    [[20, 22, 30], [0, 3, 4, 8, 10, 11, 13, 20, 26], [5], [40]],
    ids=["after", "everywhere", "one of the past", "one of the future"],
)
def test_state_and_variance_are_those_of_the_joint_normal(
    events: list[int], asked: list[int]
) -> None:
    rng = np.random.default_rng(0)
    noise, columns = rng.uniform(1e-3, 0.1, STEPS.size), rng.normal(size=(STEPS.size, 3))
    at = np.array(asked)
    walks = walks_of(REGIME, STEPS / 20, jumps(events, STEPS), noise, columns)
    for walk, (size, weight) in zip(walks, SIZES, strict=True):
        every = np.concatenate([STEPS, at])
        variance = size**2 * every / 20 + JUMP_VARIANCE * jumps(events, every)
        # the walk at two steps shares all its moves until the earlier one
        shared = variance[_earlier(every)]
        joint, n = shared + np.diag(np.append(noise, np.zeros(at.size))), STEPS.size
        gain = np.linalg.solve(joint[:n, :n], joint[:n, n:]).T
        state, left = walk.expected(at / 20, jumps(events, at))
        np.testing.assert_allclose(state, gain @ columns, rtol=1e-7, atol=1e-9)
        expected = np.diag(joint[n:, n:] - gain @ joint[:n, n:])
        np.testing.assert_allclose(left, expected, rtol=1e-6, atol=1e-10)
        log_det = np.linalg.slogdet(joint[:n, :n]).logabsdet
        assert walk.log_evidence == pytest.approx(np.log(weight) - log_det / 2)


def _earlier(steps: np.ndarray) -> np.ndarray:
    """For each pair, the index of the earlier step."""
    index = np.arange(steps.size)
    return np.where(steps[:, None] <= steps, index[:, None], index)


def test_after_an_event_the_state_is_that_of_the_losses_after_it() -> None:
    steps = np.arange(40)
    z = np.where(steps < 20, 0.0, 0.5)[:, np.newaxis]
    still = Regime(alpha=(0.5, 0.2), reducible=0.1, walks=((1e-3, 1.0),), lr_travel=0.5)
    (marked,), (unmarked,) = (
        walks_of(still, steps / 40, jumps(events, steps), np.full(40, 1e-3), z)
        for events in ([20], [])
    )
    assert marked.state[0] == pytest.approx(0.5, abs=0.01)
    assert unmarked.state[0] < 0.3
    assert marked.log_evidence < unmarked.log_evidence  # what may jump explains less
