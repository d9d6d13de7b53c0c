"""Whose a netlink socket is: from its port id to a process.

Sources: netlink(7), nl_pid; proc_pid_net(5), /proc/PID/net/netlink (net/netlink/af_netlink.c, netlink_native_seq_show).
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.rawnetlink import NETLINK_NETFILTER

_SOCKETS = Path("/proc/thread-self/net/netlink")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process at this moment: its number, and the name that it goes by (comm, at most 15 bytes)."""

    number: int
    name: str

    def __str__(self) -> str:
        return f"process {self.number} ({self.name})"


def processes_of(port: int) -> tuple[Process, ...]:
    """Return the processes that hold the netfilter socket with this port id in the calling thread's namespace.

    None is found where the process can't be looked at: it is another user's, or in another tree of processes. It reads
    all of /proc, so it is for errors only.
    """
    inode = _inode(port)
    return tuple(_holders(f"socket:[{inode}]")) if inode else ()


def _inode(port: int) -> int:
    # Columns: sk, Eth (the protocol), Pid (the port id), Groups, Rmem, Wmem, Dump, Locks, Drops, Inode.
    for line in _SOCKETS.read_text(encoding="ascii").splitlines()[1:]:
        columns = line.split()
        if (int(columns[1]), int(columns[2])) == (NETLINK_NETFILTER, port):
            return int(columns[9])
    return 0


def _holders(link: str) -> Iterator[Process]:
    for number in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        process = Path("/proc", str(number))
        with contextlib.suppress(OSError):  # it has ended, or is not to be looked at
            if any(_leads_to(process / "fd" / each, link) for each in os.listdir(process / "fd")):
                yield Process(number=number, name=(process / "comm").read_text(errors="replace").strip())


def _leads_to(descriptor: Path, link: str) -> bool:
    try:
        return os.readlink(descriptor) == link
    except OSError:  # closed in this moment
        return False
