"""The command line, ``lossforecast`` or ``python -m lossforecast``."""

from lossforecast.cli.app import main

__all__ = ["main"]
