"""A person reads and uses the tab "Loss forecast", in a real browser."""

import json
import re
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from support.browsing import chromium, tensorboard
from support.panel_logs import TOTAL, write
from support.panel_page import FINAL, LOSS, Page

from lossforecast import LRSchedule
from lossforecast.status import Caveat, Status

pytestmark = pytest.mark.browser

N_RUNS = 15
GOING, LONGER, ENDED = "going", "longer", "ended 0"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile"), "1280,800") as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Fifteen runs: two go on, and the one that was written last has ended."""
    logs = tmp_path_factory.mktemp("logs")
    write(logs / GOING, upto=2_400, floor=2.2, every=200, target=2.2)
    longer = LRSchedule.linear(TOTAL + 1_000, 2e-3, warmup=100)
    write(logs / LONGER, plan=longer, upto=1_000, floor=2.1, every=200, seed=1)
    write(logs / ENDED, floor=1.9, every=200)
    for i in range(1, N_RUNS - 2):
        shutil.copytree(logs / ENDED, logs / f"ended {i}")
    with tensorboard(logs, "--reload_interval=0") as (found, _):
        yield found


@pytest.fixture(scope="module")
def opened(browser: webdriver.Chrome, address: str) -> Iterator[Page]:
    """The tab as it opens, in a window of 1280 by 800 pixels."""
    width, height = browser.execute_script("return [window.innerWidth, window.innerHeight]")
    browser.set_window_size(2 * 1280 - width, 2 * 800 - height)
    page = Page(browser, address)
    page.until(page.drawn)
    yield page
    page.leave()


@pytest.fixture
def page(opened: Page) -> Page:
    """The tab with all runs listed, one drawn, the present forecast and no what-if."""
    opened.find(".filter").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE)
    for box in opened.all("tbody input:checked:not(:disabled)"):
        box.click()
    opened.until(lambda: not opened.find(".compared").is_displayed())
    for button in opened.all('.what-if button[aria-expanded="true"]'):
        button.send_keys(Keys.ENTER)
    choose(opened, LONGER)
    return opened


def choose(page: Page, run: str) -> None:
    page.find(f'button[title="{run}"]').click()
    read = "return document.querySelector(arguments[0]).dataset.drawn"
    page.until(lambda: str(page.run(read, LOSS)).startswith(f"{run} "))


def test_the_newest_run_that_goes_on_is_open(opened: Page) -> None:
    assert opened.text("h1").startswith(f"{LONGER}: heading for ")
    assert opened.text("tr.focus .name") == LONGER


def test_fifteen_runs_of_one_line_need_no_scrolling(page: Page) -> None:
    rows = page.all("nav tbody tr")
    assert len(rows) == N_RUNS
    assert page.run("return window.innerHeight") < 760  # below TensorBoard's own bar
    assert max(row.rect["height"] for row in rows) < 40
    bottom = page.run("return arguments[0].getBoundingClientRect().bottom", rows[-1])
    assert bottom <= page.run("return window.innerHeight")
    scrolled = "const list = document.querySelector('.scrolling');"
    assert page.run(f"{scrolled} return list.scrollHeight <= list.clientHeight")


def test_a_click_touches_no_other_rows(page: Page) -> None:
    page.run("document.querySelectorAll('nav tbody tr').forEach((row) => { row.seen = true; })")
    choose(page, GOING)
    rows = "[...document.querySelectorAll('nav tbody tr')]"
    kept = f"return {rows}.filter((row) => row.seen).length"
    assert page.run(kept) == N_RUNS - 2


def test_a_filter_without_matches_says_so(page: Page) -> None:
    box = page.find(".filter")
    box.send_keys("nothing like it")
    assert page.all("nav tbody tr") == []
    assert page.text("nav p[role=status]") == 'No run has "nothing like it" in its name.'
    box.clear()
    box.send_keys("ended 1", Keys.TAB)
    page.until(lambda: len(page.all("nav tbody tr")) == 4)  # 1, 10, 11 and 12
    assert page.text("nav p[role=status]") == ""
    box.clear()
    box.send_keys(" ", Keys.BACKSPACE)
    page.until(lambda: len(page.all("nav tbody tr")) == N_RUNS)


def test_what_came_after_an_earlier_forecast_has_its_own_colour(page: Page) -> None:
    names = "document.querySelector(arguments[0]).data"
    assert "later losses" not in page.run(f"return {names}.map((line) => line.name)", LOSS)
    page.find("#travel").send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    page.until(lambda: any(line["name"] == "later losses" for line in page.drawn()))
    loss, came = page.line("loss"), page.line("later losses")
    assert loss["x"][-1] <= 600 <= came["x"][0] < came["x"][-1]
    colours = page.run(f"return {names}.map((line) => [line.name, line.line.color])", LOSS)
    of = {name: colour for name, colour in colours if name}
    assert len({of["loss"], of["later losses"], of["forecast made at step 600"]}) == 2


def test_the_chart_of_past_forecasts_shows_the_useful_band(page: Page) -> None:
    choose(page, GOING)
    low, high = page.run(f"return document.querySelector('{FINAL}').layout.yaxis.range")
    widest, narrow, line = page.run(
        f"return document.querySelector('{FINAL}').data.slice(0, 3).map((each) => each.y)"
    )
    n = len(line)
    assert low < narrow[2 * n - n] < narrow[n - 1] < high  # the latest 80% interval
    assert max(widest) > high or min(widest) < low
    later = [x for i, x in enumerate(narrow) if n // 2 <= i < 2 * n - n // 2]
    assert high - low < 2 * (max(later) - min(later))


def test_the_headline_has_its_hindsight_beside_it_in_red_if_it_failed(page: Page) -> None:
    choose(page, GOING)
    assert re.fullmatch(
        rf"{GOING}: heading for \d\.\d+ \(80%: \d\.\d+ to \d\.\d+\)", page.text("h1")
    )
    beside = page.find(".hindsight")
    assert re.fullmatch(r"\d+ of 10 past forecasts held", beside.text)
    assert "trouble" not in beside.get_attribute("class")
    quiet = beside.value_of_css_property("color")
    page.run(
        "const real = window.fetch; window.fetch = async (...all) => {"
        "  const response = await real(...all);"
        "  if (!String(all[0]).includes('/run?')) return response;"
        "  const run = await response.json();"
        "  run.fared['80'] = {judged: 11, held: 2};"
        "  window.fetch = real;"
        "  return new Response(JSON.stringify(run)); }"
    )
    choose(page, "ended 3")
    assert beside.text == "was wrong: 2 of 11 past forecasts held"
    assert beside.value_of_css_property("color") != quiet


def test_words_are_explained_on_hover_and_on_focus(page: Page) -> None:
    status, *_ = page.all("main .quiet .term")
    why = status.find_element(By.CSS_SELECTOR, ".why")
    assert not why.is_displayed()
    ActionChains(page.browser).move_to_element(status).perform()
    assert why.is_displayed()
    ActionChains(page.browser).move_to_element(page.find("h1")).perform()
    assert not why.is_displayed()
    status.send_keys("")
    assert why.is_displayed()
    for term in page.all(".term"):
        page.run("arguments[0].focus()", term)
        hint = page.run("return arguments[0].querySelector('.why').getBoundingClientRect()", term)
        assert hint["right"] <= page.run("return document.documentElement.clientWidth")
    source = next(each for each in page.all(".term") if "assumed from other runs" in each.text)
    assert "recorded runs" in source.find_element(By.CSS_SELECTOR, ".why").get_attribute(
        "textContent"
    )


def test_every_status_and_caveat_has_words(page: Page, address: str) -> None:
    lacking = page.browser.execute_async_script(
        "const [module, statuses, caveats, done] = arguments;"
        "import(module).then((words) => done(["
        "  ...statuses.filter((each) => !words.statusWords(each)[1]),"
        "  ...caveats.filter((each) => !words.caveatWords(each)[1])]))",
        f"{address}data/plugin/lossforecast/words.js",
        list(Status),
        list(Caveat),
    )
    assert lacking == []


def test_runs_are_compared_with_their_learning_rates(page: Page) -> None:
    assert not page.find(".compared").is_displayed()
    page.find(f'input[aria-label="also draw {GOING}"]').click()
    page.until(lambda: len(page.all(".compared tbody tr")) == 2)
    verdict = page.text(".verdict")
    assert re.fullmatch(rf"({GOING}|{LONGER}) ends lowest with a probability of .*%\.", verdict)
    rates = page.run(
        "return document.querySelector(arguments[0]).data.filter((line) => line.yaxis === 'y2')"
        ".map((line) => [line.name, line.x.at(-1), line.line.color])",
        LOSS,
    )
    assert [rate[:2] for rate in rates] == [
        [f"{LONGER}, learning rate", TOTAL + 1_000],
        [f"{GOING}, learning rate", TOTAL],
    ]
    assert rates[0][2] != rates[1][2]
    past = page.run(f"return document.querySelector('{FINAL}').data.map((line) => line.name)")
    assert {GOING, LONGER} <= set(past)
    page.find(f'input[aria-label="also draw {GOING}"]').click()
    page.until(lambda: not page.find(".compared").is_displayed())


def test_code_is_offered_in_three_kinds(page: Page) -> None:
    page.find('.what-if button[aria-expanded="false"]').send_keys(Keys.ENTER)
    page.until(lambda: "Ends at" in page.text(".answer"))
    kinds = Select(page.find(".code select"))
    begins = {
        "LRSchedule": "LRSchedule.from_points(",
        "begin_decay of SteerableLR": 'scheduler.begin_decay(1999, "linear", end=0, after=1)',
        "torch scheduler": "steps, shares = [",
    }
    assert [option.text for option in kinds.options] == list(begins)
    for kind, begin in begins.items():
        kinds.select_by_visible_text(kind)
        page.until(lambda: page.find(".code textarea").get_attribute("value").startswith(begin))  # noqa: B023


def test_what_is_drawn_is_saved(page: Page, tmp_path: Path) -> None:
    page.browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    saved = {kind: tmp_path / f"forecast-of-{LONGER}.{kind}" for kind in ("png", "svg", "json")}
    for kind, path in saved.items():
        page.find(f".saving button[title]:nth-of-type({[*saved].index(kind) + 1})").click()
        page.until(path.exists)
    assert saved["png"].read_bytes().startswith(b"\x89PNG")
    assert saved["svg"].read_text().startswith("<svg")
    (run,) = json.loads(saved["json"].read_text())["runs"]
    assert (run["run"], run["step"], len(run["trail"])) == (LONGER, 1_000, 5)


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing(page: Page, dark: bool) -> None:
    page.run("window.parent.document.body.classList.toggle('dark-mode', arguments[0])", dark)
    wanted = "dark" if dark else "light"
    page.until(lambda: page.run("return document.documentElement.dataset.theme") == wanted)
    page.find(f'input[aria-label="also draw {GOING}"]').click()
    page.until(lambda: page.find(".compared").is_displayed())
    page.find('.what-if button[aria-expanded="false"]').send_keys(Keys.ENTER)
    page.until(lambda: "Ends at" in page.text(".answer"))
    page.run(resources.files("axe_core_python").joinpath("axe.min.js").read_text())
    found = page.browser.execute_async_script("axe.run().then(arguments[0])")
    assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
    assert len(found["passes"]) > 20


def test_everything_is_reached_by_keys_in_order(page: Page) -> None:
    page.run("document.body.tabIndex = -1; document.body.focus()")
    name = "const e = document.activeElement; return e.ariaLabel || e.title || e.textContent"
    reached = []
    for _ in range(2 * N_RUNS + 12):
        page.browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(page.run(name))
    names = [row.get_attribute("title") for row in page.all("button.run")]
    order = [reached.index(name) for name in ("Skip to the run", *names, LONGER)]
    assert order[:-1] == sorted(order[:-1])
    assert order[0] < reached.index("filter the runs by name") < order[1]
    assert reached.index("the chart of losses as pixels") > max(order)
    page.find(f'button[title="{GOING}"]').send_keys(Keys.ENTER)
    page.until(lambda: page.text("h1").startswith(GOING))
    assert page.run("return document.activeElement.title") == GOING  # it keeps the focus
