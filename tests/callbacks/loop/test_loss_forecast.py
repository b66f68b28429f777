"""`LossForecast`: loops without a framework forecast as those of torch do."""

import copy
import logging
import math
import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.logs import warnings_in
from support.torch_runs import Bench, scripted

from lossforecast import Caveat, ConfigurationError, LRSchedule, RunInfo, RunStore, StateError
from lossforecast.callbacks import LossForecast, TorchLossForecast
from lossforecast.callbacks.loop import StepCapture, plan_of
from lossforecast.callbacks.monitor.update import Update

TOTAL = 120
ROOT = Path(__file__).parents[3]


def cosine(step: int) -> float:
    return 0.1 * (1 + math.cos(math.pi * step / TOTAL)) / 2


def run(
    forecast: LossForecast, losses: Iterable[float], after: Callable[[int], None] = lambda s: None
) -> int:
    """Train; returns the optimizer steps taken."""
    steps = 0
    for steps, loss in enumerate(losses, 1):
        forecast.step(loss)
        after(steps)
        if forecast.should_stop:
            break
    return steps


LOSSES = [scripted(step) for step in range(TOTAL)]


def told(updates: list[Update]) -> list[tuple[Any, ...]]:
    return [
        (each.step, each.forecast.median, *each.forecast.interval(0.8), each.recommendation.message)
        for each in updates
    ]


def test_a_whole_run_loads_no_framework(run_python: Callable[..., str], tmp_path: Path) -> None:
    code = """
import sys
from lossforecast.callbacks import CSVSink, LossForecast
with LossForecast(lambda step: 0.1 * (1 - step / 90), 90, sinks=[CSVSink("f.csv")]) as forecast:
    for step in range(90):
        forecast.step(2 + 3 * (step + 5) ** -0.5)
        if step % 30 == 29:
            forecast.validation(2.5 + 3 * (step + 5) ** -0.5)
            forecast.event("longer sequences")
    state = forecast.state_dict()
print(forecast.forecast.step, forecast.steps, state["capture"]["steps"])
print(*sorted({"torch", "jax", "keras", "lightning", "transformers", "matplotlib", "rich"}
              & {name.partition(".")[0] for name in sys.modules}))
"""
    printed = run_python("-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert printed.splitlines() == ["90 90 90", ""]
    assert len((tmp_path / "f.csv").read_text().splitlines()) > 30


@pytest.mark.parametrize("metric", ["train", "val"])
def test_forecasts_are_those_of_the_same_run_in_torch(metric: str) -> None:
    ours, theirs, bench = list[Update](), list[Update](), Bench()
    scheduler = torch.optim.lr_scheduler.LambdaLR(bench.optimizer, lambda s: cosine(s) / 0.1)
    facts = RunInfo(optimizer="RateRecorder", n_params=2)
    with (
        LossForecast(cosine, TOTAL, metric=metric, run=facts, sinks=[ours.append]) as forecast,
        TorchLossForecast(
            bench.optimizer, scheduler, TOTAL, metric=metric, sinks=[theirs.append]
        ) as monitor,
    ):
        for step, loss in enumerate(LOSSES):
            if step == 60:
                forecast.event("other data")
                monitor.event("other data")
            forecast.step(loss)
            monitor.step(loss)
            bench.optimizer.step()
            scheduler.step()
            if step % 10 == 9:
                forecast.validation(loss + 0.5)
                monitor.validation(loss + 0.5)
    assert told(ours) == told(theirs)
    assert len(ours) > 40
    seen, known = (each.forecaster_of(metric).history for each in (forecast, monitor))
    assert seen.state_dict() == known.state_dict()


def test_a_resumed_run_makes_the_same_forecasts() -> None:
    whole, parts = list[Update](), list[Update]()
    with LossForecast(cosine, TOTAL, sinks=[whole.append]) as forecast:
        run(forecast, LOSSES)
    first = LossForecast(cosine, TOTAL, sinks=[parts.append])
    run(first, LOSSES[:70])
    state = copy.deepcopy(first.state_dict())
    del first
    parts = [each for each in parts if each.step < 70]
    with LossForecast(cosine, TOTAL, sinks=[parts.append]) as second:
        second.load_state_dict(state)
        assert second.steps == 70
        run(second, LOSSES[70:])
    assert {row[0]: row for row in told(whole)}.items() >= {r[0]: r for r in told(parts)}.items()
    assert told(whole)[-1] == told(parts)[-1]


def test_another_schedule_is_adopted_when_a_run_is_resumed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = LossForecast(cosine, TOTAL, verbose=False)
    run(first, LOSSES[:70])
    with LossForecast(0.05, 2 * TOTAL, verbose=False) as second:
        second.load_state_dict(first.state_dict())
        run(second, LOSSES[70:])
        assert second.forecaster.total_steps == 2 * TOTAL
    (warning,) = warnings_in(caplog)
    assert "resumed at step 70 with another schedule" in warning
    with pytest.raises(StateError):
        second.load_state_dict({"forecasters": {}})


def test_it_stops_only_if_it_may() -> None:
    asked = LossForecast(cosine, TOTAL, target=0.1, stop=True, verbose=False)
    assert run(asked, LOSSES) < TOTAL
    asked.close()
    advised = LossForecast(cosine, TOTAL, target=0.1, verbose=False)
    assert run(advised, LOSSES) == TOTAL
    advised.close()
    assert advised.recommendation is not None
    assert advised.recommendation.reason.value == "target_miss"


def test_a_failed_run_is_recorded_as_failed(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs.db")
    facts = RunInfo(project="p", optimizer="adam")
    forecast = LossForecast(cosine, TOTAL, store=store, run=facts, verbose=False)
    run(forecast, LOSSES[:60])
    error = RuntimeError("out of memory")
    forecast.__exit__(RuntimeError, error, None)
    (row,) = store.runs()
    assert (row.state, row.run.project, row.run.optimizer) == ("failed", "p", "adam")


def test_a_rate_off_the_plan_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    with LossForecast(cosine, TOTAL, verbose=False) as forecast:
        for loss in LOSSES:
            forecast.step(loss, lr=0.1)
    (warning,) = warnings_in(caplog)
    assert "the learning rate differs from the given schedule: the next one is" in warning


def test_an_error_of_its_own_leaves_the_training_alone(caplog: pytest.LogCaptureFixture) -> None:
    with LossForecast(cosine, TOTAL, verbose=False) as forecast:
        assert run(forecast, [*LOSSES[:50], "no number", *LOSSES[50:]]) == TOTAL + 1  # type: ignore[list-item]
    assert forecast.switched_off
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "forecasting failed and is switched off; training goes on" in record.getMessage()
    assert "the loss is 'no number'; give one number" in str(record.exc_info)


def test_losses_that_are_no_numbers_are_left_out() -> None:
    with LossForecast(cosine, TOTAL, verbose=False) as forecast:
        run(forecast, [math.nan if step % 9 == 0 else loss for step, loss in enumerate(LOSSES)])
    assert forecast.forecast is not None
    assert 2 < forecast.forecast.median < 2.6
    assert "non_finite" in {str(each.value) for each in forecast.forecast.caveats}


def test_a_copy_is_in_no_run(caplog: pytest.LogCaptureFixture) -> None:
    with LossForecast(cosine, TOTAL, verbose=False) as forecast:
        twin = pickle.loads(pickle.dumps(forecast))
    assert run(twin, LOSSES) == TOTAL
    assert twin.forecast is None
    assert warnings_in(caplog) == [
        "no forecasts: this is a copy of a LossForecast, which belongs to no run"
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((cosine,), "the length of the run is unknown; give total_steps="),
        ((cosine, 0), "total_steps is 0"),
        ((lambda step: "much", 10), "the learning rate at step 0 is 'much'; give a number of 0 or"),
        ((lambda step: -1, 10), "the learning rate at step 0 is -1; give a number of 0 or more"),
        ((math.nan, 10), "the learning rate at step 0 is nan"),
        ((LRSchedule.constant(10, 0.1), 20), "total_steps is 20, but the schedule has 10 steps"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        LossForecast(*arguments)


def two_parts(step: int) -> float:
    """A warm-up, and a rate that falls in one step; for numbers only."""
    warm = min(step / 2_000, 1)
    return warm * (1.0 if step < 60_000 else 0.1)


@pytest.mark.parametrize("total", [90_000, 300_000])
def test_a_plan_is_its_function(total: int) -> None:
    plan = plan_of(two_parts, total)
    at = np.array([1, 2, 1_000, 2_000, 2_001, 2_002, 59_999, 60_000, 60_001, total])
    expected = [two_parts(step - 1) for step in at.tolist()]
    assert np.allclose(plan.lr(at), expected, rtol=1e-6, atol=1e-9)
    assert (Caveat.SCHEDULE_APPROXIMATED in plan.caveats) is (total > 100_000)


def test_a_function_of_arrays_is_called_a_few_times() -> None:
    calls = list[Any]()

    def rate(step: Any) -> Any:
        calls.append(step)
        return np.float32(0.1) / (1 + np.asarray(step))

    plan = plan_of(rate, 50_000)
    assert len(calls) < 10
    assert plan.lr([1, 50_000]) == pytest.approx([0.1, 0.1 / 50_000])


def test_a_function_that_takes_arrays_for_something_else_is_called_step_by_step() -> None:
    def rate(step: Any) -> Any:
        return np.full(40, 0.1) if np.ndim(step) else 0.1 / (1 + step)

    assert plan_of(rate, 40).lr([1, 40]) == pytest.approx([0.1, 0.1 / 40])


class Pending:
    """A loss that is still computed, as an array of JAX is."""

    size = 1

    def __init__(self, value: float) -> None:
        self.value, self.asked, self.ready = value, 0, False

    def copy_to_host_async(self) -> None:
        self.asked += 1

    def is_ready(self) -> bool:
        return self.ready

    def __float__(self) -> float:
        assert self.asked == 1
        return self.value


def test_losses_that_are_still_computed_are_read_late() -> None:
    capture, losses = (
        StepCapture(lambda steps: np.full(steps.shape, 0.1)),
        [Pending(float(i)) for i in range(4)],
    )
    for loss in losses:
        capture.keep(loss)
        capture.count()
    assert not capture.send()
    steps, values, rates = capture.take(2)
    assert (steps.tolist(), values.tolist()) == ([0, 1], [0.0, 1.0])
    assert np.array_equal(rates, [np.nan, 0.1], equal_nan=True)
    for loss in losses:
        loss.ready = True
    assert capture.send()
    assert capture.take_all()[1].tolist() == [2.0, 3.0]


def test_the_losses_of_jax_are_kept_until_they_are_needed() -> None:
    jnp = pytest.importorskip("jax.numpy", reason="jax is not installed")
    with LossForecast(cosine, TOTAL, verbose=False) as forecast:
        run(forecast, (jnp.asarray(loss) for loss in LOSSES))
    with LossForecast(cosine, TOTAL, verbose=False) as plain:
        run(plain, [float(np.float32(loss)) for loss in LOSSES])
    assert forecast.forecast is not None
    assert plain.forecast is not None
    assert forecast.forecast.median == plain.forecast.median
