"""`History` against its naive reference and against numpy on the raw observations."""

import json
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lossforecast.errors import ConfigurationError, ObservationError, StateError
from lossforecast.runs.bins import Bins
from lossforecast.runs.history import History

Observation = tuple[int, float, float | None]

losses = st.sampled_from([1.0, 2.5, -3.25, 0.1, 1e-7, math.nan, math.inf, -math.inf]) | st.floats(
    -100, 100
)
rates = st.sampled_from([None, 1e-3, 2e-3, 0.0, math.nan, math.inf])


@st.composite
def runs(draw: st.DrawFn) -> list[Observation]:
    """Steps that mostly go on, and now and then stand still, jump ahead or go back."""
    observations: list[Observation] = []
    step = draw(st.integers(0, 5))
    moves = st.sampled_from([1, 1, 1, 1, 2, 3, 17, 0, 0, -1, -2, -9])
    for move in draw(st.lists(moves, min_size=draw(st.sampled_from([0, 20])))):
        observations.append((step, draw(losses), draw(rates)))
        step = max(step + move, 0)
    return observations


def recorded(run: list[Observation], max_bins: int) -> History:
    history = History(max_bins)
    for step, loss, lr in run:
        history.observe(step, loss, lr)
    return history


def saved(history: History) -> str:
    """Everything, in JSON as its standard has it: without nan and infinity."""
    return json.dumps(history.state_dict(), allow_nan=False)


# ------------------------------------------------------------------ bins


def test_memory_is_bounded_and_bins_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.integers(1, 4, 1_000_000))
    values = 3 + rng.normal(size=steps.size)
    history = History(max_bins=500)
    history.observe_many(steps, values, np.full(steps.size, 1e-3))
    bins = history.bins()
    assert 250 <= len(history) <= 500
    assert history.n_observed == bins.count.sum() == steps.size
    groups = np.split(np.arange(steps.size), np.flatnonzero(np.diff(steps // history.width)) + 1)
    assert len(groups) == len(history)
    assert bins.first.tolist() == [steps[g[0]] for g in groups]
    assert bins.last.tolist() == [steps[g[-1]] for g in groups]
    assert bins.count.tolist() == [g.size for g in groups]
    np.testing.assert_allclose(bins.step, [steps[g].mean() for g in groups], rtol=1e-12)
    np.testing.assert_allclose(bins.mean, [values[g].mean() for g in groups], rtol=1e-12)
    np.testing.assert_allclose(bins.variance, [values[g].var(ddof=1) for g in groups], rtol=1e-9)
    assert len(saved(history)) < 500 * 200


def test_small_noise_on_a_large_level_keeps_its_variance() -> None:
    values = 1e6 + 1e-3 * np.random.default_rng(0).normal(size=1_000)
    history = History(max_bins=2)
    history.observe_many(np.arange(1_000), values)
    halves = [values[:512], values[512:]]
    np.testing.assert_allclose(history.bins().mean, [h.mean() for h in halves], rtol=1e-12)
    np.testing.assert_allclose(history.bins().variance, [h.var(ddof=1) for h in halves], rtol=1e-4)


def test_an_empty_history_has_no_bins() -> None:
    history = History()
    history.observe_many([], [])
    assert (len(history), history.n_observed, history.last_step) == (0, 0, -1)
    assert history.bins().mean.shape == (0,)
    assert History.from_state_dict(json.loads(saved(history))).state_dict() == history.state_dict()


def test_a_bin_of_one_has_no_variance() -> None:
    history = History()
    history.observe(3, -2.5, 1e-3)
    assert np.isnan(history.bins().variance).tolist() == [True]
    assert history.bins().mean.tolist() == [-2.5]


def test_gaps_and_losses_below_zero() -> None:
    history = History(max_bins=4)
    history.observe_many([0, 1, 1_000_000, 1_000_001], [2.0, -4.0, -1.0, -3.0])
    bins = history.bins()
    assert bins.first.tolist() == [0, 1, 1_000_000, 1_000_001]  # a gap costs no bins
    history.observe(2_000_000, -8.0)
    bins = history.bins()
    assert bins.mean.tolist() == [-1.0, -2.0, -8.0]
    assert bins.step.tolist() == [0.5, 1_000_000.5, 2_000_000]


@pytest.mark.parametrize("at", [0, 1, 511, 999])
def test_a_spike_damages_its_own_bin_only(at: int) -> None:
    values = np.linspace(4, 2, 1_000)
    spiked = values.copy()
    spiked[at] = 1e30
    clean, hurt = History(max_bins=64), History(max_bins=64)
    clean.observe_many(np.arange(1_000), values)
    hurt.observe_many(np.arange(1_000), spiked)
    hurt_bin = at // hurt.width
    for name in ("first", "last", "count", "step", "mean", "variance"):
        expected, got = getattr(clean.bins(), name), getattr(hurt.bins(), name)
        others = np.arange(len(hurt)) != hurt_bin
        assert got[others].tolist() == expected[others].tolist(), name
    assert hurt.bins().mean[hurt_bin] == pytest.approx(1e30 / hurt.bins().count[hurt_bin])


@settings(max_examples=300, deadline=None)
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
@example(values=[1e308, -1e308, 1e308, -1e308, 1e308])
@example(values=[1.0, 1e200, 3.0, 2.0])
def test_any_finite_losses_keep_bins_finite(values: list[float]) -> None:
    history = History(max_bins=2)
    history.observe_many(np.arange(len(values)), values)
    bins = history.bins()
    assert np.isfinite(bins.mean).all()
    assert np.isfinite(bins.variance[bins.count > 1]).all()
    assert History.from_state_dict(json.loads(saved(history))).state_dict() == history.state_dict()


# ------------------------------------------------------------------ rules


def test_non_finite_losses_are_counted_and_kept_out() -> None:
    history = History()
    history.observe_many(range(6), [1.0, math.nan, 2.0, math.inf, -math.inf, math.nan])
    assert history.n_observed == 2
    assert history.n_non_finite == 4
    assert history.non_finite_run == 3
    assert history.last_step == 5
    assert history.bins().mean.tolist() == [1.0, 2.0]
    history.observe(6, 1.5)
    assert (history.n_non_finite, history.non_finite_run) == (4, 0)


@pytest.mark.parametrize(
    ("again", "kept"),
    [
        ([7.0], [5.0, 7.0]),
        ([7.0, 8.0], [5.0, 8.0]),
        ([math.nan], [5.0]),
        ([math.nan, 9.0], [5.0, 9.0]),
        ([math.nan, math.nan], [5.0]),
    ],
)
def test_the_same_step_again_keeps_the_later_value(again: list[float], kept: list[float]) -> None:
    history = History()
    history.observe_many([0, 1], [5.0, 6.0])
    for value in again:
        history.observe(1, value)
    assert history.bins().mean.tolist() == kept
    assert history.n_observed == len(kept)


def test_the_same_step_again_inside_a_wide_bin() -> None:
    history = History(max_bins=2)
    history.observe_many([0, 1, 2, 3], [1.0, 2.0, 3.0, 100.0], [1e-3, 1e-3, 1e-3, 9.0])
    history.observe(3, 5.0)
    assert history.width == 2
    assert history.bins().mean.tolist() == [1.5, 4.0]
    assert history.bins().lr.tolist() == [1e-3, 1e-3]  # the rate of the value taken back is gone


def test_a_rewind_drops_every_bin_that_touches_a_later_step() -> None:
    history = History(max_bins=4)
    history.observe_many(range(8), range(8))
    assert history.width == 2
    history.observe(4, 40.0)  # the bin of steps 4 and 5 touches step 5
    assert history.bins().mean.tolist() == [0.5, 2.5, 40.0]
    history.observe(0, -1.0)
    assert history.bins().mean.tolist() == [-1.0]
    assert history.last_step == 0


def test_a_rewind_keeps_the_count_of_what_was_not_finite() -> None:
    history = History()
    history.observe_many([0, 1, 2, 3], [1.0, math.nan, math.nan, 2.0])
    history.observe(1, 3.0)
    assert history.bins().mean.tolist() == [1.0, 3.0]
    assert history.n_non_finite == 2


def test_a_bin_has_the_last_learning_rate_known() -> None:
    history = History(max_bins=2)
    lrs: Any = [1e-3, None, math.nan, math.inf, None, None, None, None]
    history.observe_many(range(8), np.ones(8), lrs)
    np.testing.assert_array_equal(history.bins().lr, [1e-3, math.nan])
    history.observe(8, 1.0, 0.0)
    np.testing.assert_array_equal(history.bins().lr, [1e-3, 0.0])


@settings(max_examples=300, deadline=None)
@given(run=runs(), max_bins=st.integers(2, 6))
def test_any_run_follows_the_rules(
    reference: Callable[[str], ModuleType], run: list[Observation], max_bins: int
) -> None:
    naive = reference("history").NaiveHistory(max_bins)
    history = History(max_bins)
    for step, loss, lr in run:
        naive.observe(step, loss, lr)
        history.observe(step, loss, lr)
    for name in ("width", "last_step", "n_non_finite", "non_finite_run"):
        assert getattr(history, name) == getattr(naive, name), name
    raw = [[loss for _, loss, _ in group] for group in naive.bins]
    bins: Bins = history.bins()
    assert bins.first.tolist() == [group[0][0] for group in naive.bins]
    assert bins.last.tolist() == [group[-1][0] for group in naive.bins]
    assert bins.count.tolist() == [len(group) for group in naive.bins]
    steps = [np.mean([step for step, _, _ in group]) for group in naive.bins]
    np.testing.assert_allclose(bins.step, steps, rtol=1e-12)
    np.testing.assert_allclose(bins.mean, [np.mean(x) for x in raw], rtol=1e-12, atol=1e-12)
    variance = [np.var(x, ddof=1) if len(x) > 1 else math.nan for x in raw]
    np.testing.assert_allclose(bins.variance, variance, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(bins.lr, [naive.lr(group) for group in naive.bins])


@settings(max_examples=300, deadline=None)
@given(run=runs(), max_bins=st.integers(2, 6), data=st.data())
def test_any_split_into_calls_gives_the_same_bits(
    run: list[Observation], max_bins: int, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(run)), max_size=4)))
    split = History(max_bins)
    for start, stop in zip([0, *cuts], [*cuts, len(run)], strict=True):
        part = run[start:stop]
        lrs: Any = [lr for _, _, lr in part]  # None is welcome among the numbers
        split.observe_many([step for step, _, _ in part], [loss for _, loss, _ in part], lrs)
    assert saved(split) == saved(recorded(run, max_bins))


def test_a_long_run_gives_the_same_bits_however_it_is_split() -> None:
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.integers(1, 5, 20_000))
    values, lrs = rng.normal(size=steps.size), rng.random(steps.size)
    values[rng.random(steps.size) < 0.001] = math.nan
    whole, parts, single = (History(max_bins=100) for _ in range(3))
    whole.observe_many(steps, values, lrs)
    for chunk in np.array_split(np.arange(steps.size), 37):
        parts.observe_many(steps[chunk], values[chunk], lrs[chunk])
    for step, value, lr in zip(steps.tolist(), values.tolist(), lrs.tolist(), strict=True):
        single.observe(step, value, lr)
    assert saved(whole) == saved(parts) == saved(single)


# ------------------------------------------------------------------ saved and restored


@settings(max_examples=300, deadline=None)
@given(run=runs(), max_bins=st.integers(2, 6), data=st.data())
def test_a_restored_history_continues_as_if_nothing_happened(
    run: list[Observation], max_bins: int, data: st.DataObject
) -> None:
    stop = data.draw(st.integers(0, len(run)))
    before = recorded(run[:stop], max_bins)
    restored = History.from_state_dict(json.loads(saved(before)))
    assert saved(restored) == saved(before)
    for step, loss, lr in run[stop:]:
        restored.observe(step, loss, lr)
    assert saved(restored) == saved(recorded(run, max_bins))


def test_a_state_is_a_copy() -> None:
    history = recorded([(0, 1.0, None), (1, 2.0, None)], 4)
    state = history.state_dict()
    history.observe(2, 5.0)
    assert state == recorded([(0, 1.0, None), (1, 2.0, None)], 4).state_dict()


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "no bins": ({"bins": None}, "not a saved history"),
    "a column missing": ({"bins": {"first": [0]}}, "not a saved history: KeyError"),
    "words": ({"first": ["0", "1"]}, "not a saved history: .*first must be numbers"),
    "half a step": ({"first": [0, 1.5]}, "first has 1.5; it must be whole"),
    "uneven columns": ({"first": [0]}, "damaged: its bins are impossible"),
    "steps going back": ({"first": [1, 0], "last": [1, 0]}, "damaged: its bins are impossible"),
    "bins of nothing": ({"count": [1, 0]}, "damaged: its bins are impossible"),
    "a loss that is missing": ({"origin": [1.0, None]}, "damaged: its bins are impossible"),
    "a negative rate": ({"lr": [1.0, -1.0]}, "damaged: its bins are impossible"),
    "more bins than may be": ({"max_bins": 1}, "max_bins is 1; it must be at least 2"),
    "a width of 0": ({"width": 0}, "width is 0; it must be at least 1"),
    "a last step before the bins": ({"last_step": 0}, "damaged: its bins are impossible"),
    "half of the memory to undo": ({"undo": [1.0]}, "damaged: its bins are impossible"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_state_is_refused(change: dict[str, Any], message: str) -> None:
    state = recorded([(0, 1.0, 1e-3), (1, 2.0, None)], 4).state_dict()
    for name, value in change.items():
        (state if name in state else state["bins"])[name] = value
    with pytest.raises(StateError, match=message):
        History.from_state_dict(state)


@pytest.mark.parametrize("state", [None, 3, "history", [], {}])
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises(StateError, match="not a saved history"):
        History.from_state_dict(state)


# ------------------------------------------------------------------ misuse

ERRORS: dict[str, tuple[Callable[[History], Any], str]] = {
    "a negative step": (lambda h: h.observe(-1, 1.0), r"step is -1; it must be at least 0"),
    "half a step": (lambda h: h.observe(1.5, 1.0), r"step is 1.5; it must be a whole number"),  # type: ignore[arg-type]
    "a nan step": (lambda h: h.observe(math.nan, 1.0), r"step is nan; it must be a whole number"),  # type: ignore[arg-type]
    "a bool step": (lambda h: h.observe(True, 1.0), r"step must be a number, not True \(bool\)"),
    "a word step": (lambda h: h.observe("1", 1.0), r"step must be a number, not '1' \(str\)"),  # type: ignore[arg-type]
    "a step too far": (lambda h: h.observe(2**62, 1.0), r"too large for a number of steps"),
    "a step beyond the floats": (lambda h: h.observe(10**5000, 1.0), r"step is inf"),
    "a word loss": (lambda h: h.observe(1, "nan"), r"loss must be a number, not 'nan' \(str\)"),  # type: ignore[arg-type]
    "no loss": (lambda h: h.observe(1, None), r"loss must be a number, not None \(NoneType\)"),  # type: ignore[arg-type]
    "a bool loss": (lambda h: h.observe(1, True), r"loss must be a number, not True \(bool\)"),
    "a complex loss": (lambda h: h.observe(1, np.complex64(1)), r"loss must be a number, not"),  # type: ignore[arg-type]
    "a list of losses": (lambda h: h.observe(1, [1.0]), r"loss must be a number, not \[1.0\]"),  # type: ignore[arg-type]
    "a negative rate": (lambda h: h.observe(1, 1.0, -1e-3), r"lr -0.001 is negative"),
    "a word rate": (lambda h: h.observe(1, 1.0, "0.1"), r"lr must be a number, not '0.1'"),  # type: ignore[arg-type]
    "negative steps": (
        lambda h: h.observe_many([1, -3], [1.0, 2.0]),
        r"step -3 is negative; steps count from 0",
    ),
    "half steps": (
        lambda h: h.observe_many([1, 2.5], [1.0, 2.0]),
        r"steps has 2.5; it must be whole and finite: round it",
    ),
    "nan steps": (lambda h: h.observe_many([math.nan], [1.0]), r"steps has nan; it must be whole"),
    "word steps": (lambda h: h.observe_many(["1"], [1.0]), r"steps must be numbers, not <U1"),
    "bool steps": (lambda h: h.observe_many([True], [1.0]), r"steps must be numbers, not bool"),
    "ragged steps": (
        lambda h: h.observe_many([[1], [1, 2]], [1.0, 2.0]),
        r"steps must be an array of numbers, not \[\[1\], \[1, 2\]\]",
    ),
    "word losses": (lambda h: h.observe_many([1], ["1"]), r"losses must be numbers, not \['1'\]"),
    "bool losses": (
        lambda h: h.observe_many([1], [True]),
        r"losses must be numbers, not \[True\]",
    ),
    "complex losses": (lambda h: h.observe_many([1], [1j]), r"losses must be numbers, not \[1j\]"),
    "ragged losses": (
        lambda h: h.observe_many([1, 2], [[1.0], [1.0, 2.0]]),
        r"losses must be numbers, not \[\[1.0\], \[1.0, 2.0\]\]",
    ),
    "more losses than steps": (
        lambda h: h.observe_many([1, 2], [1.0]),
        r"have shapes \(2,\), \(1,\), \(2,\): give three arrays of one length",
    ),
    "fewer rates than steps": (
        lambda h: h.observe_many([1, 2], [1.0, 2.0], [1e-3]),
        r"have shapes \(2,\), \(2,\), \(1,\): give three arrays of one length",
    ),
    "scalars to observe_many": (
        lambda h: h.observe_many(1, 2.0),
        r"have shapes \(\), \(\), \(\): give three arrays of one length",
    ),
    "negative rates": (
        lambda h: h.observe_many([1, 2], [1.0, 2.0], [1e-3, -1e-3]),
        r"lr -0.001 is negative",
    ),
}


@pytest.mark.parametrize(("misuse", "message"), ERRORS.values(), ids=ERRORS)
def test_misuse_is_told_what_was_given_and_changes_nothing(
    misuse: Callable[[History], Any], message: str
) -> None:
    history = recorded([(0, 1.0, 1e-3), (1, 2.0, None)], 4)
    before = history.state_dict()
    with pytest.raises(ObservationError, match=message):
        misuse(history)
    assert history.state_dict() == before


@pytest.mark.parametrize("max_bins", [1, 0, -5, 2.5, "10", True, None])
def test_a_history_needs_room_for_two_bins(max_bins: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_bins"):
        History(max_bins)
