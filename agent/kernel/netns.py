"""Network namespaces: finding, identifying and entering them.

A namespace is known by device and inode of its nsfs file (namespaces(7)); a name or a path can come to mean another one
at any time, so the identity is checked again before every use. Only worker threads enter a namespace: the namespace
belongs to the thread (setns(2)), and the main thread stays where the process was started.
"""

import ctypes
import errno
import fcntl
import os
import re
import socket
import stat
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent.errors import KernelError, NamespaceMissing, NodeNamespace, NotANamespace, PermissionMissing, TargetError
from agent.targets import HOST

NETNS_DIRECTORY = Path("/run/netns")  # where iproute2 keeps named namespaces (ip-netns(8))
_FIRST_PROCESS = Path("/proc/1/ns/net")
_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h
_SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h, since 5.14
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1  # netdevice(7)
# PyDLL keeps the interpreter to itself: setns takes 3 us, and giving it away between two threads costs ten times that.
_libc = ctypes.PyDLL(None, use_errno=True)


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
    try:
        found = os.stat(path)
    except OSError:
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


class _Here(threading.local):
    """Where the calling thread is: in the namespace of the descriptor `inside`, or in its own (-1)."""

    def __init__(self) -> None:
        self.inside = -1
        self._home: _Descriptor | None = None

    def home(self) -> int:
        """Return a descriptor of the thread's own namespace, opened once: 10 us less on a starting pod's path."""
        if self._home is None:
            self._home = _Descriptor(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        return self._home.number

    def forget(self) -> None:
        """Have the thread's own namespace looked up anew: it has moved."""
        self._home = None


class _Descriptor:
    """A descriptor that is closed with its thread."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


_here = _Here()


class OpenNetns:
    """An open namespace: its descriptor keeps it alive, so it is closed as soon as the namespace is to go."""

    __slots__ = ("_descriptor", "identity", "netns")

    def __init__(self, netns: Netns) -> None:
        """Open and check a namespace.

        Raises `NamespaceMissing`, `NotANamespace`, `NodeNamespace`, or `PermissionMissing`.
        """
        self.netns = netns
        try:
            self._descriptor = os.open(netns.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise _open_error(netns, error) from None
        try:
            self.identity = self._identify()
        except BaseException:
            self.close()
            raise

    def _identify(self) -> Identity:
        found = os.fstat(self._descriptor)
        try:
            kind = fcntl.ioctl(self._descriptor, _NS_GET_NSTYPE) if stat.S_ISREG(found.st_mode) else 0
        except OSError:
            kind = 0
        if kind != _CLONE_NEWNET:
            raise NotANamespace(f"netns = {self.netns.text!r}: {self.netns.path} is no network namespace")
        identity = Identity(found.st_dev, found.st_ino)
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
        outer = _here.inside
        try:
            back = _here.home() if outer < 0 else outer
        except OSError as error:
            raise _open_error(self.netns, error) from None
        _enter(self._descriptor)
        _here.inside = self._descriptor
        try:
            yield
        finally:
            _here.inside = outer
            _enter(back)

    def close(self) -> None:
        """Let go of the namespace."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def thread_cookie() -> int:
    """Return the kernel's number for the calling thread's namespace, as `RawNetlink.cookie`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return 0


def leave_for_new_namespace() -> None:
    """Move the calling thread into a new namespace with `lo` up. There is no way back: let the thread end.

    The namespace has no name; it goes with the thread and the last socket that was made in it.
    """
    if _libc.unshare(_CLONE_NEWNET):
        raise _may_not("unshare(CLONE_NEWNET)", ctypes.get_errno())
    _here.forget()
    request = struct.pack("16sH14x", b"lo", _IFF_UP)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFFLAGS, request)
    except OSError as error:
        raise _may_not("ip link set lo up", error.errno or 0) from None


def _may_not(statement: str, code: int) -> PermissionMissing:
    hint = "a namespace needs CAP_SYS_ADMIN, and CAP_NET_ADMIN to be changed: run as root"
    return PermissionMissing(statement=statement, said=os.strerror(code), hint=hint)


def set_thread_namespace(descriptor: int) -> None:
    """Move the calling thread into the network namespace of a descriptor (setns(2)), for good."""
    _enter(descriptor)
    _here.forget()


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise PermissionMissing(
            statement=f"setns({descriptor}, CLONE_NEWNET)",
            said=os.strerror(code),
            hint="entering a namespace needs CAP_SYS_ADMIN: run as root",
        )


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
