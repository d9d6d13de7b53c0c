"""Numbers and things in words, and others' words made fit to be shown."""

_LONGEST = 1000  # characters of somebody else's words that are kept


def counted(number: int, noun: str) -> str:
    """Return a number of things, such as ``1 stream`` or ``3 streams``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    """Return words of somebody else's fit for a log or a terminal: one line, of a length that can be read.

    What can't be printed (control characters, line ends, what turns the direction of writing) is escaped as in Python's
    strings, so that it moves no cursor, ends no line, and is still seen.
    """
    line = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text[: _LONGEST + 1]
    )
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
