"""Warnings name the package where logging is not configured, and nowhere twice."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossforecast.log import logger

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


class Raising(logging.Handler):
    """A handler with a bug, which raises instead of calling `handleError`."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ConnectionError("the log server is gone")


def refuse(record: logging.LogRecord) -> bool:
    raise ValueError("a filter with a bug")


def factory(*args: object, **kwargs: object) -> logging.LogRecord:
    raise TypeError("a record factory with a bug")


@pytest.fixture(params=["handler", "root handler", "filter", "record factory"])
def broken_logging(request: pytest.FixtureRequest) -> Iterator[None]:
    root, plain = logging.getLogger(), logging.getLogRecordFactory()
    owner = root if request.param == "root handler" else logger
    handler = Raising()
    if "handler" in request.param:
        owner.addHandler(handler)
    elif request.param == "filter":
        logger.addFilter(refuse)
    else:
        logging.setLogRecordFactory(factory)
    yield
    owner.removeHandler(handler)
    logger.removeFilter(refuse)
    logging.setLogRecordFactory(plain)


@pytest.mark.usefixtures("broken_logging")
def test_nothing_that_logging_raises_gets_out(capsys: pytest.CaptureFixture[str]) -> None:
    logger.warning("step %d", 7)
    try:
        int("no number")
    except ValueError:
        logger.exception("something failed")
    err = capsys.readouterr().err
    assert "--- Logging error ---" in err
    assert "Message: 'step %d'\nArguments: (7,)" in err


@pytest.mark.usefixtures("broken_logging")
def test_logging_may_be_told_to_be_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.warning("step %d", 7)
    assert "Logging error" not in capsys.readouterr().err


def test_the_record_names_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    logger.warning("here")
    assert caplog.records[-1].funcName == "test_the_record_names_the_caller"


def test_an_interrupt_in_a_handler_passes() -> None:
    class Impatient(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise KeyboardInterrupt

    handler = Impatient()
    logger.addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            logger.warning("step")
    finally:
        logger.removeHandler(handler)


NOTICE = 'from lossforecast.log import notice; notice("step 720: on its way")'


@pytest.mark.parametrize(
    ("code", "out", "err"),
    [
        (NOTICE, "", "lossforecast: step 720: on its way\n"),
        (f"logging.basicConfig(level='INFO', stream=sys.stdout); {NOTICE}", "INFO:", ""),
        (f"logging.basicConfig(stream=sys.stdout); {NOTICE}", "", ""),
        (f"logging.getLogger().addHandler(logging.NullHandler()); {NOTICE}", "", ""),
        (f"logging.lastResort = None; {NOTICE}", "", ""),
        (f"logger.setLevel(logging.WARNING); {NOTICE}", "", ""),
        (f"logging.disable(); {NOTICE}", "", ""),
        (f"sys.stderr = None; {NOTICE}", "", ""),
        (f"sys.stderr.close(); {NOTICE}", "", ""),
    ],
    ids=[
        "bare",
        "configured",
        "only warnings",
        "silenced",
        "no last resort",
        "level",
        "disabled",
        "no stderr",
        "closed stderr",
    ],
)
def test_a_notice_is_shown_where_nobody_has_configured_logging(
    code: str, out: str, err: str, tmp_path: Path
) -> None:
    shown, errors = printed(code, tmp_path)
    assert shown.startswith(out)
    assert bool(shown) == bool(out)
    assert errors == err
