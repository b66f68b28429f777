"""Measure the speed of the panel: 50 runs of 200 forecasts, in a real TensorBoard and browser.

    PYTHONPATH=tests python tests/benchmarks/panel_figures.py

Prints the size of the logs, the time from opening the tab to its first charts, the time of a
what-if, and the memory of the backend.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from support.browsing import chromium, tensorboard
from support.panel_logs import TOTAL, write

_DISTINCT_RUNS = 10  # the others are copies
_WHAT_IFS = 60


def main() -> None:
    """Write the logs, open the panel with each data loader, and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--forecasts", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "logs"
        fill(logs, args.runs, args.forecasts)
        size = sum(path.stat().st_size for path in logs.rglob("*") if path.is_file())
        say(f"logs of {args.runs} runs with {args.forecasts} forecasts: {size / 1e6:.0f} MB")
        for loader in ("true", "false"):
            start = time.perf_counter()
            with tensorboard(logs, f"--load_fast={loader}") as (address, process):
                while len(runs_of(address)) < args.runs:
                    time.sleep(0.5)
                loaded = time.perf_counter() - start
                say(f"load_fast={loader}: all runs read after {loaded:.1f} s")
                say(f"  the list of runs: {timed(lambda: runs_of(address)):.0f} ms (median)")
                paints = [paint(Path(folder) / f"{loader}{i}", address) for i in range(5)]
                first, charts = np.median(paints, axis=0)
                say(f"  first paint {first:.2f} s after the tab opens, charts {charts:.2f} s")
                steps = {run["run"]: run["step"] for run in runs_of(address)}
                runs = [f"run {i % args.runs}" for i in range(_WHAT_IFS)]
                times = [what_if(address, run, steps[run]) for run in runs]
                say(f"  what-if: {np.median(times):.0f} ms (median), {max(times):.0f} ms (maximum)")
                say(f"  memory of the backend: {memory(process):.0f} MB")


def fill(logs: Path, runs: int, forecasts: int) -> None:
    """Write logs of runs that are 20 to 80% done, with `forecasts` forecasts each."""
    for i in range(min(runs, _DISTINCT_RUNS)):
        every = max(round(TOTAL * (0.2 + 0.6 * i / (_DISTINCT_RUNS - 1)) / forecasts), 1)
        floor, upto = 2 + 0.01 * i, every * forecasts
        write(logs / f"run {i}", every=every, upto=upto, floor=floor, seed=i)
    for i in range(_DISTINCT_RUNS, runs):
        shutil.copytree(logs / f"run {i % _DISTINCT_RUNS}", logs / f"run {i}")


def runs_of(address: str) -> list[dict[str, Any]]:
    """The list of runs, the first request of the page."""
    with urllib.request.urlopen(f"{address}data/plugin/lossforecast/runs") as response:
        runs: list[dict[str, Any]] = json.load(response)["runs"]
    return runs


def timed(call: object) -> float:
    """Median time of a call in milliseconds."""
    assert callable(call)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))


def paint(profile: Path, address: str) -> list[float]:
    """Seconds from the start of the tab's frame to first paint and to the charts, without cache."""
    with chromium(profile, "1280,1400") as browser:
        browser.get(f"{address}data/plugin_entry.html?name=lossforecast")
        wait = WebDriverWait(browser, 60, poll_frequency=0.02)
        wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "[data-drawn]"))
        seconds: list[float] = browser.execute_script(
            "return ['first-contentful-paint', 'drawn']"
            ".map((name) => performance.getEntriesByName(name)[0].startTime / 1000)"
        )
    return seconds


def what_if(address: str, run: str, step: int) -> float:
    """Milliseconds of one what-if: a decay from the present step over half of the rest."""
    request = {
        "run": run,
        "tag": "forecast/panel",
        "decay_start": step,
        "total_steps": (step + TOTAL) // 2,
        "end_lr": 0.0,
        "shape": "linear",
    }
    start = time.perf_counter()
    url = f"{address}data/plugin/lossforecast/what_if"
    with urllib.request.urlopen(url, json.dumps(request).encode()) as response:
        json.load(response)
    return 1e3 * (time.perf_counter() - start)


def memory(process: int) -> float:
    """Resident memory of a process in megabytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return float(line.split()[1]) / 1024
    return float("nan")


def say(line: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
