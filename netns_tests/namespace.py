"""Network namespaces that clean up after themselves, even when the process that made them was killed.

A namespace is called `wt-<pid>-<n>-<prefix>` and is visible as `/run/netns/NAME`, as if `ip netns add` had made it.
`/run/weir-tests/<pid>` holds the start time of its maker: a reused pid does not keep the namespaces of a dead one.
"""

import atexit
import contextlib
import errno
import itertools
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from netns_tests.syscalls import configure, enter, pin_new_namespace, sysctl, unpin

__all__ = ["Namespace", "delete_all", "sweep"]

P = ParamSpec("P")
T = TypeVar("T")

NETNS_DIRECTORY = Path("/run/netns")
OWNERS_DIRECTORY = Path("/run/weir-tests")
NAME = re.compile(r"wt-(\d+)-\d+-.*")
LONGEST_NAME = 31

_numbers = itertools.count(1)
_lock = threading.Lock()
_live: "dict[str, Namespace]" = {}
_prepared: set[int] = set()  # the pids that have swept and written their owner file: a forked child has not


class Namespace:
    """A network namespace of our own, with `lo` up and without the delays of duplicate address detection."""

    def __init__(self, name: str, maker: int) -> None:
        """Describe a namespace that exists already; `create` makes one."""
        self.name = name
        self.path = NETNS_DIRECTORY / name
        self._maker = maker
        self._processes: list[subprocess.Popen[bytes]] = []

    @classmethod
    def create(cls, prefix: str = "ns") -> Self:
        """Make a namespace with a name nobody else has."""
        _prepare()
        maker = os.getpid()
        name = f"wt-{maker}-{next(_numbers)}-"
        name += prefix[: LONGEST_NAME - len(name)]
        future: Future[None] = Future()
        _start(future, pin_new_namespace, NETNS_DIRECTORY / name)
        future.result()
        namespace = cls(name, maker)
        with _lock:
            _live[name] = namespace
        namespace.run(configure)
        return namespace

    def thread(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Start `fn` in a thread of its own inside the namespace; `.result(timeout)` waits for it."""

        def inside() -> T:
            enter(self.path)
            return fn(*args, **kwargs)

        future: Future[T] = Future()
        _start(future, inside)
        return future

    def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `fn` inside the namespace and return what it returns; what it raises is raised here."""
        return self.thread(fn, *args, **kwargs).result()

    def spawn(
        self,
        argv: Sequence[str],
        *,
        user: int | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process inside the namespace. It is killed with the namespace if it still runs then."""

        # A child is born in the namespace of the thread that forks it: no nsenter, no code between fork and exec.
        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(argv, user=user, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd)

        process = self.run(start)
        self._processes.append(process)
        return process

    def command(self, *argv: str, stdin: str = "", user: int | None = None) -> str:
        """Run a command inside the namespace to its end and return its output; a failure says what was said."""

        def call() -> subprocess.CompletedProcess[str]:
            return subprocess.run(argv, input=stdin, text=True, capture_output=True, user=user, check=False)

        done = self.run(call)
        if done.returncode:
            fed = f" <<'END'\n{stdin}\nEND" if stdin else ""
            raise RuntimeError(
                f"exit {done.returncode}: ip netns exec {self.name} {' '.join(argv)}{fed}\n{done.stderr}{done.stdout}"
            )
        return done.stdout

    def ip(self, *lines: str) -> None:
        """Run lines of `ip -batch` inside the namespace."""
        self.command("ip", "-batch", "-", stdin="\n".join(lines))

    def nft(self, script: str) -> None:
        """Load an nftables script inside the namespace."""
        self.command("nft", "-f", "-", stdin=script)

    def socket(self, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        """Return a socket that belongs to the namespace; any thread may use it."""
        return self.run(socket.socket, family, kind, protocol)

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Return a setting such as `net/ipv6/conf/all/disable_ipv6`, after writing it when a value is given."""
        return self.run(sysctl, name, value)

    def processes(self) -> list[int]:
        """Return the pids that are in the namespace (this process itself is not one of them)."""
        return _inhabitants(self.path)

    def delete(self) -> None:
        """Kill what was spawned inside and remove the name. Sockets and threads left inside keep the rest alive."""
        if self._maker != os.getpid():
            return  # a forked child has no say about its parent's namespaces
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._processes.clear()
        unpin(self.path)
        with _lock:
            _live.pop(self.name, None)

    def __enter__(self) -> Self:
        """Delete the namespace at the end of the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Delete the namespace."""
        self.delete()

    def __repr__(self) -> str:
        """Name the namespace as a test failure should."""
        return f"<{type(self).__name__} {self.name}>"


def delete_all() -> None:
    """Delete every namespace that this process still has."""
    for namespace in list(_live.values()):
        namespace.delete()


def _leave() -> None:
    """At the end of the process: delete everything, then the owner file, which must outlive the last namespace."""
    delete_all()
    if os.getpid() in _prepared:
        (OWNERS_DIRECTORY / str(os.getpid())).unlink(missing_ok=True)


def sweep() -> list[str]:
    """Remove the namespaces whose maker is dead, and the processes it left in them. Return their names."""
    if not NETNS_DIRECTORY.is_dir():
        return []
    stale = []
    for path in NETNS_DIRECTORY.iterdir():
        match = NAME.fullmatch(path.name)
        if match is None or _is_owner(int(match[1])):
            continue
        for pid in _inhabitants(path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        unpin(path)
        stale.append(path.name)
    for owner in OWNERS_DIRECTORY.glob("*"):
        pid = int(owner.name.removesuffix(".new"))  # which somebody may be writing at this moment
        if _start_time(pid) is None if owner.suffix else not _is_owner(pid):
            owner.unlink(missing_ok=True)
    return stale


def _prepare() -> None:
    """Once per process: sweep what dead runs left, and say who we are before the first namespace exists."""
    with _lock:
        if os.getpid() in _prepared:
            return
        if os.geteuid() != 0:
            raise PermissionError(errno.EPERM, "the test world makes network namespaces: run it as root")
        _live.clear()
        NETNS_DIRECTORY.mkdir(parents=True, exist_ok=True)
        OWNERS_DIRECTORY.mkdir(parents=True, exist_ok=True)
        sweep()
        owner = OWNERS_DIRECTORY / str(os.getpid())
        new = owner.with_name(f"{owner.name}.new")
        new.write_text(_start_time(os.getpid()) or "")
        new.replace(owner)
        atexit.register(_leave)
        _prepared.add(os.getpid())


def _is_owner(pid: int) -> bool:
    """Say if the process that wrote the owner file still runs, rather than another that got its pid later."""
    started = _start_time(pid)
    if started is None:
        return False
    try:
        return (OWNERS_DIRECTORY / str(pid)).read_text() == started
    except FileNotFoundError:
        return False  # the file is written before the first namespace, so whoever has this pid now made none


def _start_time(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot; nothing when it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _inhabitants(path: Path) -> list[int]:
    """Return the pids whose main thread is in a namespace."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                status = (entry / "ns/net").stat()
                if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(int(entry.name))
    return found


def _start(future: "Future[T]", fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call `fn` in a new thread. A daemon: a test that hangs must not keep the whole run from ending."""

    def target() -> None:
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - raised again by result
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=target, daemon=True, name=getattr(fn, "__name__", "test-world")).start()
