"""renameat2(2), which Python's library doesn't have: two names exchanged in one step, or none replaced."""

import ctypes
import os
from functools import cache
from pathlib import Path

# include/uapi/linux/fs.h
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
_AT_FDCWD = -100  # include/uapi/linux/fcntl.h


def rename(source: str | Path, target: str | Path, flags: int) -> None:
    """Rename as the flags say. Raises `OSError`: EINVAL where the filesystem doesn't know a flag."""
    if _libc().renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return libc
