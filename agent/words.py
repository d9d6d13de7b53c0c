"""Numbers and things in words."""


def counted(number: int, noun: str) -> str:
    """Return a number of things, such as ``1 stream`` or ``3 streams``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
