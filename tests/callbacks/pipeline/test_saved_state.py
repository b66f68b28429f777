"""A damaged state is refused before anything is changed; what is accepted can be gone on with."""

import copy
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from support.torch_runs import Bench, run, scripted

from lossforecast import StateError
from lossforecast.callbacks import TorchLossForecast

MUTATIONS = 3_000 if os.environ.get("LOSSFORECAST_FULL") else 150
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 7, 2**70, 1.5, -3.0, float("nan"), float("inf"), 1e400, "", "many", "NaN",
    [], [[]], [1, 2], {}, {"x": 1}, [None, None, None], object(), b"x",
)  # fmt: skip


def monitored(steps: int) -> tuple[Bench, Any, TorchLossForecast]:
    bench = Bench()
    scheduler = bench.cosine(100)
    monitor = TorchLossForecast(bench.optimizer, scheduler, 100, every_n_steps=10)
    run(bench, monitor, range(steps), scheduler)
    monitor.validation(2.5)
    return bench, scheduler, monitor


def places(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a state."""
    keys = (
        state if isinstance(state, dict) else range(len(state)) if isinstance(state, list) else ()
    )
    for key in keys:
        yield (*path, key)
        yield from places(state[key], (*path, key))


def mutated(state: dict[str, Any], chance: random.Random) -> tuple[str, dict[str, Any]]:
    """A copy with one value replaced, dropped, doubled or moved, and what was done."""
    damaged = copy.deepcopy(state)
    ways = [way for way in places(damaged) if "prior" not in way]  # most of the state
    way = chance.choice(ways)
    parent = damaged
    for key in way[:-1]:
        parent = parent[key]
    action = chance.choice(("replace", "drop", "double", "negate"))
    value = parent[way[-1]]
    if action == "drop":
        del parent[way[-1]]
    elif action == "double" and isinstance(value, list):
        value += copy.deepcopy(value) or [1]
    elif action == "negate" and isinstance(value, int | float):
        parent[way[-1]] = -value - 1
    else:
        parent[way[-1]] = chance.choice(VALUES)
    return f"{action} {way}", damaged


def test_a_damaged_state_changes_nothing() -> None:
    _, _, other = monitored(7)
    saved = json.loads(json.dumps(other.state_dict()))
    bench, scheduler, monitor = monitored(53)
    before = json.dumps(monitor.state_dict())
    chance, refused = random.Random(5), 0
    for _ in range(MUTATIONS):
        name, damaged = mutated(saved, chance)
        try:
            monitor.load_state_dict(damaged)
        except StateError:
            refused += 1
            assert json.dumps(monitor.state_dict()) == before, name
        else:  # accepted: it goes on from there without an error
            run(bench, monitor, range(7, 20))
            monitor.validation(scripted(20))
            assert not monitor.switched_off, name
            json.dumps(monitor.state_dict())
            monitor.load_state_dict(json.loads(before))
    assert refused > MUTATIONS / 4
    monitor.load_state_dict(json.loads(before))
    run(bench, monitor, range(53, 100), scheduler)
    monitor.close()
    assert not monitor.switched_off
    assert monitor.forecast is not None
    assert monitor.forecast.made_at == 99


@pytest.mark.parametrize("state", [None, 3, "state", [], {}, {"checked": 1}], ids=repr)
def test_what_is_no_state_is_refused(state: Any) -> None:
    _, _, monitor = monitored(12)
    before = json.dumps(monitor.state_dict())
    with pytest.raises(StateError):
        monitor.load_state_dict(state)
    assert json.dumps(monitor.state_dict()) == before
