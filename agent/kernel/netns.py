"""Network namespaces: finding, identifying and entering them.

A namespace is known by device and inode of its nsfs file (namespaces(7)); a name or a path can come to mean another one
at any time, so the identity is checked again before every use. Only worker threads enter a namespace: the namespace
belongs to the thread (setns(2)), and the main thread stays where the process was started.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent.errors import KernelError, NamespaceMissing, NodeNamespace, NotANamespace, PermissionMissing, TargetError
from agent.kernel import brief
from agent.kernel.entering import HomeMissing, entered
from agent.targets import HOST

NETNS_DIRECTORY = Path("/run/netns")  # where iproute2 keeps named namespaces (ip-netns(8))
_FIRST_PROCESS = Path("/proc/1/ns/net")
_IN_MEMORY = ("/run/", "/proc/")  # where looking at a path waits for nothing
_OPENING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """Device and inode of a namespace's nsfs file. An inode may be used again once its namespace is gone."""

    device: int
    inode: int

    def __str__(self) -> str:
        return f"{self.device}:{self.inode}"


@dataclass(frozen=True, slots=True)
class Netns:
    """Where to find a namespace: ``NAME`` (as in ``ip netns``), a path, ``pid:N``, or ``host``."""

    text: str

    def __post_init__(self) -> None:
        if not self.text or "\0" in self.text:
            raise TargetError(f"netns = {self.text!r}: is empty or no path")
        if self.text.startswith("pid:") and not re.fullmatch(r"pid:[1-9][0-9]{0,9}", self.text, re.ASCII):
            raise TargetError(f"netns = {self.text!r}: wants a process number, as in pid:4711")
        if not self.text.startswith(("/", "pid:")) and ("/" in self.text or self.text in (".", "..")):
            raise TargetError(f"netns = {self.text!r}: a path must begin with /, and a name has no /")

    @property
    def is_host(self) -> bool:
        """Whether the node's own namespace is meant, by its name."""
        return self.text == HOST

    @property
    def path(self) -> Path:
        """The nsfs file."""
        return Path(self.file)

    @property
    def file(self) -> str:
        """The nsfs file's path as text: a `Path` costs five times as much, and this is asked once a second."""
        if self.is_host:
            return str(node_namespace())
        if self.text.startswith("/"):
            return self.text
        if self.text.startswith("pid:"):
            return f"/proc/{self.text.removeprefix('pid:')}/ns/net"
        return f"{NETNS_DIRECTORY}/{self.text}"

    def __str__(self) -> str:
        return self.text


def identify(path: Path | str) -> Identity | None:
    """Return the identity of what a path holds now, or None where it holds nothing."""
    text = str(path)
    try:
        if text.startswith(_IN_MEMORY):
            return Identity(*brief.identify(text)[:2])
        found = os.stat(text)
    except (OSError, ValueError):
        return None
    return Identity(found.st_dev, found.st_ino)


def node_namespace() -> Path:
    """Return the nsfs file of the node's own namespace: that of process 1.

    Where the kernel doesn't let this process look at process 1 (which then has privileges that this one lacks), it is
    the namespace in which Weir was started.
    """
    if identify(_FIRST_PROCESS):
        return _FIRST_PROCESS
    # The main thread, whose number is the process's, never enters another namespace.
    return Path(f"/proc/self/task/{os.getpid()}/ns/net")


@cache
def node_identity() -> Identity:
    """Return the identity of the node's own namespace, which stays the same."""
    found = identify(node_namespace())
    if found is None:
        raise PermissionMissing(
            statement=f"stat {_FIRST_PROCESS}",
            said="the node's namespace can't be told from others",
            hint="run as root, with /proc mounted",
        )
    return found


class OpenNetns:
    """An open namespace: its descriptor keeps it alive, so it is closed as soon as the namespace is to go."""

    __slots__ = ("_descriptor", "identity", "netns")

    def __init__(self, netns: Netns) -> None:
        """Open and check a namespace.

        Raises `NamespaceMissing`, `NotANamespace`, `NodeNamespace`, or `PermissionMissing`.
        """
        self.netns = netns
        try:
            self._descriptor = _opened(netns.file)
        except OSError as error:
            raise _open_error(netns, error) from None
        try:
            self.identity = self._identify()
        except BaseException:
            self.close()
            raise

    def _identify(self) -> Identity:
        device, inode, mode = brief.identify(self._descriptor)
        if not stat.S_ISREG(mode) or brief.kind_of_namespace(self._descriptor) != brief.CLONE_NEWNET:
            raise NotANamespace(f"netns = {self.netns.text!r}: {self.netns.path} is no network namespace")
        identity = Identity(device, inode)
        if not self.netns.is_host and identity == node_identity():
            raise NodeNamespace(
                f"netns = {self.netns.text!r}: {self.netns.path} is the node's own namespace",
                hint='if the node itself is meant, write netns = "host"',
            )
        return identity

    def check(self) -> None:
        """Raise `NamespaceMissing` when the path no longer leads to this namespace."""
        if self._descriptor < 0 or identify(self.netns.file) != self.identity:
            raise NamespaceMissing(f"netns = {self.netns.text!r}: {self.netns.path} no longer leads to {self.identity}")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in this namespace, with the calling thread only, until the block ends. It can be in another block."""
        try:
            with entered(self._descriptor):
                yield
        except HomeMissing as error:
            raise _open_error(self.netns, error.reason) from None

    def close(self) -> None:
        """Let go of the namespace."""
        if self._descriptor >= 0:
            brief.close(self._descriptor)
            self._descriptor = -1


def _opened(path: str) -> int:
    return (brief.opened if path.startswith(_IN_MEMORY) else os.open)(path, _OPENING)


def _open_error(netns: Netns, error: OSError) -> Exception:
    where = f"netns = {netns.text!r}: {netns.path}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionMissing(statement=f"open {netns.path}", said=str(error.strerror), hint="run as root")
    if error.errno in (errno.ENOENT, errno.ESRCH, errno.ENOTDIR):
        return NamespaceMissing(f"{where} does not exist", hint="`ip netns` lists the namespaces that have a name")
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        hint = "a namespace takes some eight open files at most: raise LimitNOFILE of the unit, or fs.file-max"
        return KernelError(statement=f"open {netns.path}", said=str(error.strerror), hint=hint)
    return NotANamespace(f"{where} can't be opened: {error.strerror}")


def named() -> tuple[Netns, ...]:
    """Return the namespaces that have a name, as ``ip netns`` lists them."""
    try:
        names = sorted(os.listdir(NETNS_DIRECTORY))
    except OSError:
        return ()
    return tuple(Netns(name) for name in names)


def mounted() -> tuple[Netns, ...]:
    """Return the namespaces that are mounted on a path, as container runtimes keep theirs (mountinfo, proc(5)).

    Those of another mount namespace are not seen.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ()
    fields = (line.split(" ") for line in lines)
    return tuple(Netns(_unescaped(each[4])) for each in fields if each[3].startswith("net:["))


def _unescaped(path: str) -> str:
    # The kernel writes blanks, line ends and backslashes as three octal digits (mangle_path).
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def everywhere() -> dict[Identity, Netns]:
    """Return every namespace on the machine, but for the node's own: with a name, on a path, or of a process.

    One that only a descriptor or a thread keeps is not found.
    """
    found: dict[Identity, Netns] = {}
    node = node_identity()
    processes = (Netns(f"pid:{name}") for name in os.listdir("/proc") if name.isdigit())
    for netns in (*named(), *mounted(), *processes):
        identity = identify(netns.file)
        if identity is not None and identity != node:
            found.setdefault(identity, netns)
    return found
