"""`ForecastStopper` and `ForecastScheduler` in real sweeps of Ray Tune."""

import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray import cloudpickle, tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from lossforecast import ConfigurationError, LRSchedule, RunInfo
from lossforecast.callbacks import ForecastScheduler, ForecastStopper
from lossforecast.policies import Action, Reason, Recommendation, Situation

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no worker can import it

TOTAL, EVERY = 1_000, 50
HALF = 500
Config = dict[str, Any]


def plan(config: Config) -> LRSchedule:
    return LRSchedule.wsd(TOTAL, 1e-3, warmup=50, decay_fraction=config["decay"])


def values_of(config: Config) -> list[tuple[int, float]]:
    """A training curve: a power law on a level of its own, and a drop with the learning rate."""
    steps = np.arange(EVERY, TOTAL + 1, EVERY)
    rates = plan(config).lr(steps) / 1e-3
    noise = 0.002 * np.random.default_rng(config["seed"]).normal(size=steps.size)
    curve = config["level"] + 2 * (steps + 20.0) ** -0.5 + 0.08 * rates + noise
    return [(int(step), float(value)) for step, value in zip(steps, curve, strict=True)]


def final(config: Config) -> float:
    return values_of(config)[-1][1]


def trial(level: float, decay: float = 0.5, seed: int = 0, **more: Any) -> Config:
    return {"level": level, "decay": decay, "seed": seed, **more}


_RANDOM = np.random.default_rng(1)
TRIALS = [trial(_RANDOM.uniform(2, 3), _RANDOM.uniform(0.1, 0.9), seed) for seed in range(6)]
BEST = min(range(len(TRIALS)), key=lambda i: final(TRIALS[i]))


def train(config: Config) -> None:
    """Reports the curve; a trial that `fails` does so once, by default half-way."""
    for step, value in values_of(config):
        tune.report({"loss": config.get("sign", 1) * value, "step": step})
        if (
            step == config.get("at", HALF)
            and "fails" in config
            and not Path(config["fails"]).exists()
        ):
            Path(config["fails"]).touch()
            raise RuntimeError("scripted")


@pytest.fixture(scope="module", autouse=True)
def _engine() -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="ray")  # short: sockets are made in it
    environment = pytest.MonkeyPatch()
    environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
    environment.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    environment.undo()
    shutil.rmtree(folder, ignore_errors=True)


def in_order(results: Any) -> list[Any]:
    """As the trials were made; Ray puts those that were tried again last."""
    return sorted(results, key=lambda result: str(result.metrics["experiment_tag"]))


Sweep = Callable[..., list[Any]]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Runs the trials and returns their last results, in the order of the trials."""

    def run(
        trials: list[Config] = TRIALS,
        judge: ForecastStopper | TrialScheduler | None = None,
        trainable: Callable[[Config], None] = train,
        in_turn: bool = False,
        mode: str | None = None,
        stop: Any = None,
        max_failures: int = 0,
    ) -> list[Any]:
        scheduler = judge if isinstance(judge, TrialScheduler) else None
        tuner = tune.Tuner(
            lambda given: trainable(given["trial"]),
            param_space={"trial": tune.grid_search(trials)},
            tune_config=tune.TuneConfig(
                scheduler=scheduler,
                metric="loss" if mode else None,
                mode=mode,
                max_concurrent_trials=1 if in_turn else None,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                stop=judge if isinstance(judge, ForecastStopper) else stop,
                storage_path=str(tmp_path),
                failure_config=tune.FailureConfig(max_failures=max_failures),
                verbose=0,
            ),
        )
        return in_order(tuner.fit())

    return run


def of_trial(config: Config) -> LRSchedule:
    return plan(config["trial"])


def stopper(**options: Any) -> ForecastStopper:
    return ForecastStopper(of_trial, **{"metric": "loss", "time_attr": "step", **options})


def scheduler(**options: Any) -> ForecastScheduler:
    given = {"metric": "loss", "mode": "min", "time_attr": "step", **options}
    return ForecastScheduler(of_trial, **given)


def steps(results: list[Any]) -> list[int]:
    return [result.metrics["step"] for result in results]


JUDGES = pytest.mark.parametrize(
    "judge",
    [pytest.param(stopper, marks=pytest.mark.slow), scheduler],
    ids=["stopper", "scheduler"],
)


@pytest.mark.slow
@JUDGES
def test_hopeless_trials_are_stopped_and_the_best_is_found(judge: Any, sweep: Sweep) -> None:
    results = sweep(judge=judge())
    assert steps(results)[BEST] == TOTAL
    assert results[BEST].metrics["loss"] == final(TRIALS[BEST])
    n_beside_the_best = 1  # two run at once
    assert sum(step < TOTAL for step in steps(results)) >= len(TRIALS) - 1 - n_beside_the_best
    said = ["lossforecast:reason" in result.metrics for result in results]
    assert said == [step < TOTAL for step in steps(results)]


@pytest.mark.slow
@JUDGES
def test_values_may_be_maximised_and_nested(judge: Any, sweep: Sweep) -> None:
    def nested(config: Config) -> None:
        for step, value in values_of(config):
            tune.report({"eval": {"gain": -value}, "step": step})

    trials = [trial(2.0), trial(2.9), trial(3.0)]
    judging = judge(metric="eval/gain", mode="max", target=-3.5)
    good, *bad = steps(sweep(trials, judging, nested, in_turn=True))
    assert good == TOTAL
    assert max(bad) < TOTAL


@pytest.mark.slow
def test_metric_and_mode_are_taken_from_the_tune_config(sweep: Sweep) -> None:
    trials = [trial(2.0, sign=-1), trial(3.0, sign=-1)]
    judging = scheduler(metric=None, mode=None)
    good, bad = steps(sweep(trials, judging, mode="max", in_turn=True))
    assert good == TOTAL
    assert bad < TOTAL


def test_metric_and_mode_are_said_once(sweep: Sweep) -> None:
    with pytest.raises(ConfigurationError, match="give both here or in tune"):
        sweep([trial(2.0)], scheduler(metric=None))
    with pytest.raises(ValueError, match="already instantiated with their own"):
        sweep([trial(2.0)], scheduler(), mode="min")
    with pytest.raises(ConfigurationError, match="the stock scheduler has the metric 'loss'"):
        scheduler(stock=ASHAScheduler(metric="loss", mode="min"))


@JUDGES
def test_a_trial_that_anneals_late_is_spared(judge: Any, sweep: Sweep) -> None:
    trials = [trial(2.2, 0.9, seed) for seed in range(3)]
    trials.append(trial(2.17, 0.1))  # behind until the end, and then ahead
    assert steps(sweep(trials, judge(), in_turn=True))[-1] == TOTAL


def test_a_stock_rule_stops_one_that_anneals_late(sweep: Sweep) -> None:
    trials = [*(trial(2.2, 0.9, seed) for seed in range(3)), trial(2.17, 0.1)]
    median = MedianStoppingRule("step", "loss", "min", grace_period=TOTAL // 2)
    assert steps(sweep(trials, median, in_turn=True))[-1] < TOTAL


class Recorder(FIFOScheduler):
    """A scheduler that keeps what it is shown, and lets all trials go on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shown: list[tuple[int, float]] = []
        self.ends: list[float] = []

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Config) -> str:
        self.shown.append((result["step"], result["loss"]))
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Config) -> None:
        self.ends.append(result["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_a_stock_scheduler_is_shown_forecasts(sign: int, sweep: Sweep) -> None:
    recorder, config = Recorder(), trial(2.5, 0.2, sign=sign)
    mode = "min" if sign == 1 else "max"
    (result,) = sweep([config], scheduler(stock=recorder, mode=mode))
    reported = [(step, sign * value) for step, value in values_of(config)]
    assert [step for step, _ in recorder.shown] == [step for step, _ in reported]
    shown, value, end = dict(recorder.shown)[HALF], dict(reported)[HALF], sign * final(config)
    assert abs(shown - end) < abs(value - end)
    assert recorder.ends == pytest.approx([sign * final(config)], abs=0.01)
    assert result.metrics["loss"] == sign * final(config), "what is stored stays as reported"


@pytest.mark.slow
@pytest.mark.parametrize(
    "stock",
    [
        ASHAScheduler("step", max_t=TOTAL, grace_period=5 * EVERY, reduction_factor=3),
        MedianStoppingRule("step", grace_period=5 * EVERY, min_time_slice=TOTAL),
    ],
    ids=lambda stock: type(stock).__name__,
)
def test_stock_schedulers_decide_by_forecasts(stock: TrialScheduler, sweep: Sweep) -> None:
    results = sweep([*map(trial, (2.0, 2.1, 2.2, 6.0, 6.0))], scheduler(stock=stock))
    assert steps(results)[0] == TOTAL
    assert sum(steps(results)) < TOTAL * len(results)


@pytest.mark.parametrize(
    "judge",
    [
        stopper(shadow=True),
        scheduler(shadow=True),
        scheduler(
            shadow=True,
            stock=ASHAScheduler("step", max_t=TOTAL, grace_period=5 * EVERY, reduction_factor=2),
        ),
    ],
    ids=["stopper", "scheduler", "stock"],
)
def test_shadow_mode_only_logs(judge: Any, sweep: Sweep, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lossforecast"):
        results = sweep([trial(2.0), trial(3.0)], judge, in_turn=True)
    assert steps(results) == [TOTAL, TOTAL]
    assert caplog.text.count("would be stopped at step") == 1
    assert "_00001 would be stopped at step" in caplog.text


def resumable(config: Config) -> None:
    """Reports the curve with checkpoints, and notes every step that it takes."""
    done = 0
    if begun := tune.get_checkpoint():
        with begun.as_directory() as folder:
            done = int(Path(folder, "step").read_text())
    for step, value in values_of(config):
        if step <= done:
            continue
        with Path(config["notes"]).open("a") as notes:
            print(step, file=notes)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "step").write_text(str(step))
            saved = tune.Checkpoint.from_directory(folder)
            tune.report({"loss": value, "step": step}, checkpoint=saved)


def test_paused_trials_are_resumed_while_they_are_worth_their_steps(
    sweep: Sweep, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def pauses_once(situation: Situation) -> Recommendation | None:
        if situation.history.last_step != 800:
            return None
        return Recommendation(Action.STOP, Reason.DOMINATED, "stop: scripted")

    levels = (2.4, 2.9, 2.0, 3.0)
    trials = [trial(level, notes=str(tmp_path / str(level))) for level in levels]
    with caplog.at_level(logging.INFO, "lossforecast"):
        results = sweep(trials, scheduler(policy=pauses_once, pause=True), resumable)
    assert steps(results)[2] == TOTAL, "the best forecast is resumed first"
    assert [steps(results)[1], steps(results)[3]] == [800, 800], "these are never resumed"
    assert caplog.text.count("is paused at step 800: stop: scripted") == len(levels)
    for config, result in zip(trials, results, strict=True):
        taken = [int(line) for line in Path(config["notes"]).read_text().split()]
        assert taken == list(range(EVERY, result.metrics["step"] + 1, EVERY)), "none is repeated"
        is_complete = result.metrics["step"] == TOTAL
        assert ("lossforecast:reason" in result.metrics) != is_complete


def test_a_trial_without_a_checkpoint_is_stopped_instead_of_paused(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = steps(sweep([trial(2.0), trial(3.0)], scheduler(pause=True), in_turn=True))
    assert good == TOTAL
    assert bad < TOTAL
    assert caplog.text.count("has reported no checkpoint") == 1


def test_broken_trials_are_stopped(sweep: Sweep) -> None:
    def broken(config: Config) -> None:
        for step in range(EVERY, TOTAL, EVERY):
            tune.report({"loss": float("nan"), "step": step})

    (result,) = sweep([trial(2.0)], scheduler(), broken)
    assert result.metrics["step"] <= HALF
    assert result.metrics["lossforecast:reason"].startswith("stop: ")


@pytest.mark.slow
def test_policies_and_runs_are_pluggable(sweep: Sweep) -> None:
    def at_200(situation: Situation) -> Recommendation | None:
        if situation.history.last_step < 200 or situation.kind != "adamw":
            return None
        return Recommendation(Action.STOP, Reason.TARGET_MISS, "stop: scripted")

    judging = scheduler(policy=at_200, run=RunInfo(metric="val", optimizer="adamw"))
    assert steps(sweep([trial(2.0)], judging)) == [200]


def test_a_trial_that_misses_the_target_is_stopped(sweep: Sweep) -> None:
    config = trial(2.5, sign=-1)
    assert steps(sweep([config], stopper(mode="max", target=-2.0)))[0] < TOTAL


@JUDGES
def test_an_error_of_ours_stops_nothing_and_is_logged_once(
    judge: Any, sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(situation: Situation) -> None:
        raise ZeroDivisionError("the user's function")

    results = sweep([trial(2.0), trial(3.0)], judge(policy=fails), in_turn=True)
    assert steps(results) == [TOTAL, TOTAL]
    assert caplog.text.count("forecasting failed") == 1
    assert "the user's function" in caplog.text


@pytest.mark.slow
def test_after_an_error_of_ours_paused_trials_go_on(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    class Pauses(FIFOScheduler):
        """Never goes on with the first trial that it has paused, and fails on the second."""

        def on_trial_result(self, tune_controller: Any, trial: Any, result: Config) -> str:
            first = trial.trial_id.endswith("_00000")
            if result["step"] == 400 and not first:
                raise ZeroDivisionError("of the stock scheduler")
            pauses = first and result["step"] == 200
            return TrialScheduler.PAUSE if pauses else TrialScheduler.CONTINUE

        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            waiting = [each for each in tune_controller.get_trials() if each.status == "PENDING"]
            return waiting[0] if waiting else None

    stock = Pauses()  # type: ignore[no-untyped-call]
    results = sweep([trial(2.0), trial(3.0)], scheduler(stock=stock))
    assert steps(results) == [TOTAL, TOTAL]
    assert caplog.text.count("forecasting failed") == 1


@pytest.mark.parametrize(
    ("judge", "options"),
    [
        (stopper, {"metric": "los"}),
        (scheduler, {"time_attr": "stp"}),
    ],
)
def test_what_is_missing_in_the_results_is_named_once(
    judge: Any, options: Config, sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    results = sweep([trial(2.0), trial(3.0)], judge(**options), in_turn=True)
    assert steps(results) == [TOTAL, TOTAL]
    (record,) = [each for each in caplog.records if each.name == "lossforecast"]
    assert record.levelno == logging.ERROR
    (name,) = options.values()
    assert f"reported no {name!r}, but " in record.getMessage()
    assert "loss, " in record.getMessage()
    assert " step, " in record.getMessage()


@pytest.mark.slow
def test_results_without_a_value_are_passed_over(sweep: Sweep) -> None:
    def sparse(config: Config) -> None:
        for step, value in values_of(config):
            tune.report({"step": step - 10})
            tune.report({"loss": value, "step": step})

    good, bad = steps(sweep([trial(2.0), trial(3.0)], stopper(), sparse, in_turn=True))
    assert good == TOTAL
    assert bad < TOTAL


@pytest.mark.slow
def test_steps_that_are_not_those_of_the_schedule_are_noticed(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    sweep([trial(2.0)] * 2, scheduler(time_attr="training_iteration"), in_turn=True)
    assert caplog.text.count("ended at step 20, its schedule at 1000") == 1


@pytest.mark.slow
@JUDGES
def test_a_trial_that_is_tried_again_starts_anew(
    judge: Any, sweep: Sweep, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trials = [trial(2.0, fails=str(tmp_path / "failed")), trial(3.0)]
    with caplog.at_level(logging.INFO, "lossforecast"):
        good, bad = steps(sweep(trials, judge(), max_failures=1, in_turn=True))
    assert (tmp_path / "failed").exists()
    assert good == TOTAL
    assert bad < TOTAL
    assert "forecasting failed" not in caplog.text


@pytest.mark.slow
def test_a_scheduler_does_not_count_failed_trials(sweep: Sweep, tmp_path: Path) -> None:
    trials = [trial(2.0, fails=str(tmp_path / "failed")), trial(3.0)]
    assert steps(sweep(trials, scheduler(), in_turn=True)) == [HALF, TOTAL]


@pytest.mark.slow
def test_a_scheduler_counts_what_others_end_by_its_last_value(sweep: Sweep) -> None:
    judging = scheduler()
    sweep([trial(2.0)], judging, stop={"step": 800})
    (ended,) = judging._trials._ended.values()
    assert ended.quantiles[0] == dict(values_of(trial(2.0)))[800]


@pytest.mark.slow
@JUDGES
def test_a_restored_sweep_knows_how_trials_ended(judge: Any, sweep: Sweep, tmp_path: Path) -> None:
    fails = trial(3.0, fails=str(tmp_path / "failed"), at=2 * EVERY)
    results = sweep([trial(2.0), fails], judge(), in_turn=True)
    assert steps(results) == [TOTAL, 2 * EVERY]
    again = tune.Tuner.restore(
        str(tmp_path / "sweep"), lambda given: train(given["trial"]), restart_errored=True
    )
    good, bad = steps(in_order(again.fit()))
    assert good == TOTAL
    assert 2 * EVERY < bad < TOTAL, "alone it would not be stopped"


@pytest.mark.slow
def test_a_pickled_stopper_decides_the_same() -> None:
    judge, twin = stopper(), None
    pairs = []
    curves = {f"{config['level']}": (config, values_of(config)) for config in TRIALS[:3]}
    for i in range(TOTAL // EVERY):
        for name, (config, values) in curves.items():
            step, value = values[i]
            result = {"loss": value, "step": step, "config": {"trial": config}}
            stops = judge(name, dict(result))
            if twin is not None:
                pairs.append((stops, twin(name, result)))
        if i == 2:
            twin = cloudpickle.loads(cloudpickle.dumps(judge))
    assert {first for first, _ in pairs} == {True, False}
    assert all(first == second for first, second in pairs)


class Doubled(ForecastScheduler):
    """Saves itself early in the second trial, and asks what was restored of it from then on."""

    def __init__(self, path: Path) -> None:
        super().__init__(of_trial, metric="loss", mode="min", time_attr="step")
        self.path, self.pairs = str(path), list[tuple[str, str]]()
        self.twin: ForecastScheduler | None = None

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Config) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if self.twin is not None:
            again = self.twin.on_trial_result(tune_controller, trial, result)
            self.pairs.append((decision, again))
        elif trial.trial_id.endswith("_00001") and result["step"] == 2 * EVERY:
            self.save(self.path)
            self.twin = ForecastScheduler(of_trial)
            self.twin.restore(self.path)
        return decision


def test_a_restored_scheduler_decides_the_same(sweep: Sweep, tmp_path: Path) -> None:
    judging = Doubled(tmp_path / "scheduler")
    good, bad = steps(sweep([trial(2.0), trial(3.0)], judging, in_turn=True))
    assert bad < good
    assert {first for first, _ in judging.pairs} == {"CONTINUE", "STOP"}
    assert all(first == second for first, second in judging.pairs)


def test_a_checkpoint_of_the_sweep_is_small() -> None:
    judge = stopper()
    for config in TRIALS[:2]:
        for step, value in values_of(config)[:-1]:
            judge(f"{config['level']}", {"loss": value, "step": step, "config": {"trial": config}})
    assert len(cloudpickle.dumps(judge)) < 20_000 * 2


@JUDGES
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"metric": 1}, "metric must be the name"),
        ({"mode": "lowest"}, "mode is 'lowest'"),
        ({"time_attr": ""}, "time_attr must be the name"),
        ({"run": "adamw"}, "run must be a RunInfo"),
        ({"policy": "dominated"}, "policy must be"),
        ({"target": float("nan")}, "target is nan"),
    ],
)
def test_impossible_arguments(judge: Any, options: Config, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        judge(**options)


@pytest.mark.parametrize("judge", [ForecastStopper, ForecastScheduler])
def test_a_schedule_is_needed(judge: Any) -> None:
    with pytest.raises(ConfigurationError, match="schedule must be"):
        judge(1e-3, metric="loss")


@pytest.mark.parametrize("options", [{"policy": lambda s: None}, {"target": 2.0}])
def test_one_decides(options: Config) -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        scheduler(stock=FIFOScheduler(), **options)


def test_a_stock_scheduler_is_one_of_rays() -> None:
    with pytest.raises(ConfigurationError, match="stock must be a scheduler"):
        scheduler(stock="asha")
