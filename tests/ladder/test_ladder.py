"""Forecasts of a run from smaller runs of its family."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from support.families import info_of, losses_of, past_of, plan_of, run_of

from lossforecast import Caveat, Forecaster, LRSchedule, Prior, Status
from lossforecast.callbacks.monitor import RunMonitor
from lossforecast.ladder import Ladder
from lossforecast.prior import PastRun

LARGE = 4e8
SMALL = (1e8, 2e8)


def prior(*sizes: float, length: float = 1.0) -> Prior:
    return replace(Prior(), past=tuple(past_of(n, length=length) for n in sizes))


def final_loss(n_params: float = LARGE) -> float:
    plan = plan_of(n_params)
    return float(losses_of(n_params, plan, [plan.total_steps], noise=0.0)[0])


def forecaster(*sizes: float, seen: float = 0.0, shift: float = 0.0) -> Forecaster:
    plan, steps, losses = run_of(LARGE, seed=9)
    made = Forecaster(plan, info_of(LARGE), prior=prior(*sizes))
    n = int(np.searchsorted(steps, seen * plan.total_steps, side="right"))
    made.observe_many(steps[:n], losses[:n] * (1 + shift))
    return made


def test_the_outcome_is_predicted_before_the_first_step() -> None:
    found = forecaster(*SMALL).forecast()
    assert found.median == pytest.approx(final_loss(), rel=0.01)
    lower, upper = found.interval(0.8)
    assert lower < final_loss() < upper
    assert upper - lower < 0.05 * final_loss()


def test_one_smaller_run_tells_less_than_two() -> None:
    one, two = (forecaster(*sizes).forecast() for sizes in (SMALL[1:], SMALL))
    assert np.ptp(one.interval(0.8)) > 1.5 * np.ptp(two.interval(0.8))
    lower, upper = one.interval(0.8)
    assert lower < final_loss() < upper


def test_the_run_makes_it_sharper_than_without_smaller_runs() -> None:
    for seen in (0.1, 0.3, 0.6):
        with_ladder, alone = (forecaster(*sizes, seen=seen).forecast() for sizes in (SMALL, ()))
        assert np.ptp(with_ladder.interval(0.8)) < np.ptp(alone.interval(0.8))
        assert with_ladder.median == pytest.approx(final_loss(), rel=0.005)
        lower, upper = with_ladder.interval(0.8)
        assert lower < final_loss() < upper


def test_the_whole_course_is_predicted() -> None:
    plan = plan_of(LARGE)
    steps = np.linspace(0.15, 1, 10) * plan.total_steps
    curve = forecaster(*SMALL).forecast().curve(steps.astype(int))
    truth = losses_of(LARGE, plan, steps.astype(int), noise=0.0)
    assert np.abs(curve.median / truth - 1).max() < 0.02


def test_other_lengths_of_the_smaller_runs_serve_too() -> None:
    made = Forecaster(plan_of(LARGE), info_of(LARGE), prior=prior(*SMALL, length=0.5))
    lower, upper = made.forecast().interval(0.95)
    assert lower < final_loss() < upper


def test_a_run_that_is_off_its_ladder_outweighs_it() -> None:
    """A run of other data, whose loss is 20% higher, is forecast as if it had no ladder."""
    shifted = forecaster(*SMALL, seen=0.5, shift=0.2).forecast()
    alone = forecaster(seen=0.5, shift=0.2).forecast()
    assert shifted.median == pytest.approx(1.2 * final_loss(), rel=0.02)
    assert shifted.median == pytest.approx(alone.median, rel=0.02)


def test_a_small_difference_of_recipes_is_learnt_early() -> None:
    found = forecaster(*SMALL, seen=0.15, shift=0.02).forecast()
    lower, upper = found.interval(0.95)
    assert lower < 1.02 * final_loss() < upper


def test_only_smaller_runs_of_the_family_are_rungs() -> None:
    past = past_of(1e8)

    def ladder(**change: object) -> Ladder | None:
        other = replace(past, run=replace(past.run, **change))  # type: ignore[arg-type]
        return Ladder.of([other], info_of(LARGE))

    assert ladder() is not None
    assert ladder(n_params=None) is None
    assert ladder(n_params=LARGE / 1.1) is None
    assert ladder(n_params=1e9) is None
    assert ladder(optimizer="sgd") is None
    assert ladder(metric="train") is None
    assert ladder(dataset="code") is None
    assert ladder(monitor="eval_code_loss") is None
    assert Ladder.of([past], replace(info_of(LARGE), n_params=None)) is None


def test_a_smaller_run_that_diverged_is_no_rung() -> None:
    past = past_of(1e8)
    rising = np.linspace(1.0, 3.0, len(past.evidence))
    broken = replace(past, evidence=replace(past.evidence, loss=past.evidence.loss * rising))
    assert Ladder.of([broken], info_of(LARGE)) is None


def test_sizes_within_a_fifth_are_one_rung() -> None:
    ladder = Ladder.of([past_of(n) for n in (1e8, 1.1e8, 2e8)], info_of(LARGE))
    assert ladder is not None
    assert [rung.n_params for rung in ladder.rungs] == [1e8, 2e8]
    assert ladder.n_runs == 3


def test_what_if_the_run_were_longer() -> None:
    made = forecaster(*SMALL)
    total = plan_of(LARGE).total_steps
    longer = LRSchedule.cosine(2 * total, 1e-3, end=1e-4, warmup=total // 50)
    assert made.forecast(schedule=longer).median < made.forecast().median


def test_a_saved_forecaster_keeps_its_ladder() -> None:
    made = forecaster(*SMALL, seen=0.3)
    again = Forecaster.from_state_dict(made.state_dict())
    assert again.n_smaller_runs == made.n_smaller_runs == 2
    assert again.forecast().median == made.forecast().median


def test_a_forecast_can_be_pickled_and_copied() -> None:
    found = forecaster(*SMALL, seen=0.3).forecast()
    for twin in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert twin.curve().median.tolist() == found.curve().median.tolist()


def test_losses_that_are_not_positive_end_the_ladder() -> None:
    made = Forecaster(plan_of(LARGE), info_of(LARGE), prior=prior(*SMALL))
    steps = np.arange(100, 20_000, 100)
    made.observe_many(steps, 0.5 * np.cos(steps / 5e3) - 0.2)
    assert np.isfinite(made.forecast().median)
    assert made.forecast().status is not Status.NO_DATA


def test_many_runs_of_a_size_are_thinned_to_the_nearest() -> None:
    runs: list[PastRun] = []
    for i in range(30):
        runs.append(replace(past_of(1e8, length=0.2 + 0.1 * i, seed=i), name=str(i)))
    ladder = Ladder.of(runs, info_of(LARGE))
    assert ladder is not None
    kept = ladder.nearest(plan_of(LARGE))
    assert len(kept) <= 8
    assert "8" in {past.name for past in kept}  # of equal tokens per parameter


def test_an_event_ahead_keeps_the_forecast_wide() -> None:
    quiet, changed = (forecaster(*SMALL, seen=0.3) for _ in range(2))
    now = changed.history.last_step
    changed.event(now + 1, "other data")
    widths = [float(np.ptp(each.forecast().interval(0.8))) for each in (quiet, changed)]
    assert widths[1] > 10 * widths[0]
    plan, steps, losses = run_of(LARGE, seed=9)
    later = (steps > now) & (steps < 0.6 * plan.total_steps)
    changed.observe_many(steps[later], 1.3 * losses[later])
    assert changed.forecast().median == pytest.approx(1.3 * final_loss(), rel=0.02)


def test_a_plan_of_unknown_rates_has_no_ladder() -> None:
    plan = LRSchedule.constant(40_000, 1.0).with_caveats(Caveat.LR_UNKNOWN)
    made = Forecaster(plan, info_of(LARGE), prior=prior(*SMALL))
    assert made.n_smaller_runs == 0
    assert made.forecast().status is Status.NO_DATA


@pytest.mark.parametrize("total_steps", [1, 3, 20])
def test_tiny_plans_are_predicted_without_an_error(total_steps: int) -> None:
    made = Forecaster(LRSchedule.constant(total_steps, 1e-3), info_of(LARGE), prior=prior(*SMALL))
    assert np.isfinite(made.forecast().median)
    made.observe(0, 9.0)
    assert np.isfinite(made.forecast().median)


def test_schedules_that_begin_or_stay_at_zero_are_predicted() -> None:
    for rates in ([0.0] * 50, [0.0] * 25 + [1e-3] * 25):
        made = Forecaster(LRSchedule.from_array(rates), info_of(LARGE), prior=prior(*SMALL))
        assert np.isfinite(made.forecast().median)


def rising(seen: float, rise: float) -> Forecaster:
    """A run whose loss rises against its ladder between 40 and 45% of it."""
    plan, steps, losses = run_of(LARGE, seed=9)
    share = steps / plan.total_steps
    n = int(np.searchsorted(share, seen, side="right"))
    made = Forecaster(plan, info_of(LARGE), prior=prior(*SMALL))
    made.observe_many(steps[:n], (losses * (1 + rise * np.clip((share - 0.4) / 0.05, 0, 1)))[:n])
    return made


def test_a_run_that_leaves_its_ladder_is_told_soon() -> None:
    assert rising(0.4, 0.06).forecast().departure is None
    found = rising(0.5, 0.06).forecast()
    assert found.departure is not None
    assert found.departure.excess == pytest.approx(0.06, abs=0.015)
    total = plan_of(LARGE).total_steps
    assert 0.38 * total < found.departure.since < 0.46 * total
    assert str(found.departure) in str(found)


@pytest.mark.parametrize("seed", range(5))
def test_a_sound_run_never_leaves_its_ladder(seed: int) -> None:
    plan, steps, losses = run_of(LARGE, seed=seed)
    made = Forecaster(plan, info_of(LARGE), prior=prior(*SMALL))
    for part in np.array_split(np.arange(steps.size), 8):
        made.observe_many(steps[part], losses[part])
        assert made.forecast().departure is None


def test_a_run_that_is_better_than_its_ladder_is_not_told() -> None:
    assert rising(0.8, -0.06).forecast().departure is None


def test_the_monitor_warns_of_a_departure_once(caplog: pytest.LogCaptureFixture) -> None:
    monitor = RunMonitor(rising(0.5, 0.06))
    for _ in range(2):
        monitor.check(20_000)
    assert caplog.text.count("above the prediction from smaller runs") == 1
