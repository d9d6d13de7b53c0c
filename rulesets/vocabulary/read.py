"""What others' rules match and do, and Weir's own never: read, walked and compared, but never put into the kernel.

Where iptables means something else than nft by the same words, it is iptables' meaning that stands here.
"""

from dataclasses import dataclass
from enum import StrEnum

from rulesets.vocabulary.values import (
    FULL_MASK,
    Address,
    ConnState,
    Direction,
    Mark,
    ModelError,
    PortRange,
    Protocol,
    TcpFlag,
)


class End(StrEnum):
    """Which end of a packet is meant."""

    SOURCE = "source"
    DESTINATION = "destination"
    EITHER = "either"


class AddressKind(StrEnum):
    """What the routing tables say of an address (``fib type``, ``addrtype``), as far as the address alone tells it."""

    UNICAST = "unicast"
    LOCAL = "local"
    BROADCAST = "broadcast"
    MULTICAST = "multicast"


class Owner(StrEnum):
    """Whose number a socket is known by."""

    USER = "user"
    GROUP = "group"


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherProto:
    """The transport protocol is one that has no `Protocol`, by its number."""

    number: int
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """A port lies in one of several ranges (``multiport``), in the order in which they are listed."""

    protocol: Protocol
    end: End
    ranges: tuple[PortRange, ...]
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """The address of one end lies from `first` to `last`, both included (``iprange``)."""

    end: End
    first: Address
    last: Address
    negate: bool = False

    def __post_init__(self) -> None:
        if self.first.version != self.last.version or int(self.first) > int(self.last) or self.end is End.EITHER:
            raise ModelError(f"addresses {self.first}-{self.last} are not a rising range of one family and one end")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressType:
    """The address of one end is of one of these kinds; `LocalAddress` is the commonest case of it."""

    end: End
    kinds: tuple[AddressKind, ...]
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnStates:
    """Connection tracking says one of these of the packet."""

    states: tuple[ConnState, ...]
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnDirection:
    """The packet goes this way of its connection; nothing holds where the connection isn't tracked."""

    direction: Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketOwner:
    """A local socket of one of these users or groups sent the packet.

    The negation holds where there is no socket at all (xt_owner.c), which nft's ``meta skuid !=`` does not.
    `SocketUser` is the case of one user, not negated.
    """

    owner: Owner
    first: int
    last: int
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoSocket:
    """No local socket sent the packet (``! --socket-exists``), the contrary of `LocalSocket`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivingSocket:
    """A local socket is there that would take the packet (``-m socket``), a transparent one if that is asked for.

    `wildcard` counts sockets that are bound to every address as well.
    """

    transparent: bool = False
    wildcard: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTcpFlags:
    """Among these TCP flags none is set, in the header's order."""

    among: tuple[TcpFlag, ...]
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InIpset:
    """The packet is in a set of ipset's, looked up by these of its ends; what the set holds no rule says."""

    name: str
    ends: tuple[str, ...]
    negate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """Nothing is asked of the packet: a remark, where it can't be the rule's slug."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """Nothing is asked of the packet: nft counts or logs it on its way. `statement` is that, as nft's JSON has it."""

    statement: str


ReadMatch = (
    OtherProto | Ports | Between | AddressType | ConnStates | ConnDirection | SocketOwner | NoSocket | ReceivingSocket
    | NoTcpFlags | InIpset | Comment | Aside
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """The packet meets the rules of a regular chain, and goes on here when they have ended or return."""

    chain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Goto:
    """The packet meets the rules of a regular chain, and goes on where this chain would return to."""

    chain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """The packet goes on behind the jump that led here; in a base chain the policy decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """The packet is dropped, and nobody is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Continue:
    """The packet is counted and goes on to the next rule.

    `beside` is what else happens, verbatim, where that changes nothing that a rule could match: a line in a log.
    """

    beside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnatTo:
    """The connection goes to another address, and to another port where one is named."""

    address: Address
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Masquerade:
    """The connection is seen to come from the address of the interface that it leaves by."""

    random: bool = False
    fully_random: bool = False


class MarkOf(StrEnum):
    """Whose mark is meant."""

    PACKET = "packet"
    CONNECTION = "connection"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipMark:
    """A mark becomes ``(old & ~mask) ^ value``, where bits of the value lie outside the mask.

    Where they don't, it is a `SetMark` or `SetConnMark`.
    """

    of: MarkOf
    value: int
    mask: int

    def __post_init__(self) -> None:
        if not (0 <= self.mask <= FULL_MASK and 0 <= self.value <= FULL_MASK and self.value & ~self.mask):
            raise ModelError(f"a mark isn't turned by {self.value:#x} outside {self.mask:#x}")

    def put_on(self, mark: int) -> int:
        """Return the 32-bit mark that comes of an old one."""
        return (mark & ~self.mask & FULL_MASK) ^ self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveMark:
    """The connection's mark becomes ``(its & ~connection_mask) ^ (the packet's & packet_mask)``."""

    packet_mask: int = FULL_MASK
    connection_mask: int = FULL_MASK


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreMark:
    """The packet's mark becomes ``(its & ~packet_mask) ^ (the connection's & connection_mask)``."""

    packet_mask: int = FULL_MASK
    connection_mask: int = FULL_MASK


@dataclass(frozen=True, slots=True, kw_only=True)
class CtZoneBoth:
    """Both directions of the connection are tracked in a zone."""

    zone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTrack:
    """The packet's connection isn't tracked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tproxy:
    """The packet is delivered to a local listener unchanged, and dropped where none listens; it may get a mark.

    Without an address it is the one of the interface that the packet came in by.
    """

    port: int
    address: Address | None = None
    mark: Mark | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectIcmp:
    """The sender is told so by ICMP, with a code that `Reject` doesn't have.

    It is as iptables names it (``icmp-host-prohibited``), or in nft's two words (``icmp host-prohibited``).
    """

    code: str


ReadAction = (
    Jump | Goto | Return | Drop | Continue | DnatTo | Masquerade | FlipMark | SaveMark | RestoreMark | CtZoneBoth
    | NoTrack | Tproxy | RejectIcmp
)  # fmt: skip
