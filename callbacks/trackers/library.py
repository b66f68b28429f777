"""`library`: a tracker's library, loaded when its sink is created."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lossforecast.errors import ConfigurationError

__all__ = ["draws", "library"]


def library(name: str, sink: object) -> Any:
    """Import a library that a sink needs.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{type(sink).__name__} needs {name}: pip install {name} ({error})"
        ) from error


def draws(pictures: bool | None) -> bool:
    """Return whether to draw pictures: as asked for, by default where matplotlib is installed."""
    return find_spec("matplotlib") is not None if pictures is None else pictures
