"""What an action makes of a packet whose values are not known: as `rulesets.packet` does, with terms for values."""

from collections.abc import Iterator
from dataclasses import replace
from typing import assert_never

from rulesets.equivalence.nodes import Node
from rulesets.equivalence.plain import LOOPBACK, LOOPBACK_ADDRESS
from rulesets.equivalence.space import FirstAddress, Role, Space
from rulesets.equivalence.terms import Fixed, Free, Header, Mixed, RuleAt, Term, Translation, Trip
from rulesets.packet import Fate
from rulesets.packet.effects import LATE_ZONE, ZONE_UNTRACKED, Place
from rulesets.vocabulary import (
    Accept,
    Action,
    Address,
    ConnState,
    Continue,
    CtZone,
    CtZoneBoth,
    Dnat,
    DnatTo,
    Drop,
    FlipMark,
    Foreign,
    Goto,
    Hook,
    Jump,
    Mark,
    MarkOf,
    Masquerade,
    NoTrack,
    Redirect,
    Reject,
    RejectIcmp,
    RestoreMark,
    Return,
    SaveMark,
    SetConnMark,
    SetMark,
    Snat,
    Tproxy,
    Trace,
    family_of,
)

Effects = tuple[tuple[Node, Trip], ...]
"""What becomes of a packet, and where: the last one holds for the rest."""


class Actions:
    """Says what actions do, for one kind of packets. With `naming`, trips remember which rule decided what."""

    def __init__(self, space: Space, *, naming: bool) -> None:
        """Take the fields' atoms from a space."""
        self._space = space
        self._naming = naming

    def carry_out(self, action: Action, trip: Trip, place: Place, at: RuleAt, *, tracked: bool) -> tuple[Effects, bool]:
        """Return what an action does, and whether the chain ends with it."""
        everywhere = self._space.diagrams.yes
        header = trip.header
        match action:
            case Accept():
                return ((everywhere, self._named(trip, at, "target")),), True
            case Redirect(port=port):
                return tuple(self._redirected(self._named(trip, at, "target", "fate"), place.hook, at, port)), True
            case Dnat(port=port):
                to = replace(header, destination_port=self._port(port))
                return ((everywhere, self._sent(trip, to, at)),), True
            case DnatTo(address=address) | Snat(address=address) if family_of(address) is not self._space.kind.family:
                why = f"a translation to {address}, which is of another family"
                return ((everywhere, replace(trip, fate=Fate.UNKNOWN, unknown=why)),), True
            case DnatTo(address=address, port=port):
                return tuple(self._sent_to(trip, place.hook, at, address, port)), True
            case Snat(address=address):
                source = Fixed(self._space.addresses.atom_of(address))
                return ((everywhere, self._come_from(trip, source, at)),), True
            case Masquerade():
                made = self._come_from(trip, header.leaving_address or header.source, at)
                return ((everywhere, replace(made, masqueraded=True)),), True
            case Tproxy(port=port, mark=mark):
                marked = trip if mark is None else self._set(trip, MarkOf.PACKET, mark, at)
                return ((everywhere, replace(self._named(marked, at, "target"), tproxy=port)),), True
            case Drop():
                return ((everywhere, replace(self._named(trip, at, "fate"), fate=Fate.DROPPED)),), True
            case Reject(reply=reply) | RejectIcmp(code=reply):
                refused = replace(trip, fate=Fate.REFUSED, reply=str(reply))
                return ((everywhere, self._named(refused, at, "fate")),), True
            case Foreign(verbatim=verbatim):
                unknown = replace(trip, fate=Fate.UNKNOWN, unknown=verbatim)
                return ((everywhere, self._named(unknown, at, "fate")),), True
            case CtZone() | CtZoneBoth() | NoTrack():
                made, ends = self._before_tracking(action, trip, place, at, tracked=tracked)
                return ((everywhere, made),), ends
            case SetMark() | SetConnMark() | FlipMark() | SaveMark() | RestoreMark():
                return ((everywhere, self._marked(action, trip, at, tracked=tracked)),), False
            case Continue() | Jump() | Goto() | Return() | Trace():
                return ((everywhere, trip),), False
            case _:
                assert_never(action)

    def _named(self, trip: Trip, at: RuleAt, *what: str) -> Trip:
        if not self._naming:
            return trip
        return replace(trip, names=replace(trip.names, **dict.fromkeys(what, at)))

    def _port(self, port: int) -> Fixed | None:
        return Fixed(self._space.ports.atom_of(port)) if self._space.has_ports else None

    def _before_tracking(
        self, action: CtZone | CtZoneBoth | NoTrack, trip: Trip, place: Place, at: RuleAt, *, tracked: bool
    ) -> tuple[Trip, bool]:
        """Return what connection tracking is told, as `rulesets.packet.effects` says."""
        if tracked or (place.early and trip.zones != (0, 0)):
            return trip, False
        if isinstance(action, NoTrack):
            untracked = replace(trip, header=replace(trip.header, state=ConnState.UNTRACKED))
            return self._named(untracked, at, "zone"), False
        untracked_before = trip.header.state is ConnState.UNTRACKED
        if untracked_before and place.iptables:
            return trip, False
        if untracked_before or not place.early:
            why = LATE_ZONE if not place.early else ZONE_UNTRACKED
            return self._named(replace(trip, fate=Fate.UNKNOWN, unknown=why), at, "fate"), True
        reply_zone = action.zone if isinstance(action, CtZoneBoth) else trip.zones[1]
        return replace(self._named(trip, at, "zone"), zones=(action.zone, reply_zone)), False

    def _sent(self, trip: Trip, header: Header, at: RuleAt, out_interface: Term | None = None) -> Trip:
        """Return the trip of a packet with another destination, by which it leaves by another interface, or not."""
        made = replace(
            header.translation or Translation(),
            destination=(header.destination, header.destination_port),
            local=header.destination_local,
            out_interface=out_interface,
        )
        header = replace(header, translation=made, out_interface=out_interface or header.out_interface)
        return self._named(replace(trip, header=header), at, "target")

    def _come_from(self, trip: Trip, source: Term, at: RuleAt) -> Trip:
        header = trip.header
        made = replace(header.translation or Translation(), source=(source, header.source_port))
        return self._named(replace(trip, header=replace(header, source=source, translation=made)), at, "target")

    def _redirected(self, trip: Trip, hook: Hook, at: RuleAt, port: int) -> Iterator[tuple[Node, Trip]]:
        """Yield where it goes: to loopback on output, else to the first address of the interface, if it has one."""
        header, space = trip.header, self._space
        changed = replace(header, destination_port=self._port(port), destination_local=True)
        if hook is Hook.OUTPUT:
            to = Fixed(space.addresses.atom_of(LOOPBACK_ADDRESS[space.kind.family]))
            yield space.diagrams.yes, self._sent(trip, replace(changed, destination=to), at, space.loopback)
            return
        for which, address in (
            (FirstAddress.ASKED_FOR, space.free(Role.FIRST, "destination")),
            (FirstAddress.ANOTHER, space.interface_address()),
        ):
            where = space.is_among(header.first_address, space.first_addresses.taken[which])
            yield where, self._sent(trip, replace(changed, destination=address), at)
        yield space.diagrams.yes, replace(trip, fate=Fate.DROPPED)

    def _sent_to(
        self, trip: Trip, hook: Hook, at: RuleAt, address: Address, port: int | None
    ) -> Iterator[tuple[Node, Trip]]:
        """Yield both cases: the address is this namespace's, or not, as far as the packet lets one know."""
        header, diagrams = trip.header, self._space.diagrams
        atom = self._space.addresses.atom_of(address)
        another = self._space.first_addresses.taken[FirstAddress.ANOTHER]
        local = diagrams.both(
            self._space.is_among(header.first_address, another),
            self._space.is_among(self._space.interface_address(), 1 << atom),
        )
        if header.destination_local:
            local = diagrams.either(local, self._space.is_among(header.destination, 1 << atom))
        if self._space.addresses.taken[LOOPBACK[self._space.kind.family]] >> atom & 1:
            local = diagrams.yes
        new_port = header.destination_port if port is None else self._port(port)
        for where, here in ((local, True), (diagrams.yes, False)):
            to = replace(header, destination=Fixed(atom), destination_port=new_port, destination_local=here)
            yield where, self._sent(trip, to, at, self._space.loopback if here and hook is Hook.OUTPUT else None)

    def _marked(
        self,
        action: SetMark | SetConnMark | FlipMark | SaveMark | RestoreMark,
        trip: Trip,
        at: RuleAt,
        *,
        tracked: bool,
    ) -> Trip:
        mark, connection_mark = trip.header.mark, trip.header.connection_mark
        match action:
            case SetMark(mark=new):
                return self._set(trip, MarkOf.PACKET, new, at)
            case FlipMark(of=MarkOf.PACKET):
                return self._with(trip, MarkOf.PACKET, self._turned(mark, action), at)
            case SetConnMark(mark=new) if tracked:
                return self._set(trip, MarkOf.CONNECTION, new, at)
            case FlipMark(of=MarkOf.CONNECTION) if tracked:
                return self._with(trip, MarkOf.CONNECTION, self._turned(connection_mark, action), at)
            case SaveMark(packet_mask=ours, connection_mask=theirs) if tracked:
                return self._with(trip, MarkOf.CONNECTION, self._mixed(connection_mark, theirs, mark, ours), at)
            case RestoreMark(packet_mask=ours, connection_mask=theirs) if tracked:
                return self._with(trip, MarkOf.PACKET, self._mixed(mark, ours, connection_mark, theirs), at)
            case _:
                return trip

    def _with(self, trip: Trip, of: MarkOf, terms: tuple[Term, ...], at: RuleAt) -> Trip:
        if of is MarkOf.PACKET:
            return self._named(replace(trip, header=replace(trip.header, mark=terms)), at, "mark")
        return self._named(replace(trip, header=replace(trip.header, connection_mark=terms)), at, "connection_mark")

    def _set(self, trip: Trip, of: MarkOf, mark: Mark, at: RuleAt) -> Trip:
        terms = list(trip.header.mark if of is MarkOf.PACKET else trip.header.connection_mark)
        for number, atom in self._space.marks.parts(mark):
            terms[number] = Fixed(atom)
        return self._with(trip, of, tuple(terms), at)

    def _turned(self, terms: tuple[Term, ...], action: FlipMark) -> tuple[Term, ...]:
        """Return the groups of a mark after ``(old & ~mask) ^ value``."""
        changed = list(terms)
        for number, (bits, atoms) in enumerate(zip(self._space.marks.masks, self._space.marks.atoms, strict=True)):
            term: Term = Fixed(atoms.atom_of(0)) if action.mask & bits else changed[number]
            changed[number] = self._flipped(term, number) if action.value & bits else term
        return tuple(changed)

    def _flipped(self, term: Term, number: int) -> Term:
        bits, atoms = self._space.marks.masks[number], self._space.marks.atoms[number]
        match term:
            case Fixed(atom=atom):
                return Fixed(atoms.atom_of(atoms.examples[atom][0] ^ bits))
            case Free(variable=variable, flip=flip):
                return Free(variable, flip ^ bits)
            case Mixed():
                return term

    def _mixed(self, terms: tuple[Term, ...], mask: int, others: tuple[Term, ...], other_mask: int) -> tuple[Term, ...]:
        """Return the groups of ``(old & ~mask) ^ (other & other_mask)``."""
        changed = list(terms)
        for number, (bits, atoms) in enumerate(zip(self._space.marks.masks, self._space.marks.atoms, strict=True)):
            zero = Fixed(atoms.atom_of(0))
            if mask & bits:
                changed[number] = others[number] if other_mask & bits else zero
            elif other_mask & bits and others[number] != zero:
                kept = terms[number] == zero
                changed[number] = (
                    others[number] if kept else Mixed(f"bits {bits:#x} of two marks, one turned by the other")
                )
        return tuple(changed)
