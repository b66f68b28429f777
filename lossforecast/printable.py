"""`printable`: text from a log or a store, made safe for a terminal and for a line of a log."""

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Escape every character that `str.isprintable` rejects, as `repr` does.

    These are control characters (line ends, ESC and C1 among them), invisible format characters
    such as those that change the direction of writing, and lone surrogates. A name can then neither
    move the cursor nor look like a second line.

    Example:
        >>> print(printable("run\n\x1b[2Jé"))
        run\n\x1b[2Jé
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
