"""Rows of a store with one damaged cell: they are left out, by name, and all else goes on."""

import json
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command_line import result_of, run
from support.logs import warnings_in
from support.recorded import train

from lossforecast import Forecaster, LRSchedule, RunInfo, RunStore
from lossforecast.store.schema import Tables

ABOUT = RunInfo("train", "SGD", project="damaged", dataset="d", n_params=3)
DEEP = "[" * 100_000
DAMAGE: dict[str, Any] = {
    "null": None,
    "bytes": b"\xff\xfe\x00",
    "text": "x",
    "empty": "",
    "long text": "y" * 1_000_000,
    "control characters": "a\x1b[2J\r\nWARNING forged \x9b31m \u202eb",
    "negative": -5,
    "nan": float("nan"),
    "inf": float("inf"),
    "real": 2.5,
    "huge": 2**62,
    "digits": "7" * 400,
    "deep": DEEP,
    "list": "[]",
    "object": "{}",
    "strings": '{"pieces": "x", "max_bins": "y", "bins": []}',
}
"""Values of a cell, of which most are damage in most columns."""


PARTS: list[Any] = [None, "x", [], {}, -1, 1e308, float("nan"), 10**400, [[[1]]]]
"""Values inside of JSON."""


def columns() -> Iterator[tuple[str, str]]:
    """Every column of every table but the version."""
    tables = Tables.make()
    for table in (tables.runs, tables.forecasts, tables.decisions):
        for column in table.columns:
            yield table.name, column.name


def inside_json() -> Iterator[tuple[str, Any]]:
    """Changes of one value inside the JSON of a schedule or a curve: (column, path and value)."""
    for column, names in (
        ("schedule", ("pieces", "total_steps", "caveats")),
        ("curve", ("max_bins", "width", "last_step", "bins", "undo", "n_non_finite")),
    ):
        for name in names:
            for value in PARTS:
                yield column, (name, value)


CASES = [
    *((table, column, value) for table, column in columns() for value in DAMAGE.values()),
    *(("lossforecast_runs", column, value) for column, value in inside_json()),
]
FULL = bool(os.environ.get("LOSSFORECAST_FULL"))
CHOSEN = CASES if FULL else random.Random(0).sample(CASES, 12)


def filled(path: Path) -> tuple[str, str]:
    """Two finished runs with forecasts and decisions; their keys."""
    store, keys = RunStore(path), []
    steps = np.arange(0, 401, 4)
    plan = LRSchedule.cosine(400, 0.1)
    for name, level in (("sound", 2.0), ("odd", 2.1)):
        watch = Forecaster(plan, ABOUT)
        key = store.begin(name, ABOUT, plan)
        for half in (steps[:50], steps[50:]):
            watch.observe_many(half, level + 3 * (half + 5.0) ** -0.5)
            decided = [(int(half[-1]), watch.recommend())]
            store.save(key, watch.history, plan, [watch.forecast()], decided)
        store.end(key, "finished")
        keys.append(key)
    return keys[0], keys[1]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, bytes]:
    path = tmp_path_factory.mktemp("damage") / "runs.db"
    sound, odd = filled(path)
    with closing(sqlite3.connect(path)) as raw, raw:
        for table in ("runs", "forecasts", "decisions"):
            (statement,) = raw.execute(
                "SELECT sql FROM sqlite_master WHERE name = ?", [f"lossforecast_{table}"]
            ).fetchone()
            loose = statement.replace(" NOT NULL", "").replace("PRIMARY KEY", "UNIQUE")
            raw.execute(f"ALTER TABLE lossforecast_{table} RENAME TO old")
            raw.execute(loose)
            raw.execute(f"INSERT INTO lossforecast_{table} SELECT * FROM old")
            raw.execute("DROP TABLE old")
        raw.execute("PRAGMA journal_mode = DELETE")
    return sound, odd, path.read_bytes()


def damage(path: Path, table: str, column: str, value: Any, key: str) -> None:
    """Change one cell of the newest row of a run."""
    with closing(sqlite3.connect(path)) as raw, raw:
        name = "key" if table == "lossforecast_runs" else "run"
        if isinstance(value, tuple):
            (text,) = raw.execute(
                f"SELECT {column} FROM {table} WHERE {name} = ?", [key]
            ).fetchone()
            value = json.dumps({**json.loads(text), value[0]: value[1]})
        rows = raw.execute(f"SELECT rowid FROM {table} WHERE {name} = ?", [key]).fetchall()
        raw.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", [value, *rows[-1]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("table", "column", "value"), CHOSEN, ids=lambda v: f"{v!r:.30}".replace("\\", "")
)
def test_a_damaged_cell_hides_nothing_else(
    template: tuple[str, str, bytes],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    table: str,
    column: str,
    value: Any,
) -> None:
    sound, odd, content = template
    path = tmp_path / "runs.db"
    path.write_bytes(content)
    damage(path, table, column, value, odd)

    listed = result_of("runs", "list", "--store", path)
    assert sound in [each["key"] for each in listed]
    shown = run("runs", "list", "--store", path)
    assert shown.returncode == 0, shown.stderr
    assert not set(shown.stdout) & set("\x1b\r\x9b\u202e")
    assert result_of("runs", "show", sound, "--store", path)["forecasts"]
    done = run("runs", "show", odd, "--store", path)
    assert done.returncode in (0, 2), done.stderr
    assert not set(done.stdout + done.stderr) & set("\x1b\r\x9b\u202e")
    caplog.clear()
    monitor = train(path, run=ABOUT, total=100, until=45)
    assert not monitor.switched_off
    assert sound in [past.name for past in monitor.forecaster.prior.past]
    assert monitor.forecast is not None
    assert np.isfinite(monitor.forecast.mean)
    left_out = warnings_in(caplog)
    assert all(odd in line or "odd" in line for line in left_out), left_out
    assert len(left_out) <= 1
    monitor.close()
