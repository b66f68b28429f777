"""The script that measures the spread of repeats, on runs whose spread is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import seed_spread
from support.command_line import write_curves

from lossforecast.runs import RunKind


def test_runs_that_differ_in_names_and_seeds_are_repeats(tmp_path: Path) -> None:
    write_curves(tmp_path, 6)
    description = tmp_path / "made.json"
    entries = json.loads(description.read_text())
    for i, entry in enumerate(entries):
        entry["hparams"] = {"seed": i, "dropout": 0.1 if i < 4 else 0.2}
    description.write_text(json.dumps(entries))
    (one,) = seed_spread.all_repeats(str(tmp_path))  # the other recipe has two runs
    assert len(one.outcomes) == 4
    assert (one.metric, one.noise) == ("val", 0.0)


def made(std: float, fold: str, rng: np.random.Generator) -> seed_spread.Repeats:
    outcomes = tuple(2.5 * np.exp(std * rng.normal(size=5)))
    return seed_spread.Repeats(fold, RunKind.OTHER, "val", outcomes, 0.0)


def test_the_distribution_of_spreads_is_found_and_repeats_are_told_apart_at_its_rate() -> None:
    rng = np.random.default_rng(0)
    stds = 0.002 / np.sqrt(rng.chisquare(3.0, 300) / 3.0)
    groups = [made(std, f"{i % 4}", rng) for i, std in enumerate(stds)]
    scale, dof = seed_spread.fitted(groups, noisy=False)
    assert scale == pytest.approx(0.002, rel=0.15)
    assert 2.0 < dof < 4.5
    rate, n = seed_spread.told(groups[:60], scale, dof, 2)
    assert n == 60
    assert 0.01 < rate < 0.1
