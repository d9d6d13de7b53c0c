"""Examples of packets: a value for every variable, and the packet that a header is with these values."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from rulesets.equivalence import terms
from rulesets.equivalence.space import FirstAddress, Role, Space
from rulesets.equivalence.terms import End, Fixed, Free, Header, Term
from rulesets.packet import Ends, Packet, Translation
from rulesets.vocabulary import Address, Family, Hook, Owner

_ADDRESSES = ("source", "destination", "interface_address", "leaving_address")


def valued(space: Space, atoms: Mapping[int, int], known: Mapping[int, Any], number: int) -> dict[int, Any]:
    """Return a value for every variable: what is known, and examples of their atoms that differ where they may."""
    values = dict(known)
    for at, variable in enumerate(space.variables):
        if at in values:
            continue
        examples = variable.examples(atoms.get(at, variable.costs.index(0)))
        if variable.field in _ADDRESSES:
            taken = {values.get(each) for each, other in enumerate(space.variables) if other.field in _ADDRESSES}
            examples = tuple(each for each in examples if each not in taken) or examples
        elif variable.field == "mark" and variable.role is not Role.FIRST:
            examples = examples[number % len(examples) :]
        values[at] = examples[0]
    return values


def packet_of(space: Space, header: Header, values: Mapping[int, Any]) -> Packet:
    """Return the packet that a header is where its variables have these values."""

    def value(term: Term | None, field: str) -> Any:
        match term:
            case Free(variable=variable):
                return values[variable]
            case Fixed(atom=atom):
                of_field = {"out_interface": "in_interface"}.get(field, field)
                return next(each for each in space.variables if each.field == of_field).atoms.examples[atom][0]
            case _:
                return None

    def mark(terms: tuple[Term, ...]) -> int:
        total = 0
        for term, bits, atoms in zip(terms, space.marks.masks, space.marks.atoms, strict=True):
            match term:
                case Free(variable=variable, flip=flip):
                    total |= values[variable] ^ flip
                case Fixed(atom=atom):
                    total |= atoms.examples[atom][0]
                case _:
                    total |= bits & 0
        return total

    def address(term: Term) -> Address:
        found = value(term, "source")
        return IPv4Address(found) if space.kind.family is Family.IPV4 else IPv6Address(found)

    def first_address(header: Header) -> Address | None:
        which = value(header.first_address, "first_address")
        if which is FirstAddress.ASKED_FOR:
            return address(space.free(Role.FIRST, "destination"))
        return address(space.interface_address()) if which is FirstAddress.ANOTHER else None

    def end(at: End) -> tuple[Address, int]:
        return address(at[0]), value(at[1], "source_port") or 0

    def translation(made: terms.Translation | None) -> Translation | None:
        if made is None:
            return None
        first = space.first()
        source, source_port = end((first.source, first.source_port))
        destination, port = end((first.destination, first.destination_port))
        return Translation(
            sent=Ends(source=source, source_port=source_port, destination=destination, destination_port=port),
            own=first.hook is Hook.OUTPUT,
            destination=None if made.destination is None else end(made.destination),
            source=None if made.source is None else end(made.source),
            local=made.local,
            out_interface=value(made.out_interface, "in_interface") or "",
        )

    def owner(term: Term | None, field: Owner) -> int | None:
        found = value(term, str(field))
        return None if found == -1 else found

    return Packet(
        hook=header.hook,
        source=address(header.source),
        destination=address(header.destination),
        protocol=space.kind.protocol,
        source_port=value(header.source_port, "source_port") or 0,
        destination_port=value(header.destination_port, "source_port") or 0,
        in_interface=value(header.in_interface, "in_interface") or "",
        out_interface=value(header.out_interface, "out_interface") or "",
        mark=mark(header.mark),
        connection_mark=mark(header.connection_mark),
        tcp_flags=value(header.tcp_flags, "tcp_flags") or (),
        user=owner(header.user, Owner.USER),
        group=owner(header.group, Owner.GROUP),
        cgroups=value(header.cgroups, "cgroups") or (),
        destination_local=header.destination_local,
        interface_address=first_address(header),
        state=header.state,
        direction=header.direction,
        nat_settled=header.settled,
        source_local=value(header.source_local, "source_local"),
        leaving_address=None if header.leaving_address is None else address(header.leaving_address),
        receiver=value(header.receiver, "receiver"),
        translation=translation(header.translation),
    )
