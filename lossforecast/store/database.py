"""`Database`: the database of a run store, and its transactions."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lossforecast.errors import StoreError
from lossforecast.store.address import (
    address,
    is_missing,
    make_folder,
    redacted,
    secrets_of,
    shown,
)
from lossforecast.store.engines import connect
from lossforecast.store.schema import (
    Tables,
    bring_up_to_date,
    identity_of,
    is_complete,
    newest_version,
    version_of,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Database"]


class Database:
    """The database of a store: its tables, and transactions that raise only `StoreError`.

    Args:
        where: as in `lossforecast.RunStore`.
        make: whether to create the database if it does not exist.
    """

    def __init__(self, where: str | os.PathLike[str] | None = None, *, make: bool = True) -> None:
        self._address = address(where)
        if make:
            self.make()
            return
        if is_missing(self._address):
            raise StoreError(f"there is no store {self.url}")
        with self.transaction("opened", writes=False) as connection:
            version = version_of(connection, self.url)
        if version == 0:
            raise StoreError(f"there is no store {self.url}: the database has no runs in it")
        if version != newest_version():
            self._bring_up_to_date()

    @property
    def url(self) -> str:
        """URL of the database, without passwords."""
        return shown(self._address)

    @property
    def full_url(self) -> str | None:
        """URL of the database with all options; None if it holds a password."""
        if secrets_of(self._address):
            return None
        return self._address.render_as_string(hide_password=False)

    @cached_property
    def tables(self) -> Tables:
        """The schema."""
        return Tables.make()

    @cached_property
    def reader(self) -> "sa.Engine":
        """The engine of this process for transactions that read."""
        return connect(self._address, writes=False)

    @cached_property
    def writer(self) -> "sa.Engine":
        """The engine of this process for transactions that write."""
        return connect(self._address)

    def __getstate__(self) -> dict[str, Any]:
        """The address alone: connections cannot move to another process."""
        return {"_address": self._address}

    def make(self) -> None:
        """Create the database, or what is missing of it."""
        make_folder(self._address)
        with self.transaction("opened", writes=False) as connection:
            complete = is_complete(connection, self.url)
        if not complete:  # only a change of the schema has to wait for other writers
            self._bring_up_to_date()

    def identity(self) -> str:
        """Identity of the tables: it changes when they are deleted and created again."""
        with self.transaction("read", writes=False) as connection:
            return identity_of(connection)

    @contextmanager
    def transaction(self, what: str, *, writes: bool = True) -> Iterator["sa.Connection"]:
        """Open a transaction.

        Args:
            what: past participle for error messages: the store cannot be "opened", "written".
            writes: whether it writes, and so waits for other writers.

        Raises:
            StoreError: any error of the database.
        """
        import sqlalchemy as sa

        try:
            with (self.writer if writes else self.reader).begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()
            reason = redacted(cause[0] if cause else repr(error), self._address)
            raise StoreError(f"the store {self.url} cannot be {what}: {reason}") from None

    def _bring_up_to_date(self) -> None:
        with self.transaction("opened") as connection:
            bring_up_to_date(connection, self.url)
