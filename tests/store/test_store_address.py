"""Addresses of stores: whatever is wrong with one, its password is shown nowhere."""

import itertools
import logging
import os
import pickle
import random
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.recorded import train

from lossforecast import ConfigurationError, LossForecastError, RunStore
from lossforecast.callbacks.huggingface.checkpoint import store_address
from lossforecast.callbacks.pipeline import Settings
from lossforecast.store import address, shown

SECRET = "Zecr3t"
BEGINNINGS = (
    "postgresql://",
    "postgresql+psycopg://",
    "postgres://",
    "POSTGRESQL://",
    "postgresql:/",
    "postgresql//",
    "postgresql:",
    "",
    "oracle://",
    "sqlite://",
    "mssql+pyodbc://",
    "http://",
    " postgresql://",
)
UNQUOTED = (
    *("", "x@", "a/", "a#", "a?", "a@b/", "a@b?", "a@b?k=", "a:", "a:b@", "[", "a]", "%", "%40"),
    *(" ", "é", "\n", "\\", "a@127.0.0.1:1/", "a@127.0.0.1:1/db?application_name="),
)
PLACES = (
    "me:{}@127.0.0.1:1/db",
    ":{}@127.0.0.1:1/db",
    "me@127.0.0.1:1/db?password={}",
    "127.0.0.1:1/db?user=me&password={}",
    "127.0.0.1:1?password={}",
    "/?odbc_connect=PWD={}",
    "me:{}@/db?host=/nowhere",
    "me:{}@127.0.0.1:1,127.0.0.1:2/db",
    "127.0.0.1:1/db?sslpassword={}&passfile=/x",
)
ADDRESSES = [
    beginning + place.format(unquoted + SECRET)
    for beginning, unquoted, place in itertools.product(BEGINNINGS, UNQUOTED, PLACES)
]
FULL = bool(os.environ.get("LOSSFORECAST_FULL"))


def said_by(*tasks: Callable[[], object]) -> str:
    """Return the results and errors of calls as text, with all that is chained to the errors."""
    said = []
    for task in tasks:
        try:
            said.append(repr(task()))
        except LossForecastError as error:
            said += traceback.format_exception(error, chain=True)[-1:]
            if not error.__suppress_context__:
                said.append(repr(error.__context__))
    return "".join(said)


def test_a_password_is_shown_by_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = ADDRESSES if FULL else random.Random(0).sample(ADDRESSES, 300)
    for text in chosen:
        said = said_by(partial(RunStore, text), partial(Settings, store=text))
        assert SECRET not in said, (text, said)
        monkeypatch.setenv("LOSSFORECAST_STORE", text)
        assert SECRET not in said_by(RunStore, Settings), text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/db",
        f"postgresql+psycopg://me:a/{SECRET}@127.0.0.1:1/db",
        f"postgresql+psycopg://me@127.0.0.1:1/db?password=a/{SECRET}",
        f"postgresql+psycopg://me@127.0.0.1:1/db?sslpassword={SECRET}&sslmode=nonsense",
    ],
)
def test_a_password_is_shown_by_no_run(text: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    monitor = train(text, total=100, until=60)
    monitor.close()
    settings = monitor.settings
    state = monitor.state_dict()
    for shown_text in (caplog.text, repr(settings), repr(state), repr(vars(settings)["run"])):
        assert SECRET not in shown_text
    assert "127.0.0.1" in caplog.text
    assert store_address(settings.place) is None
    assert SECRET not in repr(pickle.loads(pickle.dumps(state)))


def test_what_may_be_shown_of_a_url_is_shown() -> None:
    text = "postgresql+psycopg://me@host:5432/db?host=/run&sslmode=require&channel_binding=x"
    assert shown(address(text)) == (
        "postgresql+psycopg://me@host:5432/db?host=%2Frun&sslmode=require"
    )
    assert store_address(text.removesuffix("&channel_binding=x")) is not None


def test_a_store_names_itself(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs.db")
    assert repr(store) == f"RunStore('sqlite:///{tmp_path}/runs.db')"
    assert store_address(store) == f"sqlite:///{tmp_path}/runs.db"
    assert store_address(tmp_path / "a:b@c.db") == str(tmp_path / "a:b@c.db")


@pytest.mark.parametrize("place", [b"runs.db", 7, ["postgresql://me:Zecr3t@host/db"], "a\0b"])
def test_what_is_no_address_is_refused(place: object) -> None:
    for task in (lambda: RunStore(place), lambda: Settings(store=place)):  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError) as caught:
            task()
        assert SECRET not in str(caught.value)
