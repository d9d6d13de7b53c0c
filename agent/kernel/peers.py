"""Where the other end of a pod's link is: the namespace and the interface there (rtnetlink(7), RTM_GETNSID)."""

import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from agent.errors import WeirError
from agent.kernel.addresses import Rtnetlink
from agent.kernel.attributes import attribute, attributes
from agent.kernel.netns import Netns, everywhere, node_namespace

_RTM_GETLINK, _RTM_GETNSID = 18, 90
_LINK = struct.Struct("=BxHiII")  # ifinfomsg
_NSID = struct.Struct("=i")
_IFLA_IFNAME, _IFLA_LINK, _IFLA_LINK_NETNSID = 3, 5, 37
_NETNSA_NSID, _NETNSA_FD = 1, 3
_HOST = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end of a link: the namespace that it is in, and its index there."""

    netns: Netns
    index: int


def peer_of(interface: str) -> Peer | None:
    """Return where the other end of a link of the calling thread's namespace is; None where it isn't found.

    It isn't for what is no pair, and for a namespace that only a descriptor keeps.
    """
    with Rtnetlink() as netlink:
        found = _far_end(netlink, interface)
        if found is None:
            return None
        index, number = found
        for netns, path in _candidates():
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if _number_of(netlink, descriptor) == number:
                        return Peer(netns=netns, index=index)
                finally:
                    os.close(descriptor)
    return None


def _candidates() -> list[tuple[Netns, str]]:
    # The node's own first: that is where the other end of a pod's link nearly always is.
    return [(Netns(_HOST), str(node_namespace())), *((each, each.file) for each in everywhere().values())]


def _far_end(netlink: Rtnetlink, interface: str) -> tuple[int, int] | None:
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, interface.encode() + b"\0")
    answer = netlink.ask(_RTM_GETLINK, body, statement=f"ip link show {interface}")
    for message in answer.messages:
        told = attributes(message, _LINK.size)
        if _IFLA_LINK in told and _IFLA_LINK_NETNSID in told:
            return _NSID.unpack(told[_IFLA_LINK])[0], _NSID.unpack(told[_IFLA_LINK_NETNSID])[0]
    return None


def _number_of(netlink: Rtnetlink, descriptor: int) -> int:
    """Return the number that a namespace bears here; -1 for none."""
    body = bytes(4) + attribute(_NETNSA_FD, struct.pack("=I", descriptor))
    with suppress(WeirError):
        for message in netlink.ask(_RTM_GETNSID, body, statement="ip netns list-id").messages:
            told = attributes(message, 4)
            if _NETNSA_NSID in told:
                return int(_NSID.unpack(told[_NETNSA_NSID])[0])
    return -1
