"""The tab "Loss forecast" in a real browser, of a real TensorBoard, on logs of real training."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from support.browsing import chromium, tensorboard
from support.panel_logs import TOTAL, write
from support.panel_page import FINAL, LOSS, Page
from torch.utils.tensorboard import SummaryWriter

from lossforecast.callbacks import SteerableLR, TorchLossForecast
from lossforecast.callbacks.tensorboard.sink import summary

pytestmark = pytest.mark.browser

STEPS = 400
SHAPE = 'select[data-name="shape"]'


class Training:
    """A short real run that can be stopped and gone on with."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(4096, 16, generator=self.generator)
        noise = torch.randn(4096, 10, generator=self.generator)
        right = self.inputs @ torch.randn(16, 10, generator=self.generator)
        self.labels = (right + 2 * noise).argmax(dim=1)
        self.model = torch.nn.Linear(16, 10)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.02)
        self.scheduler = SteerableLR(self.optimizer, STEPS, warmup=20)
        self.writer = SummaryWriter(str(folder))
        self.monitor = TorchLossForecast(
            self.optimizer,
            self.scheduler,
            STEPS,
            target=1.5,
            writer=self.writer,
            every_n_steps=10,
        )

    def train(self, steps: int) -> None:
        """Take some steps, and see to it that they are in the log."""
        for _ in range(steps):
            batch = torch.randint(0, 4096, (64,), generator=self.generator)
            outputs = self.model(self.inputs[batch])
            loss = torch.nn.functional.cross_entropy(outputs, self.labels[batch])
            self.monitor.step(loss)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.scheduler.step()
        self.writer.flush()


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    found = Training(tmp_path_factory.mktemp("logs") / "run")
    found.train(160)
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile"), "1280,1400") as found:
        yield found


@pytest.fixture(scope="module")
def address(training: Training) -> Iterator[str]:
    folder = Path(training.writer.log_dir).parent
    with tensorboard(folder, "--reload_interval=1") as (found, _):
        yield found


@pytest.fixture
def page(address: str, browser: webdriver.Chrome) -> Iterator[Page]:
    found = Page(browser, address)
    found.until(lambda: "heading for" in found.text("h1"))
    found.until(found.drawn)
    yield found
    found.leave()


def test_the_fan_is_drawn_and_one_can_look_back(page: Page) -> None:
    fan, loss = page.line("forecast"), page.line("loss")
    now = loss["x"][-1]
    assert now == pytest.approx(150, abs=12)
    assert fan["x"][-1] == STEPS
    assert [each["fill"] for each in page.drawn()].count("toself") == 2
    areas = page.run(
        "return [...document.querySelectorAll(arguments[0] + ' .fills path')]"
        ".map(path => path.getBoundingClientRect().height)",
        LOSS,
    )
    assert sum(height > 20 for height in areas) >= 2
    travel = page.find("#travel")
    for _ in range(5):
        travel.send_keys(Keys.ARROW_LEFT)
    page.until(lambda: page.line("forecast made at")["x"][0] < fan["x"][0])
    assert ": forecast " in page.text(".travel output")
    assert page.line("forecast made at")["x"][-1] == STEPS
    travel.send_keys(Keys.END)
    page.until(lambda: page.line("forecast")["x"][0] == fan["x"][0])
    assert page.text(".travel output").startswith("now")
    assert page.text(".decisions li")
    assert page.text(".facts") == (
        "kind of run: small model · 170 parameters · AdamW · based on 150 losses"
    )


def test_no_button_sends_a_chart_away(page: Page) -> None:
    for chart in (LOSS, FINAL):
        buttons = page.all(f"{chart} .modebar-btn")
        names = {str(each.get_attribute("data-title")).lower() for each in buttons}
        assert "download plot as a png" in names
        assert all(
            name.startswith(("download", "zoom", "pan", "autoscale", "reset")) for name in names
        )


def test_another_schedule_is_tried_by_keys_and_by_dragging(page: Page) -> None:
    def answer() -> str:
        return page.text(".answer")

    def answered(before: str) -> str:
        page.until(lambda: "Ends at" in answer() and answer() != before)
        return answer()

    page.find('button[aria-expanded="false"]').send_keys(Keys.ENTER)
    first = answered("")
    assert f"than with the planned {STEPS} steps" in first
    tried = page.line("what if")
    assert tried["x"][-1] < STEPS
    page.find('input[aria-label="to step, slider"]').send_keys(Keys.END)
    longer = answered(first)
    page.until(lambda: page.line("what if")["x"][-1] == 3 * STEPS)
    Select(page.find(SHAPE)).select_by_value("cosine")
    answered(longer)
    assert 'shape="cosine"' in page.find(".code textarea").get_attribute("value")

    page.find(".fields button").click()  # start again
    answered(longer)
    page.until(lambda: page.line("what if")["x"][-1] == tried["x"][-1])
    before = answer()
    handle = page.find(f"{LOSS} .shapelayer path[data-index='1']")
    ActionChains(page.browser).move_to_element(handle).click_and_hold().move_by_offset(
        60, -20
    ).release().perform()
    moved = answered(before)
    assert moved != before
    box = page.find('input[aria-label="to step"]')
    assert int(box.get_attribute("value")) > tried["x"][-1]
    assert float(page.find('input[aria-label="down to learning rate"]').get_attribute("value")) > 0
    box.clear()
    box.send_keys("1", Keys.TAB)  # before the present step: the nearest that makes sense
    page.until(lambda: int(box.get_attribute("value")) > 100)


def test_what_comes_is_shown_and_what_was_chosen_stays(page: Page, training: Training) -> None:
    step = page.run("return document.querySelector(arguments[0]).dataset.drawn", LOSS)
    area = page.find(f"{LOSS} .nsewdrag")
    read = (
        "const {xaxis, yaxis} = document.querySelector(arguments[0]).layout;"
        "return [...xaxis.range, ...yaxis.range]"
    )
    whole = page.run(read, LOSS)
    ActionChains(page.browser).move_to_element(area).click_and_hold().move_by_offset(
        -150, 60
    ).release().perform()
    page.until(lambda: page.run(read, LOSS)[0] > 50)
    zoom = page.run(read, LOSS)
    assert zoom[3] - zoom[2] < 0.5 * (whole[3] - whole[2])
    page.find('button[aria-expanded="false"]').send_keys(Keys.ENTER)
    page.until(lambda: "Ends at" in page.text(".answer"))
    Select(page.find(SHAPE)).select_by_value("sqrt")
    page.find("#travel").send_keys(Keys.ARROW_LEFT)
    moment = page.text(".travel output").partition(": ")[0]
    training.train(60)

    def newer() -> bool:
        now = page.run("return document.querySelector(arguments[0]).dataset.drawn", LOSS)
        return bool(now != step)

    page.until(newer)
    assert page.run(read, LOSS) == zoom
    page.find('input[aria-label="to step, slider"]').send_keys(Keys.END)
    page.until(lambda: page.line("what if")["x"][-1] == 3 * STEPS)
    assert page.run(read, LOSS) == zoom
    assert Select(page.find(SHAPE)).first_selected_option.text == "sqrt"
    assert page.text(".travel output").partition(": ")[0] == moment
    ActionChains(page.browser).move_to_element(area).double_click().perform()
    page.until(lambda: page.run(read, LOSS)[:2] == [0, pytest.approx(1.02 * 3 * STEPS)])


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        (1280, False),
        pytest.param(1920, True, marks=pytest.mark.slow),
        pytest.param(1280, True, marks=pytest.mark.slow),
        pytest.param(1920, False, marks=pytest.mark.slow),
    ],
)
def test_it_fits_both_widths_and_themes(page: Page, width: int, dark: bool, tmp_path: Path) -> None:
    page.browser.set_window_size(width, 1400)
    page.run("window.parent.document.body.classList.toggle('dark-mode', arguments[0])", dark)
    page.find('button[aria-expanded="false"]').send_keys(Keys.ENTER)
    page.until(lambda: "Ends at" in page.text(".answer"))
    page.until(
        lambda: (
            page.run("return document.documentElement.dataset.theme")
            == ("dark" if dark else "light")
        )
    )
    shown = page.run("return getComputedStyle(document.body).backgroundColor")
    ground = [int(x) for x in shown.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (sum(ground) < 200) is dark
    paper = "return document.querySelector(arguments[0]).layout.paper_bgcolor"
    assert page.run(paper, LOSS) == ("#1e1f21" if dark else "#ffffff")
    assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
    for chart in (LOSS, FINAL):
        box = page.find(chart).rect
        assert box["width"] > 0.55 * width
    page.browser.save_screenshot(str(tmp_path / f"panel-{width}-{'dark' if dark else 'light'}.png"))


def test_the_slider_is_not_covered_when_the_window_widens(page: Page) -> None:
    def fits() -> bool:
        chart, drawing = (page.find(each).rect["width"] for each in (LOSS, f"{LOSS} .main-svg"))
        return bool(abs(drawing - chart) < 2)

    for width in (1280, 1920, 1280):
        page.browser.set_window_size(width, 1400)
        page.until(lambda: abs(page.run("return window.innerWidth") - width) < 20)  # noqa: B023
        page.until(fits)
        chart, slider = page.find(LOSS).rect, page.find("#travel").rect
        drawing = page.find(f"{LOSS} .main-svg").rect
        assert drawing["width"] > 0.6 * width
        assert drawing["height"] <= chart["height"] + 1
        assert slider["y"] >= drawing["y"] + drawing["height"] - 1


def drawn_of(page: Page, run: str) -> bool:
    """Whether the charts are of a run."""
    read = "return document.querySelector(arguments[0]).dataset.drawn"
    return str(page.run(read, LOSS)).startswith(run)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TensorBoard on two runs that are half done."""
    logs = tmp_path_factory.mktemp("two runs")
    for i, name in enumerate(("one", "two")):
        write(logs / name, upto=2_000, floor=2 + 0.1 * i)
    with tensorboard(logs, "--reload_interval=1") as (address, _):
        yield address


@pytest.fixture
def pair(browser: webdriver.Chrome, two_runs: str) -> Iterator[Page]:
    """The tab with these two runs."""
    browser.set_window_size(1280, 1400)
    found = Page(browser, two_runs)
    found.until(lambda: len(found.all("tbody tr")) == 2)
    found.find('button[title="one"]').click()
    found.until(lambda: drawn_of(found, "one"))
    yield found
    found.leave()


def test_a_late_answer_is_dropped(pair: Page) -> None:
    pair.find('button[aria-expanded="false"]').send_keys(Keys.ENTER)
    pair.until(lambda: "Ends at" in pair.text(".answer"))
    first = pair.text(".answer")
    pair.run(
        "window.asked = []; const real = window.fetch;"
        "window.fetch = async (...all) => {"
        "  if (String(all[0]).includes('what_if')) {"
        "    window.asked.push(JSON.parse(all[1].body));"
        "    delete all[1].signal;"  # as if it had come just before it was called off
        "    await new Promise((done) => setTimeout(done, 1000));"
        "  }"
        "  return real(...all); }"
    )
    slide = pair.find('input[aria-label="to step, slider"]')
    slide.send_keys(Keys.END)
    pair.until(lambda: pair.run("return window.asked.length") == 1)
    pair.find('button[title="two"]').click()
    pair.until(lambda: pair.run("return window.asked.length") == 2)
    time.sleep(1.1)  # the answer of the first run is there
    pair.until(lambda: "Ends at" in pair.text(".answer"))
    assert pair.text(".answer") != first
    assert pair.line("what if")["x"][-1] == 3_000
    pair.run(  # at once, before it is asked
        "const [slide, open] = arguments; slide.value = slide.max;"
        "slide.dispatchEvent(new Event('input', {bubbles: true})); open.click()",
        slide,
        pair.find('button[aria-expanded="true"]'),
    )
    time.sleep(0.5)
    asked = pair.run("return window.asked")
    assert [(each["run"], each["total_steps"]) for each in asked] == [
        ("one", 3 * TOTAL),
        ("two", 3_000),
    ]


def test_a_run_that_is_not_loaded_is_not_shown_as_another(pair: Page) -> None:
    pair.find('button[aria-expanded="false"]').send_keys(Keys.ENTER)
    pair.run(
        "const real = window.fetch;"
        "window.fetch = (...all) => String(all[0]).includes('/run?') && !window.mended"
        "  ? Promise.reject(new Error('cut')) : real(...all)"
    )
    pair.find('button[title="two"]').click()
    pair.until(lambda: pair.text("h1") == "two: not loaded")
    assert "does not answer" in pair.text(".state")
    assert not pair.find("#travel").is_displayed()
    assert not pair.find(LOSS).is_displayed()
    pair.run("window.mended = true")
    pair.until(lambda: drawn_of(pair, "two"))
    assert pair.text("h1").startswith("two: ")
    assert pair.find("#travel").is_displayed()
    pair.until(lambda: "Ends at" in pair.text(".answer"))


def test_a_run_keeps_its_colour_and_has_one_entry_in_the_legend(pair: Page) -> None:
    def colours() -> dict[str, str]:
        found: dict[str, str] = pair.run(
            "return Object.fromEntries((document.querySelector(arguments[0]).data ?? [])"
            ".filter(t => t.showlegend !== false).map(t => [t.name, t.line.color]))",
            LOSS,
        )
        return found

    pair.find("tbody input:not(:disabled)").click()
    pair.until(lambda: set(colours()) == {"one", "two"})
    both = colours()
    assert both["one"] != both["two"]
    pair.find('button[title="two"]').click()
    pair.until(lambda: set(colours()) == {"loss", "forecast, 80 and 95%"})
    assert colours()["loss"] == both["two"]
    assert pair.text(".decisions li:first-child .when").startswith("now, step 2,000")
    table = pair.find("nav table").rect
    for cell in pair.all("td.best"):
        assert "%" in cell.text
        assert cell.rect["x"] + cell.rect["width"] <= table["x"] + table["width"] + 1


def test_names_are_shown_as_text(browser: webdriver.Chrome, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    names = ["<img src=x onerror=window.hacked=1>", "<b>bold</b>&amp;", "🔥 run", "x" * 200]
    for name in names:
        write(logs / name, upto=1_000)
    deep = "/".join(["y" * 200] * 17)
    sent = write(logs / deep, upto=1_000)
    with SummaryWriter(str(logs / "tag")) as writer:
        found = summary(sent[-1])
        found.value[0].tag = "../../etc/<script>window.hacked=1</script>"
        writer._get_file_writer().add_summary(found, 1)
    with SummaryWriter(str(logs / "<i>foreign</i>")) as writer:
        found = summary(sent[-1])
        found.value[0].tensor.string_val[0] = b"<script>window.hacked=1</script>"
        writer._get_file_writer().add_summary(found, 1)
    with tensorboard(logs, "--reload_interval=1") as (address, _):
        page = Page(browser, address)
        page.until(lambda: len(page.all("tbody tr")) == len(names) + 2)
        titles = [each.get_attribute("title") for each in page.all("button.run")]
        assert set(titles) == {*names, deep, "tag"}
        for key, title in enumerate(titles):
            page.all("button.run")[key].click()
            page.until(partial(drawn_of, page, title))
        for box in page.all("tbody input:not(:disabled)")[:1]:
            box.click()
        page.until(lambda: len(page.drawn()) > 7)
        assert "foreign" in page.run("return document.querySelector('.skipped').textContent")
        assert page.run("return window.hacked ?? null") is None
        assert page.run("return document.querySelectorAll('img, b, i, main script').length") == 0
        legend = page.run(
            "return [...document.querySelectorAll('.legendtext')].map(each => each.innerHTML)"
        )
        assert not any("<img" in each or "<b>" in each for each in legend)
        page.leave()


def test_events_are_lines_with_their_names(browser: webdriver.Chrome, tmp_path: Path) -> None:
    names = {1_000: "<b>longer</b> sequences", 1_900: "x" * 200}
    write(tmp_path / "logs" / "run", upto=2_000, events=names)
    with tensorboard(tmp_path / "logs") as (address, _):
        page = Page(browser, address)
        page.until(lambda: page.all(f"{LOSS} .annotation"))
        drawn = "return [...document.querySelectorAll(`${arguments[0]} .annotation text`)]"
        texts = page.run(f"{drawn}.map(each => each.textContent)", LOSS)
        assert texts == ["<b>longer</b> sequences", "x" * 39 + "…"]
        left, right = page.run(f"{drawn}.map(each => each.getBoundingClientRect().x)", LOSS)
        assert left < right
        lines = page.run(
            "return document.querySelector(arguments[0]).layout.shapes.map(each => each.x0)", LOSS
        )
        assert lines.count(1_000) == lines.count(1_900) == 1
        page.find("#travel").send_keys(*[Keys.ARROW_LEFT] * 15)
        page.until(lambda: page.line("forecast made at")["x"][0] < 1_000)
        assert len(page.run(drawn, LOSS)) == 2  # as the losses that came later
        page.find('button[aria-expanded="false"]').send_keys(Keys.ENTER)
        page.until(lambda: "Ends at" in page.text(".answer"))
        page.leave()


def test_empty_logs_say_what_to_do_and_trouble_is_told(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    with SummaryWriter(str(logs / "foreign")) as writer:
        found = summary(write(tmp_path / "elsewhere", upto=1_000)[-1])
        found.value[0].tensor.string_val[0] = b"nothing"
        writer._get_file_writer().add_summary(found, 1)
    with tensorboard(logs, "--reload_interval=1") as (address, _):
        page = Page(browser, address)
        page.until(lambda: "No forecast can be shown" in page.text(".state"))
        page.find(".skipped summary").click()
        assert "it is not a forecast" in page.text(".skipped")
        write(logs / "real", upto=1_000)
        page.until(lambda: page.all("h1") and "heading for" in page.text("h1"))
    page.until(lambda: "does not answer" in page.text(".state"))
    assert "heading for" in page.text("h1")  # what was there stays
    browser.get("about:blank")
    browser.get_log("browser")  # type: ignore[no-untyped-call]


def diverging(folder: Path, *, steps: int, stop: bool) -> None:
    """A real run of 60 steps whose first loss is nan, like all others."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with (
        SummaryWriter(str(folder)) as writer,
        TorchLossForecast(optimizer, total_steps=60, target=2.0, stop=stop, writer=writer) as ours,
    ):
        for _ in range(steps):
            loss = weight.sum() * float("nan")
            ours.step(loss)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if ours.should_stop:
                break


def test_a_run_that_is_nan_from_its_first_loss_is_listed(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    browser.set_window_size(1280, 1400)
    logs = tmp_path / "logs"
    write(logs / "sound", upto=2_000)
    diverging(logs / "nan to the end", steps=60, stop=False)
    diverging(logs / "nan and stopped", steps=60, stop=True)
    diverging(logs / "nan so far", steps=5, stop=False)
    with tensorboard(logs, "--reload_interval=1") as (address, _):
        page = Page(browser, address)
        page.until(lambda: len(page.all("tbody tr")) == 4)
        said = {}
        for title in ("nan to the end", "nan and stopped", "nan so far", "sound"):
            cells = page.find(f'button[title="{title}"]').find_element(By.XPATH, "../..")
            advice = cells.find_element(By.CSS_SELECTOR, ".action")
            row = f"{cells.text}: {advice.get_attribute('title')}"
            page.find(f'button[title="{title}"]').click()
            page.until(partial(drawn_of, page, title))
            page.browser.save_screenshot(str(tmp_path / f"{title}.png"))
            said[title] = row, page.text("h1").partition(": ")[2], page.text("main > p.quiet")
            assert "NaN" not in page.text("body")
            assert "undefined" not in page.text("body")
        row, headline, status = said["nan to the end"]
        assert "broke" in row
        assert "no finite loss" in row
        assert headline == "broke: no loss was finite"
        assert "60 losses were nan or infinite" in status
        row, headline, _ = said["nan and stopped"]
        assert "stopped" in row
        assert headline.startswith("stopped at step 1")
        assert headline.endswith("no finite loss to forecast from")
        row, headline, status = said["nan so far"]
        assert "no finite loss" in row
        assert headline == "no finite loss to forecast from"
        assert "5 losses were nan or infinite" in status
        assert "heading for" in said["sound"][1]
        page.find('button[title="nan so far"]').click()
        page.until(partial(drawn_of, page, "nan so far"))
        page.find('button[aria-expanded="false"]').send_keys(Keys.ENTER)
        page.until(lambda: "no finite loss to forecast from" in page.text(".answer"))
        page.leave()


def test_without_any_summary_the_tab_says_how_to_get_one(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    with SummaryWriter(str(tmp_path / "run")) as writer:
        writer.add_scalar("loss", 1.0, 1)
    with tensorboard(tmp_path) as (address, _):
        browser.get(f"{address}data/plugin_entry.html?name=lossforecast")
        wait = WebDriverWait(browser, 60)
        wait.until(lambda d: "No forecasts yet" in d.find_element(By.TAG_NAME, "body").text)
        said = browser.find_element(By.TAG_NAME, "body").text
        assert str(tmp_path) in said
        assert "TransformersLossForecast" in said
