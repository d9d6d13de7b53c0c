"""How the C library gives memory out: one process for as long as a node is up, whose threads each do little."""

import ctypes
import functools

# malloc.h: how many arenas threads get, and how much may be free at an arena's end before the kernel gets it back.
_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8
_TRIM_AT = 128 * 1024  # bytes; glibc's own first value, which it otherwise raises with what was freed


def spare() -> None:
    """Have all threads share one arena, and what is free at its end go back: of a node's agent 6 to 8 MB of some 70.

    To be called before there are threads. A C library without these settings is left as it is.
    """
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_AT)


def give_back() -> None:
    """Give the kernel back what is free between what is in use (malloc_trim(3)): 0.04 to 5 ms. Else nothing happens."""
    malloc_trim = getattr(_libc(), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
