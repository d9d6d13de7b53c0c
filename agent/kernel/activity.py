"""TCP sockets with what they have been doing lately, for a namespace's connections to be counted: sock_diag(7).

`sockets` reads a few whole; this reads all of a namespace, where each number stands, in 1 us a socket. The walk that
comes before is the kernel's, over a hash table that all namespaces share: 0.1 ms.
"""

import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from agent.kernel.attributes import attributes
from agent.kernel.rawnetlink import NETLINK_SOCK_DIAG, RawNetlink
from rulesets.vocabulary import Address

_TCPDIAG_GETSOCK = 18
_INET_DIAG_INFO, _INET_DIAG_MARK = 2, 15
_LISTEN, _CLOSE, _ALL = 10, 7, 0xFFF
# include/uapi/linux/inet_diag.h: inet_diag_req (family, address lengths, extensions; sockid; states, a zero).
_REQUEST = struct.pack("=BBBB48xII", socket.AF_INET, 0, 0, 1 << (_INET_DIAG_INFO - 1), _ALL - (1 << _LISTEN), 0)
# inet_diag_msg: family, state, timer, retransmits; ports, addresses, interface, cookie; the timer's milliseconds, two
# queues, user, inode.
_MESSAGE = struct.Struct("=BBBx2s2s16s16s12xI8xI4x")
_KEEPALIVE = 2  # idiag_timer: 1 retransmit, 2 keepalive, 3 TIME_WAIT, 4 zero window probe
# include/uapi/linux/tcp.h, tcp_info: milliseconds since data was sent, and since data and acknowledgements came.
_LAST = struct.Struct("=44xI4xII")
_MAPPED = bytes(10) + b"\xff\xff"
_STATEMENT = "ss --all --numeric --tcp --info"


class Activity(NamedTuple):
    """One TCP socket. `near` and `far` are its ends, packed: an address of 16 bytes (IPv4 in the first 4) and a port.

    `state` is `TcpState`'s number, `keepalive` the seconds until the next one, None where none is on, `silent` the
    seconds since anything came or was sent, None for a socket that is closed already.
    """

    family: int
    near: bytes
    far: bytes
    state: int
    user: int
    mark: int
    keepalive: float | None
    silent: float | None


def activities() -> Iterator[Activity]:
    """Yield the TCP sockets of the calling thread's namespace, but for listening ones. Raises as `SocketDiag` does."""
    with RawNetlink(NETLINK_SOCK_DIAG, feature="listing of sockets", option="CONFIG_INET_DIAG") as netlink:
        bodies = netlink.dump(_TCPDIAG_GETSOCK, _REQUEST, statement=_STATEMENT).expect(_STATEMENT)
    for body in bodies:
        family, state, timer, near_port, far_port, near, far, expires, user = _MESSAGE.unpack_from(body)
        if state == _CLOSE:
            continue
        if family == socket.AF_INET6 and near.startswith(_MAPPED):
            family, near, far = socket.AF_INET, near[12:] + bytes(12), far[12:] + bytes(12)
        found = attributes(body, _MESSAGE.size)
        info, mark = found.get(_INET_DIAG_INFO), found.get(_INET_DIAG_MARK)
        yield Activity(
            family,
            near + near_port,
            far + far_port,
            state,
            user,
            int.from_bytes(mark, sys.byteorder) if mark else 0,
            expires / 1000 if timer == _KEEPALIVE else None,
            min(_LAST.unpack_from(info)) / 1000 if info is not None and len(info) >= _LAST.size else None,
        )


def address_and_port(family: int, end: bytes) -> tuple[Address, int]:
    """Return an end of a socket as values."""
    port = int.from_bytes(end[16:], "big")
    return (IPv4Address(end[:4]) if family == socket.AF_INET else IPv6Address(end[:16])), port
