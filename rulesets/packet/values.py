"""An imaginary packet, and how it fared."""

from dataclasses import dataclass
from enum import StrEnum

from rulesets.vocabulary import Address, Family, Hook, Protocol, TcpFlag, family_of


class ConnState(StrEnum):
    """What connection tracking says of a packet (nf_conntrack_common.h, IP_CT_*)."""

    NEW = "new"
    ESTABLISHED = "established"


class Direction(StrEnum):
    """Whether a packet goes the way of its connection's first packet, or back."""

    ORIGINAL = "original"
    REPLY = "reply"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet as it enters the stack at `hook`: `OUTPUT` from a local socket, `PREROUTING` from an interface.

    `user` is the owner of the sending local socket; None is no local socket. `destination_local` says whether the
    destination is an address of this namespace, so whether an arriving packet is delivered here or forwarded.
    `interface_address` is the first address of the interface that it came in by: None makes a redirect drop.
    `nat_settled` says that its connection has had its chance of translation: the kernel asks nat chains once for the
    destination and once for the source, so a packet that comes back in over loopback is past both.
    """

    hook: Hook
    source: Address
    destination: Address
    protocol: Protocol = Protocol.TCP
    source_port: int = 0
    destination_port: int = 0
    in_interface: str = ""
    out_interface: str = ""
    mark: int = 0
    connection_mark: int = 0
    tcp_flags: tuple[TcpFlag, ...] = (TcpFlag.SYN,)
    user: int | None = None
    destination_local: bool = True
    interface_address: Address | None = None
    state: ConnState = ConnState.NEW
    direction: Direction = Direction.ORIGINAL
    nat_settled: bool = False

    @property
    def family(self) -> Family:
        """The family of its addresses."""
        return family_of(self.source)


class Fate(StrEnum):
    """What became of a packet."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    DROPPED = "dropped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """A rule that matched, and the chain that it stands in."""

    chain: str
    slug: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a packet fared.

    `packet` is as it leaves: with the addresses, ports and marks that it has then. `translated` says whether its
    connection's addresses or ports were changed, `zone` is the original direction's conntrack zone (0: the default),
    `rerouted` whether a ``route`` chain changed its mark. `UNKNOWN` names the foreign thing that decided in `unknown`.
    """

    fate: Fate
    packet: Packet
    rules: tuple[Met, ...]
    translated: bool = False
    zone: int = 0
    rerouted: bool = False
    unknown: str = ""

    @property
    def decided_by(self) -> str:
        """The slug of the last rule met, empty when no rule matched."""
        return self.rules[-1].slug if self.rules else ""
