"""`forecast`: a run in progress, followed to its end."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.command_line import (
    SPEC,
    TOTAL,
    losses_at,
    result_of,
    run,
    write_broken_log,
    write_log,
)


def test_a_run_in_progress_is_forecast(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 800, rates=False)
    options = ("--total-steps", TOTAL, "--schedule", SPEC, "--target", 2.6)
    done = run("forecast", log, *options)
    assert done.returncode == 0, done.stderr
    for text in ("loss at step 2,000", "80% interval", "chance to end below 2.6", "prior_driven"):
        assert text in done.stdout
    found = result_of("forecast", log, *options)
    truth = losses_at(np.arange(1_960, 2_001, 10)).mean()
    assert found["lower95"] < truth < found["upper95"]
    assert (found["last_step"], found["total_steps"]) == (800, TOTAL)
    assert 0 <= found["prob_below_target"] <= 1
    picture = run("forecast", log, *options, "--plot", tmp_path / "f.svg")
    assert picture.returncode == 0, picture.stderr
    assert "<svg" in (tmp_path / "f.svg").read_text()


def test_a_run_that_will_miss_its_target_is_stopped(tmp_path: Path) -> None:
    """A run is stopped at two checks in a row; a log is one look at it."""
    log = write_log(tmp_path / "log.csv", 1_800)
    options = ("--total-steps", TOTAL, "--schedule", SPEC, "--target")
    missed, met = (result_of("forecast", log, *options, target) for target in (1.5, 4.0))
    assert (missed["action"], missed["reason"]) == ("stop", "target_miss")
    assert met["action"] == "continue"
    assert [missed[name] for name in ("median", "lower80")] == [met["median"], met["lower80"]]


def test_a_run_in_progress_that_broke_is_stopped(tmp_path: Path) -> None:
    log = write_broken_log(tmp_path / "log.csv", 1_010, 1_490)
    found = result_of("forecast", log, "--total-steps", TOTAL, "--schedule", SPEC)
    assert (found["action"], found["reason"]) == ("stop", "non_finite")
    assert "non_finite" in found["caveats"]


def test_the_lowest_validation_loss_is_shown(tmp_path: Path) -> None:
    steps = np.arange(20, 1_701, 20)
    noise = 0.003 * np.random.default_rng(0).standard_normal(steps.size)
    losses = 1 + np.exp(-steps / 150) + 3e-4 * np.maximum(steps - 600, 0) + noise
    log = tmp_path / "overfits.csv"
    rows = [f"{step},{loss},0.001" for step, loss in zip(steps, losses, strict=True)]
    log.write_text("\n".join(["step,val_loss,lr", *rows]) + "\n")
    options = ["--total-steps", "2000", "--schedule", "constant:peak=1e-3"]
    found = result_of("forecast", log, *options)
    assert (found["action"], found["reason"]) == ("stop", "overfitting")
    assert found["minimum"]["prob_passed"] > 0.95
    assert abs(found["minimum"]["step"] - 600) <= 60
    shown = run("forecast", log, *options).stdout
    assert "lowest validation loss" in shown
    assert f"at step {found['minimum']['step']}" in shown
    training = run("forecast", log, *options, "--metric", "train", "--column", "val_loss").stdout
    assert "lowest validation loss" not in training


def test_a_length_that_is_assumed_is_said(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv")
    said = "length of the run unknown; assuming it ends with its log, at step 2,000"
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
    assert "The run has finished at 2.02" in run("forecast", path).stdout
    found = result_of("replay", path)
    assert found["outcome"] == pytest.approx(2 + 9 / 400)  # that of the last window
    (tmp_path / "part").mkdir()
    part = tmp_path / "part" / "trainer_state.json"
    part.write_text(json.dumps({"log_history": rows[:6], "max_steps": 400, "global_step": 240}))
    assert result_of("replay", part)["outcome"] is None


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 800)
    for arguments, why in (
        (("forecast", log), "does not say how long the run is: give --total-steps"),
        (
            ("forecast", log, "--total-steps", 500),
            "the log goes on to step 800, beyond",
        ),
        (("forecast", log, "--total-steps", TOTAL, "--metric", "test"), "must be train or val"),
        (
            ("forecast", log, "--total-steps", TOTAL, "--schedule", "sine"),
            "'sine' is not a schedule",
        ),
        (
            ("forecast", log, "--total-steps", TOTAL, "--schedule", "cosine:peek=1"),
            "unknown setting peek; its settings are peak, end, warmup",
        ),
        (("forecast", log, "--total-steps", TOTAL, "--schedule", "cosine"), "needs peak"),
        (
            ("forecast", log, "--total-steps", TOTAL, "--schedule", "cosine:peak=1,peak=2"),
            "peak is given twice",
        ),
        *(
            (("what-if", log, "--total-steps", TOTAL, "--try", text), why)
            for text, why in (
                ("constant:peak=nan", "peak is 'nan', not a finite number"),
                ("constant:peak=1e400", "peak is '1e400', not a finite number"),
                ("extend:to=inf", "to is 'inf', not a finite number"),
                ("extend:to=4000.7", "to is 4000.7, not a whole number"),
                ("scale:from=1000", "needs by"),
                ("scale:of=1000", "unknown setting of; its settings are from, by"),
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
    assert "learning rate after step 800 unknown" in done.stderr
    assert "lr_assumed" in done.stdout


def follow(log: Path, json_: Path) -> list[str]:
    words: list[object] = ["forecast", log, "--total-steps", TOTAL, "--follow", "--every", 0.2]
    return list(map(str, [*words, "--json", json_]))


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


def test_a_log_that_grows_is_followed_to_its_end(tmp_path: Path) -> None:
    whole = write_log(tmp_path / "whole.csv").read_text().splitlines(keepends=True)
    log, now = tmp_path / "log.csv", tmp_path / "now.json"
    log.write_text("".join(whole[:60]))

    def grow() -> None:
        wait_for(now.exists)
        for text in (whole[:100], [*whole[:150], "half,written,\n"], whole):
            time.sleep(0.5)
            log.write_text("".join(text))

    writer = threading.Thread(target=grow)
    writer.start()
    done = run(*follow(log, now), "--schedule", SPEC)
    writer.join()
    assert done.returncode == 0, done.stderr
    assert "step 2,000" in done.stdout.splitlines()[-1]
    assert json.loads(now.read_text())["last_step"] == TOTAL


def test_a_disk_that_is_full_at_the_start_is_waited_for(tmp_path: Path) -> None:
    whole = write_log(tmp_path / "whole.csv").read_text().splitlines(keepends=True)
    log, now = tmp_path / "log.csv", tmp_path / "now.json"
    log.write_text("".join(whole[:60]))
    now.symlink_to("/dev/full")

    def make_room() -> None:
        time.sleep(1.0)
        log.write_text("".join(whole))
        now.unlink()

    writer = threading.Thread(target=make_room)
    writer.start()
    done = run(*follow(log, now), "--schedule", SPEC)
    writer.join()
    assert done.returncode == 0, done.stderr
    assert json.loads(now.read_text())["last_step"] == TOTAL


def test_a_log_that_is_away_and_an_output_that_cannot_be_written_are_waited_for(
    tmp_path: Path,
) -> None:
    whole = write_log(tmp_path / "whole.csv").read_text().splitlines(keepends=True)
    log, now = tmp_path / "log.csv", tmp_path / "out" / "now.json"
    log.write_text("".join(whole[:60]))
    now.parent.mkdir()

    def accidents() -> None:
        wait_for(now.exists)
        log.rename(tmp_path / "log.csv.1")
        time.sleep(0.6)
        now.rename(tmp_path / "first.json")
        now.parent.rmdir()
        log.write_text("".join(whole[:90]))
        time.sleep(0.6)
        now.parent.mkdir()
        wait_for(now.exists)
        now.rename(tmp_path / "second.json")
        log.write_text("".join(whole))

    writer = threading.Thread(target=accidents)
    writer.start()
    done = run(*follow(log, now), "--schedule", SPEC)
    writer.join()
    assert done.returncode == 0, done.stderr
    assert f"cannot read {log}: No such file or directory" in done.stderr
    wrote = f"note: cannot write {now}: No such file or directory; trying again every 0.2 s\n"
    assert done.stderr.count(wrote) == 1
    steps = [
        json.loads(path.read_text())["last_step"]
        for path in (tmp_path / "first.json", tmp_path / "second.json", now)
    ]
    assert steps == [590, 890, TOTAL]
    assert [path.name for path in now.parent.iterdir()] == ["now.json"]


def test_checkpoints_of_a_run_are_followed(tmp_path: Path) -> None:
    now = tmp_path / "now.json"

    def save(upto: int) -> None:
        folder = tmp_path / "run" / f"checkpoint-{upto}"
        folder.mkdir(parents=True)
        history = [{"step": s, "loss": 2 + 9 / s, "learning_rate": 1e-3} for s in range(5, upto, 5)]
        state = {"log_history": history, "max_steps": 400}
        (tmp_path / "state.json").write_text(json.dumps(state))
        (tmp_path / "state.json").rename(folder / "trainer_state.json")

    def go_on() -> None:
        wait_for(now.exists)
        first = now.read_text()
        save(300)
        wait_for(lambda: now.read_text() not in ("", first))
        save(401)

    save(200)
    writer = threading.Thread(target=go_on)
    writer.start()
    done = run("forecast", tmp_path / "run", "--follow", "--every", 0.2, "--json", now)
    writer.join()
    assert done.returncode == 0, done.stderr
    first, *later = done.stdout.splitlines()
    assert "trainer_state.json" in first
    assert any("step 29" in line for line in later)
    assert "step 400" in later[-1]


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


def test_events_help_after_a_jump_and_are_drawn(tmp_path: Path) -> None:
    log, steps = tmp_path / "log.csv", np.arange(10, 1_300, 10)
    losses = losses_at(steps) * np.where(steps >= 1_000, 1.3, 1.0)
    rows = [f"{step},{loss}" for step, loss in zip(steps, losses, strict=True)]
    log.write_text("\n".join(["step,val_loss", *rows]) + "\n")
    options: tuple[object, ...] = (log, "--total-steps", TOTAL, "--schedule", SPEC)
    options = ("forecast", *options, "--task", "language modelling")
    events = ("--event", "1000:longer sequences", "--event", "40:start of the decay")
    truth = 1.3 * losses_at(np.arange(1_960, 2_001, 10)).mean()
    told = result_of(*options, *events, "--plot", tmp_path / "events.svg")
    blind = result_of(*options)
    assert told["lower95"] < truth < told["upper95"]
    assert told["std"] < 0.5 * blind["std"]
    drawn = (tmp_path / "events.svg").read_text()
    assert "longer sequences" in drawn
    assert "start of the decay" in drawn
    ahead = result_of(*options, *events, "--event", "1800: to come ")
    assert ahead["std"] > 3 * told["std"]
    tried = run("what-if", *options[1:], *events, "--try", "extend:to=2500")
    assert tried.returncode == 0, tried.stderr


WRONG = ["1000", "1000:", ":a", "-5:a", "x:a", "1.5:a", "9" * 5_000 + ":a"]


@pytest.mark.parametrize("event", WRONG, ids=lambda event: event[:9])
@pytest.mark.parametrize("command", ["forecast", "replay", "what-if"])
def test_a_wrong_event_is_said(tmp_path: Path, command: str, event: str) -> None:
    log = write_log(tmp_path / "log.csv", 1_000)
    extra = ("--try", "extend:to=2500") if command == "what-if" else ()
    done = run(command, log, "--total-steps", TOTAL, f"--event={event}", *extra)
    assert done.returncode == 2
    assert "give STEP:NAME, such as '5000:longer sequences'" in done.stderr
    assert len(done.stderr.splitlines()) <= 2
