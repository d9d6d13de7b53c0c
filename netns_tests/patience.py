"""How long tests wait before they give up: nothing is slower for it where all is well."""

import os

__all__ = ["slow"]


def slow(seconds: float) -> float:
    """Return a stated time, stretched for machines that are known to be slow (WEIR_TEST_SLOWNESS, a factor)."""
    return seconds * float(os.environ.get("WEIR_TEST_SLOWNESS", "1"))
