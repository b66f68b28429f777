"""The command line as a process of its own: pipes, interrupts and the installed script."""

import os
import pty
import signal
import subprocess
import sysconfig
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.command_line import ENVIRONMENT, PYTHON, SPEC, TOTAL, write_curves, write_log

SCRIPT = Path(sysconfig.get_path("scripts")) / "lossforecast"
INTERRUPTED = (130, -signal.SIGINT)  # in the middle of an exec() Python ends by the signal itself


def interruptible() -> None:
    """Interrupts are ignored where the tests themselves run in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_the_module_and_the_installed_script_are_the_same_program() -> None:
    module = subprocess.run([*PYTHON, "--help"], capture_output=True, text=True, check=True)
    assert "Exit codes: 0 done" in module.stdout
    if not SCRIPT.exists():
        pytest.skip(f"{SCRIPT} is not installed")
    script = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert script.stdout == module.stdout


def test_misuse_ends_the_process_with_2() -> None:
    done = subprocess.run(
        [*PYTHON, "forecast", "nowhere.csv"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: cannot read nowhere.csv")


@pytest.mark.parametrize(
    "words",
    [
        ["replay", "log.csv", "--total-steps", str(TOTAL), "--schedule", SPEC],
        [
            "what-if", "log.csv", "--total-steps", str(TOTAL), "--schedule", SPEC,
            "--try", "decay:start=1000,steps=900",
        ],
        ["backtest", "--curves", "curves", "--json", "-", "--no-baselines"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, words: list[str]) -> None:
    write_log(tmp_path / "log.csv", 1_000)
    write_curves(tmp_path / "curves", 4)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PYTHON, *words],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_an_interrupted_command_says_so_by_its_exit_code(tmp_path: Path) -> None:
    folder = write_curves(tmp_path / "many", 200)
    with subprocess.Popen(
        [*PYTHON, "backtest", "--curves", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "replaying runs: 20 of 200\n"
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        assert process.wait() == 130, errors
    assert "Traceback" not in errors


def test_following_ends_with_an_interrupt(tmp_path: Path) -> None:
    log, now = write_log(tmp_path / "log.csv", 500), tmp_path / "now.json"
    words = ["--total-steps", str(TOTAL), "--follow", "--every", "0.2", "--json", str(now)]
    follower = subprocess.Popen(
        [*PYTHON, "forecast", str(log), *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **ENVIRONMENT},
        preexec_fn=interruptible,
    )
    with follower:
        while not now.exists():
            time.sleep(0.05)
        follower.send_signal(signal.SIGINT)
        follower.wait(30)
        assert follower.stderr is not None
        assert b"Traceback" not in follower.stderr.read()
    assert follower.returncode in INTERRUPTED


def test_reading_a_large_log_draws_a_bar_on_a_terminal(tmp_path: Path) -> None:
    rows = [f"step {i}: loss {2.5 + 10 / (i + 20)}\n" for i in range(0, 2_000, 10)]
    (tmp_path / "large.log").write_text(f"{'x' * 9_999}\n" * 5_500 + "".join(rows))
    words = [*PYTHON, "forecast", "large.log", "--total-steps", str(TOTAL), "--schedule", SPEC]
    environment = {**os.environ, **ENVIRONMENT, "TERM": "xterm"}
    reading, terminal = pty.openpty()
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=terminal, cwd=tmp_path, env=environment
    )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # at the end of the process, which holds the other end
        while more := os.read(reading, 4096):
            shown += more
    os.close(reading)
    assert process.wait() == 0
    assert b"reading large.log (MB)" in shown
    assert b"/55" in shown
