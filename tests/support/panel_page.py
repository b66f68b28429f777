"""The tab "Loss forecast" in a real browser."""

from collections.abc import Callable
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

LOSS, FINAL = 'div[aria-label="loss, forecast and learning rate"]', 'div[aria-label$="over time"]'


class Page:
    """The tab, as a person uses it."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        browser.get_log("browser")  # type: ignore[no-untyped-call]  # of pages before this one
        browser.get(address + "#lossforecast")
        self.until(lambda: browser.find_elements(By.TAG_NAME, "iframe"))
        browser.switch_to.frame(browser.find_element(By.TAG_NAME, "iframe"))

    def until(self, condition: Callable[[], Any]) -> Any:
        wait = WebDriverWait(self.browser, 60, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(lambda _: condition())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The visible text of an element, which the page may replace at any moment."""
        (found,) = self.until(lambda: (self.find(selector).text,))
        return str(found)

    def drawn(self) -> list[dict[str, Any]]:
        """The lines and areas of the chart of losses, as they are drawn now."""
        traces: list[dict[str, Any]] = self.run(
            "const chart = document.querySelector(arguments[0]);"
            "return (chart?.data ?? []).map(t => ({name: t.name, x: t.x, y: t.y, fill: t.fill}))",
            LOSS,
        )
        return traces

    def line(self, name: str) -> dict[str, Any]:
        return next(each for each in self.drawn() if (each["name"] or "").startswith(name))

    def leave(self) -> None:
        """While TensorBoard is there still, and without a complaint."""
        self.browser.get("about:blank")
        log: Any = self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        assert [entry for entry in log if entry["level"] == "SEVERE"] == []
