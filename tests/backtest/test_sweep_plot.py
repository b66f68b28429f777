"""The picture of regret against compute."""

import math
from pathlib import Path

import numpy as np
import pytest

from lossforecast import ConfigurationError
from lossforecast.backtest import SweepScore, plot_sweeps


def score(
    policy: str, compute: float, regret: float, *, runs: int = 20, arrival: str = "parallel"
) -> SweepScore:
    return SweepScore(policy, f"sweep of {runs}", runs, arrival, compute, regret, 0.0, 0.0)


def test_a_rule_is_at_its_means_with_a_line_up_to_its_worst(tmp_path: Path) -> None:
    scores = [score("halving", 0.1, 0.001), score("halving", 0.3, 0.005), score("median", 0.8, 0.0)]
    figure = plot_sweeps([*scores, score("halving", 1.0, 0.5, runs=3)])
    (axes,) = figure.axes
    line, worst, mean = axes.lines[:3]
    np.testing.assert_allclose(np.asarray(line.get_xydata()), np.array([[20, 0.3], [20, 0.5]]))
    np.testing.assert_allclose(np.asarray(worst.get_xydata()), np.array([[20, 0.5]]))
    np.testing.assert_allclose(np.asarray(mean.get_xydata()), np.array([[20, 0.3]]))
    assert [text.get_text() for text in axes.texts] == ["halving", "median"]
    assert [text.get_fontweight() for text in axes.texts] == ["bold", "normal"], "ours stands out"
    figure.savefig(tmp_path / "sweeps.png")
    assert (tmp_path / "sweeps.png").stat().st_size > 10_000


def test_each_arrival_has_a_panel() -> None:
    scores = [score("halving", 0.1, 0.001, arrival=way) for way in ("parallel", "sequential")]
    assert [axes.get_title(loc="left") for axes in plot_sweeps(scores).axes] == [
        "all runs at once", "one run after the other",
    ]  # fmt: skip


def test_without_large_sweeps_the_small_ones_are_drawn() -> None:
    (axes,) = plot_sweeps([score("halving", 0.5, 0.002, runs=3)]).axes
    np.testing.assert_allclose(np.asarray(axes.lines[-1].get_xydata()), np.array([[50, 0.2]]))


def test_rules_at_one_point_share_a_label() -> None:
    scores = [score("worthwhile", 0.7, 0.0), score("dominated", 0.7, 0.0), score("median", 0.9, 0)]
    (axes,) = plot_sweeps(scores).axes
    assert [text.get_text() for text in axes.texts] == ["worthwhile, dominated", "median"]


def test_a_rule_without_a_survivor_is_named() -> None:
    (axes,) = plot_sweeps([score("halving", 0.1, 0.0), score("patience", 0.7, math.nan)]).axes
    assert "no survivor in some sweep: patience" in axes.get_xlabel()
    assert [text.get_text() for text in axes.texts] == ["halving"]


def test_nothing_cannot_be_drawn() -> None:
    with pytest.raises(ConfigurationError, match="no scores"):
        plot_sweeps([])
