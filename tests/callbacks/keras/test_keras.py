"""`KerasLossForecast` under the real Keras, with torch as its backend."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.logs import warnings_in

from lossforecast import Caveat, LRSchedule, RunInfo, RunStore
from lossforecast.callbacks.monitor.update import Update

keras: Any = pytest.importorskip("keras", reason="keras is not installed")
KerasLossForecast = pytest.importorskip("lossforecast.callbacks").KerasLossForecast

pytestmark = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")  # its own

BATCHES, SIZE = 25, 4
ROOT = Path(__file__).parents[3]


def scripted(steps: int, end: float = 2.0) -> Any:
    """Losses that fall like a power law, (steps,)."""
    return (end + 3 * (np.arange(steps) + 5.0) ** -0.5).astype(np.float32)


def mean_of_targets(target: Any, predicted: Any) -> Any:
    """A loss that is the mean of the targets, whatever the model predicts."""
    return keras.ops.mean(target, axis=-1) + 0 * keras.ops.sum(predicted, axis=-1)


def rows(losses: Any) -> tuple[Any, Any]:
    """Inputs and targets, `SIZE` rows for each batch, whose losses are these."""
    targets = np.repeat(losses, SIZE)[:, None]
    return np.ones((len(targets), 1), np.float32), targets


def model(lr: Any = 0.01, **compiled: Any) -> Any:
    """A model of two parameters."""
    made = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(
        lr, gradient_accumulation_steps=compiled.pop("gradient_accumulation_steps", None)
    )
    made.compile(optimizer, loss=mean_of_targets, **compiled)
    return made


def fit(made: Any, callback: Any, losses: Any, epochs: int = 8, **given: Any) -> Any:
    inputs, targets = rows(losses)
    settings = {"batch_size": SIZE, "shuffle": False, "verbose": 0, **given}
    return made.fit(inputs, targets, epochs=epochs, callbacks=[callback], **settings)


def observed(callback: Any) -> tuple[list[int], Any]:
    """Steps and losses that the forecaster has seen."""
    bins = callback.forecaster.history.bins()
    return bins.step.astype(int).tolist(), bins.mean


def test_the_losses_of_the_batches_are_found_at_their_steps() -> None:
    updates, losses = list[Update](), scripted(BATCHES)
    callback = KerasLossForecast(sinks=[updates.append])
    fit(model(), callback, losses)
    steps, seen = observed(callback)
    assert steps == [step for step in range(8 * BATCHES) if step % BATCHES != BATCHES - 1]
    assert np.allclose(seen, np.tile(losses[:-1], 8), rtol=2e-5)
    assert callback.forecaster.total_steps == 8 * BATCHES
    assert [each.step for each in updates][:3] == [3, 6, 9]
    facts = callback.forecaster.run
    assert (facts.optimizer, facts.n_params, facts.steps_per_epoch) == ("SGD", 2, BATCHES)
    assert callback.postfix.startswith("→")


def test_a_schedule_is_the_plan() -> None:
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 180, warmup_target=0.1, warmup_steps=20)
    callback = KerasLossForecast(verbose=False)
    fit(model(schedule), callback, scripted(BATCHES))
    plan = callback.forecaster.schedule
    expected = [float(schedule(step)) for step in range(8 * BATCHES)]
    assert np.allclose(plan.lr(np.arange(1, 8 * BATCHES + 1)), expected, rtol=1e-6)
    assert Caveat.LR_ASSUMED not in callback.forecast.caveats


def test_a_rate_that_a_callback_changes_is_followed() -> None:
    change = keras.callbacks.LearningRateScheduler(lambda epoch, lr: 0.01 if epoch < 4 else 0.001)
    made, callback = model(), KerasLossForecast(verbose=False)
    inputs, targets = rows(scripted(BATCHES))
    settings = {"batch_size": SIZE, "shuffle": False, "verbose": 0, "epochs": 8}
    made.fit(inputs, targets, callbacks=[change, callback], **settings)
    assert callback.forecaster.schedule.lr([1, 8 * BATCHES]) == pytest.approx([0.01, 0.001])
    assert Caveat.LR_ASSUMED in callback.forecast.caveats


def test_accumulated_batches_are_one_step() -> None:
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 160, 0.0)
    callback = KerasLossForecast(verbose=False)
    losses = scripted(20)
    fit(model(schedule, gradient_accumulation_steps=4), callback, losses)
    steps, seen = observed(callback)
    assert steps == list(range(40))
    assert seen[0] == pytest.approx(losses[:4].mean(), rel=1e-5)
    assert callback.forecaster.total_steps == 40
    assert callback.forecaster.run.steps_per_epoch == 5
    assert callback.forecaster.schedule.lr([1, 40]) == pytest.approx(
        [float(schedule(3)), float(schedule(159))]
    )


def test_a_validation_loss_is_forecast_from_its_epochs() -> None:
    callback = KerasLossForecast("val_loss", verbose=False)
    made, held_out = model(), rows(scripted(3, end=2.5))
    history = fit(made, callback, scripted(5), epochs=30, validation_data=held_out)
    steps, seen = observed(callback)
    assert steps == list(range(5, 155, 5))
    assert np.allclose(seen, history.history["val_loss"], rtol=1e-6)
    assert callback.forecaster.run.metric == "val"


@pytest.mark.parametrize("stop", [True, False])
def test_it_stops_only_if_it_may(stop: bool) -> None:
    made, callback = model(), KerasLossForecast(target=0.1, stop=stop, verbose=False)
    fit(made, callback, scripted(8 * BATCHES), epochs=1)
    assert (int(made.optimizer.iterations) < 8 * BATCHES) is stop
    assert callback.recommendation.reason.value == "target_miss"


def batches(losses: Any) -> Iterator[tuple[Any, Any]]:
    for loss in losses:
        yield rows([loss])


@pytest.mark.parametrize(
    ("given", "first", "total"),
    [({}, BATCHES, 8 * BATCHES), ({"total_steps": 8 * BATCHES}, 0, 8 * BATCHES)],
)
def test_batches_that_nobody_has_counted(given: dict[str, int], first: int, total: int) -> None:
    callback, made = KerasLossForecast(verbose=False, **given), model()

    class Epochs(keras.callbacks.Callback):  # type: ignore[misc]
        """Hides the number of batches, as a backend does whose data has no length."""

        def on_train_begin(self, logs: Any = None) -> None:
            callback.params["steps"] = callback._batches = None

    inputs, targets = rows(scripted(BATCHES))
    settings = {"batch_size": SIZE, "shuffle": False, "verbose": 0, "epochs": 8}
    made.fit(inputs, targets, callbacks=[callback, Epochs()], **settings)
    assert callback.forecaster.total_steps == total
    assert observed(callback)[0][0] == first


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_one_epoch_of_unknown_length_is_not_forecast(caplog: pytest.LogCaptureFixture) -> None:
    callback, made = KerasLossForecast(verbose=False), model()
    data = batches(scripted(BATCHES))
    made.fit(data, epochs=1, callbacks=[callback], shuffle=False, verbose=0)
    assert callback.forecast is None
    (warning,) = warnings_in(caplog)
    assert "Give KerasLossForecast(total_steps=...)" in warning


def test_a_second_fit_goes_on_at_the_step_of_the_first() -> None:
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 16 * BATCHES, 0.0)
    made, callback = model(schedule), KerasLossForecast(verbose=False)
    fit(made, callback, scripted(BATCHES))
    fit(made, callback, scripted(BATCHES))
    assert callback.forecaster.total_steps == 16 * BATCHES
    assert observed(callback)[0][0] == 8 * BATCHES


def test_a_metric_that_is_not_there_is_named(caplog: pytest.LogCaptureFixture) -> None:
    callback = KerasLossForecast("val_los", verbose=False)
    fit(model(), callback, scripted(BATCHES), validation_data=rows(scripted(3)))
    (warning,) = warnings_in(caplog)
    assert "'val_los' is not among the metrics of an epoch (loss, val_loss)" in warning


def test_a_run_that_an_exception_ended_is_recorded_as_failed(tmp_path: Path) -> None:
    class Failing(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 3:
                raise RuntimeError("out of memory")

    store = RunStore(tmp_path / "runs.db")
    callback = KerasLossForecast(store=store, run=RunInfo(project="p"), verbose=False)
    inputs, targets = rows(scripted(BATCHES))
    with pytest.raises(RuntimeError, match="out of memory"):
        model().fit(inputs, targets, epochs=8, callbacks=[callback, Failing()], verbose=0)
    del callback
    gc.collect()
    (row,) = store.runs()
    assert (row.state, row.run.project, row.run.model) == ("failed", "p", "Sequential")


def test_a_given_schedule_is_the_plan(caplog: pytest.LogCaptureFixture) -> None:
    given = LRSchedule.linear(8 * BATCHES, 0.1)
    callback = KerasLossForecast(schedule=given, verbose=False)
    fit(model(), callback, scripted(BATCHES))
    assert callback.forecaster.schedule.lr(1) == given.lr(1)
    assert any("differs from the given schedule" in line for line in warnings_in(caplog))


def test_training_is_as_without_it() -> None:
    def trained(callbacks: list[Any]) -> Any:
        keras.utils.set_random_seed(1)
        made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
        made.compile("adam", "mse")
        data = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
        history = made.fit(
            data, data[:, :1], batch_size=8, epochs=6, verbose=0, callbacks=callbacks
        )
        return np.concatenate([w.ravel() for w in made.get_weights()]), history.history["loss"]

    with_it, without = trained([KerasLossForecast(verbose=False)]), trained([])
    assert np.array_equal(with_it[0], without[0])
    assert with_it[1] == without[1]


WITH_JAX = """
import keras, numpy as np
from lossforecast.callbacks import KerasLossForecast
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
data = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
for at_once in (1, 4):
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 200))
    model.compile(optimizer, "mse", steps_per_execution=at_once)
    forecast = KerasLossForecast(verbose=False)
    model.fit(data, data[:, :1], batch_size=8, epochs=20, verbose=0, callbacks=[forecast])
    seen = forecast.forecaster.history.bins().step.astype(int).tolist()
    print(keras.backend.backend(), forecast.steps, forecast.forecaster.total_steps, *seen[:5])
"""


@pytest.mark.slow
def test_steps_are_counted_with_jax_too(run_python: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("jax", reason="jax is not installed")
    printed = run_python("-c", WITH_JAX, cwd=tmp_path, PYTHONPATH=str(ROOT), KERAS_BACKEND="jax")
    assert printed.splitlines() == ["jax 200 200 0 1 2 3 4", "jax 200 200 1 5 11 15 21"]
