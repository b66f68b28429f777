"""The place of a store, from the argument of a callback or the environment."""

import os
from contextlib import suppress
from typing import Any

from lossforecast.errors import ConfigurationError, StoreError
from lossforecast.log import logger
from lossforecast.store import RunStore, address, connect, default_path, switched_on

__all__ = ["Place", "StoreLike", "resolve_store"]

StoreLike = bool | str | os.PathLike[str] | RunStore | None
"""True for the store of this user; a path, a URL or a `RunStore`; False for no store; None for what
$LOSSFORECAST_STORE says: 1 is the store of this user, a path or URL another, unset no store."""
Place = str | os.PathLike[str] | RunStore
"""Path or URL of a store, or the store itself."""


def resolve_store(store: StoreLike) -> Place | None:
    """Return the place of a store; None for no store.

    With None, $LOSSFORECAST_STORE decides. If it names no store, or a library is not installed,
    there is none, with a warning instead of an error: the variable is set for all programs of a
    user.

    Raises:
        ConfigurationError: the argument names no store, or a library for it is not installed.
    """
    if store is None and switched_on():
        try:
            return resolve_store(True)
        except ConfigurationError as error:
            logger.warning("$LOSSFORECAST_STORE is set, but no run is recorded: %s", error)
    if store is None or store is False:
        return None
    place: Any = default_path() if store is True else store
    if isinstance(place, RunStore):
        return place
    if not isinstance(place, str | os.PathLike):
        raise ConfigurationError(
            "store must be True, a path, a database URL or a RunStore, not of type "
            f"{type(store).__name__}"  # the value may contain a password
        )
    with suppress(StoreError):  # it may be reachable later
        connect(address(place))
    return place
