"""`backtest`: what it writes where, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.command_line import run, write_curves

KEYS = {
    "source", "run_id", "metric", "fraction", "truth", "mean", "lower80", "upper80", "lower95",
    "upper95", "status", "seconds", "kind", "fold", "cluster", "told", "last_value",
}  # fmt: skip


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_curves(tmp_path_factory.mktemp("curves"), 16)


def timeless(text: str) -> list[dict[str, object]]:
    return [{**each, "seconds": 0} for each in json.loads(text)]


def test_a_folder_becomes_json_tables_and_a_picture(curves: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "scores.json", tmp_path / "errors.png"
    done = run("backtest", "--curves", curves, "--json", out, "--plot", picture)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert len(found) == 16 * 4  # a tenth has 4 points
    assert all(set(each) == KEYS for each in found)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "\x1b" not in done.stdout + done.stderr
    for text in ("scores by group", "scores by source", "scores by schedule", "multi-power"):
        assert text in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(" made val ")]
    assert rows[0][2:4] == ["25%", "16"]
    assert "…" not in done.stdout
    assert "replaying runs: 16 of 16" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_on_standard_output_is_alone_there_and_the_same_for_any_jobs(curves: Path) -> None:
    one = run("backtest", "--curves", curves, "--json", "-", "--no-baselines", "--by", "group")
    two = run("backtest", "--curves", curves, "--json", "-", "--no-baselines", "--jobs", "2")
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert timeless(one.stdout) == timeless(two.stdout)
    assert "scores by group" in one.stderr
    assert "scores by source" not in one.stderr
    assert "multi-power" not in one.stderr


def test_a_picture_on_standard_output_is_alone_there(curves: Path) -> None:
    done = run("backtest", "--curves", curves, "--plot", "-", "--no-baselines")
    assert done.returncode == 0, done.stderr
    assert done.output.startswith(b"\x89PNG")
    assert done.output.rstrip().endswith(b"IEND\xaeB`\x82")
    assert "scores by group" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--curves", "nowhere"], "nowhere is not a folder"),
        (["--curves", "empty"], "has no curves"),
        (["--curves", "damaged"], "made.json"),
        (["--curves", "short"], "no run to score"),
        (["--curves", "good", "--jobs", "0"], "jobs is 0"),
        (["--curves", "good", "--by", "colour"], "--by colour"),
        (["--curves", "good", "--json", "nowhere/scores.json"], "cannot write nowhere/scores.json"),
        (["--curves", "good", "--json", "good"], "cannot write good"),
        (["--curves", "good", "--plot", "nowhere/a.png"], "cannot write nowhere/a.png"),
        (["--curves", "good", "--plot", "a.xyz"], "cannot draw a.xyz"),
        (["--curves", "good", "--plot", "-", "--json", "-"], "only one of --json and --plot"),
        (["--curves", "good", "--markdown", "-", "--json", "-"], "only one of --json and --mark"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, curves: Path, tmp_path: Path
) -> None:
    (tmp_path / "good").symlink_to(curves)
    (tmp_path / "empty").mkdir()
    write_curves(tmp_path / "damaged", 2)
    (tmp_path / "damaged" / "made.json").write_text("[]")
    write_curves(tmp_path / "short", 2, every=200)
    done = run("backtest", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if not line.startswith("replaying")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: ")
    assert message in errors[0]


def test_a_bar_is_drawn_on_a_terminal(curves: Path) -> None:
    environment = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "COLUMNS": "100"}
    done = run(
        "backtest", "--curves", curves, "--json", "-", "--no-baselines", environment=environment
    )
    assert done.returncode == 0
    assert "16/16" in done.stderr
    json.loads(done.stdout)


def write_sweep(folder: Path) -> Path:
    """The same curves as runs of one sweep, each a little higher than the one before."""
    write_curves(folder, 4)
    entries = json.loads((folder / "made.json").read_text())
    (folder / "made.json").write_text(json.dumps([each | {"sweep_of": "s"} for each in entries]))
    stored = dict(np.load(folder / "made.npz"))
    stored["loss"] = stored["loss"] + np.repeat(0.2 * np.arange(4), stored["loss"].size // 4)
    np.savez(folder / "made.npz", **stored)
    return folder


@pytest.mark.slow
def test_sweeps_are_scored_and_written(tmp_path: Path) -> None:
    folder, path = write_sweep(tmp_path / "sweep"), tmp_path / "scores.json"
    done = run("backtest", "--curves", folder, "--sweep", "--json", path)
    assert done.returncode == 0, done.stderr
    scores = json.loads(path.read_text())
    assert [(each["policy"], each["arrival"]) for each in scores] == [
        (policy, arrival)
        for policy in (
            "dominated",
            "successive-halving",
            "hyperband",
            "median",
            "last-value",
            "patience",
        )
        for arrival in ("parallel", "sequential")
    ]
    for each in scores:
        assert set(each) == {
            "policy", "sweep", "runs", "arrival",
            "compute_used", "regret", "false_kills", "before_decay",
        }  # fmt: skip
        assert (each["sweep"], each["runs"]) == ("s", 4)
        assert 0 < each["compute_used"] <= 1
    assert scores[0]["compute_used"] < 1
    assert scores[0]["regret"] == 0
    assert "runs arrive in parallel" in done.stdout
    assert "runs arrive one after the other" in done.stdout
    piped = run("backtest", "--curves", folder, "--sweep", "--no-baselines", "--json", "-")
    assert [each["policy"] for each in json.loads(piped.stdout)] == ["dominated", "dominated"]


def test_sweeps_that_cannot_be_scored(curves: Path, tmp_path: Path) -> None:
    done = run("backtest", "--curves", curves, "--sweep")
    assert done.returncode == 2
    assert "no sweep to score" in done.stderr
    for option in (("--plot", tmp_path / "a.png"), ("--by", "group"), ("--unseen", "peak")):
        done = run("backtest", "--curves", curves, "--sweep", *option)
        assert done.returncode == 2
        assert "leave them out" in done.stderr
