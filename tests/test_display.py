"""Objects show themselves: in a print, in a REPL, in a notebook and in rich."""

import copy
import pickle
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from lossforecast import Forecast, Forecaster, LRSchedule, RunInfo
from lossforecast.advice import decays, endings
from lossforecast.schedule import Decay

PLAN = LRSchedule.wsd(2_000, 1e-3, warmup=100, decay_fraction=0.2)


def forecaster(n: int, loss: float = 2.5) -> Forecaster:
    made = Forecaster(PLAN, RunInfo("val", "adamw", task="language modelling"))
    made.observe_many(range(n), [loss + 3 * (t + 5) ** -0.5 for t in range(n)])
    return made


@pytest.fixture(scope="module")
def half() -> Forecast:
    return forecaster(1_000).forecast()


def test_a_forecast_says_where_the_loss_is_heading_and_how_that_is_known(half: Forecast) -> None:
    heading, gain, status = str(half).splitlines()
    lower, upper = half.interval(0.8)
    assert heading == (
        f"at step 999: heading for {half.median:#.4g} (80%: {lower:#.4g} to {upper:#.4g}) "
        "at step 2,000"
    )
    assert gain == f"annealing still to bring {half.anneal_gain.mean:#.3g} (assumed)"
    assert status == "status prior_driven: the drop from annealing is assumed"
    assert f"{half.median:.4g}" in repr(half)
    assert "\n" not in repr(half)


def test_a_forecast_without_data_says_so() -> None:
    nothing = forecaster(0).forecast()
    assert str(nothing) == "no forecast for step 2,000: status no_data: no losses yet"
    assert "nan" in repr(nothing)


def test_caveats_are_named() -> None:
    broken = forecaster(1_000)
    broken.observe(1_000, float("nan"))
    assert str(broken.forecast()).endswith("; caveats: non_finite")


def test_showing_a_forecaster_changes_nothing() -> None:
    made = forecaster(500)
    before = made.state_dict()
    assert repr(made) == (
        "Forecaster(step 499 of 2000, 500 losses, large language model, no forecast yet)"
    )
    assert made.state_dict() == before
    assert f"heading for {made.forecast().median:.4g} (80%" in repr(made)


def test_a_recommendation_is_its_message() -> None:
    advice = forecaster(1_000).recommend(target=1.0)
    assert str(advice) == advice.message
    assert advice.message in repr(advice)
    assert "LRSchedule" not in repr(advice)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (
            PLAN,
            "2,000 steps: linear to 0.001 at step 100, 0.001 to step 1,600, "
            "linear to 0 at step 2,000",
        ),
        (LRSchedule.constant(10, 0.1), "10 steps: 0.1 to step 10"),
        (LRSchedule.from_array([1.0, 2.0]), "2 steps: array to 2 at step 2"),
        (
            LRSchedule.inverse_sqrt(100, 1.0, warmup=25),
            "100 steps: linear to 1 at step 25, inverse sqrt to 0.5 at step 100",
        ),
    ],
)
def test_a_schedule_says_what_the_rate_does(schedule: LRSchedule, words: str) -> None:
    assert str(schedule) == words


def test_a_long_schedule_is_cut() -> None:
    assert str(LRSchedule.step_decay(100, 1.0, milestones=range(10, 100, 10))).endswith(", ...")


def test_advice_is_said_in_a_line(half: Forecast) -> None:
    now, *_, last = endings(half)
    assert str(now) == f"if it ended now: {now.loss!r}"
    assert str(last) == f"after {last.steps:,} more steps: {last.loss!r}"
    best = decays(half)[0]
    assert best.decay is not None
    assert str(best) == f"{best.decay}: ends lower than the plan by {best.gain!r}"
    assert str(Decay(1_500, 500, "cosine")) == "cosine decay from step 1,500 to step 2,000"


def test_what_is_shown_is_no_part_of_equality(half: Forecast) -> None:
    other = copy.copy(half)
    object.__setattr__(other, "_seen", None)
    assert other == half
    assert str(pickle.loads(pickle.dumps(half))) == str(half)


def points(element: ElementTree.Element) -> np.ndarray:
    """The corners of a line or an area, (n, 2)."""
    pairs = (pair.split(",") for pair in element.attrib["points"].split())
    return np.array([[float(x), float(y)] for x, y in pairs])


@pytest.mark.parametrize("n", [0, 1, 5, 1_000, 2_000])
def test_a_notebook_shows_words_and_a_chart_inside_its_frame(n: int) -> None:
    forecast = forecaster(n).forecast()
    html = forecast._repr_html_()
    for line in str(forecast).splitlines():
        assert line in html
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", html)[0])  # type: ignore[index]
    width, height = (float(x) for x in svg.attrib["viewBox"].split()[2:])
    drawn = [e for e in svg if e.tag in ("polyline", "polygon")]
    assert len(drawn) == (1 if n == 0 else 5)  # the rate; two intervals, median and losses
    for element in drawn:
        at = points(element)
        assert np.isfinite(at).all()
        assert (at >= 0).all()
        assert (at <= [width, height]).all()


def test_the_chart_goes_from_the_losses_to_the_forecast(half: Forecast) -> None:
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", half._repr_html_())[0])  # type: ignore[index]
    median, losses = (points(e) for e in svg if e.tag == "polyline")
    assert abs(losses[-1] - median[0]).max() < 3  # pixels
    assert losses[0, 0] < losses[-1, 0] <= median[0, 0] < median[-1, 0]
    assert losses[0, 1] < losses[-1, 1] < median[-1, 1]  # it falls: y grows downwards


def test_a_loss_of_any_size_is_drawn() -> None:
    for size in (1e-30, 1e30, -50.0):
        assert "nan" not in forecaster(1_000, size).forecast()._repr_html_()


def test_rich_prints_the_words(half: Forecast, capsys: pytest.CaptureFixture[str]) -> None:
    console = pytest.importorskip("rich.console")
    console.Console(width=120).print(half)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == (
        str(half).splitlines()
    )


def test_a_forecast_draws_itself(half: Forecast) -> None:
    pytest.importorskip("matplotlib")
    own = half.plot(target=2.4).axes[0]
    full = half.plot(forecaster(1_000).history).axes[0]
    assert f"{half.median:.4g}" in own.get_title(loc="left")
    lengths = [max(len(line.get_xdata()) for line in axes.lines) for axes in (own, full)]  # type: ignore[arg-type]
    assert 10 < lengths[0] <= 129 < lengths[1]
    assert forecaster(0).forecast().plot().axes
