"""Ten questions to the tab "Loss forecast", each asked with at most two clicks, as one picture.

Used by ``panel_picture.py --questions``, on its logs.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont, load_default
from selenium.webdriver.common.action_chains import ActionChains
from support.panel_page import LOSS, Page

_WIDTH = 830  # pixels of the picture, as wide as a page of GitHub shows
_MARGIN = 8, 2  # pixels beside, and above and below what is cut out of the page
_COLOURS = 256

_STATUS = "main > .advised ~ .quiet"  # the first is the status, the second the kind of the run
_Tile = tuple[str, Image.Image]


class _Reader:
    """Asks the questions about a run that goes on and one that overfits."""

    def __init__(self, page: Page, goes_on: str, overfits: str, other: str) -> None:
        self.page, self.goes_on, self.overfits, self.other = page, goes_on, overfits, other
        self.clicks = 0

    def tiles(self) -> Iterator[_Tile]:
        """The questions with their numbers of clicks, and the part of the page that answers."""
        yield self._tile("Which run should I kill?", lambda: None, "nav .runs")
        self._start(self.overfits)
        self.clicks = 1
        yield self._tile("Why did it advise to stop?", lambda: None, "h1", ".advised")
        self._start(self.goes_on)
        yield self._tile(
            "Was it right before?", self._hover(".hindsight .term"), ".head", ".hindsight .why"
        )
        yield self._tile(
            "How sure is that?", self._hover(f"{_STATUS} .term"), ".head", f"{_STATUS} .why"
        )
        second = f"{_STATUS} span > .term"
        yield self._tile(
            "What will annealing bring?", self._hover(second), _STATUS, f"{second} .why"
        )
        yield self._tile("How long until the target?", self._hover("h1"), _STATUS)
        yield self._tile(
            "What is the forecast based on?", self._hover(".facts .term"), ".facts", ".facts .why"
        )
        box = f'input[aria-label="also draw {self.other}"]'
        yield self._tile("Are two runs different?", self._click(box, ".verdict"), "h1", ".verdict")
        self._start(self.goes_on)
        button = '.what-if button[aria-expanded="false"]'
        yield self._tile(
            "What if I decay now?", self._click(button, ".answer"), ".what-if h2", ".answer"
        )
        yield self._tile(
            "How do I use that schedule in my code?",
            self._click(".code button", ".code .quiet"),
            ".code",
        )

    def _start(self, run: str) -> None:
        """The page as it opens on a run, with nothing clicked."""
        page = self.page
        for box in page.all("tbody input:checked:not(:disabled)"):
            box.click()
        page.find(f'button[title="{run}"]').click()
        read = "return document.querySelector(arguments[0]).dataset.drawn"
        page.until(lambda: str(page.run(read, LOSS)).startswith(f"{run} "))
        self.clicks = 0

    def _hover(self, selector: str) -> Callable[[], None]:
        def act() -> None:
            ActionChains(self.page.browser).move_to_element(self.page.find(selector)).perform()

        return act

    def _click(self, selector: str, answer: str) -> Callable[[], None]:
        """Click an element, and wait for words in another one."""

        def act() -> None:
            self.page.run("arguments[0].click()", self.page.find(selector))
            self.clicks += 1
            self.page.until(lambda: self.page.text(answer) not in ("", "Computing …"))

        return act

    def _tile(self, question: str, act: Callable[[], None], *selectors: str) -> _Tile:
        act()
        words = ("no click", "one click", "two clicks")[self.clicks]
        return f"{question}  ({words})", self._cut(selectors)

    def _cut(self, selectors: tuple[str, ...]) -> Image.Image:
        """The rectangle around the elements, out of a picture of the window."""
        page = self.page
        around = page.run(
            "const frame = window.frameElement.getBoundingClientRect();"
            "const boxes = arguments[0].map("
            "  (each) => document.querySelector(each).getBoundingClientRect());"
            "return [Math.min(...boxes.map((b) => b.left)) + frame.left,"
            "  Math.min(...boxes.map((b) => b.top)) + frame.top,"
            "  Math.max(...boxes.map((b) => b.right)) + frame.left,"
            "  Math.max(...boxes.map((b) => b.bottom)) + frame.top]",
            list(selectors),
        )
        left, top, right, bottom = around
        beside, above = _MARGIN
        edges = (left - beside, top - above, right + beside, bottom + above)
        return seen(page).crop(tuple(round(edge) for edge in edges))


def draw_questions(page: Page, picture: Path, goes_on: str, overfits: str, other: str) -> None:
    """Ask the ten questions and save the picture.

    Args:
        page: the tab, with the logs of `panel_picture.py`.
        picture: the PNG to write.
        goes_on: name of a run that goes on.
        overfits: name of a run that should be stopped.
        other: name of a run to compare the first with.
    """
    tiles = list(_Reader(page, goes_on, overfits, other).tiles())
    font = load_default(15)
    assert isinstance(font, FreeTypeFont)
    heights = [30 + tile.height for _, tile in tiles]
    sheet = Image.new("RGB", (_WIDTH, sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for number, ((question, tile), height) in enumerate(zip(tiles, heights, strict=True), start=1):
        draw.rectangle((0, top, _WIDTH, top + 26), fill="#e8eef7")
        draw.text((8, top + 4), f"{number}. {question}", font=font, fill="#202124")
        sheet.paste(tile, (0, top + 28))
        top += height
    save(sheet, picture)


def seen(page: Page) -> Image.Image:
    """A picture of the window."""
    return Image.open(io.BytesIO(page.browser.get_screenshot_as_png())).convert("RGB")


def save(image: Image.Image, picture: Path) -> None:
    """Save an image as a small PNG, in the colours that cover most of its range."""
    few = image.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)
