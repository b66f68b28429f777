"""Saved schedules: equal after a round trip through JSON, refused when damaged."""

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lossforecast.errors import ScheduleError
from lossforecast.schedule.lr_schedule import DECAY_SHAPES, LRSchedule
from lossforecast.status import Caveat

ARRAY = LRSchedule.from_array([1e-3, 2e-3, 5e-4, 1e-4], caveats=[Caveat.LR_ASSUMED])
SCHEDULES = {
    "constant": LRSchedule.constant(10, 1e-3, warmup=3),
    "cosine": LRSchedule.cosine(100, 1e-3, warmup=10),
    **{f"wsd {shape}": LRSchedule.wsd(100, 1e-3, shape=shape) for shape in DECAY_SHAPES},
    "step decay": LRSchedule.step_decay(100, 1e-3, milestones=[30, 60]),
    "inverse sqrt": LRSchedule.inverse_sqrt(100, 1e-3, warmup=10),
    "one cycle": LRSchedule.one_cycle(97, 1e-3),
    "array": ARRAY,
    "points": LRSchedule.from_points([0, 50, 70], [0.0, 1e-3, 0.0], total_steps=60),
    "edited": LRSchedule.cosine(100, 1e-3, warmup=7)
    .joined(2, ARRAY)
    .extended_to(30)
    .scaled_from(5, 0.3)
    .with_decay(start=12, steps=9, shape="sqrt")
    .joined(20, LRSchedule.inverse_sqrt(60, 1e-3, warmup=8))
    .truncated_to(50),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_saved_schedule_comes_back_equal(schedule: LRSchedule) -> None:
    saved = json.dumps(schedule.to_dict(), allow_nan=False)
    back = LRSchedule.from_dict(json.loads(saved))
    assert back == schedule
    assert hash(back) == hash(schedule)
    assert back.caveats == schedule.caveats
    assert back.to_array().tobytes() == schedule.to_array().tobytes()
    steps = np.arange(schedule.total_steps + 1)
    assert back.s1(steps).tobytes() == schedule.s1(steps).tobytes()


IMPOSSIBLE = "steps or rates are impossible"
DAMAGED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a shape from nowhere": ("cosine", {"shape": [0, 17]}, IMPOSSIBLE),
    "an array without values": ("cosine", {"shape": [0, 5]}, IMPOSSIBLE),
    "a frame without length": ("constant", {"x1": [3.0, 3.0]}, IMPOSSIBLE),
    "a window outside of its frame": ("cosine", {"x1": [10.0, 50.0]}, IMPOSSIBLE),
    "a window before its frame": ("cosine", {"x0": [0.0, 40.0]}, IMPOSSIBLE),
    "a square root between steps": ("wsd sqrt", {"x0": [0.0, 79.5]}, IMPOSSIBLE),
    "an exponential to 0": ("wsd exp", {"y1": [1e-3, 0.0]}, IMPOSSIBLE),
    "a root of less than 0": ("inverse sqrt", {"x0": [0.0, -3.0]}, IMPOSSIBLE),
    "a rate too large to sum": ("cosine", {"y0": [0.0, 1e300]}, IMPOSSIBLE),
    "steps going back": ("cosine", {"stop": [10, 9]}, IMPOSSIBLE),
    "a negative rate": ("cosine", {"y1": [1e-3, -1.0]}, IMPOSSIBLE),
    "no pieces": (
        "cosine",
        {name: [] for name in ("stop", "shape", "x0", "x1", "y0", "y1")},
        IMPOSSIBLE,
    ),
    "half steps": ("cosine", {"stop": [10, 99.5]}, "stop has 99.5; it must be whole"),
    "a column too short": ("cosine", {"y0": [0.0]}, "its columns have different lengths"),
    "one number for a column": ("cosine", {"y0": 0.5}, "its columns have different lengths"),
    "strings": ("cosine", {"stop": ["10", "100"]}, "stop must be numbers, not <U3"),
    "a missing rate": ("cosine", {"y0": [None, 1e-3]}, "y0 must be numbers, not object"),
}


@pytest.mark.parametrize(("name", "columns", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_schedule_is_refused(name: str, columns: dict[str, Any], message: str) -> None:
    saved = SCHEDULES[name].to_dict()
    saved["pieces"] |= columns
    with pytest.raises(ScheduleError, match=message):
        LRSchedule.from_dict(saved)


@pytest.mark.parametrize(
    "saved",
    [
        *(None, 5, "cosine", [], {}, {"pieces": {}}, {"pieces": 3}),
        {**ARRAY.to_dict(), "values": [1.0, None]},
        {**ARRAY.to_dict(), "values": [1.0, -1.0]},
        {**ARRAY.to_dict(), "caveats": ""},
        {**ARRAY.to_dict(), "caveats": {}},
    ],
    ids=repr,
)
def test_what_is_no_saved_schedule_is_refused(saved: Any) -> None:
    with pytest.raises(ScheduleError, match="not a saved schedule"):
        LRSchedule.from_dict(saved)


def test_an_unknown_caveat_is_refused() -> None:
    with pytest.raises(ScheduleError, match="caveats must be members of Caveat: 'hearsay'"):
        LRSchedule.from_dict({**ARRAY.to_dict(), "caveats": ["hearsay"]})


words = st.sampled_from(["", "stop", "shape", "7", "lr_assumed"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
# close enough to a sound value that a careless reader would take it
plausible = (
    st.integers(-3, 110)
    | st.floats(-2, 110)
    | st.sampled_from([0.0, 1e-320, 1e300, 1e308, 2**62, 2**63, 10**30, 0.5, "7", True])
)


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    saved = copy.deepcopy(draw(st.sampled_from(list(SCHEDULES.values()))).to_dict())
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = saved
        while True:  # down a random path
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(holder[key], dict | list) and draw(st.integers(0, 9)):
                holder = holder[key]
                continue
            if draw(st.integers(0, 9)):
                holder[key] = draw(plausible | anything)
            else:
                del holder[key]
            break
    return saved


@settings(max_examples=300, deadline=None)
@given(saved=mutated())
@example(saved=SCHEDULES["cosine"].to_dict())
def test_a_mutated_schedule_is_refused_or_works(saved: Any) -> None:
    """Some mutations give another sound schedule; whatever is accepted must then hold together."""
    try:
        schedule = LRSchedule.from_dict(saved)
    except ScheduleError:
        return
    total = schedule.total_steps
    steps = np.unique(np.linspace(1, total, min(total, 1_000)).astype(np.int64))
    rates = schedule.lr(steps)
    assert np.isfinite(rates).all()
    assert (rates >= 0).all()
    assert rates.max() <= schedule.peak * (1 + 1e-12)
    if total <= 1_000:  # sums are as exact as the largest number in the file allows
        pieces = saved["pieces"]
        largest = max([*saved["values"], *pieces["y0"], *pieces["y1"]])
        np.testing.assert_allclose(
            schedule.s1(steps), np.cumsum(rates), rtol=1e-9, atol=1e-12 * largest
        )
    assert np.isfinite(schedule.knots[1]).all()
    assert LRSchedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
