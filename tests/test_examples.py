"""The examples run as a user would run them, at a small size."""

import json
import math
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=580,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs an example in this process, which has imported torch already; returns its output."""

    def run_example(script: str, *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    return run_example


@pytest.mark.slow
def test_the_demo_writes_its_summary_pictures_and_logs(tmp_path: Path) -> None:
    printed = run("gpt_lightning.py", "--steps", "60", "--out", "demo", cwd=tmp_path)
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert [r["name"] for r in summary["runs"]] == ["cosine", "wsd"]
    for made in summary["runs"]:
        assert 2 < made["actual"] < 5  # of nats a byte, after few steps
        assert [f["fraction"] for f in made["forecasts"]] == [0.25, 0.5, 0.75]
        for row in made["forecasts"]:
            assert row["lower95"] < row["lower80"] < row["median"] < row["upper80"] < row["upper95"]
            assert all(math.isfinite(value) for value in row.values())
        assert (tmp_path / "demo" / f"{made['name']}.png").stat().st_size > 10_000
        assert f"{made['actual']:.4f}" in printed
        assert list((tmp_path / "demo" / "logs" / made["name"]).glob("events.*"))
    assert "heading for" in printed
    assert "tensorboard --logdir demo/logs" in printed


@pytest.mark.parametrize(
    "extra",
    [[], pytest.param(["--accumulate", "2", "--schedule", "cosine"], marks=pytest.mark.slow)],
)
def test_the_plain_loop_says_where_the_loss_is_heading(tmp_path: Path, extra: list[str]) -> None:
    printed = run("gpt_loop.py", "--steps", "40", "--out", "loop.png", *extra, cwd=tmp_path)
    assert "step 40: " in printed
    assert (tmp_path / "loop.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_ladder_forecasts_the_large_run(run_here: Callable[..., str], tmp_path: Path) -> None:
    printed = run_here("ladder.py", "--tokens-per-parameter", "0.3", "--out", "ladder")
    assert "from 5 smaller runs" in printed
    assert re.search(r"after 50%: \d", printed)
    for picture in ("plan.png", "large.png"):
        assert (tmp_path / "ladder" / picture).stat().st_size > 10_000


def test_the_plain_loop_stops_when_the_target_is_out_of_reach(
    run_here: Callable[..., str],
) -> None:
    printed = run_here("gpt_loop.py", "--steps", "400", "--target", "0.01", "--out", "loop.png")
    assert "stop: only" in printed
    assert "step 400" not in printed.split("stop: only")[0]


def table(printed: str) -> list[list[str]]:
    """The rows of the table of forecasts against the outcome."""
    return [line.split() for line in printed.partition("made at ")[2].splitlines()[1:]]


@pytest.mark.slow
def test_the_trainer_of_hugging_face_forecasts_and_compares(tmp_path: Path) -> None:
    printed = run("gpt_huggingface.py", "--steps", "60", "--out", "trainer", cwd=tmp_path)
    assert printed.count("heading for") == 10
    (actual,) = re.findall(r"the loss in the end: ([\d.]+)", printed)
    assert 2 < float(actual) < 5
    rows = table(printed)
    assert [row[0] for row in rows] == ["25%", "50%", "75%"]
    for _, median, interval, error in rows:
        low, high = map(float, interval.split(".."))
        assert low < float(median) < high
        assert float(error.strip("%")) == pytest.approx(
            100 * (float(median) / float(actual) - 1), abs=0.02
        )


@pytest.mark.slow
def test_the_fabric_loop_says_that_there_is_no_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "gpt_fabric.py"), "--resume", "--out", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "there is no nowhere/half.ckpt to resume from" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_fabric_loop_forecasts_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    options = ["--steps", "60", "--out", "fabric", "--accumulate", "2"]
    printed = run("gpt_fabric.py", *options, cwd=tmp_path)
    assert printed.count("heading for") == 10
    assert [row[0] for row in table(printed)] == ["25%", "50%", "75%"]
    resumed = run("gpt_fabric.py", "--resume", *options, cwd=tmp_path)
    assert [row[0] for row in table(resumed)] == ["75%"]
    later = printed[printed.index("step 36:") : printed.index("made at")]
    assert later in resumed, "to the digit"
    assert "step 30:" not in resumed
    assert table(resumed)[-1] == table(printed)[-1]


@pytest.mark.slow
def test_the_sweep_prunes_and_reports_what_that_saved(tmp_path: Path) -> None:
    printed = run("sweep_optuna.py", "--trials", "4", "--steps", "60", cwd=tmp_path)
    rows = {line[2:22].strip(): line[22:].split() for line in printed.splitlines()[2:]}
    by_forecast = ["by forecast", "worthwhile", "halving by forecast"]
    assert list(rows) == ["no pruning", *by_forecast, "median", "median of forecasts"]
    assert rows["no pruning"][:2] == ["100%", "0"]
    assert all(2 < float(row[2]) < 5 for row in rows.values())


@pytest.mark.slow
def test_the_sweep_with_ray_stops_and_reports_what_that_saved(tmp_path: Path) -> None:
    names = ["no stopping", "by forecast", "halving, paused", "ASHA of forecasts"]
    options = ["--trials", "3", "--steps", "60", "--only", *names]
    printed = run("sweep_ray.py", *options, cwd=tmp_path)
    assert "no checkpoint" not in printed
    rows = {line[2:22].strip(): line[22:].split() for line in printed.splitlines()[2:]}
    assert list(rows) == names
    assert rows["no stopping"][:2] == ["100%", "0"]
    assert all(2 < float(row[2]) < 5 for row in rows.values())


@pytest.mark.slow
def test_the_probe_example_forecasts_with_it_and_without(tmp_path: Path) -> None:
    printed = run("probe.py", "--steps", "120", "--out", "probe", cwd=tmp_path)
    assert printed.count("without:") == printed.count("with the probe:") == 6
    assert "outcome: " in printed
    for name in ("with", "without"):
        assert (tmp_path / "probe" / f"{name}.png").stat().st_size > 10_000


def test_a_run_is_looked_back_on_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of the Trainer, with its states and event files, another one, and what is no log."""
    example: Any = runpy.run_path(str(EXAMPLES / "replay_logs.py"))
    output = tmp_path / "output"
    losses = [2 + 9 / step for step in range(10, 101, 10)]
    for upto in (50, 100):
        state = output / f"checkpoint-{upto}" / "trainer_state.json"
        state.parent.mkdir(parents=True)
        rows = [
            {"step": 10 * i + 10, "loss": loss, "learning_rate": 0.1}
            for i, loss in enumerate(losses[: upto // 10])
        ]
        state.write_text(json.dumps({"log_history": rows, "global_step": upto, "max_steps": 100}))
    for folder in (output / "runs" / "host", tmp_path / "elsewhere"):
        with SummaryWriter(str(folder)) as writer:
            for i, loss in enumerate(losses):
                for tag, value in (("loss", loss), ("grad_norm", 1.0), ("epoch", i / 10)):
                    writer.add_scalar(f"train/{tag}", value, 10 * i + 10)
                writer.add_scalar("train/learning_rate", 0.1, 10 * i + 10)
    table = "_step,_runtime,loss,lr\n"
    table += "".join(f"{i},{i},{3 + 1 / (i + 1)},0.1\n" for i in range(50))
    (tmp_path / "wandb_export.csv").write_text(table)
    (tmp_path / "scores.csv").write_text("name,score\na,1\n")
    os.utime(output / "checkpoint-100" / "trainer_state.json", (0, 0))
    os.utime(output / "checkpoint-50" / "trainer_state.json", (-9, -9))
    found = [log.path for log in example["logs"](tmp_path)]
    assert found == [
        output / "checkpoint-100" / "trainer_state.json",
        tmp_path / "wandb_export.csv",
    ]
    said = capsys.readouterr().out
    assert f"left out: {tmp_path / 'elsewhere'}: the same run" in said
    assert f"left out: {tmp_path / 'scores.csv'}" in said


@pytest.mark.slow
def test_a_folder_of_logs_is_looked_back_on(tmp_path: Path) -> None:
    printed = run("replay_logs.py", "--steps", "60", cwd=tmp_path)
    rows = [line for line in printed.splitlines() if line.startswith("replay/rate-")]
    assert len(rows) == 4
    assert all(" to " in row for row in rows)
    assert "with the runs before" in printed
    (tmp_path / "runs" / "replay" / "notes.jsonl").write_text('{"message": "no losses here"}\n')
    again = run("replay_logs.py", "runs/replay", cwd=tmp_path)
    assert [line for line in again.splitlines() if line.startswith("replay/rate-")] == rows
    assert "left out: " in again
    assert "notes.jsonl" in again


def test_a_loop_of_jax_forecasts_from_its_optax_schedule(run_here: Callable[..., str]) -> None:
    pytest.importorskip("optax", reason="jax and optax are not installed")
    printed = run_here("spirals_optax.py", "--steps", "400")
    assert re.search(r"go on: the loss is heading for 0\.\d+ .* at step 400", printed)
