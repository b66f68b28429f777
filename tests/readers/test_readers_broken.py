"""Logs that are large, cut off, damaged or something else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.log_files import STEPS, loss_at, rows_of, seen, write_events
from torch.utils.tensorboard import SummaryWriter

from lossforecast import ConfigurationError
from lossforecast.errors import NothingLoggedError
from lossforecast.readers import read_log
from lossforecast.readers.text import MAX_LINE


def test_memory_does_not_grow_with_an_event_file(tmp_path: Path) -> None:
    """280 MB of pictures between the losses, as training of image models writes."""
    write_events(tmp_path / "losses")
    with SummaryWriter(str(tmp_path / "picture")) as writer:
        writer.add_image("sample", torch.randint(0, 255, (3, 700, 700), dtype=torch.uint8), 0)
    losses, picture = (
        next((tmp_path / name).glob("*tfevents*")).read_bytes() for name in ("losses", "picture")
    )
    start = 16 + int.from_bytes(picture[:8], "little")  # after what every file begins with
    path = tmp_path / "all.tfevents"
    with path.open("wb") as file:
        for _ in range(190):
            file.write(picture[start:])
        file.write(losses)
    assert path.stat().st_size > 250e6
    script = """
import resource, sys
from lossforecast.readers import read_log
from lossforecast.readers.text import MAX_LINE
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
log = read_log(sys.argv[1])
assert log.history.n_observed == 200
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120_000  # KiB, most of it the libraries


def test_memory_does_not_grow_with_the_number_of_points(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    with path.open("w") as file:
        file.write("step,loss,lr\n")
        file.writelines(f"{i},{loss_at(i):.6f},0.1\n" for i in range(300_000))
    log = read_log(path)
    assert len(log.history) <= 16_384
    assert log.history.n_observed == 300_000
    bins = log.history.bins()
    assert bins.mean[-1] == pytest.approx(loss_at(int(bins.step[-1])), abs=1e-4)


def peak_kib(path: Path, n: int) -> int:
    """The largest memory of a process that reads a log of `n` steps."""
    script = """
import resource, sys
from lossforecast.readers import read_log
assert read_log(sys.argv[1]).steps_taken == int(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(n)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.parametrize("suffix", [".csv", ".log", ".jsonl"])
def test_forty_times_the_lines_take_no_more_memory(tmp_path: Path, suffix: str) -> None:
    peaks = []
    for n in (1_000, 40_000):
        path = tmp_path / f"{n}{suffix}"
        with path.open("w") as file:
            file.write("step,loss,lr,note\n" if suffix == ".csv" else "")
            for i in range(n):
                line = {
                    ".csv": f"{i},{loss_at(i):.6f},0.1,{'x' * 100}",
                    ".log": f"{'x' * 50}: step {i} | loss {loss_at(i):.6f}\n{'y' * 50}",
                    ".jsonl": f'{{"step": {i}, "loss": {loss_at(i)}, "note": "{"x" * 100}"}}',
                }[suffix]
                file.write(line + "\n")
        peaks.append(peak_kib(path, n))
    assert (tmp_path / f"40000{suffix}").stat().st_size > 4e6
    assert peaks[1] < 1.2 * peaks[0]


# ---------------------------------------------------------------------- broken


def refused(path: Path, match: str, **options: Any) -> None:
    with pytest.raises(ConfigurationError, match=match) as caught:
        read_log(path, **options)
    assert str(path.name) in str(caught.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "missing.csv", "cannot read .*No such file")
    refused(tmp_path, r"no .tfevents., metrics\.csv, .* or metrics_epoch_.\.json")
    write_events(tmp_path / "run-1")
    refused(tmp_path, "there are logs below, name one: run-1")


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "trainer_state.json", "x.tfevents.1"])
@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "is empty")


def test_wrong_encodings(tmp_path: Path) -> None:
    text = "step,train_loss,größe\n" + "".join(f"{i},{loss_at(i)},1\n" for i in range(STEPS))
    (tmp_path / "latin.csv").write_bytes(text.encode("latin-1"))
    refused(tmp_path / "latin.csv", "not in UTF-8")
    (tmp_path / "wide.csv").write_text(text, encoding="utf-16")
    assert read_log(tmp_path / "wide.csv").history.n_observed == STEPS
    (tmp_path / "odd.csv").write_bytes(text.encode("utf-16")[:-1])
    log = read_log(tmp_path / "odd.csv")
    assert log.history.n_observed == STEPS - 1
    assert any("the last line is cut off" in note for note in log.notes)
    late = text.encode("latin-1").replace("größe".encode("latin-1"), b"size")
    (tmp_path / "late.csv").write_bytes(late * 5 + "9,ö,1\n".encode("latin-1"))
    refused(tmp_path / "late.csv", "line")
    rows = [json.dumps(row) for row in rows_of()]
    (tmp_path / "late.jsonl").write_bytes("\n".join(rows).encode() + b'\n{"a": "\xf6"}\n')
    refused(tmp_path / "late.jsonl", "after line [0-9]+: 'utf-8' codec")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    refused(tmp_path / "picture.csv", "is binary")


def test_event_files_that_are_cut_off_or_damaged(tmp_path: Path) -> None:
    write_events(tmp_path)
    (path,) = tmp_path.glob("*tfevents*")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    log = read_log(path)  # as that of a run that still goes on
    assert 80 < log.history.n_observed < 120
    assert any("cut off or damaged after" in note for note in log.notes)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + b"\xff" * 50 + whole[middle + 50 :])
    log = read_log(path)
    assert any("cut off or damaged after" in note for note in log.notes)
    path.write_bytes(b"\xff" * 1_000)
    refused(path, "not an event file, or damaged at its beginning")
    path.write_bytes(whole[:20])
    refused(path, "not an event file, or damaged|named like a loss")
    path.write_text("step,loss\n1,2\n")
    refused(path, "not an event file")


def test_event_files_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    write_events(tmp_path, suffix=".2")
    (tmp_path / "events.out.tfevents.0").write_bytes(b"")
    (tmp_path / "profile.tfevents.1").write_text("something else, of more than a few bytes\n")
    log = read_log(tmp_path)
    assert list(seen(log)) == list(range(STEPS))
    assert sum(note.startswith("left out:") for note in log.notes) == 2
    for path in tmp_path.glob("*.2"):
        path.unlink()
    refused(tmp_path, "is empty|not an event file")


def test_the_folders_below_that_hold_losses_are_named(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("accuracy", 0.5, step)
            writer.add_scalars("loss", {"train": loss_at(step), "val": 2.0}, step)
    refused(tmp_path, "or give a log below: loss_train, loss_val")
    assert read_log(tmp_path / "loss_train").column == "loss"


def test_a_first_line_of_json_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows: list[dict[str, Any]] = [{"step": 0, "prompt": "a" * 10_000, "loss": 3.0}, *rows_of()[1:]]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_log(path).format == "JSON lines"


def test_a_table_without_values_yet(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for text, why in (
        ("step,loss,lr\n", "no column of .* has values yet; it has loss, lr"),
        ("step,loss,lr\n1,,0.1\n", "'loss' of .* has no values yet"),
    ):
        path.write_text(text)
        with pytest.raises(NothingLoggedError, match=why):
            read_log(path)


def test_tables_that_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    whole = "step,train_loss,lr\n" + "".join(f"{i},{loss_at(i)},0.1\n" for i in range(STEPS))
    path.write_text(whole[:-8])
    log = read_log(path)
    assert list(seen(log)) == list(range(STEPS - 1))  # the last number may not be whole
    assert any("last line is cut off" in note for note in log.notes)
    path.write_text(whole.replace("\n77,", "\n77\n77,"))
    refused(path, "line 79 has 1 cells, the header 3")
    lines = tmp_path / "log.jsonl"
    rows = [json.dumps(row) for row in rows_of()]
    lines.write_text("\n".join(rows)[:-5])
    assert read_log(lines).history.n_observed == STEPS - 1
    lines.write_text("\n".join([*rows[:50], rows[50][:9], *rows[51:]]))
    refused(lines, "line 51 is not valid JSON")


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_state_that_is_cut_off_or_something_else(
    tmp_path: Path, trainer_state: tuple[Path, list[dict[str, Any]]]
) -> None:
    text = (trainer_state[0] / "checkpoint-60" / "trainer_state.json").read_text()
    path = tmp_path / "trainer_state.json"
    path.write_text(text[: len(text) // 2])
    refused(path, "is not valid JSON, or cut off")
    path.write_text("{}")
    refused(path, "has no log_history")
    path.write_bytes(text.encode() + b"\xf6")
    refused(path, "'utf-8' codec")
    path.write_text('{\n"log_history": []\n}')
    refused(path, "no column of .* has values yet; it has no columns")
    path.write_text('[\n{"step": 1, "loss": 2}\n]')
    refused(path, "has no log_history")


def test_cells_that_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for line, why in (
        ("7,two,0.1", "line 2: train_loss is 'two', not a number"),
        ("7.5,2,0.1", "line 2: step is '7.5', not a whole number from 0 on"),
        ("-1,2,0.1", "line 2: step is '-1', not a whole number"),
        ("x,2,0.1", "line 2: step is 'x', not a number"),
        ('"7,2,0.1', "line 2|has no values yet"),
    ):
        path.write_text(f"step,train_loss,lr\n{line}\n")
        refused(path, why)
    path.write_text("step,train_loss,lr\n1,2,0.1\n2,nan,0.1\n3,inf,0.1\n4,,0.1\n5,1.9,0.1\n")
    log = read_log(path)
    assert (log.history.n_observed, log.history.n_non_finite) == (2, 2)
    assert any("2 losses are nan or infinite" in note for note in log.notes)


def test_several_runs_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = [f"{i},{loss_at(i) + shift},0.1\n" for i in range(STEPS) for shift in (0, 0.5)]
    runs = [f"{i + j},{loss_at(i)},0.1\n" for i in range(STEPS) for j in (7, 0)]
    path.write_text("step,train_loss,lr\n" + "".join(runs))
    refused(path, "several runs are mixed up")
    path.write_text("step,train_loss,lr\n" + "".join(rows))
    assert read_log(path).history.n_observed == STEPS  # the same step twice: the later one counts
    path.write_text("no header\n1 2 3\n")
    refused(path, "is text, not a table, and has no lines with a step.*begins with 'no header'")
    path.write_text("1,2,3,4\n3,4,5,6\n")
    refused(path, "begins with '1,2")


def table_of(steps: range) -> str:
    return "step,train_loss,lr\n" + "".join(f"{i},{loss_at(i)},0.1\n" for i in steps)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12965\n"


@pytest.mark.parametrize(
    "name", ["trainer_state.json", "a.csv", "x.tfevents.1", "run/x.tfevents.1"]
)
def test_pointers_of_git_lfs(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(POINTER)
    refused(path, "is a Git LFS pointer, not the log itself: get it with git lfs pull")
    if path.parent != tmp_path:
        with pytest.raises(ConfigurationError, match="git lfs pull"):
            read_log(path.parent)


def test_headers_in_the_middle_and_mixed_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    whole = table_of(range(100)) + table_of(range(60, STEPS))  # resumed
    for text in (whole, whole.replace("\n", "\r\n"), whole.replace("\n", "\r", 20) + "\r\n\n"):
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        log = read_log(path)
        assert list(seen(log)) == list(range(STEPS))
        assert log.notes == ("the steps go back once: assuming restarts, the later losses count",)


def test_lines_without_end(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(table_of(range(10)) + "1" * (MAX_LINE + 10))
    refused(path, "line 12 has more than 16,000,000 characters: this is no log")
    path.write_text("1" * (MAX_LINE + 10))
    refused(path, "line 1 has more than")
    path.write_text('{"step": 1, "loss": ' + "1" * 2_000_000 + "}\n")
    refused(path, "JSON")


def test_numbers_out_of_range(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(table_of(range(10)) + "1e17,2,0.1\n")
    refused(path, "line 12: step is '1e17', too large for a step")
    path.write_text(table_of(range(10)) + "10,1e999,1e999\n11,-1e308,-1\n12,1e308,0.1\n")
    assert read_log(path).history.n_observed == 12


def test_the_files_of_a_folder_without_a_log_are_named(tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / f"{i}.csv").write_text(table_of(range(3)))
    refused(tmp_path, r"holds no log.*give one of its files: 0\.csv, .* 4\.csv and 2 more")


def test_the_only_log_of_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "train_output.log").write_text("step 1: loss 2.5\nstep 2: loss 2.4\n")
    (tmp_path / "model.bin").write_bytes(bytes(100))
    assert read_log(tmp_path).path.name == "train_output.log"


def test_binaries_and_folders(tmp_path: Path) -> None:
    for name in ("model.safetensors", "log.csv", "a.log"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 20)
        refused(tmp_path / name, "is binary")
        (tmp_path / name).write_bytes(bytes(range(128, 256)) * 40)
        refused(tmp_path / name, "is binary")
    (tmp_path / "deep" / "metrics.csv").mkdir(parents=True)
    refused(tmp_path / "deep" / "metrics.csv", "holds no log")
    refused(tmp_path / "deep", "holds no log")
