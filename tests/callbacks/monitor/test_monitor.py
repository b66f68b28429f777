"""`guarded`, which shields a training run, `RunMonitor`, and plans that change in mid-run."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from lossforecast import Action, Caveat, Forecaster, LRSchedule, Reason, Recommendation
from lossforecast.callbacks.monitor import FAN
from lossforecast.callbacks.monitor.guard import guarded
from lossforecast.callbacks.monitor.run_monitor import RunMonitor, adopt_plan
from lossforecast.callbacks.monitor.update import Sink, Update
from lossforecast.errors import ConfigurationError
from lossforecast.policies import Policy, Situation

TOTAL = 1_000


def curve(steps: ArrayLike) -> Any:
    return 2 + 3 * (np.asarray(steps) + 5.0) ** -0.5


def young(plan: LRSchedule | None = None, seen: int = 400) -> Forecaster:
    """A forecaster that saw a plain power law for `seen` steps."""
    plan = plan or LRSchedule.wsd(TOTAL, 1e-3, warmup=50)
    forecaster = Forecaster(plan, laws="power")
    forecaster.observe_many(np.arange(seen), curve(np.arange(seen)))
    return forecaster


def assumed(schedule: LRSchedule) -> LRSchedule:
    return schedule.with_caveats(Caveat.LR_ASSUMED)


def answering(action: Action) -> Policy:
    return lambda situation: Recommendation(action, Reason.ON_TRACK, f"scripted {action}")


# ---------------------------------------------------------------------- guarded


class Guest:
    """Somebody inside a training run."""

    def __init__(self) -> None:
        self.switched_off = False
        self.calls: list[Any] = []

    @guarded
    def work(self, value: Any, *, extra: int = 0) -> Any:
        """What it does."""
        self.calls.append(value)
        if isinstance(value, BaseException):
            raise value
        return value + extra

    @guarded
    def rest(self) -> str:
        return "rested"


def test_a_guarded_method_is_the_method_while_all_is_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guest = Guest()
    assert guest.work(3, extra=4) == 7
    assert (Guest.work.__name__, Guest.work.__doc__) == ("work", "What it does.")
    assert not guest.switched_off
    assert not caplog.records


def test_the_first_error_is_logged_with_its_traceback_and_is_the_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guest, other = Guest(), Guest()
    assert guest.work(ZeroDivisionError("scripted")) is None
    assert guest.switched_off
    assert guest.work(1) is None
    assert guest.work(ValueError("another")) is None
    assert guest.rest() is None
    assert len(guest.calls) == 1, "nothing runs once it is switched off"
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("lossforecast", logging.ERROR)
    assert "switched off; training goes on" in record.message
    assert record.exc_info
    assert isinstance(record.exc_info[1], ZeroDivisionError)
    assert record.exc_info[2] is not None
    assert "in work" in caplog.text
    assert other.rest() == "rested", "one that fails is not all"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_who_wants_to_leave_may_leave(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    guest = Guest()
    with pytest.raises(error):
        guest.work(error())
    assert not guest.switched_off
    assert guest.work(1) == 1
    assert not caplog.records


# ---------------------------------------------------------------------- checks


def check(monitor: RunMonitor, step: int, present_rate: float) -> Update:
    monitor.forecaster.follow_rate(step, present_rate)
    update = monitor.check(step)
    monitor.notify_sinks(update)
    return update


def test_a_check_yields_what_the_forecaster_says() -> None:
    forecaster = young()
    monitor = RunMonitor(forecaster, target=2.5)
    assert (monitor.forecast, monitor.recommendation, monitor.wants_stop) == (None, None, False)
    update = check(monitor, 400, 1e-3)
    forecast, advice = forecaster.forecast(), forecaster.recommend(2.5)
    assert (update.step, update.target) == (400, 2.5)
    assert update.forecast is monitor.forecast
    assert update.recommendation is monitor.recommendation
    assert update.forecast.mean == forecast.mean
    assert update.forecast.interval() == forecast.interval()
    assert update.recommendation == advice
    assert update.recommendation.action is Action.CONTINUE


def test_every_sink_gets_every_update() -> None:
    seen: list[list[Update]] = [[], []]
    monitor = RunMonitor(young(), target=2.5, sinks=(box.append for box in seen))
    updates = [check(monitor, step, 1e-3) for step in (400, 410)]
    assert seen == [updates, updates]


def test_fans_are_kept_for_the_sinks_that_read_them_and_their_end_for_all() -> None:
    """A sink that does without the trail spares the run most of its cost."""

    class Terse:
        reads_trail = False

        def __call__(self, update: Update) -> None: ...

    rows = []
    choices: list[list[Sink]] = [[], [Terse()], [Terse(), list[Update]().append]]
    for sinks in choices:
        monitor = RunMonitor(young(), sinks=sinks)
        monitor.check(400)
        rows.append(monitor.trail.rows[0])
    nothing, terse, drawn = rows
    assert nothing == terse
    assert nothing["steps"] == [TOTAL]
    assert len(drawn["steps"]) == 9
    for line in FAN:
        assert nothing[line] == [pytest.approx(drawn[line][-1], rel=1e-5)]


def test_a_sink_that_raises_is_dropped_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(update: Update) -> None:
        tried.append(update)
        raise OSError("scripted: the disk is full")

    tried, seen = list[Update](), list[Update]()
    monitor = RunMonitor(young(), sinks=[broken, seen.append])
    for step in (400, 410, 420):
        check(monitor, step, 1e-3)
    assert (len(tried), len(seen)) == (1, 3)
    (error,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert error.exc_info
    assert isinstance(error.exc_info[1], OSError)


def test_a_sink_that_is_interrupted_interrupts() -> None:
    def impatient(update: Update) -> None:
        raise KeyboardInterrupt

    monitor = RunMonitor(young(), sinks=[impatient])
    with pytest.raises(KeyboardInterrupt):
        check(monitor, 400, 1e-3)
    assert monitor.sinks == [impatient]


def test_a_change_of_mind_is_logged_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "lossforecast")
    script = [Action.CONTINUE, Action.CONTINUE, Action.STOP, Action.STOP, Action.CHANGE_SCHEDULE]
    actions = iter([*script, Action.CONTINUE])

    def policy(situation: Situation) -> Recommendation:
        action = next(actions)
        return Recommendation(action, Reason.ON_TRACK, f"scripted {action}")

    monitor, stops = RunMonitor(young(), policy=policy), list[bool]()
    for step in range(400, 460, 10):
        check(monitor, step, 1e-3)
        stops.append(monitor.wants_stop)
    assert stops == [False, False, True, True, False, False]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "step 400: scripted continue"),
        ("WARNING", "step 420: scripted stop"),
        ("WARNING", "step 440: scripted change_schedule"),
        ("INFO", "step 450: scripted continue"),
    ]


def test_what_asks_for_nothing_is_logged_at_most_every_tenth_of_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "lossforecast")
    answers = [Action.CONTINUE, Action.ABSTAIN] * 11
    answers[15] = Action.STOP
    given = iter(answers)
    forecaster = young()
    monitor = RunMonitor(forecaster, policy=lambda situation: answering(next(given))(situation))
    for step in range(400, 620, 10):
        monitor.check(step)
    assert [record.getMessage() for record in caplog.records] == [
        f"step 400: scripted {Action.CONTINUE}",
        f"step 510: scripted {Action.ABSTAIN}",
        f"step 550: scripted {Action.STOP}",
        f"step 560: scripted {Action.CONTINUE}",
    ]


def test_policies_may_come_from_a_generator() -> None:
    passing: Policy = lambda situation: None  # noqa: E731
    policies = (policy for policy in [passing, answering(Action.STOP)])
    monitor = RunMonitor(young(), target=99.0, policy=policies)
    for step in (400, 410):  # not just at the first check
        assert check(monitor, step, 1e-3).recommendation.message == "scripted stop"


def test_a_policy_sees_the_history_the_forecast_and_the_target() -> None:
    seen: list[Situation] = []

    def policy(situation: Situation) -> None:
        seen.append(situation)

    forecaster = young()
    update = check(RunMonitor(forecaster, target=2.25, policy=policy), 400, 1e-3)
    assert seen[0].history is forecaster.history
    assert seen[0].target == 2.25
    assert seen[0].forecast.mean == update.forecast.mean


@pytest.mark.parametrize("target", [float("nan"), float("inf"), "2.5", True, [2.5]])
def test_a_target_that_is_no_finite_loss_is_refused(target: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"target (is|must be)"):
        RunMonitor(young(), target=target)


@pytest.mark.parametrize("policy", [3, "stop", [answering(Action.STOP), None]])
def test_what_is_no_policy_is_refused(policy: Any) -> None:
    with pytest.raises(ConfigurationError, match="policy must be one or more policies"):
        RunMonitor(young(), policy=policy)


# ---------------------------------------------------------------------- following the rate


def ahead(forecaster: Forecaster, step: int) -> set[float]:
    plan = forecaster.schedule
    return set(plan.lr(np.arange(step + 1, plan.total_steps + 1)).tolist())


def test_an_assumed_plan_follows_the_rate_that_is_held() -> None:
    forecaster = young(assumed(LRSchedule.constant(TOTAL, 1e-3)), seen=400)
    forecaster.follow_rate(400, 1e-3)
    assert ahead(forecaster, 0) == {1e-3}
    forecaster.follow_rate(400, 2e-4)
    assert ahead(forecaster, 400) == {2e-4}
    assert set(forecaster.schedule.lr(range(1, 401)).tolist()) == {1e-3}, "the past stays"
    forecaster.follow_rate(500, 5e-4)
    assert ahead(forecaster, 500) == {5e-4}
    assert Caveat.LR_ASSUMED in forecaster.forecast().caveats


def test_the_forecast_follows_too() -> None:
    # all laws, as the memory of the learning rate is in them
    forecaster = Forecaster(assumed(LRSchedule.constant(TOTAL, 1e-3)))
    forecaster.observe_many(np.arange(400), curve(np.arange(400)), np.full(400, 1e-3))
    monitor = RunMonitor(forecaster)
    held = check(monitor, 400, 1e-3).forecast
    lowered = check(monitor, 410, 1e-4).forecast
    assert held.anneal_gain.source == "none"
    assert lowered.anneal_gain.mean > 0
    assert lowered.mean < held.mean


def test_a_plan_that_is_known_does_not_follow() -> None:
    plan = LRSchedule.wsd(TOTAL, 1e-3, warmup=50)
    forecaster = young(plan)
    forecaster.follow_rate(400, 5e-4)
    assert forecaster.schedule == plan


def test_what_is_known_of_a_plan_that_is_partly_assumed_stays() -> None:
    # such as OneCycleLR in a run that is longer: known, then held
    known = LRSchedule.wsd(800, 1e-3, warmup=50, end=1e-5)
    plan = assumed(known.extended_to(TOTAL))
    forecaster = young(plan)
    forecaster.follow_rate(400, 9e-4)
    assert forecaster.schedule == plan
    forecaster.observe_many(range(400, 900), curve(range(400, 900)))
    forecaster.follow_rate(900, 1e-4)  # where it is only assumed
    assert ahead(forecaster, 900) == {1e-4}


@pytest.mark.parametrize("step", [TOTAL, TOTAL + 50])
def test_a_plan_that_is_over_does_not_follow(step: int) -> None:
    forecaster = young(assumed(LRSchedule.constant(TOTAL, 1e-3)))
    forecaster.follow_rate(step, 5e-4)
    assert ahead(forecaster, 0) == {1e-3}


def test_assuming_adds_a_caveat_and_nothing_else() -> None:
    plan = LRSchedule.wsd(TOTAL, 1e-3, warmup=50)
    approximate = LRSchedule.from_array(plan.to_array(), caveats=[Caveat.SCHEDULE_APPROXIMATED])
    for schedule in (plan, approximate):
        marked = assumed(schedule)
        assert marked.caveats == schedule.caveats | {Caveat.LR_ASSUMED}
        np.testing.assert_array_equal(marked.to_array(), schedule.to_array())
        assert assumed(marked) == marked


# ---------------------------------------------------------------------- adopting a plan


COSINE = LRSchedule.cosine(TOTAL, 1e-3, warmup=50)


def test_a_plan_that_goes_on_alike_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    forecaster = young(COSINE)
    before = forecaster.state_dict()
    # as a resumed scheduler tells it: it does not know its past, and rounds
    rest = COSINE.lr(np.arange(401, TOTAL + 1)) * (1 + 1e-9)
    adopt_plan(forecaster, LRSchedule.from_array(np.append(np.full(400, rest[0]), rest)), 400)
    assert forecaster.state_dict() == before
    assert not caplog.records


CHANGES: dict[str, LRSchedule] = {
    "longer": LRSchedule.cosine(2 * TOTAL, 1e-3, warmup=50),
    "shorter": LRSchedule.cosine(600, 1e-3, warmup=50),
    "other rates": LRSchedule.constant(TOTAL, 3e-4),
    "its end differs": COSINE.with_decay(start=990, steps=10, end=1e-4),
}


DIFFERENCES = {
    "longer": "2,000 steps instead of 1,000",
    "shorter": "600 steps instead of 1,000",
    "other rates": "learning rate 0.0003 instead of 0.000699 at step 401",
    "its end differs": "(learning rate 1.02e-05 instead of 2.21e-07 at step 991)",
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_future_is_adopted_with_a_warning(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    planned, forecaster = CHANGES[name], young(COSINE)
    adopt_plan(forecaster, planned, 400)
    plan, at = forecaster.schedule, np.arange(401, planned.total_steps + 1)
    assert plan.total_steps == planned.total_steps
    np.testing.assert_allclose(plan.lr(at), planned.lr(at), rtol=1e-12, atol=1e-18)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "resumed at step 400 with another schedule" in record.getMessage()
    assert DIFFERENCES[name] in record.getMessage()


def test_it_can_be_adopted_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    forecaster = young(COSINE)
    assert forecaster.adopt_plan(CHANGES["longer"], 400)
    assert forecaster.total_steps == 2 * TOTAL
    assert not caplog.records


def test_the_saved_plan_stands_for_the_time_before() -> None:
    # a validation loss is seen now and then, and the last one may be long ago
    forecaster = Forecaster(COSINE, laws="power")
    forecaster.observe_many([100, 200, 300], curve([100, 200, 300]))
    planned = LRSchedule.from_array(np.full(2 * TOTAL, 1e-5))  # as of a resumed scheduler
    adopt_plan(forecaster, planned, 400)
    past, future = np.arange(1, 401), np.arange(401, 2 * TOTAL + 1)
    np.testing.assert_allclose(forecaster.schedule.lr(past), COSINE.lr(past), rtol=1e-12)
    assert set(forecaster.schedule.lr(future).tolist()) == {1e-5}


def test_a_run_beyond_its_saved_plan_adopts_a_longer_one() -> None:
    forecaster = young(LRSchedule.cosine(300, 1e-3), seen=400)
    longer = LRSchedule.constant(TOTAL, 5e-4)
    adopt_plan(forecaster, longer, 400)
    assert forecaster.total_steps == TOTAL
    assert ahead(forecaster, 400) == {5e-4}


def test_a_plan_that_ends_before_the_present_step_is_not_adopted() -> None:
    forecaster = young(COSINE)
    adopt_plan(forecaster, LRSchedule.cosine(400, 1e-3, warmup=50), 400)
    assert forecaster.schedule == COSINE


def test_two_assumed_plans_do_not_contradict_each_other(caplog: pytest.LogCaptureFixture) -> None:
    # the rate was lowered after the latest check; `follow_rate` sees to it at the next one, as it
    # would have in a run that was not interrupted
    plan = assumed(LRSchedule.constant(TOTAL, 1e-3))
    forecaster = young(plan)
    adopt_plan(forecaster, assumed(LRSchedule.constant(TOTAL, 1e-4)), 400)
    assert forecaster.schedule == plan
    assert not caplog.records


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: LRSchedule.constant(TOTAL, 1e-4),
        lambda plan: assumed(LRSchedule.constant(2 * TOTAL, 1e-4)),
        lambda plan: assumed(LRSchedule.cosine(TOTAL, 1e-4)),
    ],
    ids=["known", "longer", "partly known"],
)
def test_what_says_more_than_an_assumption_is_adopted(
    change: Callable[[LRSchedule], LRSchedule], caplog: pytest.LogCaptureFixture
) -> None:
    forecaster = young(assumed(LRSchedule.constant(TOTAL, 1e-3)))
    planned = change(forecaster.schedule)
    adopt_plan(forecaster, planned, 400)
    at = np.arange(401, planned.total_steps + 1)
    np.testing.assert_allclose(forecaster.schedule.lr(at), planned.lr(at), rtol=1e-12, atol=1e-18)
    assert len(caplog.records) == 1
