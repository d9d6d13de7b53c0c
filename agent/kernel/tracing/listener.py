"""The socket on which the kernel tells of traced packets of one namespace."""

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import KernelError
from agent.kernel.closing import Closing
from agent.kernel.rawnetlink import NETLINK_NETFILTER
from agent.kernel.subscription import listening, received
from agent.kernel.tracing.events import Event, Unreadable, decode

_NFNLGRP_NFTRACE = 9  # include/uapi/linux/netfilter/nfnetlink.h
_SO_RCVBUFFORCE = 33
# Each message takes a kilobyte and more of the buffer, however short it is: about 3,000 of them.
_BUFFER = 4 << 20
_MOST = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What was there to be read.

    `lost`: how often the buffer overflowed, each time by an unknown number of events, and datagrams that can't be read.
    """

    events: tuple[Event, ...]
    lost: int = 0


class Listener(Closing):
    """Hears of traced packets in the namespace of the thread that makes it, and pins that until `close`."""

    def __init__(self, *, buffer: int = _BUFFER) -> None:
        """Join the group. `buffer` is in bytes. Raises `KernelError`."""
        self._socket = listening(NETLINK_NETFILTER, (_NFNLGRP_NFTRACE,))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
        except OSError as error:
            self._socket.close()
            raise KernelError(statement=f"SO_RCVBUFFORCE {buffer}", said=str(error)) from None

    def fileno(self) -> int:
        """Return the descriptor to wait at; it is readable while something can be read."""
        return self._socket.fileno()

    def read(self, most: int = 4096) -> Heard:
        """Return what is there, of `most` datagrams at once; waits for nothing. Raises `KernelError`."""
        events: list[Event] = []
        lost = 0
        for found in self._datagrams(most):
            try:
                events += () if found is None else decode(found)
            except Unreadable:  # of a kernel that says more than this one
                lost += 1
            lost += found is None
        return Heard(events=tuple(events), lost=lost)

    def _datagrams(self, most: int) -> Iterator[bytes | None]:
        """Yield what is there, and None where something was lost."""
        for _ in range(most):
            try:
                yield received(self._socket, _MOST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError(statement="nft monitor trace", said=str(error)) from None
                yield None

    def close(self) -> None:
        """Hear no more. Twice is once."""
        self._socket.close()
