"""The few system calls that the test world needs and Python 3.11 does not have, each for the calling thread alone."""

import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

__all__ = ["configure", "drop_capabilities", "enter", "pin_new_namespace", "set_fsuid", "set_up", "sysctl", "unpin"]

CLONE_NEWNET = 0x40000000
MS_BIND = 4096
MNT_DETACH = 2
CAPABILITY_VERSION_3 = 0x20080522
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8913, 0x8914, 1, 64

_libc = ctypes.CDLL(None, use_errno=True)


def enter(path: str | Path) -> None:
    """Move the calling thread into a network namespace. There is no way back: use a thread made for it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, CLONE_NEWNET), f"setns {path}")
    finally:
        os.close(descriptor)


def set_fsuid(uid: int) -> None:
    """Make the sockets that the calling thread creates from now on belong to a user (what `meta skuid` sees).

    Unlike setuid, setfsuid is not spread over the threads by libc, and it takes no network capability away.
    """
    _libc.setfsuid(uid)
    if _libc.setfsuid(-1) != uid:
        raise PermissionError(errno.EPERM, f"setfsuid {uid}")


def drop_capabilities() -> None:
    """Take every capability from the calling thread and the threads that it starts: it is root in name only."""
    _check(_libc.capset(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(24)), "capset")


def set_up(interface: str) -> bool:
    """Set an interface of the calling thread's namespace up, if it isn't; say if it carried packets before."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", interface.encode(), 0)
        flags: int = struct.unpack("16sH14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", interface.encode(), flags | IFF_UP))
    return flags & IFF_RUNNING != 0


def pin_new_namespace(path: Path) -> None:
    """Give the calling thread a new namespace and pin it under a name, as `ip netns add` does."""
    path.touch(exist_ok=False)
    try:
        _check(_libc.unshare(CLONE_NEWNET), "unshare")
        mounted = _libc.mount(b"/proc/thread-self/ns/net", bytes(path), b"none", MS_BIND, None)
        _check(mounted, f"mount --bind /proc/thread-self/ns/net {path}")
    except OSError:
        path.unlink()
        raise


def configure() -> None:
    """Bring `lo` up and make the namespace the same on every machine, whatever its own settings are."""
    set_up("lo")
    sysctl("net/ipv4/tcp_tw_reuse", 1)  # or a few seconds of short connections use up the ports
    for interface in ("all", "default"):
        # The kernel skips duplicate address detection only when both `all` and the interface say so.
        sysctl(f"net/ipv6/conf/{interface}/accept_dad", 0)
        sysctl(f"net/ipv6/conf/{interface}/accept_ra", 0)
        sysctl(f"net/ipv6/conf/{interface}/disable_ipv6", 0)
        sysctl(f"net/ipv4/conf/{interface}/rp_filter", 0)  # IPv4 settings are copied from the machine's


def sysctl(name: str, value: str | int | None = None) -> str:
    """Return a setting of the calling thread's namespace, after writing it when a value is given."""
    path = Path("/proc/sys", name)
    if value is not None:
        path.write_text(f"{value}\n")
    return path.read_text().strip()


def unpin(path: Path) -> None:
    """Remove a namespace's name. Somebody else may sweep the same one at the same time."""
    if _libc.umount2(bytes(path), MNT_DETACH) and (code := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOENT):
        raise OSError(code, f"umount {path}: {os.strerror(code)}")
    path.unlink(missing_ok=True)


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
