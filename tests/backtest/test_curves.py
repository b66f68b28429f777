import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossforecast import ConfigurationError
from lossforecast.backtest.curves import RecordedRun, load_curves

STEPS = np.arange(0, 1_000, 50)


def write(folder: Path, name: str, entries: list[dict[str, Any]], **arrays: Any) -> None:
    """A pair of files in which every run has the same 20 points, unless arrays say otherwise."""
    n = len(entries)
    stored = {
        "step": np.tile(STEPS, n),
        "lr": np.full(n * STEPS.size, 1e-3),
        "loss": np.tile(3 / np.sqrt(STEPS + 1), n).astype(np.float32),
        "offsets": np.arange(n + 1) * STEPS.size,
    } | arrays
    np.savez(folder / f"{name}.npz", **{k: v for k, v in stored.items() if v is not None})
    (folder / f"{name}.json").write_text(json.dumps(entries))


def entry(run_id: str = "one", **more: Any) -> dict[str, Any]:
    return {"run_id": run_id, "metric": "val", "total_steps": 1_000} | more


def test_runs_come_by_file_and_then_as_stored(tmp_path: Path) -> None:
    write(tmp_path, "b", [entry("x"), entry("y", metric="train")])
    write(tmp_path, "a", [entry("z", optimizer="adamw", schedule={"type": "wsd"})])
    runs = load_curves(tmp_path)
    assert [(r.source, r.run_id, r.metric) for r in runs] == [
        ("a", "z", "val"),
        ("b", "x", "val"),
        ("b", "y", "train"),
    ]
    assert (runs[0].optimizer, runs[0].schedule_type) == ("adamw", "wsd")
    assert (runs[1].optimizer, runs[1].schedule_type) == (None, "unknown")
    np.testing.assert_array_equal(runs[2].step, STEPS)
    assert load_curves(str(tmp_path))[0].run_id == "z"
    assert pickle.loads(pickle.dumps(runs))[1].run_id == "x"


def test_only_two_things_must_be_said_of_a_run(tmp_path: Path) -> None:
    write(tmp_path, "bare", [{"run_id": "r", "what": "train"}])
    (run,) = load_curves(tmp_path)
    assert run.total_steps == 950
    assert run.completed
    assert (run.group, run.fold, run.cluster) == ("bare train", "bare", "bare:r")


def run_of(source: str, run_id: str = "r", **metadata: Any) -> RecordedRun:
    return RecordedRun(
        source, run_id, "val", STEPS, np.ones(20), np.ones(20), 1_000, metadata=metadata
    )


def test_groups_folds_and_clusters() -> None:
    plain = run_of("multipowerlaw", "m", sweep="mpl_25M")
    assert (plain.group, plain.fold) == ("language models val", "multipowerlaw")
    assert plain.cluster == "multipowerlaw:m"
    task = run_of("algoperf_nadamp", "wmt_jax_study_3_trial_2__val", dataset="WMT17")
    assert (task.group, task.fold) == ("AlgoPerf val", "WMT17")
    assert task.cluster == "algoperf_nadamp:wmt_jax_study_3"
    branch = run_of("lr-scheduling-convex", "a", base_run="data/stem.json", path="data/a.json")
    stem = run_of("lr-scheduling-convex", "b", base_run=None, path="data/stem.json")
    assert branch.cluster == stem.cluster
    repeats = [run_of("modded-nanogpt", name, sweep="s", path=name) for name in "ab"]
    assert repeats[0].cluster == repeats[1].cluster
    assert run_of("algoperf_x", dataset="d", completion="stopped early").completed is False
    assert run_of("algoperf_x", completion="reached LR end").completed
    assert run_of("x", schedule="cosine").schedule_type == "cosine"


def broken(**arrays: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder, "bad", [entry()], **arrays)


def described(*entries: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder, "bad", list(entries))


def _no_json(folder: Path) -> None:
    write(folder, "bad", [entry()])
    (folder / "bad.json").unlink()


def _not_json(folder: Path) -> None:
    write(folder, "bad", [entry()])
    (folder / "bad.json").write_text("[{")


def _not_npz(folder: Path) -> None:
    write(folder, "bad", [entry()])
    (folder / "bad.npz").write_bytes(b"PK\x03\x04 nonsense")


def _one_array(folder: Path) -> None:
    write(folder, "bad", [entry()])
    with (folder / "bad.npz").open("wb") as file:
        np.save(file, np.ones(3))


def _truncated(folder: Path) -> None:
    write(folder, "bad", [entry()])
    whole = (folder / "bad.npz").read_bytes()
    (folder / "bad.npz").write_bytes(whole[: len(whole) // 2])


def _pickled(folder: Path) -> None:
    write(folder, "bad", [entry()], loss=np.array([{}] * 20, dtype=object))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: None, "has no curves"),
        (_no_json, r"bad\.json is missing"),
        (_not_json, r"bad\.json cannot be read"),
        (_not_npz, r"bad\.npz cannot be read"),
        (_truncated, r"bad\.npz cannot be read"),
        (_one_array, r"bad\.npz cannot be read"),
        (_pickled, r"bad\.npz cannot be read"),
        (broken(lr=None), r"bad\.npz has no lr"),
        (broken(loss=None, offsets=None), r"bad\.npz has no loss, offsets"),
        (broken(offsets=np.array([0, 10, 20])), r"bad\.npz has 2 runs.*bad\.json has 1"),
        (broken(offsets=np.array([0, 21])), r"bad\.npz is damaged"),
        (broken(loss=np.ones(19)), r"bad\.npz is damaged"),
        (broken(offsets=np.zeros(0, dtype=int)), r"bad\.npz: offsets is empty"),
        (broken(step=STEPS.astype(float)), r"bad\.npz: step has dtype float64"),
        (broken(loss=np.ones((20, 1))), r"bad\.npz: loss has dtype float64 and shape \(20, 1\)"),
        (broken(lr=np.full(20, -1.0)), r"bad\.npz: a learning rate of one"),
        (broken(lr=np.full(20, np.nan)), r"bad\.npz: a learning rate of one"),
        (broken(step=STEPS[::-1]), r"bad\.npz: the steps of one"),
        (broken(step=np.zeros(20, dtype=int)), r"bad\.npz: the steps of one"),
        (described({"what": "val"}), r"bad\.json: a run has no run_id"),
        (
            described({"run_id": "r", "metric": "test"}),
            r"bad\.json: `metric` \(or `what`\) of r is 'test'",
        ),
        (described({"run_id": "r"}), r"bad\.json: `metric` \(or `what`\) of r is None"),
        (described(entry(total_steps=0)), r"bad\.json: total_steps of one is 0"),
        (described(entry(total_steps="many")), r"bad\.json: total_steps of one is 'many'"),
        (described("a run"), r"bad\.json must hold a list"),
    ],
)
def test_damage_is_an_error_that_names_the_file(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    damage(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        load_curves(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere is no folder"):
        load_curves(tmp_path / "nowhere")


def test_the_recorded_curves_can_be_read(curves_dir: Path) -> None:
    runs = load_curves(curves_dir)
    assert len({run.source for run in runs}) == 8
    assert {run.group for run in runs} == {
        f"{family} {what}"
        for family in ("language models", "AlgoPerf")
        for what in ("train", "val")
    }
    repeats = [run for run in runs if run.source == "modded-nanogpt" and run.total_steps == 1_530]
    assert len(repeats) == 38
    assert len({run.cluster for run in repeats}) == 1
