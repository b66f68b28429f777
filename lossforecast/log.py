"""The logger of the package, and the handler of its warnings if logging is not configured.

Messages are escaped, so that a name from a log or a store cannot forge a line.
"""

import logging
import sys
from contextlib import suppress
from typing import Final

from lossforecast.printable import printable

__all__ = ["logger"]

_NAME = "lossforecast"

logger: Final = logging.getLogger(_NAME)


class _ConsoleHandler(logging.Handler):
    """Prints warnings with the name of the package, where no other handler would handle them.

    Python's `logging.lastResort` would print the bare message, without its source. As soon as a
    handler is attached to this logger or to one above it, only that handler is used.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, unless logging is configured or its last resort is switched off."""
        if logging.lastResort is None or _is_configured():
            return
        try:
            print(self.format(record), file=sys.stderr)  # noqa: T201
        except Exception:
            self.handleError(record)


def _is_configured() -> bool:
    """Return whether a handler other than ours receives the messages of the package."""
    current: logging.Logger | None = logger
    while current is not None:
        if any(handler.name != _NAME for handler in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


def _escape(record: logging.LogRecord) -> bool:
    """Make the message of a record printable; a message that cannot be formatted stays."""
    with suppress(Exception):  # its handlers report the error
        record.msg, record.args = printable(record.getMessage()), None
    return True


def _install() -> None:
    if any(handler.name == _NAME for handler in logger.handlers):
        return  # this module was loaded before
    logger.addFilter(_escape)
    handler = _ConsoleHandler(logging.WARNING)
    handler.name = _NAME
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(handler)


_install()
