"""An imaginary packet, and how it fared."""

from dataclasses import dataclass, field
from enum import StrEnum

from rulesets.vocabulary import Address, ConnState, Direction, Family, Hook, Protocol, TcpFlag, family_of


class Receiver(StrEnum):
    """Whether an open socket would take an arriving packet: none, an ordinary one, or a transparent one."""

    NONE = "none"
    ORDINARY = "ordinary"
    TRANSPARENT = "transparent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The two ends of a packet."""

    source: Address
    source_port: int
    destination: Address
    destination_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """How connection tracking translates the packets of a connection.

    `sent` are the ends of its first packet before; `destination` and `source` are an address and port that take the
    place of these, None where they stay. `own` says that the first packet was sent here, `local` that the new
    destination is an address of this namespace, `out_interface` by what the packets leave then, empty for as before.
    """

    sent: Ends
    own: bool
    destination: tuple[Address, int] | None = None
    source: tuple[Address, int] | None = None
    local: bool = False
    out_interface: str = ""

    @property
    def new_destination(self) -> bool:
        """Whether the destination is another one indeed: conntrack's status ``dnat``."""
        return self.destination not in (None, (self.sent.destination, self.sent.destination_port))

    @property
    def new_source(self) -> bool:
        """Whether the source is another one indeed: conntrack's status ``snat``."""
        return self.source not in (None, (self.sent.source, self.sent.source_port))


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet as it enters the stack at `hook`: `OUTPUT` from a local socket, `PREROUTING` from an interface.

    `user` is the owner of the sending local socket; None is no local socket. `cgroups` are those of that socket, the
    outermost first, each as the rules call it: by its number, or by its path from the root. `destination_local` says
    whether the destination is an address of this namespace, so whether an arriving packet is delivered or forwarded.
    `interface_address` is the first address of the interface that it came in by: None makes a redirect drop.
    `nat_settled` says that its connection has had its chance of translation: the kernel asks nat chains once for the
    destination and once for the source, so a packet that comes back in over loopback is past both.
    `source_local` says whether the source is an address of this namespace, `leaving_address` what a masquerade makes of
    it, `group` is the sending socket's; they and `receiver` only matter to rules that Weir doesn't write.
    `translation` is what was made of its connection before, or is being made of it.
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
    cgroups: tuple[int | str, ...] = ()
    destination_local: bool = True
    interface_address: Address | None = None
    state: ConnState = ConnState.NEW
    direction: Direction = Direction.ORIGINAL
    nat_settled: bool = False
    group: int | None = None
    source_local: bool = False
    leaving_address: Address | None = None
    receiver: Receiver = Receiver.NONE
    translation: Translation | None = None

    @property
    def ends(self) -> Ends:
        """Its two ends."""
        return Ends(
            source=self.source,
            source_port=self.source_port,
            destination=self.destination,
            destination_port=self.destination_port,
        )

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
    """A rule that matched, and where it stands: its chain, and its number there from 1; 0 is the chain's policy.

    `ruleset` is the number of its ruleset among those that are walked together, `hook` where the packet was then.
    """

    chain: str
    slug: str
    number: int = field(default=0, compare=False)
    ruleset: int = field(default=0, compare=False)
    hook: Hook | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a packet fared.

    `packet` is as it leaves: with the addresses, ports and marks that it has then. `translated` says whether its
    connection's addresses or ports were changed, `zone` is the original direction's conntrack zone (0: the default),
    `reply_zone` that of its replies, `rerouted` whether a ``route`` chain changed its mark, `masqueraded` whether the
    leaving interface gives the source, `tproxy` the port to which it is delivered as it is. `UNKNOWN` names the
    foreign thing that decided in `unknown`. `stopped` is what `rules` doesn't have, for it didn't match: the rule of
    which nobody can tell, or the chain whose policy dropped the packet.
    """

    fate: Fate
    packet: Packet
    rules: tuple[Met, ...]
    translated: bool = False
    zone: int = 0
    reply_zone: int = 0
    rerouted: bool = False
    masqueraded: bool = False
    tproxy: int | None = None
    unknown: str = ""
    stopped: Met | None = field(default=None, compare=False)

    @property
    def decided_by(self) -> str:
        """The slug of the last rule met, empty when no rule matched."""
        return self.rules[-1].slug if self.rules else ""
