"""What the daemon takes for its process: a run directory of its own, and open files."""

import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.errors import Busy, PermissionMissing

_OWN = "weir"  # the name of the run directory that nobody has named (agent.state), and of the chart's


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Be the only daemon of a run directory, by a lock that nobody but its owner can take. Raises `Busy`.

    A lock needs no more than the right to read, so the file is for its owner alone, and so is the directory where it is
    Weir's by its name: a folder of a node that somebody else has made, as the kubelet does, is open to all. Another
    one that was named may have more in it, and whoever named it chose its mode.
    """
    with os.fdopen(_locked(path), "wb"):
        yield
        with suppress(OSError):
            if os.listdir(path.parent) == [path.name]:  # an uninstall has left nothing else
                path.unlink()


def _locked(path: Path) -> int:
    """Return a descriptor that holds the lock at a path. One that ends takes the file away with it: then once more."""
    while True:
        lock = _opened(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except BlockingIOError:
            os.close(lock)
            raise Busy(f"another daemon runs already: it holds {path}", hint="`weir status` asks it") from None
        except FileNotFoundError:  # in this moment
            pass
        os.close(lock)


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.name == _OWN:
            path.parent.chmod(0o700)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.fchmod(lock, 0o600)
    except OSError as error:
        raise PermissionMissing(
            statement=f"write {path}", said=error.strerror or str(error), hint="set WEIR_RUN_DIR"
        ) from None
    return lock


def raise_file_limit() -> None:
    """Allow as many open files as the hard limit does: a namespace takes about eight."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
