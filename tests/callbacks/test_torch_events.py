"""Events marked in plain loops with `TorchLossForecast`."""

import copy
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.logs import warnings_in
from support.torch_runs import Bench, forecasts_of, run, scripted

from lossforecast import Forecaster, RunStore
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.capture.transfer import Transfer
from lossforecast.callbacks.monitor.update import Update

TOTAL, CHANGE = 200, 100


def changed(step: int) -> float:
    """A loss that is higher by a half once the data have changed."""
    return 1.5 * scripted(step) if step >= CHANGE else scripted(step)


def watched(
    *events: int, stop: int = TOTAL, resume: Any = None, begin: int = 0, **options: Any
) -> tuple[TorchLossForecast, list[Update], Bench]:
    """A run with an event at each of some steps, watched in the usual way."""
    bench, updates = Bench(), list[Update]()
    scheduler = bench.cosine(TOTAL)
    monitor = TorchLossForecast(
        bench.optimizer, scheduler, TOTAL, every_n_steps=10, sinks=[updates.append], **options
    )
    if resume is not None:
        bench.optimizer.load_state_dict(resume["optimizer"])
        scheduler.load_state_dict(resume["scheduler"])
        monitor.load_state_dict(resume["monitor"])
    for start, end in pairwise([begin, *events, stop]):
        if start in events:
            monitor.event("other data")
        run(bench, monitor, range(start, end), scheduler, changed)
    bench.scheduler = scheduler  # type: ignore[attr-defined]
    return monitor, updates, bench


def test_an_event_is_at_the_present_step_of_both_losses_and_helps() -> None:
    told, updates, _ = watched(CHANGE)
    told.close()
    _, others, _ = watched()
    for metric in ("train", "val"):
        assert told.forecaster_of(metric).history.events == ((CHANGE, "other data"),)
    truth = 1.5 * (2 + 3 * (TOTAL + 5.0) ** -0.5)
    marked, unmarked = (
        next(u.forecast for u in found if u.step == 130) for found in (updates, others)
    )
    assert marked.interval(0.95)[0] < truth < marked.interval(0.95)[1]
    assert marked.std < 0.5 * unmarked.std
    assert abs(marked.median - truth) < abs(unmarked.median - truth)
    before = forecasts_of(u for u in updates if u.step < CHANGE)
    assert before == forecasts_of(u for u in others if u.step < CHANGE)
    (at_once,) = (u.forecast for u in updates if u.step == CHANGE)
    assert at_once.std > 3 * marked.std  # no loss after the event was seen yet


def test_a_validation_of_the_same_step_was_before_the_event() -> None:
    monitor, _, _ = watched(stop=CHANGE)
    monitor.validation(2.5)
    monitor.event("other data")
    assert monitor.forecaster_of("train").history.events == ((CHANGE, "other data"),)
    assert monitor.forecaster_of("val").history.events == ((CHANGE + 1, "other data"),)
    monitor.close()


@pytest.mark.parametrize("cut", [40, 99, 100, 101, 107, 150])
def test_a_resumed_run_with_an_event_repeats_its_forecasts_to_the_bit(cut: int) -> None:
    _, whole, _ = watched(CHANGE)
    events = (CHANGE,) if cut > CHANGE else ()
    first, early, bench = watched(*events, stop=cut)
    state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
    saved = {
        "optimizer": bench.optimizer.state_dict(),
        "scheduler": bench.scheduler.state_dict(),  # type: ignore[attr-defined]
        "monitor": state,
    }
    later = (CHANGE,) if cut <= CHANGE else ()
    if cut == CHANGE:  # at once after resuming
        monitor, late, _ = watched(resume=saved, begin=cut, stop=cut)
        monitor.event("other data")
        assert monitor.forecaster.history.events == ((CHANGE, "other data"),)
        return
    _, late, _ = watched(*later, resume=saved, begin=cut)
    expected = forecasts_of(whole)
    assert forecasts_of(early) | forecasts_of(late) == expected
    assert forecasts_of(late)


@pytest.mark.parametrize("at", [100, 101, 102, 105])
def test_a_slow_device_changes_no_forecast_around_an_event(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fast, _ = watched(at)
    monkeypatch.setattr(Transfer, "pending", property(lambda _: True))
    slow, late, _ = watched(at)
    slow.close()
    assert slow.forecaster.history.events == ((at, "other data"),)
    made = forecasts_of(late)
    assert forecasts_of(fast).items() <= made.items()


def test_outside_a_run_an_event_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    monitor, _, _ = watched(stop=20)
    copy.copy(monitor).event("in a copy")
    monitor.close()
    caplog.clear()
    monitor.event("too late")
    copy.deepcopy(monitor).event("in a copy")
    assert warnings_in(caplog) == [
        "event 'too late' is not marked: no run is being forecast",
        "event 'in a copy' is not marked: no run is being forecast",
    ]
    assert monitor.forecaster.history.events == ()
    assert not monitor.switched_off


@pytest.mark.parametrize("name", ["", "  ", None, 7, math.nan, ["a"]])
def test_a_wrong_name_is_a_warning(name: Any, caplog: pytest.LogCaptureFixture) -> None:
    monitor, _, _ = watched(stop=20)
    monitor.event(name)
    (warning,) = warnings_in(caplog)
    assert "is not marked: its name must be some words, such as 'longer sequences'" in warning
    assert repr(name) in warning
    run(Bench(), monitor, range(5))
    assert not monitor.switched_off
    monitor.close()


def test_an_error_of_ours_does_not_reach_the_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(Forecaster, "event", fail)
    monitor, _, bench = watched(CHANGE)
    assert monitor.switched_off
    assert len(bench.optimizer.rates) == TOTAL
    assert warnings_in(caplog) == ["forecasting failed and is switched off; training goes on"]
    monitor.event("another")  # nothing happens
    monitor.close()


def test_many_events_do_no_harm() -> None:
    monitor, updates, bench = watched(*range(1, TOTAL))
    monitor.close()
    assert len(bench.optimizer.rates) == TOTAL
    assert len(monitor.forecaster.history.events) == 64
    assert np.isfinite([update.forecast.std for update in updates]).all()


def test_the_store_keeps_events_and_past_runs_have_them(tmp_path: Path) -> None:
    where = tmp_path / "runs.db"
    monitor, _, _ = watched(CHANGE, store=where)
    monitor.close()
    store = RunStore(where)
    (stored,) = store.runs()
    assert store.history(stored.key).events == ((CHANGE, "other data"),)
    prior = store.prior(stored.run, stored.schedule)
    assert prior.past[0].evidence.events.tolist() == [CHANGE]
