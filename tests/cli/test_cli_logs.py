"""`replay`, `forecast`, `what-if` and `runs`, as people use them."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import cli_reference

from lossforecast import Forecaster, LRSchedule, RunInfo, RunStore
from lossforecast.cli.app import main

PYTHON = [sys.executable, "-m", "lossforecast"]
INTERRUPTED = (130, -signal.SIGINT)  # in the middle of an exec() Python ends by the signal itself
TOTAL = 2_000
PLAN = LRSchedule.wsd(TOTAL, 1e-3, warmup=100)
SPEC = "wsd:peak=1e-3,warmup=100"
ENVIRONMENT = {"NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


def losses_at(steps: Any, level: float = 2.5, seed: int = 0) -> Any:
    noise = np.random.default_rng(seed).normal(size=np.size(steps))
    clean = level + 30 * (PLAN.s1(steps) / 1e-3 + 20) ** -0.6 + 100 * (PLAN.lr(steps) - 1e-3)
    return clean * np.exp(0.002 * noise)


def write_log(path: Path, until: int = TOTAL, *, rates: bool = True, level: float = 2.5) -> Path:
    steps = np.arange(10, TOTAL + 1, 10)
    losses = losses_at(steps, level)
    lines = ["step,val_loss" + ",lr" * rates]
    for step, loss, rate in zip(steps, losses, PLAN.lr(steps), strict=True):
        if step <= until:
            lines.append(f"{step},{loss}" + f",{rate}" * rates)
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass
class Done:
    """What a command wrote, and what it ended with."""

    returncode: int
    stdout: str
    stderr: str


def run(
    *arguments: object, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Done:
    """A command, in this process: starting one takes longer than most commands."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {**ENVIRONMENT, **(environment or {})}.items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        try:
            main(list(map(str, arguments)))
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def told(*arguments: object, **options: Any) -> Any:
    """What a command writes for programs."""
    done = run(*arguments, "--json", "-", **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---------------------------------------------------------------------- replay


def test_a_run_is_looked_back_on(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv")
    picture = tmp_path / "then.png"
    done = run("replay", log, "--target", 2.4, "--at", "25,50%", "--plot", picture)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "25%, step 500" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = told("replay", log, "--target", 2.4)
    assert f"It ended at {found['outcome']:.4g}" in done.stdout
    assert (found["column"], found["metric"], found["lr_column"]) == ("val_loss", "val", "lr")
    assert found["outcome"] == pytest.approx(
        losses_at(np.arange(1_960, 2_001, 10)).mean(), rel=5e-3
    )
    assert len(found["moments"]) == 100
    half = found["moments"][49]
    assert (half["share"], half["made_at"]) == (0.5, 1_000)
    assert half["error"] == pytest.approx(half["mean"] / found["outcome"] - 1)
    assert half["lower95"] < half["lower80"] < half["mean"] < half["upper80"] < half["upper95"]
    # a forecast knows nothing of what came after it
    part = write_log(tmp_path / "part.csv", 990)
    early = told("replay", part, "--schedule", SPEC, "--total-steps", TOTAL)
    assert early["outcome"] is None
    assert early["moments"][49]["mean"] == pytest.approx(half["mean"], rel=5e-3)
    assert (
        "there is no outcome to compare with"
        in run("replay", part, "--schedule", SPEC, "--total-steps", TOTAL).stdout
    )


def test_would_it_have_saved_compute(tmp_path: Path) -> None:
    bad = write_log(tmp_path / "bad.csv", level=4.0)
    found = told("replay", bad, "--target", 2.6)
    assert found["stopped_at"] is not None
    assert found["saved"] == pytest.approx(1 - found["stopped_at"] / TOTAL)
    assert found["rightly"] is True
    text = run("replay", bad, "--target", 2.6).stdout
    assert "It would have been stopped at step" in text
    assert "Rightly." in text
    good = told("replay", write_log(tmp_path / "good.csv"), "--target", 4.0)
    assert (good["stopped_at"], good["saved"], good["rightly"]) == (None, 0.0, None)


def write_broken_log(path: Path, first: int, last: int) -> Path:
    """Losses that turn nan."""
    log = write_log(path, first - 10)
    with log.open("a") as file:
        file.writelines(f"{step},nan,0.001\n" for step in range(first, last + 1, 10))
    return log


@pytest.mark.parametrize(("first", "last"), [(1_010, 1_490), (1_010, TOTAL), (1_980, TOTAL)])
def test_a_run_that_broke_is_seen_to_break(tmp_path: Path, first: int, last: int) -> None:
    log = write_broken_log(tmp_path / "log.csv", first, last)
    options = (log, "--total-steps", TOTAL, "--schedule", SPEC, "--target", 4.0)
    found = told("replay", *options)
    assert (found["outcome"], found["broke_after"]) == (None, first - 10)
    assert found["rightly"] is None
    assert any("nan or infinite" in note for note in found["notes"])
    if first == 1_010:
        assert found["moments"][-1]["reason"] == "non_finite"
        assert 1_000 < found["stopped_at"] <= 1_500
    done = run("replay", *options)
    assert f"It broke after step {first - 10:,}" in done.stdout
    assert "It ended at" not in done.stdout


def test_several_logs_are_replayed_in_turn(tmp_path: Path) -> None:
    logs = [write_log(tmp_path / f"{i}.csv", level=2.5 + i) for i in range(2)]
    found = told("replay", *logs)
    assert [Path(each["log"]).name for each in found] == ["0.csv", "1.csv"]


# ---------------------------------------------------------------------- forecast


def test_a_run_in_progress_is_forecast(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 800, rates=False)
    options = ("--total-steps", TOTAL, "--schedule", SPEC, "--target", 2.6)
    done = run("forecast", log, *options)
    assert done.returncode == 0, done.stderr
    for text in ("loss at step 2,000", "80% interval", "chance to end below 2.6", "prior_driven"):
        assert text in done.stdout
    found = told("forecast", log, *options)
    truth = losses_at(np.arange(1_960, 2_001, 10)).mean()
    assert found["lower95"] < truth < found["upper95"]
    assert (found["last_step"], found["total_steps"]) == (800, TOTAL)
    assert 0 <= found["prob_below_target"] <= 1
    picture = run("forecast", log, *options, "--plot", tmp_path / "f.svg")
    assert picture.returncode == 0, picture.stderr
    assert "<svg" in (tmp_path / "f.svg").read_text()


def test_a_run_in_progress_that_broke_is_stopped(tmp_path: Path) -> None:
    log = write_broken_log(tmp_path / "log.csv", 1_010, 1_490)
    found = told("forecast", log, "--total-steps", TOTAL, "--schedule", SPEC)
    assert (found["action"], found["reason"]) == ("stop", "non_finite")
    assert "non_finite" in found["caveats"]


def test_a_length_that_is_assumed_is_said(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv")
    said = "how long the run is, is not known: taken to end with its log, at step 2,000"
    assert said in run("replay", log).stderr
    assert said not in run("replay", log, "--total-steps", TOTAL).stderr
    for wrong in (0, -5):
        done = run("replay", log, "--total-steps", wrong)
        assert done.returncode == 2
        assert "--total-steps" in done.stderr


def test_a_schedule_that_the_log_contradicts_is_said(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 1_000)
    options = ("forecast", log, "--total-steps", TOTAL, "--schedule")
    done = run(*options, "wsd:peak=2e-3,warmup=100")
    assert "contradict --schedule" in done.stderr
    assert "lr_off_plan" in done.stdout
    assert "contradict" not in run(*options, SPEC).stderr


def test_a_trainer_state_is_followed_to_its_end(tmp_path: Path) -> None:
    """The mean of the last window belongs to a step long before the last."""
    rows = [
        {"step": s, "loss": 2 + 9 / s, "learning_rate": 1e-3 * (1 - s / 400)}
        for s in range(40, 401, 40)
    ]
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": rows, "max_steps": 400, "global_step": 400}))
    assert run("forecast", path, "--follow", "--every", 0.1).returncode == 0
    found = told("replay", path)
    assert found["outcome"] == pytest.approx(2 + 9 / 360, rel=1e-3)
    (tmp_path / "part").mkdir()
    part = tmp_path / "part" / "trainer_state.json"
    part.write_text(json.dumps({"log_history": rows[:6], "max_steps": 400, "global_step": 240}))
    assert told("replay", part)["outcome"] is None


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    bare = write_log(tmp_path / "bare.csv", 800, rates=False)
    log = write_log(tmp_path / "log.csv", 800)
    for arguments, why in (
        (("forecast", log), "does not say how long the run is: give --total-steps"),
        (("forecast", bare, "--total-steps", TOTAL), "has no learning rate that is known"),
        (
            ("forecast", log, "--total-steps", 500),
            "the log goes on to step 800, beyond",
        ),
        (("forecast", log, "--total-steps", TOTAL, "--metric", "test"), "must be train or val"),
        (("forecast", log, "--total-steps", TOTAL, "--schedule", "sine"), "'sine' is no schedule"),
        (
            ("forecast", log, "--total-steps", TOTAL, "--schedule", "cosine:peek=1"),
            "peek is no setting; there are peak, end, warmup",
        ),
        (("forecast", log, "--total-steps", TOTAL, "--schedule", "cosine"), "needs peak"),
        (
            ("forecast", log, "--total-steps", TOTAL, "--schedule", "cosine:peak=1,peak=2"),
            "peak is given twice",
        ),
        *(
            (("what-if", log, "--total-steps", TOTAL, "--try", text), why)
            for text, why in (
                ("constant:peak=nan", "peak is 'nan', no finite number"),
                ("constant:peak=1e400", "peak is '1e400', no finite number"),
                ("extend:to=inf", "to is 'inf', no finite number"),
                ("extend:to=4000.7", "to is 4000.7, no whole number"),
                ("scale:from=1000", "needs by"),
                ("scale:of=1000", "of is no setting; there are from, by"),
            )
        ),
        (("forecast", log, "--total-steps", TOTAL, "--store", "x.db"), "needs --project"),
        (("forecast", tmp_path / "no.csv"), "cannot read"),
        (("replay", log, "--at", "x"), "give percentages"),
        (("what-if", log, "--total-steps", TOTAL), "give --try"),
        (("what-if", "--try", "cosine:peak=1"), "without a log, --schedule and --total-steps"),
        (("runs", "show", "abc", "--store", tmp_path / "s.db"), "there is no store"),
        (("forecast", log, "--total-steps", TOTAL, "--follow", "--json", "-"), "give --json"),
    ):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert any(part in last for part in why.split("|")), last
        assert done.stdout == ""


def test_an_unknown_future_rate_is_said_to_be_held(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 800)
    done = run("forecast", log, "--total-steps", TOTAL)
    assert done.returncode == 0
    assert "the learning rate after step 800 is not known" in done.stderr
    assert "lr_assumed" in done.stdout


def interruptible() -> None:
    """Interrupts are ignored where the tests themselves run in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def follow(log: Path, json_: Path) -> list[str]:
    words: list[object] = ["forecast", log, "--total-steps", TOTAL, "--follow", "--every", 0.2]
    return list(map(str, [*words, "--json", json_]))


def test_a_log_that_grows_is_followed_to_its_end(tmp_path: Path) -> None:
    whole = write_log(tmp_path / "whole.csv").read_text().splitlines(keepends=True)
    log = tmp_path / "log.csv"
    log.write_text("".join(whole[:60]))
    follower = subprocess.Popen(
        [*PYTHON, *follow(log, tmp_path / "now.json"), "--schedule", SPEC],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        preexec_fn=interruptible,
    )
    while not (tmp_path / "now.json").exists():
        time.sleep(0.05)
    for text in (whole[:100], [*whole[:150], "half,written,\n"], whole):
        time.sleep(0.5)
        log.write_text("".join(text))
    out, errors = follower.communicate(timeout=60)
    assert follower.returncode == 0, errors
    assert "step 2,000" in out.splitlines()[-1]
    assert json.loads((tmp_path / "now.json").read_text())["last_step"] == TOTAL


def test_checkpoints_of_a_run_are_followed(tmp_path: Path) -> None:
    def save(upto: int) -> None:
        folder = tmp_path / "run" / f"checkpoint-{upto}"
        folder.mkdir(parents=True)
        history = [{"step": s, "loss": 2 + 9 / s, "learning_rate": 1e-3} for s in range(5, upto, 5)]
        state = {"log_history": history, "max_steps": 400}
        (tmp_path / "state.json").write_text(json.dumps(state))
        (tmp_path / "state.json").rename(folder / "trainer_state.json")

    save(200)
    follower = subprocess.Popen(
        [*PYTHON, "forecast", str(tmp_path / "run"), "--follow", "--every", "0.2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        preexec_fn=interruptible,
    )
    with follower:
        assert follower.stdout is not None
        assert "trainer_state.json" in follower.stdout.readline()
        save(300)
        assert any("step 29" in line for line in follower.stdout)
        follower.send_signal(signal.SIGINT)
    assert follower.returncode in INTERRUPTED


@pytest.mark.parametrize("content", [None, "", "step,val_loss,lr\n"])
def test_a_log_is_awaited(tmp_path: Path, content: str | None) -> None:
    log = tmp_path / "log.csv"
    if content is not None:
        log.write_text(content)
    refused = run("forecast", log, "--total-steps", TOTAL)
    assert refused.returncode == 2
    writer = threading.Timer(1.0, lambda: write_log(tmp_path / "new.csv").rename(log))
    writer.start()
    done = run(*follow(log, tmp_path / "now.json"))
    writer.join()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("waiting for the first loss") == 1
    assert json.loads((tmp_path / "now.json").read_text())["last_step"] == TOTAL


def test_following_ends_with_an_interrupt(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 500)
    follower = subprocess.Popen(
        [*PYTHON, *follow(log, tmp_path / "now.json")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **ENVIRONMENT},
        preexec_fn=interruptible,
    )
    with follower:
        while not (tmp_path / "now.json").exists():
            time.sleep(0.05)
        follower.send_signal(signal.SIGINT)
        follower.wait(30)
        assert follower.stderr is not None
        assert b"Traceback" not in follower.stderr.read()
    assert follower.returncode in INTERRUPTED


# ---------------------------------------------------------------------- what if, and past runs


def test_schedules_are_compared(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 1_000)
    tries = ["decay:start=1000,steps=1000", "extend:to=4000", "cosine:peak=1e-3,warmup=100"]
    options = [word for text in tries for word in ("--try", text)]
    arguments = ("what-if", log, "--total-steps", TOTAL, "--schedule", SPEC, *options)
    found = told(*arguments, "--target", 2.6)
    assert [each["schedule"] for each in found] == ["as planned", *tries]
    assert [each["total_steps"] for each in found] == [TOTAL, TOTAL, 4_000, TOTAL]
    assert all(0 <= each["prob_below_target"] <= 1 for each in found)
    done = run(*arguments)
    assert "against the plan" in done.stdout


def test_past_runs_are_imported_learnt_from_and_forgotten(tmp_path: Path) -> None:
    store = tmp_path / "runs.db"
    logs = [write_log(tmp_path / f"{i}.csv") for i in range(2)]
    for _ in range(2):  # the second time they are there already
        done = run(
            "runs", "import", *logs, "--project", "small", "--optimizer", "adamw", "--store", store
        )
        assert done.returncode == 0, done.stderr
    listed = told("runs", "list", "--store", store)
    assert len(listed) == 2
    assert {each["name"].split("/")[-1] for each in listed} == {"0.csv", "1.csv"}
    assert {(each["state"], each["project"]) for each in listed} == {("finished", "small")}
    environment = {"LOSSFORECAST_STORE": str(store)}
    assert told("runs", "list", "--project", "small", environment=environment) == listed
    assert told("runs", "list", "--project", "other", "--store", store) == []
    assert "no runs in" in run("runs", "list", "--project", "other", "--store", store).stdout

    options = ("--total-steps", TOTAL, "--schedule", SPEC, "--optimizer", "adamw")
    past = ("--project", "small", "--store", store)
    early = write_log(tmp_path / "early.csv", 300)
    blind, learnt = told("forecast", early, *options), told("forecast", early, *options, *past)
    width = {id(each): each["upper80"] - each["lower80"] for each in (blind, learnt)}
    assert width[id(learnt)] < 0.6 * width[id(blind)]
    planned = told("what-if", "--metric", "val", *options, *past, "--try", "cosine:peak=1e-3")
    truth = losses_at(np.arange(1_960, 2_001, 10)).mean()
    assert planned[0]["mean"] == pytest.approx(truth, rel=0.02)  # before the first step

    key = listed[0]["key"]
    shown = told("runs", "show", key[:6], "--store", store)
    assert len(shown["losses"]) == 200
    assert key in run("runs", "show", key, "--store", store).stdout
    assert run("runs", "forget", key, "--exclude", "--store", store).returncode == 0
    assert told("runs", "show", key, "--store", store)["excluded"] is True
    assert run("runs", "forget", key[:8], "--include", "--store", store).returncode == 0
    done = run("runs", "forget", key, "--exclude", "--include", "--store", store)
    assert (done.returncode, "give one of them" in done.stderr) == (2, True)
    assert told("runs", "show", key, "--store", store)["excluded"] is False
    described = ("--model", "gpt", "--dataset", "code", "--n-params", 1_000_000, "--batch-size", 64)
    other = write_log(tmp_path / "other.csv", level=3.0)
    into = ("--project", "told", "--store", store)
    done = run("runs", "import", other, *described, *into)
    assert done.returncode == 0, done.stderr
    (kept,) = told("runs", "list", "--project", "told", "--store", store)
    assert (kept["model"], kept["dataset"]) == ("gpt", "code")
    assert (kept["n_params"], kept["batch_size"]) == (1e6, 64)
    assert run("runs", "forget", kept["key"], "--store", store).returncode == 0
    done = run("runs", "forget", key, "nothing", "--store", store)
    assert done.returncode == 2
    assert len(told("runs", "list", "--store", store)) == 2  # none of them is gone
    assert run("runs", "forget", key, "--store", store).returncode == 0
    assert len(told("runs", "list", "--store", store)) == 1


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


def test_tables_are_whole_and_plain_on_a_pipe(tmp_path: Path) -> None:
    done = subprocess.run(
        [*PYTHON, "replay", str(write_log(tmp_path / "log.csv"))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "40"},
    )
    assert "\x1b" not in done.stdout
    (row,) = (line for line in done.stdout.splitlines() if "25%, step 500" in line)
    assert row.rstrip().endswith("continue")


def test_tables_fit_a_terminal_of_80_columns(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 1_000)
    change = "decay:start=1000,steps=1000,shape=sqrt,end=0.0001"
    words = ["what-if", log, "--total-steps", TOTAL, "--schedule", SPEC, "--try", change]
    terminal = {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}
    done = run(*words, "--target", 2.6, environment=terminal)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in done.stdout
    head = next(i for i, line in enumerate(lines) if "decay" in line)
    assert lines[head].count("%") == 2
    assert "".join(line.split()[0] for line in lines[head:] if line.strip()) == change


@pytest.mark.parametrize("words", [["replay"], ["what-if", "--try", "decay:start=1000,steps=900"]])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, words: list[str]) -> None:
    log = write_log(tmp_path / "log.csv", 1_000)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PYTHON, *words, str(log), "--total-steps", str(TOTAL), "--schedule", SPEC],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_reference_shows_the_present_help() -> None:
    page = cli_reference.PAGE.read_text(encoding="utf-8")
    assert cli_reference.with_reference(page) == page, "run: python tests/support/cli_reference.py"
