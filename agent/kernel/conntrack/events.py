"""Word of connections that begin and end: ctnetlink's multicast, received by the hundred.

A namespace's events come to a socket that was made in it, each a datagram. Python's recv takes one at a time, for 2 us
of a processor, recvmmsg(2) a hundred for little more. Losses are counted by the kernel, to the event (SO_MEMINFO).
"""

import ctypes
import errno
import os
import socket
import struct
import sys

from agent.errors import FeatureMissing, KernelError
from agent.kernel.rawnetlink import NETLINK_NETFILTER

BATCH, ROOM = 128, 1024  # datagrams received at once, and bytes for each: an event takes 150 to 400
BUFFER = 32 * 2**20
"""Bytes of the kernel's memory that a target's unread events may take, twice as much as counted: 52,000 of them."""

_GROUPS = 1 | 4  # NF_NETLINK_CONNTRACK_NEW and _DESTROY, as bits of nl_groups (nfnetlink_compat.h)
_SOL_NETLINK, _NETLINK_NO_ENOBUFS = 270, 5
_SO_RCVBUFFORCE, _SO_MEMINFO = 33, 55
_MEMINFO = struct.Struct("=32xI")  # SK_MEMINFO_DROPS is the ninth number
_libc = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Sender(ctypes.Structure):
    """struct sockaddr_nl: the port is 0 where the kernel sends."""

    _fields_ = (("family", ctypes.c_uint), ("port", ctypes.c_uint), ("groups", ctypes.c_uint))


class _Header(ctypes.Structure):
    """struct msghdr of recvmsg(2)."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr of recvmmsg(2)."""

    _fields_ = (("header", _Header), ("received", ctypes.c_uint))


def event_socket() -> socket.socket:
    """Return a socket that hears of connections in the calling thread's namespace. It pins that until it is closed.

    Raises `FeatureMissing` without ctnetlink's multicast, `KernelError` for any other refusal.
    """
    statement = "conntrack --event --event-mask NEW,DESTROY"
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    opened = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
        # What there is no room for is counted; said as well, it would keep later events out until all is read.
        opened.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        opened.bind((0, _GROUPS))
    except OSError as error:
        opened.close()
        if error.errno == errno.ENOENT:
            raise FeatureMissing(
                statement=statement, said=str(error), feature="conntrack events", option="CONFIG_NF_CONNTRACK_EVENTS"
            ) from None
        raise KernelError(statement=statement, said=str(error)) from None
    return opened


def lost(events: socket.socket) -> int:
    """Return how many events there was no room for since the socket was made."""
    told = events.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
    number: int = _MEMINFO.unpack_from(told)[0]
    return number


class Receiver:
    """Room for a batch of datagrams: the one at place N begins at ``N * ROOM`` of `data`. For one thread."""

    def __init__(self) -> None:
        self.data = bytearray(BATCH * ROOM)
        self._pinned = (ctypes.c_char * len(self.data)).from_buffer(self.data)
        base = ctypes.addressof(self._pinned)
        self._vectors = (_Vector * BATCH)(*(_Vector(base + each * ROOM, ROOM) for each in range(BATCH)))
        self._messages = (_Message * BATCH)()
        self._senders = (_Sender * BATCH)()
        for message, vector, sender in zip(self._messages, self._vectors, self._senders, strict=True):
            message.header.vectors, message.header.vector_count = ctypes.pointer(vector), 1
            message.header.name, message.header.name_length = ctypes.addressof(sender), ctypes.sizeof(sender)
        numbers = memoryview(self._messages).cast("B").cast("I")
        self._ports = memoryview(self._senders).cast("B").cast("I")[1 :: ctypes.sizeof(_Sender) // 4]
        self._sizes = numbers[_Message.received.offset // 4 :: ctypes.sizeof(_Message) // 4]

    def receive(self, events: int) -> list[int]:
        """Return the sizes of what has come to a descriptor by now, at most `BATCH`; none when nothing has.

        What others than the kernel have sent has the size 0: a pod with CAP_NET_ADMIN may send to its namespace's
        groups (netlink(7)). Raises OSError.
        """
        count = _libc.recvmmsg(events, self._messages, BATCH, socket.MSG_DONTWAIT, None)
        if count < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return []
            raise OSError(code, os.strerror(code))
        sizes = self._sizes[:count].tolist()
        if any(self._ports[:count]):
            sizes = [0 if port else size for size, port in zip(sizes, self._ports[:count], strict=True)]
        return sizes


def die_with_parent() -> None:
    """Have the kernel end this process with the thread that started it (prctl(2), PR_SET_PDEATHSIG)."""
    parent = os.getppid()
    _libc.prctl(1, 9, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(0)
