"""Distinguishes exceptions raised by the user's signal handlers from those of the package.

Python runs signal handlers in the main thread, between any two instructions. The exception of a
handler, such as the TimeoutError of a SIGALRM, may therefore appear inside the package, although
it is meant for the code around it.
"""

import signal
import sys
from collections.abc import Callable
from itertools import pairwise
from types import CodeType, FrameType, TracebackType
from typing import Any, Self

__all__ = ["contained", "ends", "is_from_signal"]

_MAX_CHAINED = 100  # exceptions, each raised while the next one was handled
_MAX_WRAPPERS = 20  # around the function of a handler


class contained:  # noqa: N801  used like contextlib.suppress
    """Context manager that suppresses exceptions, except those of the user's signal handlers.

    KeyboardInterrupt, SystemExit and others that do not derive from `Exception` pass, too.

    Args:
        report: called with each exception that is suppressed.
    """

    def __init__(self, report: Callable[[Exception], object] | None = None) -> None:
        self._report = report
        self._handled: BaseException | None = None  # already being handled around this context

    def __enter__(self) -> Self:
        self._handled = sys.exception()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        handled, self._handled = self._handled, None
        return isinstance(error, Exception) and ends(error, handled, self._report)


def ends(
    error: Exception,
    handled: BaseException | None,
    report: Callable[[Exception], object] | None = None,
) -> bool:
    """Return whether to suppress an exception, and report it if so; for an ``except`` clause.

    An exception is suppressed unless a signal handler raised it. If handling the exception of a
    signal handler led to this one, that of the signal handler is raised instead.

    Args:
        error: the exception.
        handled: what ``sys.exception()`` returned before the ``try``.
        report: called with the exception if it is suppressed.
    """
    theirs = _chained_from_signal(error, handled)
    if theirs is None:
        if report is not None:
            report(error)
        return True
    if theirs is not error:
        _raise_unchanged(theirs)
    return False


def is_from_signal(error: BaseException) -> bool:
    """Return whether a Python signal handler raised an exception.

    Python calls a handler with the number of the signal and the frame that it interrupts, so a
    frame that was called with its own caller after a whole number is that of a handler. In
    addition, the code of the installed handlers is recognised. A handler written in C leaves no
    frame.
    """
    frames = list[FrameType]()
    link = error.__traceback__
    while link is not None:
        frames.append(link.tb_frame)
        link = link.tb_next
    handlers = _handler_codes() if frames else set()
    return any(frame.f_code in handlers or _interrupts_its_caller(frame) for frame in frames)


def _chained_from_signal(error: Exception, handled: BaseException | None) -> BaseException | None:
    """Return the exception of a signal handler among those that led to `error`, if any.

    Args:
        error: an exception.
        handled: an exception that was being handled before; it and those before it do not count.
    """
    waiting: list[BaseException | None] = [error]
    seen = set[int]()
    while waiting and len(seen) < _MAX_CHAINED:
        each = waiting.pop()
        if each is None or each is handled or id(each) in seen:
            continue
        if is_from_signal(each):
            return each
        seen.add(id(each))
        waiting += [each.__context__, each.__cause__]
    return None


def _raise_unchanged(error: BaseException) -> None:
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context


def _interrupts_its_caller(frame: FrameType) -> bool:
    code, caller = frame.f_code, frame.f_back
    if caller is None:
        return False
    values = frame.f_locals
    n_named = code.co_argcount
    arguments = [values.get(name) for name in code.co_varnames[:n_named]]
    if code.co_flags & 0x04:  # CO_VARARGS
        arguments += values.get(code.co_varnames[n_named + code.co_kwonlyargcount], ())
    return any(b is caller and isinstance(a, int) for a, b in pairwise(arguments))


def _handler_codes() -> set[CodeType]:
    """Return the code of the functions that handle signals at present."""
    codes = set[CodeType]()
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        if not callable(handler) or isinstance(handler, signal.Handlers):
            continue
        for _ in range(_MAX_WRAPPERS):
            code = getattr(handler, "__code__", None)
            if isinstance(code, CodeType):
                codes.add(code)
            inner = (
                getattr(handler, "__wrapped__", None)
                or getattr(handler, "__func__", None)  # a bound method
                or getattr(handler, "func", None)  # a partial
            )
            if inner is None and code is None:
                inner = getattr(type(handler), "__call__", None)  # noqa: B004
            if inner is None or inner is handler:
                break
            handler = inner
    return codes
