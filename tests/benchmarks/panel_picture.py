"""Take the pictures of the panel: train some small networks and open their logs in a browser.

PYTHONPATH=examples:tests python tests/benchmarks/panel_picture.py panel.png \\
    --questions panel-questions.png
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from gpt import (  # type: ignore[import-not-found]
    GPT,
    Batches,
    standard_library,
    wsd_factor,
)
from panel_questions import draw_questions, save, seen
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from support.browsing import chromium, tensorboard
from support.panel_page import Page
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lossforecast.callbacks import TorchLossForecast

_RATES = {"rate-0.001": 1e-3, "rate-0.003": 3e-3, "rate-0.02": 2e-2}
_UNFINISHED, _FINISHED, _OVERFITTING = "rate-0.003", "rate-0.001", "overfits"


def main() -> None:
    """Train the runs, open the panel, save the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--questions", type=Path, help="picture of ten questions and answers")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each GPT")
    parser.add_argument("--logs", type=Path, help="logs of an earlier call, or where to keep them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logs = args.logs or Path(folder) / "logs"
        if not logs.exists():
            for name in _RATES:
                train(logs, name, args.steps)
            overfit(logs)
        with (
            tensorboard(logs) as (address, _),
            chromium(Path(folder) / "profile", "1280,1390") as browser,
        ):
            page = Page(browser, address)
            page.until(page.drawn)
            page.until(lambda: len(page.all("nav tbody tr")) == len(_RATES) + 1)
            take_picture(page, args.picture)
            if args.questions:
                resize(browser, 1280, 800)
                page = Page(browser, f"{address}?questions")
                page.until(page.drawn)
                draw_questions(page, args.questions, _UNFINISHED, _OVERFITTING, _FINISHED)


def take_picture(page: Page, picture: Path) -> None:
    """Save the panel with a what-if."""
    page.find(f'button[title="{_UNFINISHED}"]').click()
    page.until(lambda: _UNFINISHED in page.text("h1"))
    opener = page.find(".what-if button[aria-expanded]")
    page.until(opener.is_displayed)
    opener.send_keys(Keys.ENTER)
    page.until(lambda: "Ends at" in page.text(".answer"))
    page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    time.sleep(1)  # for the last chart
    save(seen(page), picture)


def resize(browser: webdriver.Chrome, width: int, height: int) -> None:
    """Give the page, not the window around it, a size in pixels."""
    outer = browser.get_window_size()
    inner = browser.execute_script("return [window.top.innerWidth, window.top.innerHeight]")
    browser.set_window_size(outer["width"] + width - inner[0], outer["height"] + height - inner[1])


def train(logs: Path, name: str, steps: int) -> None:
    """Train one run with a WSD schedule; the unfinished one is left at 60%."""
    torch.manual_seed(0)
    model = GPT()
    batches = Batches(standard_library(), batch=16, length=64, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATES[name], weight_decay=0.1)
    factor = partial(wsd_factor, total=steps, warmup=steps // 20)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    upto = round(0.6 * steps) if name == _UNFINISHED else steps
    with SummaryWriter(str(logs / name)) as writer:
        monitor = TorchLossForecast(optimizer, scheduler, steps, target=1.9, writer=writer)
        for _ in range(upto):
            loss = model(*batches())
            monitor.step(loss)
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        monitor.close()


def overfit(logs: Path, steps: int = 3000) -> None:
    """Train a network on 200 noisy points for 40% of a run; its validation loss rises."""
    torch.manual_seed(0)
    direction = torch.randn(20, 1)

    def points(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.randn(size, 20)
        return inputs, (inputs @ direction + 3 * torch.randn(size, 1) > 0).float()

    (inputs, labels), held_out = points(200), points(2000)
    model = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss_of = nn.functional.binary_cross_entropy_with_logits
    with SummaryWriter(str(logs / _OVERFITTING)) as writer:
        monitor = TorchLossForecast(optimizer, scheduler, steps, metric="val", writer=writer)
        for step in range(round(0.4 * steps)):
            batch = torch.randint(0, 200, (32,))
            loss = loss_of(model(inputs[batch]), labels[batch])
            monitor.step(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if step % 20 == 19:
                with torch.no_grad():
                    monitor.validation(loss_of(model(held_out[0]), held_out[1]))
        monitor.close()


if __name__ == "__main__":
    main()
