"""Events in a `History`: against its naive reference, and the rules one by one."""

import json
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossforecast.errors import ObservationError, StateError
from lossforecast.runs.history import History

Act = tuple[str, int]
"""An observation of 1.0 at a step, or an event there."""


@st.composite
def acts(draw: st.DrawFn) -> list[Act]:
    """Steps that mostly go on, with events before, at and after them."""
    run: list[Act] = []
    step = 0
    for move in draw(st.lists(st.sampled_from([1, 1, 1, 2, 3, 17, 0, -2, -9]), max_size=30)):
        step = max(step + move, 0)
        for away in draw(st.lists(st.sampled_from([0, 1, 2, 5, 40, -3]), max_size=2)):
            run.append(("event", max(step + away, 0)))
        run.append(("loss", step))
    return run


def recorded(run: list[Act], max_bins: int) -> History:
    history = History(max_bins)
    for act, step in run:
        if act == "event":
            history.event(step, "change")
        else:
            history.observe(step, 1.0)
    return history


def saved(history: History) -> str:
    return json.dumps(history.state_dict(), allow_nan=False)


@settings(max_examples=300, deadline=None)
@given(run=acts(), max_bins=st.integers(4, 12))
def test_any_run_with_events_follows_the_rules(
    reference: Callable[[str], ModuleType], run: list[Act], max_bins: int
) -> None:
    naive, history = reference("history").NaiveHistory(max_bins), recorded(run, max_bins)
    for act, step in run:
        naive.event(step) if act == "event" else naive.observe(step, 1.0)
    bins = history.bins()
    assert history.width == naive.width
    assert history.event_steps.tolist() == naive.events
    assert bins.first.tolist() == [group[0][0] for group in naive.bins]
    assert bins.last.tolist() == [group[-1][0] for group in naive.bins]
    assert bins.count.tolist() == [len(group) for group in naive.bins]


@settings(max_examples=200, deadline=None)
@given(run=acts(), max_bins=st.integers(2, 12), data=st.data())
def test_saved_and_restored_at_any_moment_it_goes_on_alike(
    run: list[Act], max_bins: int, data: st.DataObject
) -> None:
    stop = data.draw(st.integers(0, len(run)))
    restored = History.from_state_dict(json.loads(saved(recorded(run[:stop], max_bins))))
    for act, step in run[stop:]:
        if act == "event":
            restored.event(step, "change")
        else:
            restored.observe(step, 1.0)
    assert saved(restored) == saved(recorded(run, max_bins))


@settings(max_examples=200, deadline=None)
@given(run=acts(), max_bins=st.integers(2, 12))
def test_losses_at_once_are_binned_as_one_by_one(run: list[Act], max_bins: int) -> None:
    blocks, waiting = History(max_bins), list[int]()
    for act, step in run:
        if act == "loss":
            waiting.append(step)
            continue
        blocks.observe_many(waiting, np.ones(len(waiting)))
        waiting.clear()
        blocks.event(step, "change")
    blocks.observe_many(waiting, np.ones(len(waiting)))
    assert saved(blocks) == saved(recorded(run, max_bins))


def test_no_bin_holds_losses_from_both_sides_of_an_event() -> None:
    history, steps = History(max_bins=64), np.arange(10_000)
    events = [1, 777, 5_001, 5_002, 9_998]
    for step in events:
        history.event(step, f"change at {step}")
    history.observe_many(steps, np.searchsorted(events, steps, side="right"))
    bins = history.bins()
    assert len(history) <= 64
    assert np.nanmax(bins.variance) == 0.0
    assert bins.mean.tolist() == np.searchsorted(events, bins.first, side="right").tolist()
    thinned = history.thinned(32).bins()
    assert thinned.mean.size <= 32
    assert np.nanmax(thinned.variance) == 0.0


def test_the_latest_events_are_kept_and_more_than_bins_do_no_harm() -> None:
    history = History(max_bins=20)
    for step in range(0, 2_000, 10):
        history.event(step, "a change in every tenth step")
        history.observe(step, float(step))
    assert history.event_steps.tolist() == [1_950, 1_960, 1_970, 1_980, 1_990]
    assert len(history) <= 20
    assert history.n_observed == 200
    assert history.bins().mean @ history.bins().count == sum(range(0, 2_000, 10))
    many = History()
    for step in range(1_000):
        many.event(step, "each step")
    assert many.event_steps.tolist() == list(range(936, 1_000))
    assert History(max_bins=2).thinned(2).events == ()


def test_events_are_sorted_and_the_same_one_counts_once() -> None:
    history = History()
    for step, name in [(50, "b"), (7, "a"), (50, "b"), (50, "a")]:
        history.event(step, name)
    assert history.events == ((7, "a"), (50, "a"), (50, "b"))
    assert history.event_steps.tolist() == [7, 50]
    assert history.thinned(64).events == history.events


def test_the_latest_event_is_one_that_was_passed() -> None:
    history = History()
    history.observe_many(range(10), np.ones(10))
    history.event(10, "to come")
    assert history.latest_event == 0
    history.observe(10, 2.0)
    assert history.latest_event == 10
    assert history.bins().since(history.latest_event).mean.tolist() == [2.0]


def test_a_rewind_drops_the_events_after_it() -> None:
    history = History()
    history.observe_many(range(100), np.ones(100))
    for step in (20, 60, 61, 100):
        history.event(step, "change")
    history.observe(60, 2.0)
    assert history.event_steps.tolist() == [20, 60]
    assert history.last_step == 60


def test_a_state_without_events_is_as_it_was() -> None:
    history = History()
    history.observe_many(range(10), np.ones(10))
    assert "events" not in history.state_dict()
    history.event(4, "change")
    state = history.state_dict()
    assert state["events"] == [[4, "change"]]
    del state["events"]
    assert History.from_state_dict(state).events == ()


@pytest.mark.parametrize("events", [3, [3], [["3", "a"]], [[-1, "a"]], [[1, ""]], [[1, 2, 3]]])
def test_damaged_events_are_refused(events: Any) -> None:
    state = History().state_dict() | {"events": events}
    with pytest.raises(StateError, match="not a saved history"):
        History.from_state_dict(state)


@pytest.mark.parametrize(
    ("step", "name", "message"),
    [
        (-1, "a", "step is -1; it must be at least 0"),
        (1.5, "a", "step is 1.5; it must be a whole number"),
        (math.nan, "a", "step is nan"),
        ("1", "a", "step must be a number, not '1'"),
        (None, "a", "step must be a number, not None"),
        (1, "", "the name of an event is ''; give some words, such as 'longer sequences'"),
        (1, " \n", "the name of an event is"),
        (1, 3, "the name of an event is 3"),
        (1, None, "the name of an event is None"),
    ],
)
def test_a_wrong_event_is_told_and_changes_nothing(step: Any, name: Any, message: str) -> None:
    history = History()
    history.observe(0, 1.0)
    before = history.state_dict()
    with pytest.raises(ObservationError, match=message):
        history.event(step, name)
    assert history.state_dict() == before
