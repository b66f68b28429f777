"""One summary that cannot be read, however it is damaged, hides no other one."""

import copy
import json
import logging
import math
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.panel_logs import shaped, summary_with, tensor_of, updates, write
from tensorboard.backend.event_processing.data_provider import (  # type: ignore[import-untyped]
    MultiplexerDataProvider,
)
from tensorboard.backend.event_processing.plugin_event_multiplexer import (  # type: ignore[import-untyped]
    EventMultiplexer,
)
from tensorboard.compat.proto import tensor_pb2, types_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.base_plugin import TBContext  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client

from lossforecast.callbacks.tensorboard.plugin import TAG, read
from lossforecast.callbacks.tensorboard.plugin.record import write as pack
from lossforecast.callbacks.tensorboard.plugin.server import ForecastPlugin

BATCHES = 34 if os.environ.get("LOSSFORECAST_FULL") else 1
A_BATCH = 300  # summaries in one folder of logs
SOUND = {"one", "two"}
QUESTION = {"decay_start": 1_000, "total_steps": 3_000, "end_lr": 0.0, "shape": "sqrt"}

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, about such numbers


class Panel:
    """The plugin on TensorBoard's own reader of real event files."""

    def __init__(self, folder: Path) -> None:
        multiplexer = EventMultiplexer()
        multiplexer.AddRunsFromDirectory(str(folder))
        multiplexer.Reload()
        provider = MultiplexerDataProvider(multiplexer, str(folder))
        plugin = ForecastPlugin(TBContext(data_provider=provider, logdir=str(folder)))
        self.apps = plugin.get_plugin_apps()

    def get(self, route: str, **words: str) -> tuple[int, Any]:
        answer = Client(self.apps[route]).get(query_string=words)
        return answer.status_code, json.loads(answer.data)

    def ask(self, **words: Any) -> tuple[int, Any]:
        answer = Client(self.apps["/what_if"]).post(data=json.dumps(words))
        return answer.status_code, json.loads(answer.data)


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """Records of a run at its start, one at 40% and one that has ended."""
    every = [list(updates(upto=upto, every=400, target=2.1)) for upto in (400, 1_600, 4_000)]
    return [read(pack(each[-1])) for each in every]


def packed(record: Any) -> bytes:
    return zlib.compress(json.dumps(record).encode(), level=1)


def write_all(folder: Path, summaries: list[tuple[str, Any]], wall_time: float = 1.0) -> None:
    """Sound runs, one summary of another plugin, and one run with many summaries of ours."""
    for name in SOUND:
        write(folder / name, upto=1_200, every=400)
    with SummaryWriter(str(folder / "other")) as writer:
        writer.add_text("words", "not of this plugin")
        writer.add_scalar("loss", 1.0)
        tensor = tensor_of(b"not of this plugin")
        writer._get_file_writer().add_summary(summary_with(tensor, TAG, "somebody"), 1)
    with SummaryWriter(str(folder / "damaged")) as writer:
        for tag, tensor in summaries:
            event = summary_with(tensor, tag)
            writer._get_file_writer().add_summary(event, 1, walltime=wall_time)


# ---------------------------------------------------------------------- damage of each kind

HUGE = "@a number of 5,000 digits@"
INFINITE = "@a number beyond the floats@"
NESTED = "@lists in lists@"


def changed(record: dict[str, Any], *way: str | int, to: Any) -> bytes:
    """The record with one value replaced, or deleted with `...`."""
    damaged = copy.deepcopy(record)
    place: Any = damaged
    for key in way[:-1]:
        place = place[key]
    if to is ...:
        del place[way[-1]]
    else:
        place[way[-1]] = to
    return zlib.compress(spelled(json.dumps(damaged)), level=1)


def spelled(text: str) -> bytes:
    """JSON with the numbers that Python does not write."""
    text = text.replace(f'"{HUGE}"', "7" * 5_000).replace(f'"{INFINITE}"', "1e999")
    text = text.replace(f'"{NESTED}"', "[" * 600 + "]" * 600)
    return text.encode("utf-8", "surrogatepass")


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an integer of 400 digits": lambda r: tensor_of(changed(r, "target", to=10**400)),
    "one of 5,000": lambda r: tensor_of(changed(r, "target", to=HUGE)),
    "a number beyond the floats": lambda r: tensor_of(changed(r, "forecast", "made_at", to=1e308)),
    "no target": lambda r: tensor_of(changed(r, "target", to=...)),
    "no losses": lambda r: tensor_of(changed(r, "state", "history", to=...)),
    "columns of two lengths": lambda r: tensor_of(
        changed(r, "state", "history", "bins", "count", to=[1])
    ),
    "a loss beyond the floats": lambda r: tensor_of(
        changed(r, "state", "history", "bins", "total", 0, to=INFINITE)
    ),
    "nesting": lambda r: tensor_of(zlib.compress(b'{"version":' + b"[" * 100_000)),
    "two strings": lambda r: shaped(
        tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[packed(r), packed(r)]), 2
    ),
    "a number": lambda r: tensor_of(3.5),
    "a string of another shape": lambda r: shaped(tensor_of(packed(r)), 3),
    "two strings said to be three": lambda r: shaped(
        tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[b"a", b"b"]), 3
    ),
    "numbers said to be more": lambda r: shaped(
        tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1.0, 2.0]), 3, 3
    ),
    "bytes of strings": lambda r: tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING, tensor_content=packed(r)
    ),
    "no type": lambda r: tensor_pb2.TensorProto(string_val=[packed(r)]),
    "an unknown type": lambda r: tensor_pb2.TensorProto(dtype=99, string_val=[packed(r)]),
    "more elements than memory": lambda r: shaped(tensor_of(1.0), 2**40, 2**20),
}


def test_damage_of_every_kind_is_named_and_hides_nothing(
    records: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summaries = [(name, make(records[1])) for name, make in DAMAGE.items()]
    write_all(tmp_path, summaries)
    panel = Panel(tmp_path)
    code, found = panel.get("/runs")
    assert code == 200
    shown = {(row["run"], row["tag"]) for row in found["runs"]}
    beyond = "a number beyond the floats"  # in a field that is only copied
    assert shown == {(name, TAG) for name in SOUND} | {("damaged", beyond)}
    named = {row["tag"]: row["why"] for row in found["skipped"]}
    assert set(named) == set(DAMAGE) - {beyond}
    assert all(row["run"] == "damaged" for row in found["skipped"])
    assert named["no target"] == "target is missing"
    assert "target is not a number: 1000" in named["an integer of 400 digits"]
    assert "shape (2,), not a string" in named["two strings"]
    assert "a tensor of float32" in named["a number"]
    assert named["an unknown type"].startswith("it cannot be read: ")
    types = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert len(types) == len(set(types)) > 0
    assert panel.get("/runs")[1] == found
    again = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert again == types, "each once"
    for tag in named:
        code, answer = panel.get("/run", run="damaged", tag=tag)
        assert (code, "error" in answer) == (422, True), tag
        code, answer = panel.ask(run="damaged", tag=tag, **QUESTION)
        assert (code, "error" in answer) == (422, True), tag
    assert panel.get("/run", run="one", tag=TAG)[0] == 200
    assert panel.ask(run="one", tag=TAG, **QUESTION)[0] == 200


@pytest.mark.parametrize("wall_time", [math.nan, math.inf])
def test_a_time_that_is_no_time_hides_nothing(
    records: list[dict[str, Any]], tmp_path: Path, wall_time: float
) -> None:
    write_all(tmp_path, [("late", tensor_of(packed(records[1])))], wall_time=wall_time)
    panel = Panel(tmp_path)
    code, found = panel.get("/runs")
    assert code == 200
    assert {row["run"] for row in found["runs"]} == SOUND | {"damaged"}
    assert [row["written"] for row in found["runs"] if row["run"] == "damaged"] == [None]
    assert panel.get("/run", run="damaged", tag="late")[0] == 200


def test_more_runs_than_are_kept_in_memory_are_all_shown(
    records: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lossforecast.callbacks.tensorboard.plugin.server.MAX_ROWS", 3)
    write_all(tmp_path, [(str(n), tensor_of(packed(records[0]))) for n in range(8)])
    panel = Panel(tmp_path)
    for _ in range(2):
        assert len(panel.get("/runs")[1]["runs"]) == 10


# ---------------------------------------------------------------------- damage at random

JUNK: list[Any] = [
    *[None, True, False, "", "x", "\ud800", "\x00", "x" * 10_000, [], {}, [[]], [None], {"a": 1}],
    *[HUGE, INFINITE, NESTED, math.nan, -math.inf, 10**400, -(10**400), 2**53 + 1, 2**63, 2**64],
    *[-(2**63), -1, 0, 1, 2, 0.5, -0.0, 1e308, -1e308, 5e-324, 1e-300, 10**300],
]


def places(value: Any) -> list[tuple[Any, str | int]]:
    """Every container in a record with each of its keys."""
    if isinstance(value, dict):
        keys: list[str | int] = list(value)
    else:
        keys = list(range(len(value))) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def mutate_value(draw: random.Random, record: dict[str, Any]) -> None:
    """Change one value of a record in place."""
    every = places(record)
    if not every:
        return
    container, key = draw.choice(every[:40] if draw.random() < 0.3 else every)
    value, kind = container[key], draw.randrange(6)
    if kind == 0 or (kind == 1 and not isinstance(value, list)):
        del container[key]
    elif kind == 1:
        value[:] = draw.choice([value[:-1], value[1:], value + value, value[::-1], [*value, None]])
    elif kind == 2 and type(value) in (int, float):
        container[key] = draw.choice([-value, value + 1, 10 * value, value / 3, str(value)])
    elif kind == 3:
        container[key] = [value]
    elif kind == 4:
        container[key] = copy.deepcopy(draw.choice(every)[0])
    else:
        container[key] = copy.deepcopy(draw.choice(JUNK))


def mutate_bytes(draw: random.Random, content: bytes) -> bytes:
    """Change, drop, add or repeat a few bytes."""
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 10])):
        at = draw.randrange(len(damaged) + 1)
        some = draw.randbytes(draw.choice([1, 1, 4, 100]))
        kind = draw.randrange(4)
        if kind == 0:
            damaged[at : at + len(some)] = some
        elif kind == 1:
            damaged[at:at] = some
        elif kind == 2:
            del damaged[at : at + len(some)]
        else:
            damaged += damaged[at : at + 50]
    return bytes(damaged)


def mutated(draw: random.Random, records: list[dict[str, Any]]) -> Any:
    """The tensor of a damaged summary."""
    record = copy.deepcopy(draw.choice(records))
    kind = draw.random()
    if kind < 0.1:
        return tensor_of(mutate_bytes(draw, packed(record)))
    if kind < 0.25:
        return tensor_of(zlib.compress(mutate_bytes(draw, json.dumps(record).encode()), level=1))
    if kind < 0.3:
        return DAMAGE[draw.choice(sorted(DAMAGE))](record)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        mutate_value(draw, record)
    return tensor_of(zlib.compress(spelled(json.dumps(record)), level=1))


@pytest.mark.parametrize("seed", range(BATCHES))
def test_ten_thousand_mutations_are_shown_or_named(
    records: list[dict[str, Any]], tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    draw = random.Random(seed)
    tags = [f"{TAG}/{n}" for n in range(A_BATCH)]
    write_all(tmp_path, [(tag, mutated(draw, records)) for tag in tags])
    panel = Panel(tmp_path)
    code, found = panel.get("/runs")
    assert code == 200
    shown = {(row["run"], row["tag"]) for row in found["runs"]}
    named = {(row["run"], row["tag"]) for row in found["skipped"]}
    assert {(name, TAG) for name in SOUND} <= shown
    assert shown | named == {(name, TAG) for name in SOUND} | {("damaged", tag) for tag in tags}
    assert not shown & named
    assert all(row["why"] for row in found["skipped"])
    assert A_BATCH // 2 < len(named) < A_BATCH
    for run, tag in sorted(shown):
        code, answer = panel.get("/run", run=run, tag=tag)
        assert code == 200 or (code == 422 and answer["error"]), (tag, answer)
        if draw.random() < 0.1:
            assert panel.ask(run=run, tag=tag, **QUESTION)[0] in (200, 400, 422)
