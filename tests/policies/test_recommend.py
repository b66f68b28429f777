import math

import numpy as np
import pytest

from lossforecast import Action, ConfigurationError, Forecaster, LRSchedule, Reason, RunInfo
from lossforecast.policies import Recommendation, Situation, target_miss

TOTAL = 2_000
PLAN = LRSchedule.cosine(TOTAL, 1e-3, warmup=100)


def run_of(losses: np.ndarray, metric: str = "train") -> Forecaster:
    forecaster = Forecaster(PLAN, RunInfo(metric=metric, optimizer="adamw"))
    forecaster.observe_many(np.arange(losses.size), losses)
    return forecaster


def healthy(n: int = 1_000, seed: int = 0) -> np.ndarray:
    noise = 0.05 * np.random.default_rng(seed).normal(size=n)
    losses: np.ndarray = 2.5 + 6 * (np.arange(n) + 20.0) ** -0.5 + noise
    return losses


def test_a_healthy_run_goes_on() -> None:
    advice = run_of(healthy()).recommend(target=5.0)
    assert (advice.action, advice.reason) == (Action.CONTINUE, Reason.ON_TRACK)
    assert "to end below 5" in advice.message
    assert advice.steps_saved == 0
    assert advice.expected is not None
    assert 2 < advice.expected < 3


def test_a_hopeless_target_stops_the_run_and_says_what_is_saved() -> None:
    forecaster = run_of(healthy())
    assert forecaster.recommend(target=1.0).action is Action.CONTINUE, "the first check"
    assert forecaster.recommend(target=1.0).action is Action.CONTINUE, "the same again"
    forecaster.observe(1_000, 2.7)
    advice = forecaster.recommend(target=1.0)
    assert (advice.action, advice.reason) == (Action.STOP, Reason.TARGET_MISS)
    assert advice.steps_saved == TOTAL - 1_000
    assert advice.confidence > 0.95
    assert "target 1" in advice.message


def test_without_a_target_only_broken_runs_are_stopped() -> None:
    assert run_of(healthy()).recommend().action is Action.CONTINUE


def test_little_evidence_abstains() -> None:
    for n in (1, 5, 15):
        advice = run_of(healthy(n)).recommend(target=1.0)
        assert (advice.action, advice.reason) == (Action.ABSTAIN, Reason.THIN_EVIDENCE)
    empty = Forecaster(PLAN).recommend(target=1.0)
    assert empty.action is Action.ABSTAIN
    assert empty.expected is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_stay_non_finite_stop_the_run(bad: float) -> None:
    few = np.r_[healthy(500), np.full(9, bad)]
    assert run_of(few).recommend().action is Action.CONTINUE
    advice = run_of(np.r_[few, bad]).recommend()
    assert (advice.action, advice.reason) == (Action.STOP, Reason.NON_FINITE)
    assert "last 10 losses" in advice.message


def test_a_burst_of_nan_that_is_over_does_not_stop_the_run() -> None:
    losses = healthy(600)
    losses[300:350] = math.nan
    assert run_of(losses).recommend().action is Action.CONTINUE


def test_a_run_of_nan_from_the_start_is_stopped() -> None:
    assert run_of(np.full(10, math.nan)).recommend().reason is Reason.NON_FINITE


def test_divergence_stops_the_run() -> None:
    diverging = np.r_[healthy(500), 2.8 + np.exp(np.linspace(0, 4, 100))]
    advice = run_of(diverging).recommend()
    assert (advice.action, advice.reason) == (Action.STOP, Reason.DIVERGED)
    assert "diverged" in advice.message


def test_a_spike_that_recovers_is_no_divergence() -> None:
    losses = healthy(700)
    losses[400:420] += 5.0
    assert run_of(losses[:500]).recommend().action is Action.CONTINUE
    assert run_of(losses).recommend().action is Action.CONTINUE


def warm_start(peak: float, seen: int = 700) -> Forecaster:
    """A run from annealed weights: the loss rises to `peak` with the rate, and falls with it."""
    plan = LRSchedule.cosine(TOTAL, 1e-2, warmup=200)
    forecaster = Forecaster(plan, RunInfo(metric="val", optimizer="adamw", task="regression"))
    steps = np.arange(0, seen, 10)
    noise = 0.003 * np.random.default_rng(0).normal(size=steps.size)
    losses = 0.35 - 0.04 * steps / TOTAL + (peak - 0.35) * plan.lr(steps + 1) / plan.peak + noise
    forecaster.observe_many(steps, losses)
    return forecaster


@pytest.mark.parametrize("peak", [0.4, 0.5, 0.9])
def test_annealed_weights_that_are_trained_on_have_not_diverged(peak: float) -> None:
    for seen in range(100, 800, 50):
        assert warm_start(peak, seen).recommend().reason is not Reason.DIVERGED


def test_a_loss_that_begins_near_0_has_not_diverged_from_there() -> None:
    losses = healthy(600) - 2.0
    losses[:5] = 0.0
    for seen in (12, 16, 20, 30, 50, 100, 600):
        assert run_of(losses[:seen]).recommend().reason is not Reason.DIVERGED


def test_a_loss_that_falls_back_is_waited_for() -> None:
    losses = healthy(700)
    losses[500:] += 50 * np.exp(-np.arange(200) / 40)
    assert all(
        run_of(losses[:seen]).recommend().reason is not Reason.DIVERGED
        for seen in range(520, 700, 20)
    )


def test_the_confidence_of_a_divergence_is_that_of_the_forecast() -> None:
    forecaster = run_of(np.r_[healthy(500), 2.8 + np.exp(np.linspace(0, 4, 100))])
    first = float(np.median(healthy(500)[:3]))
    confidence = forecaster.recommend().confidence
    assert 0.95 < confidence < 1
    assert confidence == pytest.approx(1 - forecaster.forecast().prob_below(first), abs=0.02)


def test_policies_are_pluggable_and_broken_runs_stop_all_the_same() -> None:
    def never(situation: Situation) -> Recommendation | None:
        return Recommendation(Action.CONTINUE, Reason.ON_TRACK, f"seen {len(situation.history)}")

    assert run_of(healthy()).recommend(1.0, policy=never).message == "seen 1000"
    assert run_of(np.full(20, math.nan)).recommend(policy=never).action is Action.STOP
    patient = run_of(healthy()).recommend(2.5, policy=[target_miss(1e-12)])
    assert patient.action is Action.CONTINUE


@pytest.mark.parametrize("risk", [0, 1, -0.1, math.nan])
def test_a_risk_must_be_a_probability(risk: float) -> None:
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        target_miss(risk)


@pytest.mark.parametrize("checks", [0, 11, 1.5])
def test_checks_are_counted(checks: int) -> None:
    with pytest.raises(ConfigurationError, match="checks"):
        target_miss(checks=checks)


def test_only_checks_in_a_row_count() -> None:
    policy = target_miss(checks=3)
    forecaster = run_of(healthy())
    actions = []
    for step, target in enumerate((1.0, 1.0, 9.0, 1.0, 1.0, 1.0), start=1_000):
        forecaster.observe(step, 2.7)
        actions.append(forecaster.recommend(target, policy).action)
    # the earlier forecasts are held against the present target
    assert actions == [Action.CONTINUE] * 3 + [Action.STOP] * 3
    assert run_of(healthy()).recommend(1.0, target_miss(checks=1)).action is Action.STOP


def test_checks_survive_saving_and_end_with_a_rewind() -> None:
    forecaster = run_of(healthy())
    forecaster.recommend(target=1.0)
    forecaster.observe(1_000, 2.7)
    again = Forecaster.from_state_dict(forecaster.state_dict())
    assert again.recommend(target=1.0).action is Action.STOP
    rewound = run_of(healthy())
    rewound.recommend(target=1.0)
    rewound.observe(900, 2.7)
    assert rewound.recommend(target=1.0).action is Action.CONTINUE


def test_a_state_without_checks_can_be_read() -> None:
    state = run_of(healthy()).state_dict()
    del state["looks"]
    assert Forecaster.from_state_dict(state).recommend(target=1.0).action is Action.CONTINUE
