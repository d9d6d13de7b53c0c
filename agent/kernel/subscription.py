"""Sockets that become readable when rules, routes or interfaces of a namespace change."""

import socket

from agent.errors import KernelError
from agent.kernel.rawnetlink import NETLINK_NETFILTER

_NFNLGRP_NFTABLES = 7  # include/uapi/linux/netfilter/nfnetlink.h
# Multicast groups of include/uapi/linux/rtnetlink.h: what can take our routes and rules away, or the family itself.
_RTNLGRP = {"link": 1, "ipv4_route": 7, "ipv4_rule": 8, "ipv6_route": 11, "ipv6_rule": 19}
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1


def subscribed_to_rules() -> socket.socket:
    """Return a socket of the calling thread's namespace for rules alone. Raises `KernelError`."""
    return listening(NETLINK_NETFILTER, (_NFNLGRP_NFTABLES,))


def subscribed() -> tuple[socket.socket, ...]:
    """Return sockets of the calling thread's namespace, one for rules, one for routes and interfaces.

    On ENOBUFS something was lost: assume that everything has changed. Raises `KernelError`.
    """
    tables = subscribed_to_rules()
    try:
        return tables, listening(socket.NETLINK_ROUTE, tuple(_RTNLGRP.values()))
    except BaseException:
        tables.close()
        raise


def received(changes: socket.socket, most: int = 65536) -> bytes:
    """Return a datagram of the kernel's own; empty for anybody else's. Raises OSError as recv(2) does.

    Whoever has CAP_NET_ADMIN in a namespace may send to its groups (netlink(7)), and a pod may have that.
    """
    told, (sender, _groups) = changes.recvfrom(most)
    return told if sender == 0 else b""


def listening(protocol: int, groups: tuple[int, ...]) -> socket.socket:
    """Return a socket of the calling thread's namespace that hears of these groups. Raises `KernelError`."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    opened = socket.socket(socket.AF_NETLINK, kind, protocol)
    try:
        # An unbound netlink socket gets no multicast at all, and no error either.
        opened.bind((0, 0))
        for group in groups:
            opened.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    except OSError as error:
        opened.close()
        raise KernelError(statement=f"join netlink groups {groups}", said=str(error)) from None
    return opened
