"""The header space of one kind of packet: its variables, what is possible, and the packets that it is about."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from rulesets.equivalence.atoms import Atoms, sort_out
from rulesets.equivalence.diagrams import Diagrams
from rulesets.equivalence.limits import MOST_NODES
from rulesets.equivalence.mentions import Mentions
from rulesets.equivalence.nodes import Node
from rulesets.equivalence.plain import ADDRESSES, CLIENTS, INTERFACES, SERVICES, USERS
from rulesets.equivalence.terms import Fixed, Free, Header, Term
from rulesets.packet import Direction, Receiver
from rulesets.vocabulary import ConnState, Family, Hook, Owner, Protocol, TcpFlag

_ODD = 50


class Way(StrEnum):
    """Where a connection's first packet comes from, and where it goes."""

    OUT = "outgoing"
    IN = "arriving"
    TO_SELF = "to itself"
    THROUGH = "forwarded"


class FirstAddress(StrEnum):
    """What the first address of the interface is by which a packet comes in, seen from the one it is for.

    A redirect goes there. For a packet that is forwarded it is another, or none.
    """

    ASKED_FOR = "asked for"
    ANOTHER = "another"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of connection, or of packets outside any: what each cell of the header space is of."""

    way: Way
    family: Family
    protocol: Protocol
    state: ConnState = ConnState.NEW


class Role(StrEnum):
    """Which packet a variable belongs to: the first, one that follows, or one that left the connection's mark."""

    FIRST = "first"
    LATER = "later"
    LEFT = "left"


@dataclass(frozen=True, kw_only=True, eq=False)
class Variable:
    """A field of a packet; of a mark, the number of its group of bits. `liked` values make plain examples."""

    role: Role
    field: str
    number: int
    atoms: Atoms[Any]
    liked: tuple[Any, ...]

    @cached_property
    def costs(self) -> tuple[int, ...]:
        """How odd an example each atom makes; the plainest costs nothing."""
        ranks = [
            min((self.liked.index(value) for value in some if value in self.liked), default=_ODD + atom)
            for atom, some in enumerate(self.atoms.examples)
        ]
        return tuple(rank - min(ranks) for rank in ranks)

    def examples(self, atom: int) -> tuple[Any, ...]:
        """Return some values of an atom, the plainest first."""
        some = self.atoms.examples[atom]
        return (
            *(value for value in self.liked if value in some),
            *(value for value in some if value not in self.liked),
        )


class Space:
    """Everything that one kind of packets can be, for the rules of both sides."""

    def __init__(self, kind: Kind, mentions: Mentions, most_nodes: int = MOST_NODES) -> None:
        """Take the atoms of every field from what the rulesets mention for this family and protocol.

        Raises `TooLarge`, here and wherever something is made of it.
        """
        self.kind = kind
        self.mentions = mentions
        self.marks = mentions.marks
        self.addresses = mentions.addresses
        self.ports = mentions.ports(kind.protocol)
        self.interfaces = mentions.interfaces
        self.flags = mentions.flags
        self.cgroups = mentions.cgroups
        self.owners = mentions.owners
        self.booleans: Atoms[bool] = sort_out([True, False], {True: [True]})
        self.receivers: Atoms[Receiver] = sort_out(Receiver, {each: [each] for each in Receiver})
        self.variables: list[Variable] = []
        self._by_name: dict[tuple[Role, str, int], int] = {}
        self.first_addresses: Atoms[FirstAddress] = sort_out(FirstAddress, {each: [each] for each in FirstAddress})
        self._declare()
        self.diagrams = Diagrams([each.atoms.count for each in self.variables], most_nodes, mentions.work)

    @cached_property
    def loopback(self) -> Fixed:
        """The interface ``lo``."""
        return Fixed(self.interfaces.atom_of("lo"))

    @property
    def has_ports(self) -> bool:
        """Whether the protocol has ports."""
        return self.kind.protocol in (Protocol.TCP, Protocol.UDP)

    def _declare(self) -> None:
        """Make the variables; those that rules test first and often come first, which keeps diagrams small."""
        both, first = (Role.FIRST, Role.LATER), (Role.FIRST,)
        self._make(both, "user", self.owners[Owner.USER], USERS)
        self._make(both, "group", self.owners[Owner.GROUP], USERS)
        self._make(both, "cgroups", self.cgroups, [()])
        for number, bits in enumerate(self.marks.atoms):
            # A mark that a later packet leaves on the connection becomes LEFT: the two have to be neighbours.
            self._make((Role.FIRST, Role.LEFT, Role.LATER), "mark", bits, [0], number)
        self._make(both, "in_interface", self.interfaces, INTERFACES)
        self._make(both, "out_interface", self.interfaces, INTERFACES)
        self._make(first, "source_local", self.booleans, [True])
        self._make(both, "receiver", self.receivers, list(Receiver))
        peer, service, *others = ADDRESSES[self.kind.family]
        # What must differ from the address asked for stands beside it, or each address would have all the rest anew.
        self._make(first, "destination", self.addresses, [service, *others])
        self._make(first, "first_address", self.first_addresses, list(FirstAddress))
        self._make(first, "interface_address", self.addresses, others)
        self._make(first, "destination_port", self.ports, SERVICES)
        self._make(first, "source", self.addresses, [peer, *others])
        self._make(first, "source_port", self.ports, CLIENTS)
        self._make(first, "tcp_flags", self.flags, [(TcpFlag.SYN,), (TcpFlag.ACK,)])
        self._make((Role.LATER,), "tcp_flags", self.flags, [(TcpFlag.ACK,)])
        self._make(both, "leaving_address", self.addresses, others)

    def _make(
        self, roles: Iterable[Role], field: str, atoms: Atoms[Any], liked: Sequence[Any], number: int = 0
    ) -> None:
        for role in roles:
            self._by_name[role, field, number] = len(self.variables)
            self.variables.append(Variable(role=role, field=field, number=number, atoms=atoms, liked=tuple(liked)))

    def free(self, role: Role, field: str, number: int = 0) -> Free:
        """Return the term of a variable."""
        return Free(self._by_name[role, field, number])

    def mark(self, role: Role) -> tuple[Term, ...]:
        """Return a packet's mark, each group of bits as it likes."""
        return tuple(self.free(role, "mark", number) for number in range(len(self.marks.masks)))

    def no_mark(self) -> tuple[Term, ...]:
        """Return the mark 0."""
        return tuple(Fixed(atoms.atom_of(0)) for atoms in self.marks.atoms)

    def first(self) -> Header:
        """Return the first packet of a connection, or one outside any."""
        kind = self.kind
        outgoing = kind.way in (Way.OUT, Way.TO_SELF)
        leaving = {Way.OUT, Way.THROUGH}
        return Header(
            hook=Hook.OUTPUT if outgoing else Hook.PREROUTING,
            source=self.free(Role.FIRST, "source"),
            destination=self.free(Role.FIRST, "destination"),
            source_port=self.free(Role.FIRST, "source_port") if self.has_ports else None,
            destination_port=self.free(Role.FIRST, "destination_port") if self.has_ports else None,
            in_interface=None if outgoing else self.free(Role.FIRST, "in_interface"),
            out_interface=self.loopback
            if kind.way is Way.TO_SELF
            else self.free(Role.FIRST, "out_interface")
            if kind.way in leaving
            else None,
            mark=self.mark(Role.FIRST),
            connection_mark=self.no_mark(),
            tcp_flags=self.free(Role.FIRST, "tcp_flags") if kind.protocol is Protocol.TCP else None,
            user=self.free(Role.FIRST, "user") if outgoing else None,
            group=self.free(Role.FIRST, "group") if outgoing else None,
            cgroups=self.free(Role.FIRST, "cgroups") if outgoing else None,
            first_address=None if outgoing else self.free(Role.FIRST, "first_address"),
            leaving_address=None if kind.way is Way.IN else self.free(Role.FIRST, "leaving_address"),
            destination_local=kind.way in (Way.TO_SELF, Way.IN),
            source_local=self.free(Role.FIRST, "source_local") if outgoing else Fixed(1),
            receiver=Fixed(0) if outgoing else self.free(Role.FIRST, "receiver"),
            state=kind.state,
            direction=Direction.ORIGINAL,
        )

    def interface_address(self) -> Free:
        """Return the first address of the interface, where it is another than the one asked for."""
        return self.free(Role.FIRST, "interface_address")

    def alike(self, first: int, second: int, flip: int = 0) -> Node:
        """Return where two variables of a field are surely the same value, one of them with some bits turned over.

        Two of one atom of several values needn't be: no rule can tell, and an example that differs is found.
        """
        one, other = sorted((first, second))
        atoms = self.variables[one].atoms
        pairs = {
            atom: atoms.atom_of(atoms.examples[atom][0] ^ flip) if flip else atom
            for atom in range(atoms.count)
            if atoms.single >> atom & 1
        }
        points = {atom: self.diagrams.among(other, 1 << same) for atom, same in pairs.items()}
        return self.diagrams.at_points(one, points)

    def is_among(self, term: Term | None, mask: int) -> Node:
        """Return where a term is one of some atoms; nothing is where there is no such field."""
        match term:
            case Free(variable=variable):
                return self.diagrams.among(variable, mask)
            case Fixed(atom=atom) if mask >> atom & 1:
                return self.diagrams.yes
            case _:
                return self.diagrams.no
