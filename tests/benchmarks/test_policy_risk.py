"""The script that counts wrong stops, on runs whose right answer is known."""

from pathlib import Path

import numpy as np
import policy_risk
import pytest
from support.command_line import write_curves

from lossforecast.backtest.curves import RecordedRun
from lossforecast.backtest.replay import Told
from lossforecast.runs import RunKind


def run(*, late_fall: float = 0.0, metric: str = "val") -> RecordedRun:
    """A power law at a constant rate; its last 40% fall further than any law says."""
    step = np.arange(0, 2_001, 10)
    late = np.clip((step - 1_200) / 400, 0, 1)
    noise = 0.002 * np.random.default_rng(0).normal(size=step.size)
    loss = 2.0 + 5 * (step + 10.0) ** -0.5 + noise - late_fall * late
    rates, kind = np.full(step.size, 1e-3), {"kind": "large language model"}
    return RecordedRun("made", "r", metric, step, rates, loss, 2_000, "adamw", kind)


def test_a_run_that_follows_a_law_is_not_killed_and_a_hopeless_target_is_told() -> None:
    found = policy_risk.stops(run(), Told.FOUND)
    assert not found.wrongly
    assert np.isnan(found.wrongly_at)
    assert found.hopeless


def test_a_run_that_falls_late_is_killed_wrongly_before() -> None:
    found = policy_risk.stops(run(late_fall=1.0), Told.FOUND)
    assert found.wrongly
    assert found.wrongly_at < 0.62
    assert found.hopeless


def test_clusters_and_families_count_once() -> None:
    def member(cluster: str, fold: str, kind: str, metric: str = "val") -> RecordedRun:
        metadata = {"cluster": cluster, "fold": fold, "kind": kind}
        bare = np.zeros(1)
        return RecordedRun("s", "r", metric, np.zeros(1, np.int64), bare, bare, 1, None, metadata)

    def result(wrongly: bool, at: float) -> policy_risk.Stops:
        return policy_risk.Stops(wrongly, at, True, False, False)

    killed, kept = result(True, 0.2), result(False, np.nan)
    runs = [
        *[member("one", "a", "small model")] * 3,
        member("two", "a", "small model"),
        *[member("x", "b", "small model", "train")] * 10,
        member("y", "c", "other"),
    ]
    results = [killed, killed, killed, kept, *[kept] * 10, killed]
    families = policy_risk.by_family(runs, results)
    assert [(f.kind, f.fold, f.metric, f.n) for f in families] == [
        (RunKind.SMALL_MODEL, "a", "val", 4),
        (RunKind.SMALL_MODEL, "b", "train", 10),
        (RunKind.OTHER, "c", "val", 1),
    ]
    assert [f.shares[0] for f in families] == [0.5, 0.0, 1.0]
    assert families[0].wrongly_at == 0.2
    lines = list(policy_risk.report(families))
    by_name = {line[: policy_risk.NAME_WIDTH].strip(): line.split() for line in lines if line}
    assert by_name["small model"][2:6] == ["2", "14", "25.0%", "100.0%"]
    assert by_name["small model val"][3:6] == ["1", "4", "50.0%"]
    assert by_name["other"][1:4] == ["1", "1", "100.0%"]
    assert by_name["a val"][2:4] == ["4", "50.0%"]
    assert by_name["a val"][-1] == "20%"


def test_the_script_reports_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_curves(tmp_path, 3, kind="small model", n_params=90_000, sweep_of="s")
    policy_risk.main(["--curves", str(folder), "--max-per-family", "2", "--told", "nothing"])
    said = capsys.readouterr().out
    assert said.startswith("2 runs, told: nothing\n")
    assert "small model val" in said
    assert "small model, sweeps: " in said
    assert "of 3 runs" in said
