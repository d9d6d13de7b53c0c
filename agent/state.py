"""What must survive a killed daemon or command: deadlines, and what `remove` needs to know of a namespace.

One small JSON file for each namespace in the run directory, written whole by rename. A file counts only for the very
namespace that it was written for: device, inode and the kernel's cookie must fit, since inodes are used again.
"""

import contextlib
import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from agent.errors import Busy, PermissionMissing
from agent.kernel.netns import Identity, Netns, identify

RUN_DIRECTORY = Path("/run/weir")
_DRAFT = re.compile(r"\.(?P<process>[0-9]+)-[0-9]+\.tmp$", re.ASCII)  # as `write_whole` names them


def run_directory() -> Path:
    """Return the directory for run-time files: ``WEIR_RUN_DIR``, or /run/weir."""
    return Path(os.environ.get("WEIR_RUN_DIR") or RUN_DIRECTORY)


def now() -> float:
    """Return seconds since boot, sleep included: the clock of every deadline here. It doesn't jump."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one namespace. Deadlines are in seconds since boot; None is no deadline.

    `ports` are the proxy's, by setting: what a removal must look for. `kept` streams stay outside, `kept_deadline` is
    the setting in seconds that `kept_until` was made from. `by_daemon`: what a daemon put there, a later one may take
    away when nobody wants it any more; what a command put there stays. `drain` is the wish that `drain_until` was made
    from. Not `settled`: whoever wrote the rules may have been killed before it had seen to the flows from before.
    `rules` is a mark of the table as it was written (`agent.drift.digest`).
    """

    name: str
    netns: str
    cookie: int
    ports: dict[str, int]
    by_daemon: bool = False
    kept: int = 0
    kept_deadline: float | None = None
    kept_until: float | None = None
    drain: float | None = None
    drain_until: float | None = None
    settled: bool = True
    rules: str = ""


class Records:
    """The records of one run directory."""

    def __init__(self, directory: Path | None = None, *, by_daemon: bool = False) -> None:
        """Keep records in `directory`, by default the run directory; `by_daemon` says who writes them."""
        self.directory = directory or run_directory()
        self.by_daemon = by_daemon

    def all(self) -> tuple[Record, ...]:
        """Return every record whose namespace is still there."""
        records = (_read(path) for path in self._files())
        return tuple(each for each in records if each is not None and self._is_there(each))

    def identities_of(self, netns: str) -> frozenset[Identity]:
        """Return the namespaces of which something is known under a name, be they there or gone."""
        known = (path.stem.split("-") for path in self._files() if (record := _read(path)) and record.netns == netns)
        return frozenset(Identity(*map(int, each)) for each in known if len(each) == 2 and all(map(str.isdigit, each)))

    def clear_away(self) -> None:
        """Delete the records of namespaces that have gone, and what killed writers left."""
        for path in self._files():
            record = _read(path)
            if record is None or not self._is_there(record):
                path.unlink(missing_ok=True)
        clear_drafts((*(self.directory / "namespaces").glob("*.tmp"), *self.directory.glob("removed.*.tmp")))

    def _files(self) -> list[Path]:
        return sorted((self.directory / "namespaces").glob("*.json"))

    def _is_there(self, record: Record) -> bool:
        identity = identify(Netns(record.netns).file)
        return identity is not None and os.path.exists(self._path(identity))

    def read(self, identity: Identity, cookie: int) -> Record | None:
        """Return what is known of a namespace; None where nothing is, or it was of another with the same inode."""
        record = _read(self._path(identity))
        return record if record and record.cookie == cookie else None

    def write(self, identity: Identity, record: Record) -> None:
        """Keep a record, replacing the one before."""
        plain = {each.name: getattr(record, each.name) for each in fields(record)}  # asdict copies, for 0.05 ms
        write_whole(self._path(identity), json.dumps(plain))

    def restore(self, identity: Identity, record: Record | None) -> None:
        """Put back what was known before."""
        if record is None:
            self.forget(identity)
        else:
            self.write(identity, record)

    def forget(self, identity: Identity) -> None:
        """Drop what is known of a namespace."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(identity))

    @contextmanager
    def held(self, identity: Identity) -> Iterator[None]:
        """Hold a namespace against every other Weir. Raises `Busy` at once when one holds it."""
        path = f"{self.directory}/locks/{identity.device}-{identity.inode}"
        with _explained(path):
            _make_folder_of(path)
            descriptor = _locked(path)
        if descriptor is None:
            raise Busy(
                f"another Weir is at work in namespace {identity}",
                hint="wait until it has finished; `weir status` asks a running daemon",
            )
        try:
            yield
        finally:
            # While it is held: namespaces come and go for months, and their locks with them.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            os.close(descriptor)

    def _path(self, identity: Identity) -> str:
        return f"{self.directory}/namespaces/{identity.device}-{identity.inode}.json"


def write_whole(path: Path | str, text: str) -> None:
    """Write a file so that a reader sees all of it or what was there before. Raises `PermissionMissing`."""
    with _explained(path):
        _make_folder_of(path)
        draft = f"{os.path.splitext(path)[0]}.{os.getpid()}-{threading.get_native_id()}.tmp"
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(draft, path)


def clear_drafts(drafts: Iterable[Path]) -> None:
    """Delete those of some files that killed writers left of `write_whole`."""
    for draft in drafts:
        found = _DRAFT.search(draft.name)
        if found and not Path("/proc", found["process"]).is_dir():
            draft.unlink(missing_ok=True)


def _make_folder_of(path: Path | str) -> None:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        os.makedirs(folder, mode=0o700, exist_ok=True)


def _locked(path: str) -> int | None:
    """Return a descriptor of a file that nobody else has locked, made where it isn't there; None where somebody has."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            return None
        # Whoever held it until now has removed the file that was just locked: it counts for nobody any more.
        os.close(descriptor)


def _read(path: Path | str) -> Record | None:
    try:
        with open(path, encoding="utf-8") as file:
            return Record(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PermissionMissing(
            statement=f"write {path}", said=error.strerror or str(error), hint="run as root, or set WEIR_RUN_DIR"
        ) from None
