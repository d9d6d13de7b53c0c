"""What a rule may ask of a packet.

A match that names ports or flags implies its protocol, one that names addresses its family: nft adds the test for it
when it loads the rule, and leaves it out again when it lists it.
"""

from dataclasses import dataclass
from enum import StrEnum

from rulesets.vocabulary.read import ReadMatch
from rulesets.vocabulary.values import Family, Foreign, Mark, ModelError, Network, PortRange, Protocol, TcpFlag


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
    """The packet came in by this interface; a trailing ``*`` matches any ending.

    `by_index` is what others may ask: the number that the name stood for when the rule was loaded (``iif``).
    """

    name: str
    negate: bool = False
    by_index: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutIface:
    """The packet leaves by this interface; a trailing ``*`` matches any ending. `by_index` is as with `InIface`."""

    name: str
    negate: bool = False
    by_index: bool = False


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
class SocketCgroup:
    """The packet was sent by a socket that was made in this cgroup or below it (``socket cgroupv2``).

    `cgroup` is the kernel's number for it, or its path from the root where that is not looked up yet: nft's text holds
    the path and nft looks it up when it loads it, the kernel knows only the number. `level` is its depth, the root's
    being 0. A directory that is made anew has another number, and no number comes twice (fs/kernfs/dir.c).
    """

    level: int
    cgroup: int | str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """One of several values of the same field: an anonymous set of nft's, which Weir reads and never writes.

    None of `matches` is negated. Where none can hold, such as for addresses of the other family, the negation of all
    doesn't either.
    """

    matches: tuple["Match", ...]
    negate: bool = False

    def __post_init__(self) -> None:
        if not self.matches or any(isinstance(each, OneOf) or getattr(each, "negate", False) for each in self.matches):
            raise ModelError("an anonymous set holds values, and neither sets nor negations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The packet is one of so many, by chance (``numgen random mod N == 0``)."""

    one_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited:
    """No more packets than so many a second have come here, `burst` of them at once (``limit rate``)."""

    per_second: int
    burst: int


Match = (
    OfFamily | Proto | Src | Dst | SrcPort | DstPort | InIface | OutIface | PacketMark | ConnMark
    | SocketUser | SocketCgroup | LocalSocket | LocalAddress | InSet | TcpFlags | OneOf | Sampled | Limited
    | ReadMatch | Foreign
)  # fmt: skip
