"""What stands in a header field while the values are not known: a variable, or an atom that a rule put there."""

from dataclasses import dataclass, field, replace

from rulesets.packet import Direction, Fate
from rulesets.vocabulary import ConnState, Hook


@dataclass(frozen=True, slots=True)
class Free:
    """The value of a variable; of a mark's bits, with those of `flip` turned over."""

    variable: int
    flip: int = 0


@dataclass(frozen=True, slots=True)
class Fixed:
    """The one value of an atom."""

    atom: int


@dataclass(frozen=True, slots=True)
class Mixed:
    """Bits of two marks, combined: what they are can't be said."""

    why: str


Term = Free | Fixed | Mixed


End = tuple[Term, Term | None]
"""An address and a port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """How the packets of a connection are translated: as `rulesets.packet.Translation`, with terms for values.

    What they were sent with are the variables of the first packet.
    """

    destination: End | None = None
    source: End | None = None
    local: bool = False
    out_interface: Term | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A packet as it enters the stack, or as it has become; as `Packet`, with terms for values.

    None is an interface or a socket that isn't there, or a port or flags that the protocol doesn't have. Marks have a
    term for each group of bits that rules treat together.
    """

    hook: Hook
    source: Term
    destination: Term
    source_port: Term | None
    destination_port: Term | None
    in_interface: Term | None
    out_interface: Term | None
    mark: tuple[Term, ...]
    connection_mark: tuple[Term, ...]
    tcp_flags: Term | None
    user: Term | None
    group: Term | None
    cgroups: Term | None
    first_address: Term | None
    leaving_address: Term | None
    destination_local: bool
    source_local: Term
    receiver: Term
    state: ConnState
    direction: Direction
    settled: bool = False
    translation: Translation | None = None


@dataclass(frozen=True, slots=True, order=True)
class RuleAt:
    """A rule by its place: the number of its ruleset, its chain and its number there; -1 is the chain's policy."""

    ruleset: int
    chain: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Which rule last decided what of a packet; None where none did, and nowhere while nobody asks."""

    fate: RuleAt | None = None
    target: RuleAt | None = None
    mark: RuleAt | None = None
    connection_mark: RuleAt | None = None
    zone: RuleAt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """How a packet has fared so far; as `Verdict`, with terms for values.

    `route_mark` is the mark that the packet's route was last looked up with. `mapped` says whether its connection was
    translated at the hook that it is at, `reply` what a refused sender is told, `unknown` what is foreign and would
    decide.
    """

    header: Header
    route_mark: tuple[Term, ...]
    fate: Fate = Fate.ACCEPTED
    reply: str = ""
    zones: tuple[int, int] = (0, 0)
    tproxy: int | None = None
    masqueraded: bool = False
    mapped: bool = False
    unknown: str = ""
    names: Names = field(default_factory=Names)

    def nameless(self) -> "Trip":
        """Return it without the rules that decided: two trips that are equal then are the same to the packet."""
        return replace(self, names=Names())
