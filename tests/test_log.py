"""Warnings name the package where logging is not configured, and nowhere twice."""

import subprocess
import sys
from pathlib import Path

import pytest

WARN = 'logger.warning("step %d: %s", 720, "stop"); logger.info("step 730: continue")'


def printed(code: str, cwd: Path) -> tuple[str, str]:
    """What a fresh Python prints to stdout and to stderr."""
    code = f"import logging, sys\nfrom lossforecast.log import logger\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("code", "out", "err"),
    [
        (WARN, "", "lossforecast: step 720: stop\n"),
        (
            f"logger.setLevel(logging.INFO); logging.basicConfig(stream=sys.stdout); {WARN}",
            "WARNING:lossforecast:step 720: stop\nINFO:lossforecast:step 730: continue\n",
            "",
        ),
        (
            f"logger.addHandler(logging.StreamHandler(sys.stdout)); {WARN}",
            "step 720: stop\n",
            "",
        ),
        (f"logging.getLogger().addHandler(logging.NullHandler()); {WARN}", "", ""),
        (
            f"logging.basicConfig(); logger.propagate = False; {WARN}",
            "",
            "lossforecast: step 720: stop\n",
        ),
        (
            "import importlib, lossforecast.log\n"
            f"logger = importlib.reload(lossforecast.log).logger\n{WARN}",
            "",
            "lossforecast: step 720: stop\n",
        ),
        (f"logging.lastResort = None; {WARN}", "", ""),
        (f"sys.stderr = sys.stdout; {WARN}", "lossforecast: step 720: stop\n", ""),
    ],
    ids=[
        "bare",
        "configured",
        "handler",
        "silenced",
        "cut-off",
        "reloaded",
        "switched-off",
        "moved",
    ],
)
def test_a_warning_names_the_package_once(code: str, out: str, err: str, tmp_path: Path) -> None:
    assert printed(code, tmp_path) == (out, err)


def test_an_error_keeps_its_traceback(tmp_path: Path) -> None:
    code = "try:\n    1 / 0\nexcept ZeroDivisionError:\n    logger.exception('forecasting failed')"
    out, err = printed(code, tmp_path)
    assert out == ""
    assert err.startswith("lossforecast: forecasting failed\nTraceback")
    assert err.endswith("ZeroDivisionError: division by zero\n")
