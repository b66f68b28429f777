"""The address of a store: a path or a database URL, and what may be shown of it."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

from lossforecast.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = [
    "address",
    "default_path",
    "full_address",
    "is_missing",
    "make_folder",
    "redacted",
    "secrets_of",
    "shown",
    "switched_on",
]

_VARIABLE = "LOSSFORECAST_STORE"
_SWITCHES = ("0", "1")
_HARMLESS_OPTIONS = {
    "application_name",
    "connect_timeout",
    "host",
    "mode",
    "options",
    "port",
    "sslmode",
    "target_session_attrs",
    "tcp_user_timeout",
    "timeout",
    "uri",
}
"""Options of a URL that may be shown; any other may hold a password."""
# not a path: a URL that has lost its "://" and may hold a password
_BROKEN_URL = re.compile(
    r"(?![/\\.~]|[a-z]:[/\\])(.*:.*@|.*@.*:)|.*(password|passwd|pwd)=", re.IGNORECASE | re.DOTALL
)


def default_path() -> str | Path:
    """Location of this user's store: $LOSSFORECAST_STORE, or a file in the user data folder.

    1 and 0 are no locations: they switch the store of every callback on and off, see `switched_on`.

    Raises:
        ConfigurationError: the user has no home folder.
    """
    given = os.environ.get(_VARIABLE, "")
    if given not in ("", *_SWITCHES):
        return given if "://" in given else Path(given)
    try:
        if sys.platform == "win32":
            home = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            home = Path.home() / "Library" / "Application Support"
        else:
            home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError:
        raise ConfigurationError(
            "there is no default place for the store, because this user has no home folder: set "
            "$LOSSFORECAST_STORE to a path or a database URL, or give one instead of store=True"
        ) from None
    return home / "lossforecast" / "runs.db"


def switched_on() -> bool:
    """Return whether $LOSSFORECAST_STORE switches the store on for every callback.

    It does if it is 1, a path or a URL; it does not if it is 0, empty or unset.
    """
    return os.environ.get(_VARIABLE, "") not in ("", "0")


def address(where: str | os.PathLike[str] | None) -> "sa.URL":
    """The URL of a store, given by its URL or path; None for the store of this user.

    Raises:
        ConfigurationError: SQLAlchemy is not installed, or `where` is not the URL of a persistent
            database.
    """
    try:
        import sqlalchemy as sa
    except ImportError as error:
        raise ConfigurationError(
            'a store needs SQLAlchemy: pip install "lossforecast[store]"'
        ) from error
    given = default_path() if where is None else where
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ConfigurationError(
            f"a store is given by a path or a database URL, not by a {type(given).__name__}"
        )
    if "://" not in text:
        return sa.URL.create("sqlite", database=_absolute(text))
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        url = None
    if url is None or _is_ambiguous(text, url):
        raise _not_a_url()  # neither the text nor its parts are shown: they may hold a password
    if url.get_backend_name() == "sqlite" and _in_memory(url):
        raise ConfigurationError(f"{shown(url)} is in memory and would not last: give a path")
    return url


def shown(url: "sa.URL") -> str:
    """A URL without passwords."""
    options = {name: value for name, value in url.query.items() if name in _HARMLESS_OPTIONS}
    return url.set(query=options).render_as_string(hide_password=True)


def full_address(where: str | os.PathLike[str]) -> str | None:
    """The path or URL of a store as text, with all options; None if it may hold a password."""
    text = os.fspath(where)
    return None if secrets_of(address(where)) else text


def secrets_of(url: "sa.URL") -> list[str]:
    """The password in a URL, and every option that may hold one."""
    options = [value for name, value in url.query.items() if name not in _HARMLESS_OPTIONS]
    values = [part for value in options for part in ([value] if isinstance(value, str) else value)]
    return [*([str(url.password)] if url.password else []), *filter(None, values)]


def redacted(text: str, url: "sa.URL") -> str:
    """A message of a driver without the passwords of a URL."""
    for secret in secrets_of(url):
        for form in (secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]):
            text = text.replace(form, "***")
    return text


def is_missing(url: "sa.URL") -> bool:
    """Return whether a URL is that of a SQLite file that does not exist."""
    if url.get_backend_name() != "sqlite" or "uri" in url.query:
        return False
    return not Path(url.database or "").exists()


def make_folder(url: "sa.URL") -> None:
    """Create the folder of a SQLite file.

    Raises:
        StoreError: the folder cannot be created.
    """
    if url.get_backend_name() != "sqlite" or "uri" in url.query:
        return
    try:
        Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the store {url.database} cannot be created: {error}") from error


def _absolute(text: str) -> str:
    """The absolute path of a SQLite file."""
    if _BROKEN_URL.match(text):
        raise _not_a_url()
    if "\0" in text:
        raise ConfigurationError("the path of the store has a nul character in it")
    try:
        return str(Path(text).expanduser().absolute())
    except (RuntimeError, OSError) as error:  # no home folder; the working directory is gone
        raise ConfigurationError(
            f"the path of the store, {text!r}, cannot be used here ({error}): give an absolute path"
        ) from error


def _is_ambiguous(text: str, url: "sa.URL") -> bool:
    """Return whether a password may have been cut at an unquoted @, or taken for something else."""
    if url.get_backend_name() == "sqlite":
        return bool(url.host or url.username)  # a file has no host
    swallowed = str(url.password or "").partition("?")[2]  # options before an @
    return text.count("@") > 1 or "?" in (url.username or "") or "=" in swallowed


def _not_a_url() -> ConfigurationError:
    return ConfigurationError(
        "the address of the store (not shown, as it may hold a password) is not a database URL, "
        "such as postgresql+psycopg://user@host/name. Write user and password with "
        "urllib.parse.quote_plus: @ is %40. A file with : and @ in its name is given by its "
        "absolute path"
    )


def _in_memory(url: "sa.URL") -> bool:
    return (
        url.database in (None, "", ":memory:", "file::memory:") or url.query.get("mode") == "memory"
    )
