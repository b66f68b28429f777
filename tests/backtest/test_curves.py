import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossforecast import ConfigurationError
from lossforecast.backtest.curves import RecordedRun, load_curves
from lossforecast.runs import RunKind

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


def test_the_description_names_group_fold_cluster_and_sweep() -> None:
    told = run_of(
        "logs", fold="task", kind="language model", cluster="study 3", sweep_of="all studies"
    )
    assert (told.group, told.fold, told.cluster) == ("language model val", "task", "study 3")
    assert (told.sweep, told.peak_fold) == ("all studies", "task, peak 1")
    untold = run_of("logs", "m", fold=None, kind=None, cluster=None, sweep_of=None)
    assert (untold.group, untold.fold, untold.cluster) == ("logs val", "logs", "logs:m")
    assert (untold.sweep, untold.peak_fold) == (None, "logs")


def test_the_kind_is_other_unless_a_known_one_was_recorded() -> None:
    assert run_of("x", kind="large language model").kind is RunKind.LARGE_LANGUAGE_MODEL
    assert run_of("x", kind="small model").kind is RunKind.SMALL_MODEL
    for metadata in ({}, {"kind": None}, {"kind": "other"}, {"kind": "a word"}, {"kind": ["odd"]}):
        assert run_of("x", **metadata).kind is RunKind.OTHER


def test_a_run_is_complete_unless_recorded_as_stopped() -> None:
    assert run_of("x").completed
    assert run_of("x", completion="reached LR end").completed
    assert not run_of("x", completion="stopped early").completed
    assert run_of("x", schedule="cosine").schedule_type == "cosine"


def test_the_metric_is_read_under_its_older_key_too(tmp_path: Path) -> None:
    write(tmp_path, "old", [{"run_id": "r", "what": "train", "metric": "cross-entropy"}])
    assert load_curves(tmp_path)[0].metric == "train"


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
    with pytest.raises(ConfigurationError, match="nowhere is not a folder"):
        load_curves(tmp_path / "nowhere")


def test_the_recorded_curves_can_be_read(curves_dir: Path) -> None:
    """Every run and point of every file; a cluster or sweep lies within one fold."""
    runs = load_curves(curves_dir)
    files = sorted(curves_dir.glob("*.npz"))
    entries = [e for file in files for e in json.loads(file.with_suffix(".json").read_text())]
    assert [run.metadata for run in runs] == entries
    for file in files:
        stored = np.load(file)
        mine = [run for run in runs if run.source == file.stem]
        np.testing.assert_array_equal([run.loss.size for run in mine], np.diff(stored["offsets"]))
        np.testing.assert_array_equal(np.concatenate([run.loss for run in mine]), stored["loss"])
    of_cluster = {run.cluster: run.fold for run in runs}
    assert all(of_cluster[run.cluster] == run.fold for run in runs), "a cluster in two folds"
    of_sweep = {run.sweep: run.fold for run in runs if run.sweep}
    assert all(of_sweep[run.sweep] == run.fold for run in runs if run.sweep), "a sweep in two folds"
