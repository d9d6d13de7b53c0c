"""Where the guard of a change that waits to be confirmed is to be found, and whether there is one."""

import re
from pathlib import Path

from agent.kernel.netns import Identity

_FOLDER = "confirm"


def guard_folder(directory: Path) -> Path:
    """Return the folder of a run directory in which guards have their sockets and locks."""
    return directory / _FOLDER


def guard_socket(directory: Path, identity: Identity) -> Path:
    """Return where the guard of a namespace listens."""
    return guard_folder(directory) / f"{identity.device}-{identity.inode}.sock"


def is_guarded(directory: Path, identity: Identity) -> bool:
    """Tell whether a change of this namespace waits to be confirmed.

    Its guard holds a lock. That is looked up in /proc/locks (proc(5)): to try the lock would keep a guard from it that
    begins in this moment, and to connect to the socket would confirm.
    """
    try:
        inode = (guard_folder(directory) / "locks" / f"{identity.device}-{identity.inode}").stat().st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return False
    return re.search(rf"^\d+: FLOCK +ADVISORY +WRITE +\d+ +\S+:{inode} ", locks, re.MULTILINE) is not None
