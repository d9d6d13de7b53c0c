"""The calling thread and the network namespaces that it enters (setns(2), unshare(2)).

A namespace belongs to the thread. Only worker threads move; the main thread stays where the process was started.
"""

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from agent.errors import PermissionMissing
from agent.kernel import brief
from agent.kernel.brief import CLONE_NEWNET

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1  # netdevice(7)
_libc = ctypes.CDLL(None, use_errno=True)  # os.unshare is there from Python 3.12 on


class HomeMissing(Exception):
    """The thread's own namespace can't be opened."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


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


@contextmanager
def entered(descriptor: int) -> Iterator[None]:
    """Be in the network namespace of a descriptor until the block ends. Raises `HomeMissing`, `PermissionMissing`."""
    outer = _here.inside
    try:
        back = _here.home() if outer < 0 else outer
    except OSError as error:
        raise HomeMissing(error) from None
    _enter(descriptor)
    _here.inside = descriptor
    try:
        yield
    finally:
        _here.inside = outer
        _enter(back)


def leave_for_new_namespace() -> None:
    """Move the calling thread into a new namespace with `lo` up. There is no way back: let the thread end.

    The namespace has no name; it goes with the thread and the last socket that was made in it.
    """
    if _libc.unshare(CLONE_NEWNET):
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
    try:
        brief.setns(descriptor)
    except OSError as error:
        raise PermissionMissing(
            statement=f"setns({descriptor}, CLONE_NEWNET)",
            said=str(error.strerror),
            hint="entering a namespace needs CAP_SYS_ADMIN: run as root",
        ) from None
