"""`watch`: many runs on one page that follows their logs; and `--version`."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import PYTHON, TOTAL, result_of, run, write_broken_log, write_log

import lossforecast

OPTIONS = ("--total-steps", TOTAL)
ROOT = Path(__file__).parents[2]


def runs_below(folder: Path) -> Path:
    """Two runs of Lightning, a finished CSV, a run of the Trainer, and what is no log."""
    for version, until in (("version_0", 1_000), ("version_1", 1_500)):
        (folder / version).mkdir(parents=True)
        log = write_log(folder / version / "metrics.csv", until)
        header, *rows = log.read_text().splitlines()
        log.write_text("\n".join([f"epoch,{header}", *(f"0,{row}" for row in rows)]) + "\n")
    (folder / "plain").mkdir()
    write_log(folder / "plain" / "done.csv")
    (folder / "plain" / "notes.csv").write_text("a,b\n1,2\n")
    checkpoint = folder / "trainer" / "checkpoint-200"
    checkpoint.mkdir(parents=True)
    rows_of = [{"step": s, "loss": 2 + 9 / s, "learning_rate": 1e-3} for s in range(10, 201, 10)]
    (checkpoint / "trainer_state.json").write_text(
        json.dumps({"log_history": rows_of, "max_steps": 400, "global_step": 200})
    )
    return folder


def test_every_run_below_a_folder_has_a_row(tmp_path: Path) -> None:
    done = run("watch", runs_below(tmp_path / "logs"), "--once", *OPTIONS)
    assert done.returncode == 0
    assert done.stderr == ""
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[4:] if line.strip()}
    assert list(rows) == ["plain/done.csv", "trainer", "version_0", "version_1"]
    number = r"\d\.\d+"
    for name, done_so_far in (
        ("version_0", "50% of 2,000"),
        ("version_1", "75% of 2,000"),
        ("trainer", "50% of 400"),  # as its log says
    ):
        shape = rf"{name} +{done_so_far} +[▁-█]{{16}} +{number} +{number} +{number} to {number}"
        assert re.search(shape, rows[name]), rows[name]
    assert re.search(r"finished at \d\.\d+$", rows["plain/done.csv"].rstrip())


def test_the_runs_are_written_as_json(tmp_path: Path) -> None:
    found = result_of("watch", runs_below(tmp_path / "logs"), "--once", *OPTIONS, "--target", 2.6)
    assert [Path(each["log"]).parent.name for each in found] == [
        "plain",
        "checkpoint-200",
        "version_0",
        "version_1",
    ]
    assert all(0 <= each["prob_below_target"] <= 1 for each in found)


def test_a_folder_may_still_be_empty_but_must_be_there(tmp_path: Path) -> None:
    done = run("watch", tmp_path, "--once")
    assert done.returncode == 0
    assert "0 runs: no log found yet" in done.stdout
    done = run("watch", tmp_path / "nowhere", "--once")
    assert done.returncode == 2
    assert "no such file or folder" in done.stderr
    done = run("watch", tmp_path, "--json", "-")
    assert done.returncode == 2
    assert "--json - is for --once" in done.stderr


def test_a_log_that_cannot_be_read_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,val_loss\n")
    assert "metrics.csv" in run("watch", tmp_path, "--once").stdout


def test_a_name_is_neither_markup_nor_a_command_for_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "[red]a[").mkdir()
    write_log(tmp_path / "[red]a[/b]\x1b[2J.csv", 1_000)
    done = run("watch", tmp_path, "--once", *OPTIONS)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"[red]a[/b]\x1b[2J.csv" in done.stdout


def test_without_arrows_and_blocks_the_page_is_ascii(tmp_path: Path) -> None:
    write_log(tmp_path / "a.csv", 1_000)
    done = subprocess.run(
        [*PYTHON, "watch", str(tmp_path), "--once", "--total-steps", str(TOTAL)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.isascii()
    assert re.search(rb"a\.csv +\|? *50% of 2,000 *\|? *[_.=*#%@-]{16}", done.stdout)


NOTIFY = 'echo "$LOSSFORECAST_REASON $LOSSFORECAST_MESSAGE" >> told.txt'


def told(folder: Path) -> list[str]:
    path = folder / "told.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_a_command_is_run_once_for_a_run_that_breaks(tmp_path: Path) -> None:
    write_broken_log(tmp_path / "broken.csv", 1_010, 1_490)
    write_log(tmp_path / "sound.csv", 1_000)
    run("watch", tmp_path, "--once", *OPTIONS, "--notify", NOTIFY, cwd=tmp_path)
    assert len(told(tmp_path)) == 1
    assert told(tmp_path)[0].startswith("non_finite broken.csv: stop: ")


def test_a_run_that_broke_long_ago_is_shown_and_not_told(tmp_path: Path) -> None:
    log = write_broken_log(tmp_path / "broken.csv", 1_010, 1_490)
    os.utime(log, (0, 0))
    done = run("watch", tmp_path, "--once", *OPTIONS, "--notify", NOTIFY, cwd=tmp_path)
    assert "stop: non finite; quiet" in done.stdout
    assert told(tmp_path) == []


def test_a_command_that_fails_is_said(tmp_path: Path) -> None:
    write_broken_log(tmp_path / "broken.csv", 1_010, 1_490)
    done = run("watch", tmp_path, "--once", *OPTIONS, "--notify", "exit 3")
    assert done.returncode == 0
    assert "--notify ended with exit code 3 for broken.csv" in done.stderr


def test_growing_logs_are_followed_until_all_are_over(tmp_path: Path) -> None:
    """A target out of reach is told at the second reading that says so, and once."""
    logs = tmp_path / "logs"
    logs.mkdir()
    write_log(logs / "a.csv", 1_900)
    more = ("--every", "0.1", "--target", "2.0", "--notify", NOTIFY, "--total-steps", str(TOTAL))
    watching = subprocess.Popen(
        [*PYTHON, "watch", str(logs), *more],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    assert watching.stdout is not None
    lines = [watching.stdout.readline()]
    assert told(tmp_path) == []
    for until in (1_940, 1_960):
        write_log(logs / "a.csv", until)
        lines.append(watching.stdout.readline())
    write_log(logs / "b.csv")
    write_log(logs / "a.csv")
    rest, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    lines += rest.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  [ab]\.csv  step ", line) for line in lines), lines
    assert [line.split()[3] for line in lines[:3]] == ["1,900", "1,940", "1,960"]
    assert sum("finished at" in line for line in lines) == 2
    (message,) = told(tmp_path)
    assert message.startswith("target_miss a.csv: stop: only ")


@pytest.fixture
def terminal(tmp_path: Path) -> Callable[..., tuple[str, int]]:
    """The page on a terminal of 24 lines, ended by Ctrl-C once it shows some text."""

    def show(until: str, **environment: str) -> tuple[str, int]:
        ours, theirs = pty.openpty()
        os.set_blocking(ours, False)
        watching = subprocess.Popen(
            [*PYTHON, "watch", str(tmp_path), "--every", "0.2", "--total-steps", str(TOTAL)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "LINES": "24"}
            | {"TERM": "xterm-256color", **environment},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        shown, ended = b"", time.monotonic() + 60
        while until not in shown.decode(errors="ignore") and time.monotonic() < ended:
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 65_536)
        watching.send_signal(signal.SIGINT)
        code = watching.wait(timeout=30)
        while select.select([ours], [], [], 0.1)[0]:
            shown += os.read(ours, 65_536)
        os.close(ours)
        os.close(theirs)
        return shown.decode(errors="replace"), code  # Ctrl-C may cut a character

    return show


def test_the_page_on_a_terminal_ends_cleanly(
    tmp_path: Path, terminal: Callable[..., tuple[str, int]]
) -> None:
    for i in range(40):
        write_log(tmp_path / f"run{i:02}.csv", 1_000)
    shown, code = terminal("go on")
    assert code == 0
    assert "Traceback" not in shown
    assert "40 runs, the 19 written last" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is back


def test_a_narrow_terminal_has_whole_numbers_in_one_line_a_run(
    tmp_path: Path, terminal: Callable[..., tuple[str, int]]
) -> None:
    for name in ("first", "second"):
        write_log(tmp_path / f"a rather long name of the {name} run.csv", 1_000)
    shown, _ = terminal("go on", COLUMNS="80")
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
    rows = [line.rstrip() for line in re.split(r"[\r\n]+", plain) if "50%" in line]
    assert len(rows) >= 2
    for row in rows:
        assert len(row) <= 80
        assert re.search(r"50% of 2,000 +\d\.\d+ +\d\.\d+ to \d\.\d+ +go on", row)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_the_page_needs_no_colours(
    environment: dict[str, str], tmp_path: Path, terminal: Callable[..., tuple[str, int]]
) -> None:
    write_log(tmp_path / "a.csv", 1_000)
    shown, code = terminal("go on", **environment)
    assert code == 0
    assert not re.search(r"\x1b\[[\d;]*3\dm", shown)
    if "TERM" in environment:
        assert "\x1b" not in shown


def test_the_version_is_that_of_the_package() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"lossforecast {lossforecast.__version__}\n")
    assert run().returncode == 2  # no command: the help
