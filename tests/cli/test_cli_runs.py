"""`runs`: the store of past runs, filled, read and emptied."""

from pathlib import Path

import numpy as np
import pytest
from support.command_line import PLAN, SPEC, TOTAL, losses_at, result_of, run, write_log

from lossforecast import Forecaster, RunInfo, RunStore


def test_past_runs_are_imported_learnt_from_and_forgotten(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    logs = [write_log(tmp_path / f"{i}.csv") for i in range(2)]
    for _ in range(2):  # the second time they are there already
        done = run(
            "runs", "import", *logs, "--project", "small", "--optimizer", "adamw", "--store", store
        )
        assert done.returncode == 0, done.stderr
    listed = result_of("runs", "list", "--store", store)
    assert len(listed) == 2
    assert {each["name"].split("/")[-1] for each in listed} == {"0.csv", "1.csv"}
    assert {(each["state"], each["project"]) for each in listed} == {("finished", "small")}
    environment = {"LOSSFORECAST_STORE": str(store)}
    assert result_of("runs", "list", "--project", "small", environment=environment) == listed
    assert result_of("runs", "list", "--project", "other", "--store", store) == []
    assert "no runs in" in run("runs", "list", "--project", "other", "--store", store).stdout

    options = ("--total-steps", TOTAL, "--schedule", SPEC, "--optimizer", "adamw")
    past = ("--project", "small", "--store", store)
    early = write_log(tmp_path / "early.csv", 300)
    blind, learned = (
        result_of("forecast", early, *options),
        result_of("forecast", early, *options, *past),
    )
    width = {id(each): each["upper80"] - each["lower80"] for each in (blind, learned)}
    assert width[id(learned)] < 0.6 * width[id(blind)]
    planned = result_of("what-if", "--metric", "val", *options, *past, "--try", "cosine:peak=1e-3")
    truth = losses_at(np.arange(1_960, 2_001, 10)).mean()
    assert planned[0]["median"] == pytest.approx(truth, rel=0.02)  # before the first step

    key = listed[0]["key"]
    shown = result_of("runs", "show", key[:6], "--store", store)
    assert len(shown["losses"]) == 200
    assert key in run("runs", "show", key, "--store", store).stdout
    assert run("runs", "forget", key, "--exclude", "--store", store).returncode == 0
    assert result_of("runs", "show", key, "--store", store)["excluded"] is True
    assert run("runs", "forget", key[:8], "--include", "--store", store).returncode == 0
    done = run("runs", "forget", key, "--exclude", "--include", "--store", store)
    assert (done.returncode, "give only one of them" in done.stderr) == (2, True)
    assert result_of("runs", "show", key, "--store", store)["excluded"] is False
    described = ("--model", "gpt", "--dataset", "code", "--n-params", 1_000_000, "--batch-size", 64)
    other = write_log(tmp_path / "other.csv", level=3.0)
    into = ("--project", "told", "--store", store)
    done = run("runs", "import", other, *described, *into)
    assert done.returncode == 0, done.stderr
    (kept,) = result_of("runs", "list", "--project", "told", "--store", store)
    assert (kept["model"], kept["dataset"]) == ("gpt", "code")
    assert (kept["n_params"], kept["batch_size"]) == (1e6, 64)
    assert run("runs", "forget", kept["key"], "--store", store).returncode == 0
    done = run("runs", "forget", key, "nothing", "--store", store)
    assert done.returncode == 2
    assert len(result_of("runs", "list", "--store", store)) == 2  # none of them is gone
    assert run("runs", "forget", key, "--store", store).returncode == 0
    assert len(result_of("runs", "list", "--store", store)) == 1


def test_commands_that_read_make_no_store(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 300)
    options = ("--total-steps", TOTAL, "--schedule", SPEC, "--project", "small")
    for name in ("typo.db", "folder/typo.db"):
        for words in (
            ("runs", "list"),
            ("runs", "show", "1234"),
            ("runs", "forget", "1234"),
            ("forecast", log, *options),
        ):
            done = run(*words, "--store", tmp_path / name)
            assert done.returncode == 2
            assert "error: there is no store" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["log.csv"]
    (tmp_path / "empty.db").touch()
    done = run("runs", "list", "--store", tmp_path / "empty.db")
    assert (done.returncode, "has no runs in it" in done.stderr) == (2, True)


def test_a_run_in_a_store_is_shown_with_what_was_decided(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs.db")
    watch = Forecaster(PLAN, RunInfo("val", project="[red]small"))
    steps = np.arange(10, 1_001, 10)
    watch.observe_many(steps, losses_at(steps))
    key = store.begin("[bold]odd[/bold]", watch.run, PLAN)
    store.save(key, watch.history, PLAN, [watch.forecast()], [(1_000, watch.recommend())])
    for words in (("runs", "list"), ("runs", "show", key)):
        done = run(*words, "--store", tmp_path / "runs.db")
        assert done.returncode == 0, done.stderr
        assert "[bold]odd[/bold]" in done.stdout
    assert "step 1,000: go on" in done.stdout
    (made,) = result_of("runs", "show", key, "--store", tmp_path / "runs.db")["forecasts"]
    assert (made["median"], made["mean"]) == (watch.forecast().median, watch.forecast().mean)
    assert f" {made['median']:.4g} " in done.stdout


def test_logs_that_cannot_be_read_are_left_out_of_an_import(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    good = [write_log(tmp_path / f"{i}.csv") for i in range(2)]
    pointer, notes = tmp_path / "pointer.csv", tmp_path / "notes.txt"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    notes.write_text("nothing\n")
    into = ("--project", "small", "--store", store)
    done = run("runs", "import", good[0], pointer, notes, tmp_path / "none.csv", good[1], *into)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: left out: ")]
    for error, reason in zip(errors, ("git lfs pull", "not a table", "No such file"), strict=True):
        assert reason in error
    assert len(result_of("runs", "list", "--store", store)) == 2
    done = run("runs", "import", pointer, notes, *into)
    assert (done.returncode, "git lfs pull" in done.stderr) == (2, True)


def test_all_runs_of_a_log_of_several_are_imported_or_the_one_named(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    logs = [write_log(tmp_path / f"{i}.csv", level=2.5 + i) for i in range(3)]
    several = tmp_path / "several.csv"
    several.write_text("".join(log.read_text() for log in logs))
    ends = [result_of("replay", log)["outcome"] for log in logs]
    assert result_of("replay", several)["outcome"] == ends[2]
    assert result_of("replay", several, "--run", 2)["outcome"] == ends[1]
    result = result_of("forecast", several, "--total-steps", TOTAL)
    assert (result["run"], result["runs"]) == ("3", ["1", "2", "3"])
    for options, expected in ((("--run", 2), ends[1:2]), ((), ends)):
        done = run("runs", "import", several, "--project", "small", "--store", store, *options)
        assert done.returncode == 0, done.stderr
        listed = result_of("runs", "list", "--store", store)
        assert sorted(each["outcome"] for each in listed) == pytest.approx(expected)
    names = sorted(each["name"].rpartition("/")[2] for each in listed)
    assert names == [f"several.csv, run {i}" for i in (1, 2, 3)]
    done = run("runs", "import", several, "--project", "small", "--store", store, "--run", 4)
    assert (done.returncode, "has no run 4: it holds 3 runs" in done.stderr) == (2, True)
