import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossforecast import Forecaster, History, LRSchedule, RunInfo
from lossforecast.plot import headline, plot

PLAN = LRSchedule.wsd(2_000, 1e-3, warmup=100)


def forecaster(n: int) -> Forecaster:
    found = Forecaster(PLAN, RunInfo(optimizer="adamw"))
    rng = np.random.default_rng(0)
    steps = np.arange(n)
    found.observe_many(steps, 2.5 + 6 * (steps + 20.0) ** -0.5 + 0.05 * rng.normal(size=n))
    return found


def test_the_picture_holds_the_whole_story(tmp_path: Path) -> None:
    half, end = forecaster(1_000), forecaster(2_000)
    figure = plot(half.forecast(), half.history, target=2.4, outcome=end.history)
    figure.savefig(tmp_path / "forecast.png")
    loss_axes, rate_axes = figure.axes
    legend = loss_axes.get_legend()
    assert legend is not None
    labels = {text.get_text() for text in legend.get_texts()}
    assert labels == {"observed", "observed later", "80%", "95%", "forecast", "target 2.4"}
    assert "assumed" in loss_axes.get_title(loc="left")
    assert rate_axes.get_xlim() == (0, 2_000)
    low, high = loss_axes.get_ylim()
    assert low < half.forecast().interval(0.95)[0] < half.forecast().interval(0.95)[1] < high
    assert (tmp_path / "forecast.png").stat().st_size > 10_000


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_young_run_can_be_drawn(n: int, tmp_path: Path) -> None:
    young = forecaster(n)
    plot(young.forecast(), young.history).savefig(tmp_path / "young.png")
    if n == 0:
        assert headline(young.forecast()) == "nothing observed yet"


def test_spikes_do_not_set_the_scale() -> None:
    spiky = forecaster(1_000)
    spiky.observe(1_000, 1e30)
    spiky.observe(1_001, 2.7)
    assert plot(spiky.forecast(), spiky.history).axes[0].get_ylim()[1] < 100


def test_an_empty_history_with_an_outcome() -> None:
    plot(forecaster(0).forecast(), History(), outcome=forecaster(100).history)


def test_events_are_lines_with_their_names(tmp_path: Path) -> None:
    names = ["longer sequences", "mixup & $cutmix", "a name of many words, " * 5, "after\nthe end"]
    marked = Forecaster(PLAN, RunInfo(optimizer="adamw"))
    for step, name in zip((300, 500, 1_900, 5_000), names, strict=True):
        marked.event(step, name)
    marked.observe_many(range(1_000), forecaster(1_000).history.bins().mean)
    outcome = forecaster(2_000).history
    outcome.event(1_500, "later")
    figure = plot(marked.forecast(), marked.history, outcome=outcome)
    figure.savefig(tmp_path / "events.png")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:2] == names[:2]
    assert texts[2] == "later"
    assert len(texts[3]) <= 40
    assert "\n" not in texts[4]
    lines = [np.asarray(line.get_xdata()).tolist() for line in figure.axes[0].lines]
    for step in (300, 500, 1_500, 1_900):
        assert [step, step] in lines
    assert figure.axes[0].get_xlim() == (0, 2_000)


def test_a_figure_shows_itself_in_a_notebook_and_can_be_pickled() -> None:
    made = forecaster(200)
    figure: Any = plot(made.forecast(), made.history)
    shown = figure._repr_png_()
    assert shown.startswith(b"\x89PNG")
    assert pickle.loads(pickle.dumps(figure))._repr_png_() == shown
