"""`replay`: a finished run looked back on."""

import re
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


def test_a_run_is_looked_back_on(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv")
    picture = tmp_path / "then.png"
    done = run("replay", log, "--target", 2.4, "--at", "25,50%", "--plot", picture)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "25%, step 500" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    about = ("--task", "language modelling")
    found = result_of("replay", log, "--target", 2.4, *about)
    assert f"It ended at {found['outcome']:.4g}" in done.stdout
    assert (found["column"], found["metric"], found["lr_column"]) == ("val_loss", "val", "lr")
    assert found["outcome"] == pytest.approx(
        losses_at(np.arange(1_960, 2_001, 10)).mean(), rel=5e-3
    )
    assert len(found["moments"]) == 100
    half = found["moments"][49]
    assert (half["share"], half["made_at"]) == (0.5, 1_000)
    assert half["error"] == pytest.approx(half["median"] / found["outcome"] - 1)
    assert half["lower95"] < half["lower80"] < half["median"] < half["upper80"] < half["upper95"]
    # a forecast knows nothing of what came after it
    part = write_log(tmp_path / "part.csv", 990)
    early = result_of("replay", part, "--schedule", SPEC, "--total-steps", TOTAL, *about)
    assert early["outcome"] is None
    assert early["moments"][49]["median"] == pytest.approx(half["median"], rel=5e-3)
    assert (
        "there is no outcome to compare with"
        in run("replay", part, "--schedule", SPEC, "--total-steps", TOTAL).stdout
    )


def test_would_it_have_saved_compute(tmp_path: Path) -> None:
    bad = write_log(tmp_path / "bad.csv", level=4.0)
    found = result_of("replay", bad, "--target", 2.6)
    assert found["stopped_at"] is not None
    assert found["saved"] == pytest.approx(1 - found["stopped_at"] / TOTAL)
    assert found["rightly"] is True
    text = run("replay", bad, "--target", 2.6).stdout
    assert "It would have been stopped at step" in text
    assert "Rightly." in text
    good = result_of("replay", write_log(tmp_path / "good.csv"), "--target", 4.0)
    assert (good["stopped_at"], good["saved"], good["rightly"]) == (None, 0.0, None)


@pytest.mark.parametrize(("first", "last"), [(1_010, 1_490), (1_010, TOTAL), (1_980, TOTAL)])
def test_a_run_that_broke_is_seen_to_break(tmp_path: Path, first: int, last: int) -> None:
    log = write_broken_log(tmp_path / "log.csv", first, last)
    options = (log, "--total-steps", TOTAL, "--schedule", SPEC, "--target", 4.0)
    found = result_of("replay", *options)
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
    found = result_of("replay", *logs)
    assert [Path(each["log"]).name for each in found] == ["0.csv", "1.csv"]


def test_several_logs_end_with_a_summary(tmp_path: Path) -> None:
    whole, part = write_log(tmp_path / "a.csv"), write_log(tmp_path / "b.csv", 300)
    options = ("--total-steps", TOTAL, "--schedule", SPEC)
    text = run("replay", whole, part, *options).stdout
    first, second = table_of(text[text.index("all 2 runs") :])
    found = result_of("replay", whole, part, *options)
    quarter = found[0]["moments"][24]
    assert first[0].endswith("/a.csv")
    assert first[1:3] == ["25%", f"{quarter['median']:.4g}"]
    assert first[-1] == f"{found[0]['outcome']:.4g}"
    assert (second[1], second[4], second[-1]) == ("15%", "-", "-")
    assert "all 2 runs" not in run("replay", whole).stdout


def test_tables_are_whole_and_plain_on_a_pipe(tmp_path: Path) -> None:
    done = run("replay", write_log(tmp_path / "log.csv"), environment={"COLUMNS": "40"})
    assert "\x1b" not in done.stdout
    (row,) = (line for line in done.stdout.splitlines() if "25%, step 500" in line)
    assert row.rstrip().endswith("continue")


def test_an_event_is_known_from_its_step_on(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv")
    about = ("--task", "language modelling")
    plain = result_of("replay", log, *about)
    picture = tmp_path / "then.svg"
    marked = result_of("replay", log, *about, "--event", "1000:other data", "--plot", picture)
    for before, after in zip(plain["moments"], marked["moments"], strict=True):
        assert (before["std"] == after["std"]) is (before["made_at"] < 1_000)
    assert marked["moments"][49]["std"] > 2 * plain["moments"][49]["std"]
    assert "other data" in picture.read_text()


def table_of(text: str) -> list[list[str]]:
    """The rows of the table, by the cells that two spaces or more separate."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(" ───")) + 1
    rows = lines[first : next(i for i in range(first, len(lines)) if not lines[i].strip())]
    return [re.split(r"  +", row.strip()) for row in rows]


@pytest.mark.parametrize(("upto", "n_rows"), [(140, 1), (1_200, 4), (1_950, 6)])
def test_an_unfinished_run_shows_the_forecast_of_now(
    tmp_path: Path, upto: int, n_rows: int
) -> None:
    log = write_log(tmp_path / "log.csv", upto)
    options = ("--total-steps", TOTAL, "--schedule", SPEC)
    done = run("replay", log, *options)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stdout
    rows = table_of(done.stdout)
    assert len(rows) == n_rows
    now = result_of("forecast", log, *options)
    assert rows[-1][0] == f"{upto / TOTAL:.0%}, step {upto:,}"
    assert rows[-1][1] == f"{now['median']:.4g}"
    line = f"Heading for {now['median']:.4g} (80%: {now['lower80']:.4g} to {now['upper80']:.4g})"
    assert line in done.stdout
    assert "forecast LOG --follow" in done.stdout
    found = result_of("replay", log, *options)
    assert (found["outcome"], found["tally"]) == (None, None)
    assert found["moments"][-1]["median"] == now["median"]


def test_shares_beyond_the_end_of_a_log_show_the_end(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 140)
    done = run("replay", log, "--total-steps", TOTAL, "--schedule", SPEC, "--at", "50,90")
    assert [row[0] for row in table_of(done.stdout)] == ["7%, step 140"]


def test_the_last_value_is_shown_beside_the_forecast(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv")
    found = result_of("replay", log)
    half = found["moments"][49]
    assert half["last_value"] == pytest.approx(float(losses_at(np.array([990]))[0]), rel=0.01)
    assert half["last_value_error"] == pytest.approx(half["last_value"] / found["outcome"] - 1)
    done = run("replay", log)
    row = next(row for row in table_of(done.stdout) if row[0].startswith("50%"))
    assert row[1] == f"{half['median']:.4g}"
    assert row[3] == f"{100 * half['error']:.2f}%"
    assert row[4] == f"{half['last_value']:.4g}"
    tally = found["tally"]
    before = [m for m in found["moments"] if m["made_at"] <= 1_960]
    assert tally["n"] == len(before)
    nearer = [abs(m["error"]) < abs(m["last_value_error"]) for m in before]
    inside = [m["lower80"] <= found["outcome"] <= m["upper80"] for m in before]
    assert (tally["forecast_nearer"], tally["inside80"]) == (sum(nearer), sum(inside))
    assert (
        f"At the {tally['n']} checks before the end, the forecast was nearer "
        f"{tally['forecast_nearer']} times and the last value {tally['last_value_nearer']} times; "
        f"the 80% interval held the outcome {tally['inside80']} times"
    ) in done.stdout


@pytest.mark.parametrize("end", [1e-3, 0.0, -0.5])
def test_errors_of_a_loss_that_ends_near_0_are_differences(tmp_path: Path, end: float) -> None:
    log = tmp_path / "log.csv"
    losses = [end + max(0.5 * (1 - s / 1_500), 0) for s in range(0, TOTAL, 10)]
    rows = [f"{10 * i},{loss},0.001" for i, loss in enumerate(losses)]
    log.write_text("\n".join(["step,loss,lr", *rows, ""]))
    done = run("replay", log, "--total-steps", TOTAL)
    assert done.returncode == 0, done.stderr
    assert f"It ended at {end:.4g}" in done.stdout
    row = next(row for row in table_of(done.stdout) if row[0].startswith("50%"))
    assert row[5] == f"{losses[99] - end:+.2g}"
    assert (result_of("replay", log)["moments"][9]["error"] is None) is (end == 0)
