"""`what-if`: schedules compared."""

from pathlib import Path

from support.command_line import SPEC, TOTAL, result_of, run, write_log


def test_schedules_are_compared(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 1_000)
    tries = ["decay:start=1000,steps=1000", "extend:to=4000", "cosine:peak=1e-3,warmup=100"]
    options = [word for text in tries for word in ("--try", text)]
    arguments = ("what-if", log, "--total-steps", TOTAL, "--schedule", SPEC, *options)
    found = result_of(*arguments, "--target", 2.6)
    assert [each["schedule"] for each in found] == ["as planned", *tries]
    assert [each["total_steps"] for each in found] == [TOTAL, TOTAL, 4_000, TOTAL]
    assert all(0 <= each["prob_below_target"] <= 1 for each in found)
    done = run(*arguments)
    assert "against the plan" in done.stdout


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
