"""Where a match holds, as a function of the variables that stand in a packet's header."""

from functools import reduce
from typing import assert_never

from rulesets.equivalence.nodes import Node
from rulesets.equivalence.plain import BROADCAST, MULTICAST, NOBODY
from rulesets.equivalence.space import Space
from rulesets.equivalence.spans import pairs
from rulesets.equivalence.terms import Free, Header, Mixed, Term
from rulesets.model import implied_families
from rulesets.packet import Receiver
from rulesets.packet.undecided import in_ipset
from rulesets.vocabulary import (
    AddressKind,
    AddressType,
    Aside,
    Between,
    Comment,
    ConnDirection,
    ConnMark,
    ConnState,
    ConnStates,
    Dst,
    DstPort,
    End,
    Foreign,
    Hook,
    InIface,
    InIpset,
    InSet,
    Limited,
    LocalAddress,
    LocalSocket,
    Mark,
    Match,
    NoSocket,
    NoTcpFlags,
    OfFamily,
    OneOf,
    OtherProto,
    OutIface,
    Owner,
    PacketMark,
    Ports,
    Proto,
    Protocol,
    ReadMatch,
    ReceivingSocket,
    Sampled,
    SetField,
    SocketCgroup,
    SocketOwner,
    SocketUser,
    Src,
    SrcPort,
    TcpFlags,
    family_of,
)

_UNTRACKED = (ConnState.INVALID, ConnState.UNTRACKED)


class Unsayable(Exception):
    """A match of which no rule says when it holds. Its text is the match."""


class Conditions:
    """Says where matches hold, for one kind of packets."""

    def __init__(self, space: Space) -> None:
        """Take the fields' atoms from a space."""
        self._space = space
        self._diagrams = space.diagrams

    def of(self, ruleset: int, match: Match, header: Header, hook: Hook) -> Node:
        """Return where a match of a ruleset holds; raises `Unsayable`."""
        found = self._applying(ruleset, match, header, hook)
        if found is None:
            return self._diagrams.no
        return self._diagrams.negation(found) if getattr(match, "negate", False) else found

    def _among(self, term: Term | None, mask: int) -> Node:
        return self._space.is_among(term, mask)

    def _said(self, holds: bool) -> Node:
        return self._diagrams.yes if holds else self._diagrams.no

    def _applying(self, ruleset: int, match: Match, header: Header, hook: Hook) -> Node | None:
        """Return where what a match names is so, its negation left aside; None where it can't hold either way."""
        if isinstance(match, ReadMatch):
            return self._read(match, header)
        space, kind = self._space, self._space.kind
        match match:
            case OfFamily(family=family):
                return self._said(kind.family is family)
            case Proto(protocol=protocol):
                return self._said(kind.protocol is protocol)
            case Src(network=network) | Dst(network=network):
                if family_of(network) is not kind.family:
                    return None
                end = header.source if isinstance(match, Src) else header.destination
                return self._among(end, space.addresses.taken[network])
            case SrcPort(protocol=protocol, ports=ports) | DstPort(protocol=protocol, ports=ports):
                if protocol is not kind.protocol:
                    return None
                port = header.source_port if isinstance(match, SrcPort) else header.destination_port
                return self._among(port, space.ports.taken[ports])
            case InIface(name=name):
                known = hook is not Hook.OUTPUT
                return self._among(header.in_interface if known else None, space.interfaces.taken[name])
            case OutIface(name=name):
                known = hook in (Hook.OUTPUT, Hook.POSTROUTING, Hook.FORWARD)
                return self._among(header.out_interface if known else None, space.interfaces.taken[name])
            case PacketMark(mark=mark):
                return self._marked(header.mark, mark)
            case ConnMark(mark=mark):
                return None if header.state in _UNTRACKED else self._marked(header.connection_mark, mark)
            case SocketUser(user=user):
                return self._among(header.user, space.owners[Owner.USER].taken[user, user])
            case SocketCgroup(level=level, cgroup=cgroup):
                return self._among(header.cgroups, space.cgroups.taken[level, cgroup])
            case LocalSocket():
                return self._has_socket(header)
            case LocalAddress():
                return self._said(header.destination_local)
            case InSet(field=field, name=name):
                return self._looked_up(ruleset, field, name, header)
            case TcpFlags(among=among, set=wanted):
                if kind.protocol is not Protocol.TCP:
                    return None
                return self._among(header.tcp_flags, space.flags.taken[among, wanted])
            case OneOf(matches=[Src() | Dst() | Between() as one, *_]):
                if implied_families(one) != (kind.family,):
                    return None
                source = isinstance(one, Src) or (isinstance(one, Between) and one.end is End.SOURCE)
                return self._among(header.source if source else header.destination, space.addresses.taken[id(match)])
            case OneOf(matches=matches):
                found = [each for one in matches if (each := self._applying(ruleset, one, header, hook)) is not None]
                return reduce(self._diagrams.either, found) if found else None
            case Sampled() | Limited():
                raise Unsayable("packets are chosen by chance or by their number")
            case Foreign(verbatim=verbatim):
                raise Unsayable(verbatim)
            case _:
                assert_never(match)

    def _read(self, match: ReadMatch, header: Header) -> Node | None:
        space, kind = self._space, self._space.kind
        match match:
            case OtherProto():
                return self._diagrams.no  # every packet here is of a protocol that has a name
            case Ports(protocol=protocol, end=end, ranges=ranges):
                if protocol is not kind.protocol:
                    return None
                mask = space.ports.taken[ranges]
                source = self._among(header.source_port if end is not End.DESTINATION else None, mask)
                destination = self._among(header.destination_port if end is not End.SOURCE else None, mask)
                return self._diagrams.either(source, destination)
            case Between(end=end, first=first, last=last):
                if family_of(first) is not kind.family:
                    return None
                address = header.source if end is End.SOURCE else header.destination
                return self._among(address, space.addresses.taken[first, last])
            case AddressType(end=End.SOURCE, kinds=kinds):
                local = self._among(header.source_local, space.booleans.taken[True])
                return self._of_kind(header.source, local, kinds)
            case AddressType(kinds=kinds):
                return self._of_kind(header.destination, self._said(header.destination_local), kinds)
            case ConnStates(states=states):
                return self._said(header.state in states)
            case ConnDirection(direction=direction):
                return None if header.state in _UNTRACKED else self._said(header.direction is direction)
            case SocketOwner(owner=owner, first=first_number, last=last_number):
                number = header.user if owner is Owner.USER else header.group
                return self._among(number, space.owners[owner].taken[first_number, last_number])
            case NoSocket():
                return self._diagrams.negation(self._has_socket(header))
            case ReceivingSocket(transparent=transparent):
                kinds_of_socket = (Receiver.TRANSPARENT,) if transparent else (Receiver.TRANSPARENT, Receiver.ORDINARY)
                mask = sum(space.receivers.taken[each] for each in kinds_of_socket)
                return self._among(header.receiver, mask)
            case NoTcpFlags(among=among):
                if kind.protocol is not Protocol.TCP:
                    return None
                return self._among(header.tcp_flags, space.flags.taken[among, ()])
            case InIpset(name=name):
                raise Unsayable(in_ipset(name))
            case Comment() | Aside():
                return self._diagrams.yes
            case _:
                assert_never(match)

    def _has_socket(self, header: Header) -> Node:
        users = self._space.owners[Owner.USER]
        return self._among(header.user, users.all & ~users.taken[NOBODY])

    def _of_kind(self, address: Term, local: Node, kinds: tuple[AddressKind, ...]) -> Node:
        """Return where an address is of one of these kinds; what is multicast or broadcast is so before it is local."""
        taken = self._space.addresses.taken
        multicast = self._among(address, taken[MULTICAST[self._space.kind.family]])
        broadcast = self._among(address, taken.get(BROADCAST, 0))
        otherwise = self._diagrams.choose(
            local, self._said(AddressKind.LOCAL in kinds), self._said(AddressKind.UNICAST in kinds)
        )
        otherwise = self._diagrams.choose(broadcast, self._said(AddressKind.BROADCAST in kinds), otherwise)
        return self._diagrams.choose(multicast, self._said(AddressKind.MULTICAST in kinds), otherwise)

    def _marked(self, terms: tuple[Term, ...], mark: Mark) -> Node:
        result = self._diagrams.yes
        for number, atom in self._space.marks.parts(mark):
            term, atoms = terms[number], self._space.marks.atoms[number]
            if isinstance(term, Mixed):
                raise Unsayable(term.why)
            flip = term.flip if isinstance(term, Free) else 0
            wanted = atoms.taken[atoms.examples[atom][0] ^ flip]
            result = self._diagrams.both(result, self._among(term, wanted))
        return result

    def _looked_up(self, ruleset: int, field: SetField, name: str, header: Header) -> Node | None:
        space = self._space
        family = {"ip": "ipv4", "ip6": "ipv6"}.get(field.split()[0], space.kind.family)
        if family != space.kind.family or ("tcp" in field and space.kind.protocol is not Protocol.TCP):
            return None
        if field is SetField.TCP_DST_PORT:
            return self._among(header.destination_port, space.ports.taken.get((ruleset, name), 0))
        if field in (SetField.SRC_V4, SetField.SRC_V6, SetField.DST_V4, SetField.DST_V6):
            end = header.source if field in (SetField.SRC_V4, SetField.SRC_V6) else header.destination
            return self._among(end, space.addresses.taken.get((ruleset, name), 0))
        found = self._diagrams.no
        elements = space.mentions.rulesets[ruleset].find_set(name)
        for ports in pairs(elements) if elements else ():
            address = self._among(header.destination, space.addresses.taken[ruleset, name, ports])
            port = self._among(header.destination_port, space.ports.taken[ruleset, name, ports])
            found = self._diagrams.either(found, self._diagrams.both(address, port))
        return found
