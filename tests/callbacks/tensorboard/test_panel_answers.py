"""What the tab "Loss forecast" answers within two clicks: its data, and a real browser."""

import json
import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from support.browsing import chromium, tensorboard
from support.panel_logs import updates, write
from support.panel_page import LOSS, Page
from torch.utils.tensorboard import SummaryWriter

from lossforecast import Forecaster, LRSchedule, RunInfo, StateError
from lossforecast.callbacks.monitor.run_monitor import RunMonitor
from lossforecast.callbacks.monitor.update import Update
from lossforecast.callbacks.tensorboard.plugin import record
from lossforecast.callbacks.tensorboard.plugin.overview import shown
from lossforecast.callbacks.tensorboard.plugin.reach import steps_below
from lossforecast.callbacks.tensorboard.sink import TensorBoardSink
from lossforecast.policies import target_miss

TOTAL, EVERY = 2_000, 20
PLAIN, OTHER, RISING, QUIET, BAD = "plain", "other", "rising", "rising, no advice", "misses"


def rising(upto: int, policy: Any = None) -> Iterator[Update]:
    """Updates of a run whose validation loss is lowest at step 400 and rises from there."""
    steps = np.arange(EVERY - 1, TOTAL, EVERY)
    noise = np.random.default_rng(0).normal(0, 0.003, len(steps))
    losses = 0.5 + 0.3 * np.log((steps + 40) / 440) ** 2 + noise
    forecaster = Forecaster(LRSchedule.cosine(TOTAL, 1e-3), RunInfo("val", "adamw"))
    monitor = RunMonitor(forecaster, sinks=[lambda update: None], policy=policy)
    for step in range(200, upto + 1, 200):
        seen = (steps >= step - 200) & (steps < step)
        forecaster.observe_many(steps[seen], losses[seen])
        yield monitor.check(step)


@pytest.fixture(scope="module")
def overfitted() -> Update:
    return list(rising(1_600))[-1]


def rewritten(known: dict[str, Any]) -> dict[str, Any]:
    """A record after it has been written and read."""
    return record.read(zlib.compress(json.dumps(known).encode()))


# ---------------------------------------------------------------------- the lowest loss


def test_the_lowest_validation_loss_is_in_the_record(overfitted: Update) -> None:
    minimum = overfitted.forecast.minimum
    assert minimum is not None
    assert 300 < minimum.step < 500
    found = shown(record.read(record.write(overfitted)))["forecast"]["minimum"]
    assert found == {
        "step": minimum.step,
        "so_far": pytest.approx(minimum.so_far, rel=1e-5),
        "prob_passed": pytest.approx(minimum.prob_passed, rel=1e-5),
    }
    training = list(updates(upto=1_000))[-1]
    assert record.read(record.write(training))["forecast"]["minimum"] is None


def test_a_record_of_an_earlier_release_has_no_lowest_loss(overfitted: Update) -> None:
    older = record.read(record.write(overfitted))
    del older["forecast"]["minimum"]
    assert rewritten(older)["forecast"]["minimum"] is None


@pytest.mark.parametrize(
    ("part", "value", "why"),
    [
        ("step", 1.5, "step is 1.5"),
        ("step", None, "step is None"),
        ("so_far", "low", "so_far is not a number"),
        ("prob_passed", [1], "prob_passed is not a number"),
    ],
)
def test_a_damaged_lowest_loss_is_refused(
    overfitted: Update, part: str, value: Any, why: str
) -> None:
    damaged = record.read(record.write(overfitted))
    damaged["forecast"]["minimum"][part] = value
    with pytest.raises(StateError, match=why):
        rewritten(damaged)
    damaged["forecast"]["minimum"] = 0.4
    with pytest.raises(StateError, match=r"minimum is 0\.4, not dict"):
        rewritten(damaged)


# ---------------------------------------------------------------------- the target


def fan(**lines: list[float | None]) -> dict[str, Any]:
    return {"steps": [100, 200, 300], **lines}


def test_the_target_is_reached_where_the_lines_cross_it() -> None:
    lines = fan(lower80=[1.8, 1.0, 0.5], median=[2.0, 1.5, 1.0], upper80=[2.2, 2.1, 2.0])
    assert steps_below(lines, 1.25) == {"10": 169, "50": 250, "90": None}
    assert steps_below(lines, 1.9) == {"10": 100, "50": 120, "90": None}
    assert steps_below(lines, 2.15) == {"10": 100, "50": 100, "90": 150}
    assert steps_below(lines, 0.1) == {"10": None, "50": None, "90": None}
    assert steps_below(lines, None) is None
    nothing: list[float | None] = [None] * 3
    assert steps_below(fan(lower80=nothing, median=nothing, upper80=nothing), 1.0) is None
    huge: list[float | None] = [1.7e308, -1.7e308, 0.0]
    assert steps_below(fan(lower80=huge, median=huge, upper80=huge), -1.6e308) == {
        "10": 200,
        "50": 200,
        "90": 200,
    }


def test_the_step_of_the_target_is_that_of_the_forecast() -> None:
    """The step whose loss is below the target with 50%, as the forecast itself says."""
    update = list(updates(upto=2_400, target=2.1))[-1]
    found = shown(record.read(record.write(update)))
    step = found["below_target"]["50"]
    losses = update.forecast.curve([step - 60, step + 60]).median
    assert losses[0] > 2.1 > losses[1]
    assert math.isclose(found["n_losses"], 2_400)
    assert found["n_past_runs"] == 0


# ---------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The tab in a window of 1280 by 800 pixels."""
    logs = tmp_path_factory.mktemp("logs")
    write(logs / PLAIN, upto=2_400, every=200, target=2.1)
    write(logs / OTHER, upto=2_400, every=200, floor=2.01, seed=1)
    write(logs / BAD, upto=3_600, every=200, target=1.0)
    for name, policy in ((RISING, None), (QUIET, target_miss())):
        with SummaryWriter(str(logs / name)) as writer:
            sink = TensorBoardSink(writer)
            for update in rising(1_600, policy):
                sink(update)
    with (
        tensorboard(logs, "--reload_interval=0") as (address, _),
        chromium(tmp_path_factory.mktemp("profile"), "1280,800") as browser,
    ):
        resized(browser)
        found = Page(browser, address)
        found.until(found.drawn)
        yield found
        found.leave()


def resized(browser: webdriver.Chrome) -> None:
    """Give the page, not the window around it, 1280 by 800 pixels."""
    width, height = browser.execute_script("return [window.innerWidth, window.innerHeight]")
    browser.set_window_size(2 * 1280 - width, 2 * 800 - height)


def choose(page: Page, run: str) -> None:
    page.find(f'button[title="{run}"]').click()
    read = "return document.querySelector(arguments[0]).dataset.drawn"
    page.until(lambda: str(page.run(read, LOSS)).startswith(f"{run} "))


def in_view(page: Page, selector: str) -> bool:
    """Whether an element is inside the window as it is scrolled now."""
    visible: bool = page.run(
        "const {top, bottom, height} = arguments[0].getBoundingClientRect();"
        "return height > 0 && top >= 0 && bottom <= window.innerHeight",
        page.find(selector),
    )
    return visible


@pytest.mark.browser
def test_the_reason_to_stop_is_beside_the_headline(page: Page) -> None:
    choose(page, BAD)
    advised = page.text(".advised")
    assert advised.startswith("stop only under 0.1% to end below the target 1: ")
    assert "stop: " not in advised
    assert in_view(page, ".advised")
    assert "not expected to reach it by then" in page.text("main > p.quiet")
    assert page.text(".decisions li .action") == "stop"
    choose(page, PLAIN)
    assert not page.find(".advised").is_displayed()


@pytest.mark.browser
def test_the_lowest_validation_loss_is_said_once(page: Page) -> None:
    choose(page, QUIET)
    status = page.text("main > p.quiet")
    assert "lowest validation loss so far 0." in status
    assert "to stay the lowest" in status
    assert in_view(page, "main > p.quiet")
    choose(page, RISING)
    assert "passed its minimum, 0." in page.text(".advised")
    assert "lowest validation loss" not in page.text("main > p.quiet")
    choose(page, PLAIN)
    assert "lowest validation loss" not in page.text("main > p.quiet")


@pytest.mark.browser
def test_when_the_target_is_reached_is_said(page: Page) -> None:
    choose(page, PLAIN)
    status = page.text("main > p.quiet")
    assert "to end below it, expected to reach it in " in status
    assert " steps, at step " in status


@pytest.mark.browser
def test_the_basis_is_explained_by_a_click(page: Page) -> None:
    choose(page, PLAIN)
    basis = page.find(".facts .term")
    assert basis.text == "based on 2,400 losses"
    ActionChains(page.browser).click(basis).perform()
    assert "fitted to these losses" in page.text(".facts .why")


@pytest.mark.browser
def test_a_click_answers_what_if_and_compares_in_view(page: Page) -> None:
    choose(page, PLAIN)
    page.run("window.scrollTo(0, 0)")
    page.run("arguments[0].click()", page.find(f'input[aria-label="also draw {OTHER}"]'))
    page.until(lambda: "ends lowest with a probability of" in page.text(".verdict"))
    assert in_view(page, ".verdict")
    page.run("arguments[0].click()", page.find(f'input[aria-label="also draw {OTHER}"]'))
    page.until(lambda: not page.find(".verdict").is_displayed())
    page.run("arguments[0].click()", page.find('.what-if button[aria-expanded="false"]'))
    page.until(lambda: "Ends at" in page.text(".answer"))
    assert in_view(page, ".answer")
    assert in_view(page, ".code textarea")
    assert in_view(page, "nav button.run"), "the table stays where it is"
    page.find('.what-if button[aria-expanded="true"]').click()
