"""`log_lines`: the lines of a text log that may hold numbers, as a person would read them."""

import re
from collections.abc import Iterator

from lossforecast.readers.languages import lines_in_english
from lossforecast.readers.phrases import without_colours
from lossforecast.readers.source import Source
from lossforecast.readers.text import open_text, whole_lines

__all__ = ["log_lines", "rank_at_start", "rank_within", "text_of"]

_MAX_CHARACTERS = 4000  # of a line that are read
_MAX_JOINED = 100  # lines of a printed dict
_BACKSPACES = re.compile(r"\x08+")
_CODE = re.compile(
    r"\s*(?:(?:def|class|for|while|if|elif|with|import|from|return|assert|print)\b.*[:()]"
    r"|[\w.]+ [-+*/]?= .*\w\(.*\)\s*$)"
)
"""Lines of a program, which some logs begin with."""
_RANK = re.compile(
    r"[^\w(]*(?:\[?(?:default|rank|gpu|worker)[ _:=-]?(\d+)[\]:]|\[\d+,(\d+)\]<"
    r"|\(\w+ (?:pid|rank)=(\d+)|(\d+):(?=\s))",
    re.IGNORECASE,
)
_RANK_WITHIN = re.compile(
    r"(?<![\w-])(?:rank|worker|gpu|process)[ _:=#-]{0,2}(\d+)(?![\w.%/])", re.IGNORECASE
)


def log_lines(source: Source) -> Iterator[tuple[str, str]]:
    """The lines, each after its place in the log.

    A dict printed on several lines is one of them; what a line went back over by backspaces are
    others. Lines of a program are left out.
    """
    joined: list[str] = []
    for number, whole in enumerate(lines_in_english(text_of(source)), 1):
        where = f"{source.path}, line {number}"
        if "\x1b" in whole:
            whole = without_colours(whole)
        if "#011" in whole:
            whole = whole.replace("#011", "\t")  # a tab that syslog wrote
        if "\x08" in whole:
            parts = [part[:_MAX_CHARACTERS] for part in _BACKSPACES.split(whole)]
            yield from ((where, part) for part in parts if part.strip())
            continue
        whole = whole[:_MAX_CHARACTERS]
        joined = _joined(joined, whole)
        if joined and len(joined) < _MAX_JOINED and "}" not in whole:
            continue
        parts = joined or [whole]
        if len(parts) > 1 and "}" in whole:
            parts = [" ".join(part.strip() for part in joined)[:_MAX_CHARACTERS]]
        joined = []
        yield from ((where, part) for part in parts if not _CODE.match(part))
    for part in joined:
        yield str(source.path), part


def text_of(source: Source) -> Iterator[str]:
    """The lines as they are."""
    if source.lines is not None:
        yield from source.lines
        return
    with open_text(source.path, errors="replace") as file:
        yield from whole_lines(source, file)


def _joined(before: list[str], line: str) -> list[str]:
    """The lines of a dict so far; [] outside of one."""
    if before:
        return [*before, line]
    begins = "{" in line and "}" not in line and line.rpartition("{")[2].lstrip()[:1] in ("'", '"')
    return [line] if begins else []


def rank_at_start(line: str, counted: bool) -> str | None:
    """The process that a line begins with, of several that write one log: `[rank1]:`, `1: `.

    Args:
        line: the line.
        counted: True if it has a step or an epoch, so that a number in front of it is none.
    """
    match = _RANK.match(line)
    if match is None or (match[4] is not None and not counted):
        return None
    return match[match.lastindex or 0]


def rank_within(line: str) -> str | None:
    """The process that a line names anywhere, as in `step 1 rank 3 loss 2.5`."""
    match = _RANK_WITHIN.search(line)
    return None if match is None else match[1]
