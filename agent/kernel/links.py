"""Links of a namespace, made by rtnetlink: a veth pair between two, with an address, and up.

Acts in the calling thread's namespace. Sources: rtnetlink(7), include/uapi/linux/if_link.h, drivers/net/veth.c. By hand
because pyroute2, which could do it too, would stay in the agent's memory with 17 MB.
"""

import errno
import os
import socket
import struct
from ipaddress import IPv4Address

from agent.errors import FeatureMissing, KernelError
from agent.kernel.addresses import Rtnetlink
from agent.kernel.attributes import attribute, nested
from agent.kernel.rawnetlink import NLM_F_CREATE, NLM_F_EXCL

_RTM_NEWLINK, _RTM_NEWADDR = 16, 20
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, which flags are to change
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_U32 = struct.Struct("=I")
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_VETH_INFO_PEER = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFF_UP = 1


def add_veth(name: str, peer_namespace: int) -> None:
    """Make a pair of links that both bear a name: one here, the other in the namespace of a descriptor.

    Raises `FeatureMissing` where the kernel has no veth, `KernelError` where it refuses.
    """
    called = attribute(_IFLA_IFNAME, name.encode() + b"\0")
    there = attribute(_IFLA_NET_NS_FD, _U32.pack(peer_namespace))
    none = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body = (
        none
        + called
        + nested(
            _IFLA_LINKINFO,
            attribute(_IFLA_INFO_KIND, b"veth\0"),
            nested(_IFLA_INFO_DATA, nested(_VETH_INFO_PEER, none + called + there)),
        )
    )
    statement = f"ip link add {name} type veth"
    with Rtnetlink() as rtnetlink:
        answer = rtnetlink.ask(_RTM_NEWLINK, body, statement=statement, flags=NLM_F_CREATE | NLM_F_EXCL)
    if answer.errno == errno.EOPNOTSUPP:
        raise FeatureMissing(statement=statement, said=answer.said, feature="veth", option="CONFIG_VETH")
    answer.expect(statement)


def bring_up(name: str, address: IPv4Address, length: int) -> None:
    """Give a link an address with a prefix of some length, and bring it up. Raises `KernelError`."""
    statement = f"ip address add {address}/{length} dev {name}"
    try:
        index = socket.if_nametoindex(name)
    except OSError as error:
        raise KernelError(statement=statement, said=os.strerror(error.errno or 0)) from None
    own = b"".join(attribute(kind, address.packed) for kind in (_IFA_LOCAL, _IFA_ADDRESS))
    with Rtnetlink() as rtnetlink:
        body = _ADDRESS.pack(socket.AF_INET, length, 0, 0, index) + own
        rtnetlink.ask(_RTM_NEWADDR, body, statement=statement, flags=NLM_F_CREATE | NLM_F_EXCL).expect(statement)
        statement = f"ip link set {name} up"
        up = _LINK.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP)
        rtnetlink.ask(_RTM_NEWLINK, up, statement=statement).expect(statement)
