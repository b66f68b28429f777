"""The policy that stops runs which other runs of their sweep will beat."""

import math

import numpy as np
import pytest

from lossforecast import Action, ConfigurationError, Forecaster, LRSchedule, Reason, RunInfo
from lossforecast.policies.dominated import dominated, n_best_runs
from lossforecast.policies.ranking import Outlook
from lossforecast.status import Status

TOTAL = 2_000


def run(level: float, seen: int, plan: LRSchedule | None = None) -> Forecaster:
    plan = plan or LRSchedule.cosine(TOTAL, 1e-3, warmup=50)
    forecaster = Forecaster(plan, RunInfo("val", "adamw", task="language modelling"))
    steps = np.arange(0, seen, 20)
    forecaster.observe_many(steps, level + 3 * (steps + 20.0) ** -0.5)
    return forecaster


def outlook(forecaster: Forecaster) -> Outlook:
    return Outlook.of(forecaster.forecast(), "adamw")


def test_a_run_far_behind_is_stopped_and_the_message_says_behind_what() -> None:
    rivals = [outlook(run(level, 1_000)) for level in (2.0, 2.01, 2.02)]
    advice = run(3.0, 1_000).recommend(policy=dominated(), rivals=rivals)
    assert (advice.action, advice.reason) == (Action.STOP, Reason.DOMINATED)
    assert "among the best 1 of 4 runs" in advice.message
    assert advice.steps_saved == TOTAL - 980
    assert advice.confidence > 0.99


def test_the_leader_and_runs_level_with_it_go_on() -> None:
    rivals = [outlook(run(level, 1_000)) for level in (2.0, 2.005, 3.0)]
    for level in (1.9, 2.0):
        advice = run(level, 1_000).recommend(policy=dominated(), rivals=rivals)
        assert advice.action is Action.CONTINUE


def test_a_run_that_has_not_annealed_is_not_behind_one_that_has() -> None:
    def annealing(decay: float, seen: int) -> Forecaster:
        plan = LRSchedule.wsd(TOTAL, 1e-3, warmup=50, decay_fraction=decay)
        forecaster = Forecaster(plan, RunInfo("val", "adamw", task="language modelling"))
        steps = np.arange(0, seen, 20)
        drop = 0.1 * plan.lr(np.maximum(steps, 1)) / plan.peak
        forecaster.observe_many(steps, 2.0 + 3 * (steps + 20.0) ** -0.5 + drop)
        return forecaster

    early, late = annealing(0.9, 1_900), annealing(0.2, 1_400)
    assert late.history.bins().mean[-1] > early.history.bins().mean[-1] + 0.09
    advice = late.recommend(policy=dominated(), rivals=[outlook(early)])
    assert advice.action is Action.CONTINUE


def test_alone_nobody_is_stopped() -> None:
    assert run(9.0, 1_000).recommend(policy=dominated()).action is Action.CONTINUE
    rivals = [Outlook.ended(2.0)]
    assert run(3.0, 1_500).recommend(policy=dominated(best=2), rivals=rivals).action is (
        Action.CONTINUE
    )


def test_rivals_of_which_nothing_is_known_stop_nobody() -> None:
    unknown = Outlook((math.nan,) * 29)
    assert run(9.0, 1_000).recommend(policy=dominated(), rivals=[unknown]).action is not Action.STOP


def test_a_rival_whose_end_is_open_stops_nobody() -> None:
    young, later = run(2.0, 140), run(2.0, 1_000)
    assert young.forecast().status is Status.TOO_SHORT
    assert young.forecast().median < 3
    behind = run(9.0, 1_000)
    for rivals, action in (([young], Action.CONTINUE), ([young, later], Action.STOP)):
        advice = behind.recommend(policy=dominated(), rivals=[outlook(each) for each in rivals])
        assert advice.action is action


def test_more_risk_stops_sooner() -> None:
    rivals = [outlook(run(2.0, 1_000))]
    near = run(2.04, 1_000)
    assert near.recommend(policy=dominated(risk=1e-4), rivals=rivals).action is Action.CONTINUE
    assert near.recommend(policy=dominated(risk=0.5), rivals=rivals).action is Action.STOP


def test_no_risk_is_promised_on_little_evidence() -> None:
    short = run(9.0, 100)
    assert short.forecast().status is Status.TOO_SHORT
    hopeless = [Outlook.ended(0.1)] * 3
    assert short.recommend(policy=dominated(), rivals=hopeless).action is Action.ABSTAIN


def test_five_percent_are_the_best() -> None:
    assert [n_best_runs(n) for n in (1, 2, 39, 40, 90)] == [1, 1, 1, 2, 4]


@pytest.mark.parametrize("risk", [0, 1, -0.1, math.nan])
def test_a_risk_is_a_probability(risk: float) -> None:
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        dominated(risk=risk)


def test_places_are_whole() -> None:
    with pytest.raises(ConfigurationError, match="best"):
        dominated(best=0)
