"""`backtest`: what it writes where, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.command_line import run, write_curves, written_by

KEYS = {
    "source", "run_id", "metric", "fraction", "truth", "median", "mean", "lower80", "upper80",
    "lower95", "upper95", "status", "seconds", "kind", "fold", "cluster", "told", "last_value",
}  # fmt: skip


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_curves(tmp_path_factory.mktemp("curves"), 16)


def timeless(text: str) -> list[dict[str, object]]:
    return [{**each, "seconds": 0} for each in written_by("backtest", text)]


def test_a_folder_becomes_json_tables_and_a_picture(curves: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "scores.json", tmp_path / "errors.png"
    done = run("backtest", "--curves", curves, "--json", out, "--plot", picture)
    assert done.returncode == 0, done.stderr
    found = written_by("backtest", out.read_text())
    assert len(found) == 16 * 4  # a tenth has 4 points
    assert all(set(each) == KEYS for each in found)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "\x1b" not in done.stdout + done.stderr
    for text in ("scores by kind", "by group", "by source", "by schedule", "multi-power"):
        assert text in done.stdout
    assert done.stdout.startswith("scores by kind, each family once (told: found) ")
    assert "scores by family" not in done.stdout
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
    assert "scores by kind" not in one.stderr
    assert "multi-power" not in one.stderr


@pytest.fixture(scope="module")
def two_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six runs of a small model in three clusters, and four of one that is better by last value."""
    folder = tmp_path_factory.mktemp("kinds")
    write_curves(folder, 6, name="small", kind="small model", fold="digits", n_params=90_000)
    entries = json.loads((folder / "small.json").read_text())
    clustered = [each | {"cluster": f"seed {i % 3}"} for i, each in enumerate(entries)]
    (folder / "small.json").write_text(json.dumps(clustered))
    write_curves(folder, 4, name="flat", metric="train", fold="clicks")
    stored = dict(np.load(folder / "flat.npz"))
    flat = 2.0 + 0.05 * (np.tile(np.arange(stored["step"].size // 4), 4) < 9)
    np.savez(folder / "flat.npz", **(stored | {"loss": flat}))
    return folder


def rows_of(text: str, name: str) -> list[list[str]]:
    """The cells after the name in the rows of a printed table."""
    lines = (line.strip() for line in text.splitlines())
    return [line.removeprefix(f"{name} ").split() for line in lines if line.startswith(f"{name} ")]


def test_families_count_once_in_the_table_by_kind(two_kinds: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "scores.json", tmp_path / "table.md"
    done = run(
        "backtest", "--curves", two_kinds, "--no-baselines", "--json", out, "--markdown", table,
        "--by", "family", "--by", "kind",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert printed.startswith("scores by kind")
    assert "scores by group" not in printed
    records = [each for each in written_by("backtest", out.read_text()) if each["fraction"] == 0.5]
    assert {each["told"] for each in records} == {"found"}
    small = [each for each in records if each["kind"] == "small model"]
    assert len(small) == 6
    errors = [abs(each["median"] / each["truth"] - 1) for each in small]
    last = [abs(each["last_value"] / each["truth"] - 1) for each in small]
    family = next(row for row in rows_of(printed, "digits val") if row[0] == "50%")
    assert family[1:5] == ["small", "model", "6", "3"]
    assert [float(cell) for cell in family[5:7]] == pytest.approx(
        [100 * np.median(errors), 100 * np.median(last)], rel=0.01
    )
    together = [row for row in rows_of(printed, "small model") if row[0] == "50%"]
    (by_metric,) = (row for row in rows_of(printed, "small model val") if row[0] == "50%")
    assert together == [by_metric]
    assert by_metric[1:5] == ["1", "6", *family[5:7]]
    assert by_metric[7] == family[9] != "-", "the ratio"
    other = next(row for row in rows_of(printed, "other train") if row[0] == "50%")
    assert (other[1], other[2], other[7], other[8]) == ("1", "4", "-", "0")
    text = table.read_text()
    for heading in ("kind, each family once (told: found)", "family (told: found)", "group"):
        assert f"## Scores by {heading}\n" in text
    assert f"| small model | 50% | {' | '.join(by_metric[1:])} |" in text


def test_families_with_larger_errors_than_the_last_value_are_listed(two_kinds: Path) -> None:
    done = run("backtest", "--curves", two_kinds, "--no-baselines", "--by", "kind")
    title = "median error above 1.5 times the last value's"
    _, found, listed = done.stdout.partition(title)
    assert found
    assert {row[0] for row in rows_of(listed, "clicks train")} >= {"50%", "75%"}
    assert not rows_of(listed, "digits val")


def test_what_the_forecaster_is_told_and_how_many_runs_it_sees(two_kinds: Path) -> None:
    arguments = ("backtest", "--curves", two_kinds, "--no-baselines", "--json", "-")
    done = run(*arguments, "--told", "nothing", "--max-per-family", "3")
    assert "(told: nothing)" in done.stderr
    few = written_by("backtest", done.stdout)
    small = [each for each in few if each["fold"] == "digits" and each["fraction"] == 0.5]
    assert sorted(each["cluster"] for each in small) == ["seed 0", "seed 1", "seed 2"]
    assert {each["told"] for each in few} == {"nothing"}
    assert run(*arguments, "--max-per-family", "0").returncode == 2


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
        (["--curves", "good", "--told", "all"], "--told all: it must be one of found, optimizer,"),
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
    written_by("backtest", done.stdout)


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
    plot = tmp_path / "sweeps.png"
    done = run("backtest", "--curves", folder, "--sweep", "--json", path, "--plot", plot)
    assert done.returncode == 0, done.stderr
    scores = written_by("backtest-sweep", path.read_text())
    assert [(each["policy"], each["arrival"]) for each in scores] == [
        (policy, arrival)
        for policy in (
            "halving",
            "halving from 6%",
            "worthwhile",
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
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "runs arrive in parallel" in done.stdout
    assert "runs arrive one after the other" in done.stdout
    piped = run("backtest", "--curves", folder, "--sweep", "--no-baselines", "--json", "-")
    assert {each["policy"] for each in written_by("backtest-sweep", piped.stdout)} == {
        "halving", "halving from 6%", "worthwhile", "dominated",
    }  # fmt: skip


def test_sweeps_that_cannot_be_scored(curves: Path, tmp_path: Path) -> None:
    done = run("backtest", "--curves", curves, "--sweep")
    assert done.returncode == 2
    assert "no sweep to score" in done.stderr
    for option in (
        ("--markdown", tmp_path / "a.md"),
        ("--by", "group"),
        ("--unseen", "peak"),
        ("--told", "nothing"),
        ("--max-per-family", "3"),
    ):
        done = run("backtest", "--curves", curves, "--sweep", *option)
        assert done.returncode == 2
        assert "leave them out" in done.stderr
