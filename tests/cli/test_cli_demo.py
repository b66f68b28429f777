"""The demo trains, forecasts, compares, and names files and commands that exist."""

import re
from pathlib import Path

import numpy as np
import pytest
from support.command_line import result_of, run

from lossforecast import LRSchedule
from lossforecast.cli.demo_training import _loss_and_gradients, _network, training_losses

STEPS = 600


def test_it_trains_forecasts_and_says_where_to_look(tmp_path: Path) -> None:
    done = run("demo", "--steps", STEPS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (ended,) = re.findall(r"it ended at ([\d.]+)", done.stdout)
    assert done.stderr.count("heading for") == 10
    picture = tmp_path / "lossforecast-demo" / "forecast.png"
    assert str(picture.relative_to(tmp_path)) in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    (words,) = re.findall(r"lossforecast (replay [^:]+):", done.stdout)
    replayed = run(*words.split(), cwd=tmp_path)
    assert f"It ended at {ended} " in replayed.stdout


def test_its_result_is_written(tmp_path: Path) -> None:
    rows = result_of("demo", "--steps", STEPS, "--out", tmp_path / "d")["results"]
    assert [row["share"] for row in rows] == [0.1, 0.25, 0.5, 0.75]
    assert all(row["lower80"] < row["median"] < row["upper80"] for row in rows)
    assert (tmp_path / "d" / "log.csv").read_text().startswith("step,train_loss,lr\n0,")


def test_a_file_in_the_place_of_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").touch()
    done = run("demo", "--out", tmp_path / "d")
    assert done.returncode == 2
    assert "it is a file" in done.stderr


def test_the_network_learns_down_its_gradient() -> None:
    rng = np.random.default_rng(0)
    weights, inputs, labels = (
        _network(rng, 8, 1.0),
        rng.normal(size=(5, 32)),
        rng.integers(16, size=5),
    )
    _, gradients = _loss_and_gradients(weights, inputs, labels)
    for weight, gradient in zip(weights, gradients, strict=True):
        place = (0,) * weight.ndim
        sides = []
        for shift in (1e-6, -2e-6):
            weight[place] += shift
            sides.append(_loss_and_gradients(weights, inputs, labels)[0])
        weight[place] += 1e-6
        assert gradient[place] == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-4, abs=1e-8)
    losses = list(training_losses(LRSchedule.constant(400, 0.01)))
    assert np.mean(losses[-50:]) < 0.8 * losses[0]
