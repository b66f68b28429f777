"""`ForecastPruner` in real studies, in memory and in a database shared by processes."""

import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from support.logs import warnings_in

from lossforecast import ConfigurationError, LRSchedule, RunInfo
from lossforecast.callbacks import ForecastPruner
from lossforecast.policies import Action, Halving, Reason, Recommendation, Situation

TOTAL, EVERY = 1_000, 20


def plan(trial: Any) -> LRSchedule:
    decay = trial.params.get("decay", 0.2)
    return LRSchedule.wsd(TOTAL, 1e-3, warmup=50, decay_fraction=decay)


def values_of(trial: Any, sign: int = 1) -> list[tuple[int, float]]:
    """A training curve: a power law on a level of its own, and a drop with the learning rate."""
    steps = np.arange(EVERY, TOTAL + 1, EVERY)
    rates = plan(trial).lr(steps) / 1e-3
    noise = 0.002 * np.random.default_rng(trial.number).normal(size=steps.size)
    curve = trial.params["level"] + 2 * (steps + 20.0) ** -0.5 + 0.08 * rates + noise
    return [(int(step), sign * float(value)) for step, value in zip(steps, curve, strict=True)]


def objective(trial: optuna.Trial, sign: int = 1) -> float:
    trial.suggest_float("level", 2.0, 3.0)
    trial.suggest_float("decay", 0.1, 0.9)
    for step, value in values_of(trial, sign):
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return value


def study_with(pruner: optuna.pruners.BasePruner, **options: Any) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(pruner=pruner, sampler=sampler, **options)


def steps_used(study: optuna.Study) -> int:
    return sum(trial.last_step or 0 for trial in study.trials)


@pytest.fixture(scope="module")
def unpruned() -> optuna.Study:
    study = study_with(NopPruner())
    study.optimize(objective, n_trials=30)
    return study


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def test_hopeless_trials_are_pruned_and_the_best_is_found(unpruned: optuna.Study) -> None:
    run = RunInfo("val", "adamw", task="language modelling")
    study = study_with(ForecastPruner(plan, run=run))
    study.optimize(objective, n_trials=30)
    assert study.best_trial.number == unpruned.best_trial.number
    assert study.best_value == unpruned.best_value
    assert steps_used(study) < 0.6 * steps_used(unpruned)


@pytest.mark.slow
def test_values_may_be_maximised(unpruned: optuna.Study) -> None:
    study = study_with(ForecastPruner(plan), direction="maximize")
    study.optimize(lambda trial: objective(trial, -1), n_trials=30)
    assert study.best_trial.number == unpruned.best_trial.number
    assert steps_used(study) < 0.8 * steps_used(unpruned)


@pytest.mark.parametrize("unit", [1, EVERY], ids=["steps", "epochs"])
def test_steps_reported_in_epochs_are_named_in_one_sentence(
    unit: int, caplog: pytest.LogCaptureFixture
) -> None:
    def reporting(trial: optuna.Trial) -> float:
        trial.suggest_float("level", 2.0, 3.0)
        for step, value in values_of(trial):
            trial.report(value, step // unit)
            trial.should_prune()
        return value

    study_with(ForecastPruner(plan)).optimize(reporting, n_trials=3)
    lines = warnings_in(caplog)
    assert len(lines) == (unit > 1)
    assert all(line.startswith("trial 0 ended at step 50, its schedule at 1000") for line in lines)


def test_the_first_trial_is_not_pruned() -> None:
    study = study_with(ForecastPruner(plan))
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state is optuna.trial.TrialState.COMPLETE


@pytest.mark.slow
@pytest.mark.parametrize(
    "stock",
    [
        MedianPruner(n_startup_trials=2),
        SuccessiveHalvingPruner(min_resource=5 * EVERY, reduction_factor=3),
        HyperbandPruner(min_resource=5 * EVERY, max_resource=TOTAL),
    ],
    ids=lambda pruner: type(pruner).__name__,
)
def test_stock_pruners_are_shown_forecasts(
    stock: optuna.pruners.BasePruner, unpruned: optuna.Study
) -> None:
    study = study_with(ForecastPruner(plan, stock=stock), study_name="stock")
    study.optimize(objective, n_trials=30)
    assert steps_used(study) < steps_used(unpruned)
    reported = study.trials[0].intermediate_values
    assert reported == dict(values_of(study.trials[0])), "what is stored stays as reported"


def test_a_stock_pruner_is_shown_the_median_of_the_forecast() -> None:
    shown: list[float] = []

    class Recorder(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            assert trial.last_step is not None
            shown.append(trial.intermediate_values[trial.last_step])
            return False

    pruner = ForecastPruner(plan, stock=Recorder())
    study = study_with(pruner)
    study.optimize(objective, n_trials=1)
    forecast = pruner.forecast(study, study.trials[0])
    assert forecast is not None
    assert shown[-1] == forecast.median


@pytest.mark.slow
def test_a_run_that_anneals_late_is_spared() -> None:
    def run(pruner: optuna.pruners.BasePruner) -> optuna.trial.TrialState:
        study = study_with(pruner)
        for _ in range(6):
            study.enqueue_trial({"level": 2.2, "decay": 0.9})
        study.enqueue_trial({"level": 2.17, "decay": 0.1})  # behind until the end, and then ahead
        study.optimize(objective, n_trials=7)
        return study.trials[-1].state

    state = optuna.trial.TrialState
    stock = MedianPruner(n_startup_trials=5, n_warmup_steps=TOTAL // 2)
    assert run(stock) is state.PRUNED
    assert run(ForecastPruner(plan)) is state.COMPLETE


def test_shadow_mode_only_logs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lossforecast"):
        study = study_with(ForecastPruner(plan, shadow=True))
        study.enqueue_trial({"level": 2.0, "decay": 0.5})
        study.enqueue_trial({"level": 3.0, "decay": 0.5})
        study.optimize(objective, n_trials=2)
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}
    assert "trial 1 would be pruned at step" in caplog.text
    assert "to end among the best 1 of 2 runs" in caplog.text


def test_broken_trials_are_pruned() -> None:
    def broken(trial: optuna.Trial) -> float:
        for step in range(EVERY, TOTAL, EVERY):
            trial.report(float("nan"), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 1.0

    study = study_with(ForecastPruner(plan))
    study.optimize(broken, n_trials=1)
    assert study.trials[0].state is optuna.trial.TrialState.PRUNED


def test_policies_are_pluggable() -> None:
    def at_100(situation: Situation) -> Recommendation | None:
        if situation.history.last_step < 100:
            return None
        return Recommendation(Action.STOP, Reason.TARGET_MISS, "stop: scripted")

    study = study_with(
        ForecastPruner(plan, RunInfo(metric="val", optimizer="adamw"), policy=at_100)
    )
    study.optimize(objective, n_trials=2)
    assert [trial.last_step for trial in study.trials] == [100, 100]


def test_an_error_of_ours_prunes_nothing_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(trial: Any) -> LRSchedule:
        raise ZeroDivisionError("the user's function")

    study = study_with(ForecastPruner(fails))
    study.optimize(objective, n_trials=3)
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}
    assert caplog.text.count("forecasting failed") == 1
    assert "the user's function" in caplog.text


def test_the_forecast_of_a_trial_can_be_read() -> None:
    pruner = ForecastPruner(plan)
    study = study_with(pruner)
    study.optimize(objective, n_trials=1)
    forecast = pruner.forecast(study, study.trials[0])
    assert forecast is not None
    assert forecast.made_at == TOTAL
    assert forecast.median == pytest.approx(study.best_value, abs=0.02)


def test_impossible_arguments() -> None:
    with pytest.raises(ConfigurationError, match="schedule must be"):
        ForecastPruner(1e-3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="not both"):
        ForecastPruner(plan, policy=lambda s: None, stock=MedianPruner())


WORKER = """
import sys
import time
import optuna
sys.path[:0] = sys.argv[2:]
from test_optuna import objective, plan
from lossforecast.callbacks import ForecastPruner
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.load_study(study_name="shared", storage=sys.argv[1], pruner=ForecastPruner(plan))
study.optimize(objective, n_trials=6)
"""


@pytest.mark.slow
def test_processes_that_share_a_database(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = study_with(ForecastPruner(plan), study_name="shared", storage=storage)
    study.enqueue_trial({"level": 2.0, "decay": 0.5})
    study.optimize(objective, n_trials=1)
    folders = Path(__file__).parent, Path(__file__).parents[2]  # this one, and that of `support`
    command = [sys.executable, "-c", WORKER, storage, *map(str, folders)]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for worker in workers:
        _, error = worker.communicate(timeout=240)
        assert worker.returncode == 0, error.decode()
        assert b"forecasting failed" not in error
    pruned = study.get_trials(states=(optuna.trial.TrialState.PRUNED,))
    assert len(study.trials) == 13
    assert study.trials[0].state is optuna.trial.TrialState.COMPLETE
    assert pruned
    best = study.best_trial.params["level"]
    assert min(trial.params["level"] for trial in pruned) > best - 0.01


def test_halving_trains_less_and_says_why_it_pruned(
    unpruned: optuna.Study, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lossforecast")
    run = RunInfo("val", "adamw", task="language modelling")
    study = study_with(ForecastPruner(plan, run, rule="halving"))
    study.optimize(objective, n_trials=30)
    assert steps_used(study) < 0.4 * steps_used(unpruned)
    assert study.best_value < unpruned.best_value * 1.01
    reasons = [trial.user_attrs.get("lossforecast:reason") for trial in study.trials]
    pruned = [trial.state is optuna.trial.TrialState.PRUNED for trial in study.trials]
    assert [reason is not None for reason in reasons] == pruned
    ranked = [reason for reason in reasons if reason and "similar runs at" in reason]
    assert ranked
    assert all(f": {reason}" in caplog.text for reason in ranked)


@pytest.mark.parametrize("rule", [Halving(first=0.1), "worthwhile"], ids=["halving", "worthwhile"])
def test_a_process_that_has_seen_nothing_decides_alike(rule: str | Halving) -> None:
    def decisions(fresh: bool) -> list[int | None]:
        pruner = ForecastPruner(plan, rule=rule)
        study = study_with(pruner)
        for _ in range(8):
            study.pruner = ForecastPruner(plan, rule=rule) if fresh else pruner
            study.optimize(objective, n_trials=1)
        return [trial.last_step for trial in study.trials]

    steps = decisions(fresh=True)
    assert steps == decisions(fresh=False)
    least = min(step or 0 for step in steps)
    assert least == 100 if rule != "worthwhile" else least < TOTAL


def test_trials_that_have_ended_correct_the_forecasts_of_the_next() -> None:
    seen: list[tuple[int, float, float]] = []  # trials ended, forecast alone, and corrected

    def watching(situation: Situation) -> Recommendation | None:
        alone = situation.forecast.median
        seen.append((len(situation.rivals), alone, situation.outlook.median))
        return None

    study = study_with(ForecastPruner(plan, policy=watching))
    for level in (2.1, 2.2, 2.3, 2.15):  # alike: with one plan
        study.enqueue_trial({"level": level, "decay": 0.5})
    study.optimize(objective, n_trials=4)
    first = [(alone, corrected) for ended, alone, corrected in seen if ended == 0]
    assert first
    assert all(alone == corrected for alone, corrected in first)
    last = np.array([pair for ended, *pair in seen if ended == 3])[:25]  # the first half
    errors = np.abs(last - study.trials[3].value).mean(axis=0)
    assert errors[1] < errors[0], "closer to the outcome"


def test_a_trial_whose_process_died_is_no_rival_after_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rivals: list[int] = []

    def counting(situation: Situation) -> Recommendation | None:
        rivals.append(len(situation.rivals))
        return None

    pruner = ForecastPruner(plan, policy=counting)
    study = study_with(pruner)
    died, alive = study.ask(), study.ask()
    for trial in (died, alive):
        trial.suggest_float("level", 2.0, 3.0)
        trial.report(3.0, EVERY)
        trial.should_prune()
    now = time.monotonic()
    for hours, step in ((0.9, 2), (1.1, 3)):
        monkeypatch.setattr(time, "monotonic", lambda hours=hours: now + 3_600 * hours)
        alive.report(2.9, step * EVERY)
        alive.should_prune()
    died.report(2.9, 2 * EVERY)
    alive.should_prune()
    assert rivals == [0, 1, 1, 0, 1]
