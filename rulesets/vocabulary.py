"""The closed vocabulary of a ruleset: what a rule may match and what it may do.

Every value is immutable and canonical, so that equal rulesets compare equal with ``==``. `Foreign` is the one escape:
the verbatim form of something that Weir never writes. Only parsing makes one, and nothing that is built equals it.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FULL_MASK = 0xFFFFFFFF


class ModelError(ValueError):
    """A value that nft or the kernel would refuse; the text says which and why."""


class Family(StrEnum):
    """The network layer, by the name that ``meta nfproto`` uses."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


BOTH = (Family.IPV4, Family.IPV6)


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


# Matches. A match that names ports or flags implies its protocol, one that names addresses its family: nft adds the
# test for it when it loads the rule, and leaves it out again when it lists it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """Something that Weir never writes, as the kernel's listing showed it (JSON text). Equal to nothing, itself included."""

    verbatim: str = field(compare=False)

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return hash(self.verbatim)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfFamily:
    """The packet is of this family (``meta nfproto``)."""

    family: Family


@dataclass(frozen=True, slots=True, kw_only=True)
class Proto:
    """The packet's transport protocol (``meta l4proto``)."""

    protocol: Protocol
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Src:
    """The source address lies in a network."""

    network: Network
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dst:
    """The destination address lies in a network."""

    network: Network
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SrcPort:
    """The source port lies in a range."""

    protocol: Protocol
    ports: PortRange
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DstPort:
    """The destination port lies in a range."""

    protocol: Protocol
    ports: PortRange
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InIface:
    """The packet came in by this interface; a trailing ``*`` matches any ending."""

    name: str
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutIface:
    """The packet leaves by this interface; a trailing ``*`` matches any ending."""

    name: str
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketMark:
    """The packet carries this mark."""

    mark: Mark
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnMark:
    """The packet's connection carries this mark."""

    mark: Mark
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketUser:
    """The packet was sent by a local socket of this numeric user (``meta skuid``)."""

    user: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSocket:
    """The packet was sent by a local socket, whoever owns it: ``meta skuid >= 0`` fails where there is no socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAddress:
    """The destination is an address of this namespace (``fib daddr type local``)."""

    negate: bool = False


class SetField(StrEnum):
    """The header fields that a set may be looked up with, as nft writes them."""

    SRC_V4 = "ip saddr"
    SRC_V6 = "ip6 saddr"
    DST_V4 = "ip daddr"
    DST_V6 = "ip6 daddr"
    TCP_DST_PORT = "tcp dport"
    DST_V4_TCP_DST_PORT = "ip daddr . tcp dport"
    DST_V6_TCP_DST_PORT = "ip6 daddr . tcp dport"


@dataclass(frozen=True, slots=True, kw_only=True)
class InSet:
    """A header field is an element of a named set."""

    field: SetField
    name: str
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpFlags:
    """Among these TCP flags exactly those are set (``tcp flags & (among) == set``), each in the header's order."""

    among: tuple[TcpFlag, ...]
    set: tuple[TcpFlag, ...]
    negate: bool = False

    def __post_init__(self) -> None:
        order = list(TcpFlag)
        for flags in (self.among, self.set):
            if tuple(sorted(set(flags), key=order.index)) != flags:
                raise ModelError(f"TCP flags {flags} are not unique and in the header's order")
        if not self.set or not set(self.set) <= set(self.among):
            raise ModelError(f"TCP flags {self.set} are none, or not among {self.among}")


Match = (
    OfFamily | Proto | Src | Dst | SrcPort | DstPort | InIface | OutIface | PacketMark | ConnMark
    | SocketUser | LocalSocket | LocalAddress | InSet | TcpFlags | Foreign
)  # fmt: skip


# Actions.


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """The packet leaves this chain; chains at later priorities still see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """The connection goes to a port of this namespace: to the loopback address on output, else to the interface's."""

    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dnat:
    """The connection goes to another port of the same address."""

    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snat:
    """The connection is seen to come from this address."""

    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMark:
    """The packet gets this mark; bits outside its mask stay."""

    mark: Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class SetConnMark:
    """The connection gets this mark; bits outside its mask stay."""

    mark: Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class CtZone:
    """The original direction of the connection is tracked in a zone of its own: equal addresses there don't clash."""

    zone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """The sender is told that the connection is refused."""

    reply: RejectWith


Action = Accept | Redirect | Dnat | Snat | SetMark | SetConnMark | CtZone | Reject | Foreign
