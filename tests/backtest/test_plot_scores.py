from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossforecast import ConfigurationError
from lossforecast.backtest.backtest import Backtest
from lossforecast.backtest.baselines import BASELINES
from lossforecast.backtest.plot import plot_errors
from lossforecast.backtest.replay import Record, Told
from lossforecast.runs import RunKind


def scored(groups: int, *, baselines: bool = True) -> Backtest:
    """Forecasts of 20 runs in each group whose errors shrink as more is seen."""
    rng = np.random.default_rng(0)
    records = []
    for group in range(groups):
        for fraction in (0.1, 0.25, 0.5, 0.75, 0.9):
            for i in range(20):
                median = 2 + 0.1 * (1 - fraction) * rng.normal()
                rivals = dict.fromkeys(BASELINES, median + 0.2 * (1 - fraction))
                values: dict[str, Any] = {
                    "source": "made", "run_id": str(i), "metric": "val", "fraction": fraction,
                    "truth": 2.0, "median": median, "mean": median,
                    "lower80": median - 0.1, "upper80": median + 0.1,
                    "lower95": median - 0.2, "upper95": median + 0.2, "status": "identified",
                    "seconds": 0.0, "crps": 0.01, "group": f"group {group}", "fold": str(i % 2),
                    "cluster": str(i), "schedule_type": "wsd",
                    "kind": RunKind.OTHER, "told": Told.FOUND, "last_value": 2.1, "seen": False,
                    "baselines": rivals if baselines else {},
                }  # fmt: skip
                records.append(Record(**values))
    return Backtest(tuple(records))


@pytest.mark.parametrize("groups", [1, 3])
def test_each_group_has_a_panel_with_every_forecaster(groups: int, tmp_path: Path) -> None:
    result = scored(groups)
    medians = [100 * cell.score.median for cell in result.table()]
    figure = plot_errors(result)
    drawn = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in drawn] == [
        f"group {i}  (n = 20)" for i in range(groups)
    ]
    for axes in drawn:
        assert axes.get_yscale() == "log"
        assert [line.get_label() for line in axes.lines] == [*BASELINES, "lossforecast"]
        ours = axes.lines[-1]
        np.testing.assert_array_equal(ours.get_xdata(), [10, 25, 50, 75, 90])
        assert list(np.asarray(ours.get_ydata())) == medians[:5]
        del medians[:5]
    (legend,) = figure.legends
    assert legend.get_texts()[0].get_text() == "lossforecast"
    figure.savefig(tmp_path / "errors.png")
    assert (tmp_path / "errors.png").stat().st_size > 10_000


def test_it_can_be_drawn_into_axes_of_the_caller() -> None:
    from matplotlib.figure import Figure

    mine = Figure()
    axes = list(mine.subplots(1, 2))
    assert plot_errors(scored(1, baselines=False), axes) is mine
    assert [line.get_label() for line in axes[0].lines] == ["lossforecast"]
    with pytest.raises(ConfigurationError, match="3 panels are needed, 2 axes"):
        plot_errors(scored(3), axes)


def test_nothing_to_quote_is_said(tmp_path: Path) -> None:
    figure = plot_errors(Backtest(()))
    assert figure.axes[0].texts[0].get_text() == "no cell has 15 forecasts"
    figure.savefig(tmp_path / "empty.png")
