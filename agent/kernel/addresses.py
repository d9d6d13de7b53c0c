"""The addresses of a namespace's interfaces, over rtnetlink: one dump for both families.

Acts in the calling thread's namespace. Sources: rtnetlink(7), include/uapi/linux/if_addr.h.
"""

import socket
import struct
from contextlib import suppress
from ipaddress import ip_address

from agent.kernel.attributes import attributes
from agent.kernel.rawnetlink import RawNetlink
from rulesets.vocabulary import Address

_NETLINK_ROUTE = 0
_RTM_GETADDR = 22
_HEADER = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_LENGTHS = {socket.AF_INET: 4, socket.AF_INET6: 16}
_STATEMENT = "ip address show"


class Rtnetlink(RawNetlink):
    """A socket for questions about interfaces; its `cookie` is the namespace's."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_NETLINK_ROUTE, feature="rtnetlink", option="CONFIG_NET")


def addresses_of(rtnetlink: Rtnetlink) -> dict[Address, str]:
    """Return the addresses of a namespace, each with the name of its interface. Raises `KernelError`.

    Of an address that several interfaces have, the first that isn't loopback. Tentative and deprecated ones count.
    """
    found: dict[Address, str] = {}
    body = _HEADER.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    for message in rtnetlink.dump(_RTM_GETADDR, body, statement=_STATEMENT).expect(_STATEMENT):
        family, _, _, _, index = _HEADER.unpack_from(message)
        told = attributes(message, _HEADER.size)
        # IFA_ADDRESS is the other end's on a point-to-point link; the own one is then in IFA_LOCAL.
        own = told.get(_IFA_LOCAL) or told.get(_IFA_ADDRESS)
        if own is None or len(own) != _LENGTHS.get(family):
            continue
        address, name = ip_address(own), _name(index)
        if found.get(address, "lo") == "lo":
            found[address] = name
    return found


def _name(index: int) -> str:
    with suppress(OSError):  # it went away in this moment
        return socket.if_indextoname(index)
    return f"number {index}"
