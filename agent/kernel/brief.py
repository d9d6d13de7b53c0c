"""System calls that are over before the interpreter's lock could change hands.

Python gives its lock away around almost every system call. Where another worker waits for it, each of those costs the
waking of a processor (20 to 50 us), whatever the call itself takes (1 to 3 us): of a namespace's whole 0.4 ms, two
workers would lose a third so. Called through `ctypes.PyDLL` these keep the lock. Nothing may be called here that waits,
for a disk, for another process or for one of the kernel's own mutexes (rtnetlink's, nf_tables').
"""

import ctypes
import os
import socket
import struct

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
_libc.recv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.recv.restype = ctypes.c_ssize_t

# struct statx, include/uapi/linux/stat.h: the mode, the inode, and the device's two halves.
_STATX = struct.Struct("=28xH2xQ96xII112x")
_STATX_TYPE, _STATX_INO, _AT_EMPTY_PATH, _AT_FDCWD = 0x1, 0x100, 0x1000, -100
_NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h


def netlink_socket(protocol: int) -> socket.socket:
    """Return a netlink socket in the calling thread's namespace (netlink(7)). Raises OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    descriptor = _libc.socket(socket.AF_NETLINK, kind, protocol)
    if descriptor < 0:
        raise _error()
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol, fileno=descriptor)


def opened(path: str, flags: int) -> int:
    """Return a descriptor of a file (open(2)) that no disk or network stands behind. Raises OSError."""
    descriptor: int = _libc.open(os.fsencode(path), flags)
    if descriptor < 0:
        raise _error()
    return descriptor


def close(descriptor: int) -> None:
    """Close a namespace's descriptor, or an rtnetlink socket that no group was joined with; a failure is passed over.

    One of nf_tables' takes a mutex of its own, and waits: not here.
    """
    _libc.close(descriptor)


def receive(descriptor: int, buffer: bytearray) -> int:
    """Return the size of what a socket has received by now, written into a buffer. Raises OSError (EAGAIN: nothing)."""
    place = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    size: int = _libc.recv(descriptor, place, len(buffer), socket.MSG_DONTWAIT)
    if size < 0:
        raise _error()
    return size


def identify(what: str | int) -> tuple[int, int, int]:
    """Return device, inode and mode (statx(2)) of an open file, or of a path that no disk or network stands behind."""
    found = ctypes.create_string_buffer(_STATX.size)
    at, path, flags = (what, b"", _AT_EMPTY_PATH) if isinstance(what, int) else (_AT_FDCWD, os.fsencode(what), 0)
    if _libc.statx(at, path, flags, _STATX_TYPE | _STATX_INO, found):
        raise _error()
    mode, inode, major, minor = _STATX.unpack(found.raw)
    return os.makedev(major, minor), inode, mode


def kind_of_namespace(descriptor: int) -> int:
    """Return the kind (CLONE_NEWNET, ...) of the namespace of an open regular file; 0 when it is none (nsfs(5))."""
    kind: int = _libc.ioctl(descriptor, _NS_GET_NSTYPE)
    return max(kind, 0)


def setns(descriptor: int) -> None:
    """Move the calling thread into the network namespace of a descriptor (setns(2)). Raises OSError (EINVAL: none)."""
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise _error()


def _error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
