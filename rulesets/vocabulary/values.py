"""What matches and actions are made of: families, protocols, places, marks, port ranges, and what is foreign."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FULL_MASK = 0xFFFFFFFF
# What the kernel allows in a name (net/core/dev.c, dev_valid_name) less quotes and backslashes, which nft can't write,
# and a leading @, which nft's JSON takes for the name of a set. A trailing * stands for any ending.
# Both together are 15 characters: nft refuses a longer pattern.
INTERFACE = re.compile(r"(?=.{1,15}\Z)[!#-),-.0-9;-?A-\[\]-~+][!#-),-.0-9;-\[\]-~+]{0,14}\*?", re.ASCII)

# Names of directories, from the root of the cgroups on: what nft's text can quote, and no quotes of any kind.
_DIRECTORY = r"(?!\.{1,2}(?:/|\Z))[!#-&(-)+-.0-~]{1,255}"
CGROUP = re.compile(rf"(?=.{{1,3840}}\Z){_DIRECTORY}(?:/{_DIRECTORY}){{0,254}}", re.ASCII)


class ModelError(ValueError):
    """A value that nft or the kernel would refuse; the text says which and why."""


class Family(StrEnum):
    """The network layer, by the name that ``meta nfproto`` uses."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


class Protocol(StrEnum):
    """The transport layer, by the name that ``meta l4proto`` uses."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    ICMPV6 = "ipv6-icmp"


class Hook(StrEnum):
    """Where in the network stack a base chain stands (include/uapi/linux/netfilter.h, NF_INET_*)."""

    PREROUTING = "prerouting"
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"
    POSTROUTING = "postrouting"


class ChainType(StrEnum):
    """nft's chain types: ``route`` looks the route up again when the mark changed, ``nat`` sees first packets only."""

    FILTER = "filter"
    ROUTE = "route"
    NAT = "nat"


class Policy(StrEnum):
    """What happens to a packet that leaves a base chain at its end."""

    ACCEPT = "accept"
    DROP = "drop"


class ConnState(StrEnum):
    """What connection tracking says of a packet (nf_conntrack_common.h, IP_CT_*; xt_conntrack.h)."""

    NEW = "new"
    ESTABLISHED = "established"
    RELATED = "related"
    INVALID = "invalid"
    UNTRACKED = "untracked"


class Direction(StrEnum):
    """Whether a packet goes the way of its connection's first packet, or back."""

    ORIGINAL = "original"
    REPLY = "reply"


class TcpFlag(StrEnum):
    """TCP header flags, lowest bit first (RFC 9293, section 3.1)."""

    FIN = "fin"
    SYN = "syn"
    RST = "rst"
    PSH = "psh"
    ACK = "ack"
    URG = "urg"
    ECN = "ecn"
    CWR = "cwr"


class RejectWith(StrEnum):
    """The answer to a refused packet: a TCP reset, or ICMP port unreachable of the packet's family."""

    TCP_RESET = "tcp reset"
    PORT_UNREACHABLE = "icmpx port-unreachable"


def family_of(value: Address | Network) -> Family:
    """Return the family of an address or network."""
    return Family.IPV4 if value.version == 4 else Family.IPV6


def host_network(address: Address) -> Network:
    """Return the network that holds just this address."""
    return IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(address)


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """Bits of a 32-bit packet or connection mark: tested as ``mark & mask == value``, set without touching the rest."""

    value: int
    mask: int = FULL_MASK

    def __post_init__(self) -> None:
        if not 0 < self.mask <= FULL_MASK:
            raise ModelError(f"mask {self.mask:#x} is not one of 0x1 to 0xffffffff")
        if self.value & ~self.mask:
            raise ModelError(f"value {self.value:#x} has bits outside its mask {self.mask:#x}")

    def __str__(self) -> str:
        return f"{self.value:#x}" if self.mask == FULL_MASK else f"{self.value:#x}/{self.mask:#x}"

    def matches(self, mark: int) -> bool:
        """Tell whether a 32-bit mark carries this value."""
        return mark & self.mask == self.value

    def put_on(self, mark: int) -> int:
        """Return the 32-bit mark with this value set and every bit outside the mask as it was."""
        return (mark & ~self.mask & FULL_MASK) | self.value


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Ports from `first` to `last`, both included."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last <= 65535:
            raise ModelError(f"ports {self.first}-{self.last} are not a rising range within 0 to 65535")

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """Something without a variant, as it was listed: nft's JSON, iptables' words. Equal to nothing, not to itself."""

    verbatim: str = field(compare=False)

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return hash(self.verbatim)
