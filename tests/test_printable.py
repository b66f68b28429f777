"""Names from logs and stores are escaped before they reach a terminal or a line of a log."""

import io
import json
import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from support.command_line import run
from support.recorded import train

from lossforecast import ConfigurationError, LRSchedule, RunInfo, RunStore
from lossforecast.log import logger
from lossforecast.policies import Action, Reason, Recommendation
from lossforecast.printable import printable
from lossforecast.readers import read_log

EVIL = (
    "a\x1b[2J\x1b]0;title\x07b\r\nlossforecast: forged\x85\x9b31m\u2028c\u202e\u2066\u200fd\x7f\x00"
)
STORABLE = EVIL.replace("\x00", "")


def is_clean(text: str) -> bool:
    """True if a text has no character but line ends that could do anything to a terminal."""
    return all(c == "\n" or unicodedata.category(c)[0] not in "C" for c in text) and not set(
        text
    ) & {"\u2028", "\u2029"}


def test_every_character_that_is_not_printable_is_escaped() -> None:
    for code in range(0x110000):
        character = chr(code)
        shown = printable(character)
        assert shown.isprintable()
        assert (shown == character) == character.isprintable()
    assert printable("Übung 1/µ — 🙂 [bold]") == "Übung 1/µ — 🙂 [bold]"
    assert printable(EVIL).startswith(r"a\x1b[2J\x1b]0;title\x07b\r\nlossforecast")


def test_messages_of_the_log_are_one_line_each() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        logger.warning("run %s: %s", EVIL, ValueError(EVIL))
        logger.warning(EVIL + "100%")
        logger.warning("%d of %s", 3, "%s")
    finally:
        logger.removeHandler(handler)
    first, second, third = stream.getvalue().splitlines()
    assert first == f"run {printable(EVIL)}: {printable(EVIL)}"
    assert second == printable(EVIL) + "100%"
    assert third == "3 of %s"


def test_errors_are_one_line_each() -> None:
    assert str(ConfigurationError(EVIL)) == printable(EVIL)
    assert ConfigurationError(EVIL).args == (EVIL,)
    assert str(ConfigurationError()) == ""


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A store whose every word is evil."""
    store = RunStore(tmp_path / "runs.db")
    about = RunInfo("train", STORABLE, "p", STORABLE, STORABLE, STORABLE, monitor=STORABLE)
    steps = np.arange(0, 401, 4)
    plan = LRSchedule.cosine(400, 0.1)
    key = store.add(STORABLE, about, plan, steps, 2 + 3 * (steps + 5.0) ** -0.5)
    again = store.begin(STORABLE, about, plan, owner="me")
    advice = Recommendation(Action.CONTINUE, Reason.NO_ROOM, EVIL)
    history = store.history(key)
    store.save(again, history, plan, [], [(3, advice)], owner="me")
    return store


def test_what_a_store_says_reaches_no_terminal(
    store: RunStore, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.url.removeprefix("sqlite:///")
    key = store.runs(state="running")[0].key
    for words in (
        ("list",),
        ("show", key),
        ("list", "--project", EVIL),
        ("forget", "--exclude", key),
    ):
        done = run("runs", *words, "--store", path)
        assert done.returncode == 0, done.stderr
        assert is_clean(done.stdout + done.stderr), repr(done.stdout + done.stderr)
        assert "[2J" in done.stdout + done.stderr or EVIL in words
    done = run("runs", "show", key, "--store", path, "--json", "-")
    assert json.loads(done.stdout)["name"] == STORABLE
    assert is_clean(done.stderr)
    caplog.set_level(logging.DEBUG)
    run_info = RunInfo(project="p", dataset=STORABLE, task=STORABLE, monitor=STORABLE)
    monitor = train(path, run=run_info, until=50)
    monitor.close()
    assert monitor.forecaster.prior.past
    for record in caplog.records:
        if record.name == "lossforecast":
            assert is_clean(record.getMessage())
            assert "\n" not in record.getMessage()


def test_what_a_log_says_reaches_no_terminal(tmp_path: Path) -> None:
    """Names of columns and cells, in results and in errors."""
    odd = "train_loss\x1b[2J\x9b\u202e"
    good = tmp_path / "lo\x1bg.csv"
    lines = "".join(f"{t},{2 + 3 * (t + 5) ** -0.5},0.1\n" for t in range(0, 401, 4))
    good.write_text(f"step,{odd},lr\n{lines}")
    bad = tmp_path / "bad.csv"
    bad.write_text(f"step,{odd},lr\n0,\x1b[2J\x9b,0.1\n")
    other = tmp_path / "other.csv"
    other.write_text(f"step,x\x1b[2J\x9b\n{lines}")
    for words, code in (
        (("replay", good), 0),
        (("forecast", good, "--total-steps", 800), 0),
        (("forecast", good), 2),
        (("what-if", good, "--total-steps", 800, "--try", "decay:start=500,steps=100"), 0),
        (("runs", "import", good, "--project", "p", "--store", tmp_path / "runs.db"), 0),
        (("replay", bad), 2),
        (("replay", other), 2),
    ):
        done = run(*words)
        assert done.returncode == code, done.stderr
        assert is_clean(done.stdout + done.stderr), repr(done.stdout + done.stderr)
    with pytest.raises(ConfigurationError) as caught:
        read_log(bad)
    assert is_clean(str(caught.value))
    assert read_log(good).column == odd
