"""`look_back`: nothing is known of what comes later."""

from collections.abc import Iterable

import numpy as np
import pytest

from lossforecast import History, LRSchedule, Recommendation
from lossforecast.backtest.lookback import LookBack, look_back
from lossforecast.policies.recommendation import Reason, Situation, stopped

TOTAL = 400
PLAN = LRSchedule.cosine(TOTAL, 0.1)


def run_of(steps: Iterable[int]) -> History:
    history = History()
    at = np.array(list(steps))
    history.observe_many(at, 2 + 3 * (at + 5.0) ** -0.5)
    return history


def always_stop(situation: Situation) -> Recommendation | None:
    return stopped(situation, Reason.TARGET_MISS, "as asked", confidence=1.0)


def looked_back(target: float | None = None) -> LookBack:
    return look_back(run_of(range(TOTAL)), PLAN, target=target, policies=[always_stop])


def test_a_check_sees_what_came_before_its_step() -> None:
    last: list[int] = []

    def watch(situation: Situation) -> Recommendation | None:
        last.append(situation.history.last_step)
        return None

    back = look_back(run_of(range(0, TOTAL, 2)), PLAN, policies=[watch])
    assert last == [moment.step - 1 - (moment.step % 2 == 0) for moment in back.moments]
    moment = back.at(0.5)
    assert back.seen(moment).last_step == moment.step - 2


@pytest.mark.parametrize(("target", "rightly"), [(1.0, True), (9.0, False), (None, None)])
def test_whether_a_stop_was_right_is_the_outcome_s_to_say(
    target: float | None, rightly: bool | None
) -> None:
    back = looked_back(target)
    assert back.stop is not None
    assert back.rightly is rightly


def test_the_last_moment_of_an_unfinished_run_is_the_present() -> None:
    back = look_back(run_of(range(123)), PLAN)
    assert (back.outcome, back.tally) == (None, None)
    assert [moment.step for moment in back.moments[-2:]] == [120, 122]
    assert back.moments[-1].last_value == pytest.approx(2 + 3 * 127**-0.5)
    later = look_back(run_of(range(123)), PLAN, steps_taken=150)
    assert later.moments[-1].step == 150


def test_the_tally_counts_the_checks_before_the_end() -> None:
    back = look_back(run_of(range(TOTAL)), PLAN)
    assert back.outcome is not None
    tally = back.tally
    assert tally is not None
    assert tally.n == sum(moment.step <= back.outcome.first_step for moment in back.moments)
    assert tally.forecast_nearer + tally.last_value_nearer <= tally.n
    assert tally.inside80 <= tally.inside95 <= tally.n
