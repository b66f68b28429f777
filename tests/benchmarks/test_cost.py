"""The benchmark of costs at a small size: its table, its file, its verdict. No time is judged."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cost_table import Ratio, added, of_all, ratios_from, ratios_to, slower, table
from cost_turns import Pause, measured

SCRIPT = Path(__file__).parent / "cost.py"
RECORDED = SCRIPT.parent / "results" / "cost.json"
GROUPS = ["plain", "checks"]
SLOW_GROUPS = [
    "lightning",
    "transformers",
    "network",
    "study",
    "gpt",
    "multi-power",
    "start",
    "memory",
]


def test_subjects_take_turns_in_alternating_order() -> None:
    order: list[str] = []

    def subject(name: str, pause: Pause) -> None:
        for _ in range(3):
            order.append(name)
            pause()

    names = {"a": lambda pause: subject("a", pause), "b": lambda pause: subject("b", pause)}
    times = measured(names, warm_up=0)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: seconds.size for name, seconds in times.items()} == {"a": 4, "b": 4}


def test_work_counts_in_its_own_turn_and_sleep_does_not() -> None:
    def works(pause: Pause) -> None:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        pause()

    def sleeps(pause: Pause) -> None:
        time.sleep(0.05)
        pause()

    times = measured({"works": works, "sleeps": sleeps}, warm_up=0)
    assert times["works"][0] >= 0.05
    assert times["works"].sum() > times["sleeps"].sum()


def test_an_error_of_a_subject_ends_the_benchmark() -> None:
    def fails(pause: Pause) -> None:
        pause()
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        measured({"fails": fails})


def test_ratios_are_those_of_sums_and_their_errors_those_of_turns() -> None:
    times = {
        "bare": np.full(20, 1.0),
        "kept": np.full(20, 2.0),
        "ours": np.tile([2.5, 4.5], 10),
    }
    ratio = added(times, "ours", "kept", "bare", "ours", "kept", 1.5)
    assert (ratio.value, ratio.error, ratio.limit) == (2.5, 0.0, 1.5)  # all blocks are alike
    assert of_all(times, "ours", "kept", "ours", "kept").value == 1.75
    uneven = {**times, "ours": np.linspace(2.0, 3.0, 20)}
    assert of_all(uneven, "ours", "bare", "ours", "bare").error == pytest.approx(0.101, abs=0.001)


@pytest.mark.parametrize(
    ("value", "error", "is_slower"),
    [
        (1.15, 0.0, False),
        (1.25, 0.0, True),
        (1.25, 0.05, False),
        (1.5, 0.1, True),
        (0.5, 0.0, False),
    ],
)
def test_only_what_is_surely_a_fifth_above_the_record_is_slower(
    value: float, error: float, is_slower: bool
) -> None:
    ratio = Ratio("ours", "floor", value, error)
    assert slower([ratio], [Ratio("ours", "floor", 1.0, 0.3)]) == [ratio] * is_slower
    assert slower([ratio], [Ratio("ours", "fit", 0.1, 0.0)]) == []


def test_a_table_is_read_back_as_written(tmp_path: Path) -> None:
    ratios = [Ratio("ours", "floor", 1.234, 0.05, 1.5), Ratio("`ours`", "fit", 1 / 900, 1e-5)]
    ratios_to(tmp_path / "cost.json", ratios, device="cpu")
    recorded = ratios_from(tmp_path / "cost.json")
    assert recorded == ratios
    lines = table(ratios, recorded).splitlines()
    assert lines[2] == "| ours | floor | 1.23 | 0.05 | 1.5 | 1.23 |"
    assert lines[3] == "| `ours` | fit | 0.0011 | 1e-05 |  | 0.0011 |"
    assert ratios_from(tmp_path / "nothing.json") == []


@pytest.mark.parametrize(
    "groups", [GROUPS, pytest.param(SLOW_GROUPS, marks=pytest.mark.slow)], ids=["some", "others"]
)
def test_the_short_form_measures_writes_and_compares(groups: list[str], tmp_path: Path) -> None:
    written, recorded = tmp_path / "bench.json", tmp_path / "recorded.json"

    def run(groups: list[str], *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), "--short", "--only", *groups, *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*command, "--json", str(written)], env=environment, capture_output=True, text=True
        )

    first = run(groups, "--recorded", str(recorded))
    assert first.returncode == 0, first.stderr
    rows = json.loads(written.read_text())["ratios"]
    assert len(rows) >= len(groups)
    assert all(math.isfinite(row["value"]) and math.isfinite(row["error"]) for row in rows)
    assert first.stdout.count("\n| ") == len(rows)
    # any cost is above the last record, and none is above the others
    for row in rows:
        row["value"] = 1e9
    rows[-1]["value"] = -1e9
    recorded.write_text(json.dumps({"ratios": rows}))
    second = run(groups[-1:], "--recorded", str(recorded))
    assert second.returncode == 1, second.stderr
    assert second.stdout.count("slower: ") == 1
    assert f"slower: {rows[-1]['what']} / {rows[-1]['over']}" in second.stdout


def test_all_groups_of_the_record_are_there() -> None:
    recorded = " ".join(ratio.key for ratio in ratios_from(RECORDED))
    for subject in ("plain loop", "Lightning", "Hugging Face", "`apply=True`", "`MedianPruner`"):
        assert subject in recorded
    for baseline in ("`loss.detach().clone()`", "`LearningRateMonitor`", "multi-power law"):
        assert baseline in recorded
