"""Forecasts in TensorBoard: what is in the event files, and what a browser draws of it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait
from support.browsing import chromium, tensorboard
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from lossforecast import Forecaster, LRSchedule
from lossforecast.callbacks import TorchLossForecast
from lossforecast.callbacks.monitor.trail import Trail
from lossforecast.callbacks.monitor.update import Update
from lossforecast.callbacks.tensorboard.plugin import record
from lossforecast.callbacks.tensorboard.sink import LAYOUT, TensorBoardSink, picture, scalars

TAGS = ["forecast/final_loss", "forecast/lower", "forecast/upper", "forecast/anneal_gain"]
MARGIN = "Final loss, 80% interval"


def update_of(steps: int, target: float | None = None) -> Update:
    forecaster = Forecaster(LRSchedule.cosine(200, 0.1))
    forecaster.observe_many(range(steps), [2 + (t + 1) ** -0.5 for t in range(steps)])
    advice = forecaster.recommend(target)
    trail = Trail()
    trail.add(steps, forecaster.forecast(), advice)
    rows = tuple(trail.rows)
    return Update(steps, forecaster.forecast(), advice, target, forecaster, rows)


def written(folder: Path) -> Any:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def charts(events: Any) -> dict[str, dict[str, Any]]:
    """The charts of each category, as TensorBoard reads them."""
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    return {
        category.title: {chart.title: chart for chart in category.chart}
        for category in layout.category
    }


def train(writer: SummaryWriter, **options: Any) -> list[Update]:
    """A short real run: logistic regression of ten noisy classes, with a cosine schedule."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4096, 16, generator=generator)
    noise = torch.randn(4096, 10, generator=generator)
    labels = (inputs @ torch.randn(16, 10, generator=generator) + 2 * noise).argmax(dim=1)
    model = torch.nn.Linear(16, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    updates: list[Update] = []
    given: dict[str, Any] = {"writer": writer, "sinks": [updates.append], "every_n_steps": 10}
    with TorchLossForecast(optimizer, scheduler, 300, **(given | options)) as monitor:
        for step in range(300):
            batch = torch.randint(0, 4096, (64,), generator=generator)
            loss = torch.nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            monitor.step(loss)
            writer.add_scalar("loss", loss, step)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
    writer.close()
    return updates


def test_the_numbers_of_a_forecast() -> None:
    update = update_of(100)
    forecast, values = update.forecast, scalars(update)
    assert list(values) == TAGS
    assert values["forecast/final_loss"] == forecast.median
    assert (values["forecast/lower"], values["forecast/upper"]) == forecast.interval(0.8)
    assert values["forecast/lower"] < values["forecast/final_loss"] < values["forecast/upper"]
    assert values["forecast/anneal_gain"] == forecast.anneal_gain.mean
    with_target = update_of(100, target=2.1)
    chance = with_target.forecast.prob_below(2.1)
    assert scalars(with_target) == {**values, "forecast/prob_target": chance}


def test_a_forecast_without_numbers_is_only_for_the_tab(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        sink = TensorBoardSink(writer, pictures=True)
        assert scalars(update_of(0, target=2.0)) == {}
        sink(update_of(0, target=2.0))
    tags = written(tmp_path).Tags()
    assert (tags["scalars"], tags["images"], tags["tensors"]) == ([], [], [record.TAG])


@pytest.mark.parametrize("target", [pytest.param(None, marks=pytest.mark.slow), 1.0])
def test_every_forecast_of_a_run_is_written(target: float | None, tmp_path: Path) -> None:
    updates = train(SummaryWriter(tmp_path), target=target)
    assert [update.step for update in updates] == list(range(10, 301, 10))
    events = written(tmp_path)
    tags = TAGS + ([] if target is None else ["forecast/prob_target"])
    assert set(events.Tags()["scalars"]) == {"loss", *tags}
    for tag in tags:
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        expected = [(update.step, scalars(update)[tag]) for update in updates]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]


@pytest.mark.parametrize("target", [None, 2.1])
def test_the_layout_shows_what_is_written(target: float | None, tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        sink = TensorBoardSink(writer)
        for steps in (50, 60, 70):
            sink(update_of(steps, target))
    events = written(tmp_path)
    found = charts(events)
    assert list(found) == list(LAYOUT)
    margin = found["Loss forecast"][MARGIN].margin.series[0]
    assert [margin.value, margin.lower, margin.upper] == TAGS[:3]
    patterns = [
        tag for chart in found["Loss forecast in detail"].values() for tag in chart.multiline.tag
    ]
    shown = [[t for t in events.Tags()["scalars"] if re.search(p, t)] for p in patterns]
    details = ["forecast/anneal_gain"] + ([] if target is None else ["forecast/prob_target"])
    assert shown == [[tag] for tag in details]


def test_a_picture_every_tenth_of_the_run(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        sink = TensorBoardSink(writer, pictures=True)
        for steps in (50, 55, 60, 99):
            sink(update_of(steps))
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    found = events.Images("forecast/picture")
    assert [each.step for each in found] == [50, 60, 99]
    assert {(each.width, each.height) for each in found} == {(900, 600)}
    assert np.ptp(picture(update_of(99))) == 255


@pytest.mark.parametrize("library", ["torch", "tensorboardX"])
def test_the_tab_is_told_by_the_writer_of_either_library(library: str, tmp_path: Path) -> None:
    writer: Any = SummaryWriter(str(tmp_path))
    if library == "tensorboardX":
        writer = pytest.importorskip("tensorboardX").SummaryWriter(str(tmp_path))
    with writer:
        TensorBoardSink(writer)(update_of(99))
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    assert events.SummaryMetadata(record.TAG).plugin_data.plugin_name == record.PLUGIN
    (event,) = events.Tensors(record.TAG)
    assert record.read(event.tensor_proto.string_val[0])["step"] == 99


def test_any_other_writer_gets_the_scalars() -> None:
    class Plain:
        def __init__(self) -> None:
            self.tags: list[str] = []

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            self.tags.append(tag)

        def add_custom_scalars(self, layout: Any) -> None:
            self.tags.append("layout")

    writer = Plain()
    TensorBoardSink(writer)(update_of(99))
    assert writer.tags == ["layout", *TAGS]


# ---------------------------------------------------------------------- in a browser

IN_ALL_SHADOWS = """
const found = [];
const walk = (root) => {
  for (const element of root.querySelectorAll("*")) {
    if (element.matches(arguments[1])) found.push(element);
    if (element.shadowRoot) walk(element.shadowRoot);
  }
};
walk(arguments[0] ? arguments[0].shadowRoot : document);
return found;
"""


def corners(path: Any) -> list[tuple[float, float]]:
    """Where the straight lines of an SVG path meet."""
    number = r"(-?[\d.]+(?:e-?\d+)?)"
    pairs = re.findall(f"{number},{number}", path.get_attribute("d") or "")
    return [(float(x), float(y)) for x, y in pairs]


@pytest.mark.browser
@pytest.mark.slow
def test_the_margin_chart_in_a_browser(tmp_path: Path) -> None:
    updates = train(SummaryWriter(tmp_path / "logs" / "run"), target=1.5)

    with (
        tensorboard(tmp_path / "logs") as (address, _),
        chromium(tmp_path / "profile") as browser,
    ):
        look_at_the_margin_chart(address, browser, updates, tmp_path)


def look_at_the_margin_chart(
    address: str, browser: webdriver.Chrome, updates: list[Update], tmp_path: Path
) -> None:
    def find(selector: str, inside: Any = None) -> list[Any]:
        elements: list[Any] = browser.execute_script(IN_ALL_SHADOWS, inside, selector)
        return elements

    def drawn(_: Any) -> tuple[list[tuple[float, float]], ...] | None:
        for card in find("tf-custom-scalar-margin-chart-card"):
            line = max(map(corners, find("path.line", card)), key=len, default=[])
            area = max(map(corners, find("path.area", card)), key=len, default=[])
            if len(line) == len(updates) and area:
                return line, area
        return None

    browser.get(address + "#custom_scalars")
    found = WebDriverWait(browser, 60).until(drawn)
    browser.save_screenshot(str(tmp_path / "custom_scalars.png"))
    assert found is not None
    line, area = found
    cards = find("tf-card-heading")
    titles = browser.execute_script("return arguments[0].map(card => card.displayName)", cards)
    assert titles[0] == MARGIN
    assert set(titles[1:]) == set(LAYOUT["Loss forecast in detail"])
    # the band is drawn from left to right and back, around the line of the means
    middle = len(area) // 2
    band = {x: (upper, y) for (x, upper), (_, y) in zip(area[:middle], area[::-1], strict=False)}
    assert len(band) > 0.8 * len(line)  # what is far outside of the picture is cut off
    assert all(band[x][0] < y < band[x][1] for x, y in line if x in band)
    drawn_widths = np.array([lower - upper for upper, lower in band.values()])[-15:]
    ends = np.array([update.forecast.interval(0.8) for update in updates if update.forecast])
    pixels = drawn_widths / np.diff(ends)[-15:, 0]
    assert pixels == pytest.approx(np.full(15, pixels[-1]), rel=0.05)
    log: Any = browser.get_log("browser")  # type: ignore[no-untyped-call]
    assert [entry for entry in log if entry["level"] == "SEVERE"] == []
