"""The logger of the package, and the handler of its warnings if logging is not configured.

Messages are escaped, so that a name from a log or a store cannot forge a line.
"""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from lossforecast.printable import printable
from lossforecast.signals import contained

__all__ = ["logger", "notice"]

_NAME = "lossforecast"
_CLEAR_LINE = "\r\x1b[K"  # a bar, such as that of Keras, redraws itself below the line

logger: Final = logging.getLogger(_NAME)


def notice(message: str, *, always: bool = False) -> None:
    """Print or log a message that is not a warning, which Python's logging hides by default.

    It is a line on stderr where logging is not configured, and a record of level INFO where it is.

    Args:
        message: the line.
        always: print it also where logging is configured.
    """
    silenced = max(logger.level, logger.manager.disable) > logging.INFO
    if not always and (logging.lastResort is None or silenced or _is_configured()):
        logger.info("%s", message)
    elif sys.stderr is not None:
        with contained():  # stderr may be closed
            _print(f"{_NAME}: {printable(message)}")


def _print(line: str) -> None:
    """Print a line on stderr, above a progress bar where there is one."""
    bar: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if getattr(bar, "_instances", None):
        bar.write(line, file=sys.stderr)
    else:
        is_terminal = os.environ.get("TERM", "dumb") != "dumb" and sys.stderr.isatty()
        print(_CLEAR_LINE * is_terminal + line, file=sys.stderr)  # noqa: T201


class _ConsoleHandler(logging.Handler):
    """Prints warnings with the name of the package, where no other handler would handle them.

    Python's `logging.lastResort` would print the bare message, without its source. As soon as a
    handler is attached to this logger or to one above it, only that handler is used.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, unless logging is configured or its last resort is switched off."""
        if logging.lastResort is None or _is_configured():
            return
        with contained(lambda _: self.handleError(record)):
            _print(self.format(record))


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


def _never_raising(log: Callable[..., None], console: logging.Handler) -> Callable[..., None]:
    """Wrap `Logger._log`, through which all messages go, so that it never raises.

    Exceptions of the user's handlers, filters and record factory are printed to stderr with the
    message, as `logging` does with errors inside `Handler.emit`, unless `logging.raiseExceptions`
    is False.
    """

    def safe(level: int, msg: object, args: Any, *, stacklevel: int = 1, **more: Any) -> None:
        def report(error: Exception) -> None:
            with contained():  # stderr may be closed
                record = logging.LogRecord(_NAME, level, __file__, 0, msg, args, None)
                console.handleError(record)

        with contained(report):
            log(level, msg, args, stacklevel=stacklevel + 1, **more)

    return safe


def _install() -> None:
    if any(handler.name == _NAME for handler in logger.handlers):
        return  # this module was loaded before
    logger.addFilter(_escape)
    console = _ConsoleHandler(logging.WARNING)
    console.name = _NAME
    console.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(console)
    logger._log = _never_raising(logger._log, console)  # type: ignore[method-assign]


_install()
