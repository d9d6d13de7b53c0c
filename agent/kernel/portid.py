"""Whose a netlink socket is: from its port id to a process.

Sources: netlink(7), nl_pid; proc_pid_net(5), /proc/PID/net/netlink (net/netlink/af_netlink.c, netlink_native_seq_show).
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from agent.kernel.rawnetlink import NETLINK_NETFILTER
from agent.words import printable

_SOCKETS = Path("/proc/thread-self/net/netlink")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process at this moment: its number, and the name that it goes by (comm, at most 15 bytes), printable."""

    number: int
    name: str

    def __str__(self) -> str:
        return f"process {self.number} ({self.name})"


def process(number: int) -> Process:
    """Return a process by its number. Raises OSError when there is none, or it is not to be looked at.

    A process gives itself whatever name it likes, line ends and what moves a terminal's cursor included: those are
    escaped here, so that no name of a process is ever raw.
    """
    name = Path("/proc", str(number), "comm").read_text(encoding="utf-8", errors="backslashreplace")
    return Process(number=number, name=printable(name.removesuffix("\n")))


def owner(port: int) -> str:
    """Return in words whose netfilter socket has this port id in the calling thread's namespace.

    Where the process can't be looked at, since it is another user's or in another tree of processes, that is said. All
    of /proc is read for it, once for each socket.
    """
    holders = _processes_of(inode_of(port))
    whose = " and ".join(map(str, holders)) or "a process that can't be looked at"
    return f"{whose}, netlink port {port}"


def inode_of(port: int) -> int:
    """Return the inode of the netfilter socket with this port id in the calling thread's namespace; 0 for none."""
    # Columns: sk, Eth (the protocol), Pid (the port id), Groups, Rmem, Wmem, Dump, Locks, Drops, Inode.
    for line in _SOCKETS.read_text(encoding="ascii").splitlines()[1:]:
        columns = line.split()
        if (int(columns[1]), int(columns[2])) == (NETLINK_NETFILTER, port):
            return int(columns[9])
    return 0


def sockets_of(number: int) -> frozenset[int]:
    """Return the inodes of a process's open sockets, by its number; none where it can't be looked at."""
    folder, found = Path("/proc", str(number), "fd"), set()
    with contextlib.suppress(OSError):
        for each in os.listdir(folder):
            with contextlib.suppress(OSError):  # closed in this moment
                kind, _, inode = os.readlink(folder / each).partition(":")
                if kind == "socket":
                    found.add(int(inode.strip("[]")))
    return frozenset(found)


@lru_cache(maxsize=64)
def _processes_of(inode: int) -> tuple[Process, ...]:
    """Return who has a socket open. Whoever tries again and again to get what another one owns asks once."""
    return tuple(_holders(f"socket:[{inode}]")) if inode else ()


def _holders(link: str) -> Iterator[Process]:
    for number in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        descriptors = Path("/proc", str(number), "fd")
        with contextlib.suppress(OSError):  # it has ended, or is not to be looked at
            if any(_leads_to(descriptors / each, link) for each in os.listdir(descriptors)):
                yield process(number)


def _leads_to(descriptor: Path, link: str) -> bool:
    try:
        return os.readlink(descriptor) == link
    except OSError:  # closed in this moment
        return False
