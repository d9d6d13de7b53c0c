"""What the daemon takes for its process: a run directory of its own, and open files."""

import fcntl
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import Busy, PermissionMissing


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Be the only daemon of a run directory. Raises `Busy`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = path.open("a", encoding="ascii")
    except OSError as error:
        raise PermissionMissing(
            statement=f"write {path}", said=error.strerror or str(error), hint="set WEIR_RUN_DIR"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another daemon runs already: it holds {path}", hint="`weir status` asks it") from None
        yield


def raise_file_limit() -> None:
    """Allow as many open files as the hard limit does: a namespace takes about eight."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
