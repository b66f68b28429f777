"""Real TensorBoards on folders of logs, and a real browser to look at them with."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

OPTIONS = (
    "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync"
)


@contextmanager
def tensorboard(
    folder: Path, *options: str, python: str = sys.executable
) -> Iterator[tuple[str, int]]:
    """A TensorBoard on a folder: its address and the number of its process."""
    command = [python, "-m", "tensorboard.main", "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--logdir", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if match := re.search(r"http://127\.0\.0\.1:\d+/", line):
                yield match.group(), process.pid
                return
        raise AssertionError(f"TensorBoard ended: {said}")
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextmanager
def chromium(profile: Path, size: str = "1400,1100") -> Iterator[webdriver.Chrome]:
    """A browser without a screen, that keeps what pages log."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for option in (*OPTIONS.split(), f"window-size={size}", f"user-data-dir={profile}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()
