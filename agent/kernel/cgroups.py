"""Cgroups of version 2: where they are mounted, and the numbers by which the kernel calls them.

Rules compare the number of a directory, which is its inode's (fs/kernfs/dir.c: on 64 bits the inode's number is the
whole one). One that is made anew, as a service's is with each start, has another number; a number never comes again.

Sources: net/netfilter/nft_socket.c, Documentation/admin-guide/cgroup-v2.rst, proc_pid_mountinfo(5).
"""

import os
import re
import stat
from pathlib import Path

from agent.errors import TargetError

_MOUNTS = Path("/proc/self/mountinfo")
_NAMESPACE = Path("/proc/self/ns/cgroup")
_FIRST_NAMESPACE = 0xEFFFFFFB  # its inode: include/linux/proc_ns.h, PROC_CGROUP_INIT_INO
_ESCAPED = re.compile(rb"\\([0-7]{3})")


def root() -> Path:
    """Return the directory of the root cgroup. Raises `TargetError` with the reason where this process can't have it.

    In a cgroup namespace of its own a process doesn't see how deep it is, and whether the kernel counts levels from
    there or from the real root depends on its version (since 6.11, and in stable releases, from there).
    """
    if _NAMESPACE.exists() and _NAMESPACE.stat().st_ino != _FIRST_NAMESPACE:
        raise TargetError(
            "cgroups can't be told apart by their levels from inside a cgroup namespace",
            hint="run Weir in the machine's own (docker run --cgroupns host), or tell the proxy by mark or user",
        )
    found = [_mount(line) for line in _MOUNTS.read_bytes().splitlines()]
    for kind, within, place in found:
        if kind == b"cgroup2" and within == b"/":
            return Path(os.fsdecode(place))
    v1 = any(kind == b"cgroup" for kind, *_ in found)
    raise TargetError(
        "no cgroup2 is mounted here" + (", only cgroup v1, whose groups rules can't tell apart" if v1 else ""),
        hint="mount -t cgroup2 none /sys/fs/cgroup/unified, and start the proxy in a cgroup there;"
        " or tell it by mark or user",
    )


def _mount(line: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the type of a mount, what of its file system is mounted, and where."""
    before, _, after = line.partition(b" - ")
    within, place = before.split()[3:5]
    return after.split()[0], within, _ESCAPED.sub(lambda each: bytes((int(each[1], 8),)), place)


def number(path: str) -> int | None:
    """Return the number of the cgroup at a path from the root, or None when there is no such directory.

    Raises `TargetError` where there is something else, and as `root` does.
    """
    top = root()
    try:
        found, above = (top / path).stat(), top.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise TargetError(f"{top / path}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_dev != above.st_dev:
        raise TargetError(f"{top / path} is no cgroup")
    return found.st_ino
