"""Take the picture of the panel: train three small GPTs and open their logs in a browser.

PYTHONPATH=examples:tests python tests/benchmarks/panel_picture.py panel.png
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
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from support.browsing import chromium, tensorboard
from torch.utils.tensorboard import SummaryWriter

from lossforecast.callbacks import TorchLossForecast

_RATES = {"rate-0.001": 1e-3, "rate-0.003": 3e-3, "rate-0.02": 2e-2}
_UNFINISHED = "rate-0.003"


def main() -> None:
    """Train the runs, open the panel, save a screenshot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--steps", type=int, default=1000, help="steps of each run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "logs"
        for name in _RATES:
            train(logs, name, args.steps)
        with (
            tensorboard(logs) as (address, _),
            chromium(Path(folder) / "profile", "1280,1390") as browser,
        ):
            browser.get(f"{address}#lossforecast")
            wait = WebDriverWait(browser, 60)
            frame = wait.until(lambda d: d.find_element(By.TAG_NAME, "iframe"))
            browser.switch_to.frame(frame)
            chosen = f'button.run[title="{_UNFINISHED}"]'
            wait.until(lambda d: len(d.find_elements(By.CSS_SELECTOR, "tbody tr")) == len(_RATES))
            browser.find_element(By.CSS_SELECTOR, chosen).click()
            wait.until(lambda d: _UNFINISHED in d.find_element(By.TAG_NAME, "h1").text)
            opener = browser.find_element(By.CSS_SELECTOR, "button[aria-expanded]")
            wait.until(lambda _: opener.is_displayed())
            opener.send_keys(Keys.ENTER)
            wait.until(lambda d: "Ends at" in d.find_element(By.CLASS_NAME, "answer").text)
            browser.execute_script("document.activeElement.blur()")
            time.sleep(1)  # for the last chart
            browser.save_screenshot(str(args.picture))


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


if __name__ == "__main__":
    main()
