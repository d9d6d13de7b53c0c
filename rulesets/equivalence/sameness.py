"""Where two packets differ, as a function of the variables that stand in them."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from rulesets.equivalence.atoms import Atoms
from rulesets.equivalence.nodes import Node
from rulesets.equivalence.space import Space
from rulesets.equivalence.terms import Fixed, Free, Header, Mixed, Term, Trip
from rulesets.packet import Fate
from rulesets.vocabulary import ConnState


class What(StrEnum):
    """In what two rulesets treat a packet differently."""

    FATE = "verdict"
    TARGET = "target"
    MARK = "packet mark"
    CONNECTION_MARK = "connection mark"
    ZONE = "zone"
    ROUTE = "route mark"


def changed(space: Space, before: tuple[Term, ...], after: tuple[Term, ...]) -> Node:
    """Return where two marks differ."""
    result = space.diagrams.no
    for old, new, atoms in zip(before, after, space.marks.atoms, strict=True):
        result = space.diagrams.either(result, _differ(space, old, new, atoms))
    return result


def differences(
    space: Space, entered: tuple[Header, Header], one: Trip, other: Trip, *, began: tuple[Header, Header]
) -> Mapping[What, Node]:
    """Return where two rulesets' treatment of a packet differs, in each respect in which it does somewhere.

    A field in which the packet differs from the other side's already as it `entered` isn't compared again; for the
    connection's mark it is how the packet `began`, before it went over loopback, that counts.
    """
    yes, no = space.diagrams.yes, space.diagrams.no
    if (one.fate, one.reply) != (other.fate, other.reply):
        return {What.FATE: yes}
    first, second = one.header, other.header
    if one.fate is not Fate.ACCEPTED:
        # A connection is forgotten with its first packet, unless that was sent already and came back in by lo.
        stays = first.settled and began[0].connection_mark == began[1].connection_mark
        marks = changed(space, first.connection_mark, second.connection_mark) if stays else no
        return {What.CONNECTION_MARK: marks} if marks is not no else {}
    target = yes if (one.tproxy, one.masqueraded) != (other.tproxy, other.masqueraded) else no
    # Packets that are translated otherwise were told apart when their connection began.
    compared = first.state is ConnState.NEW or entered[0].translation == entered[1].translation
    for field, atoms in _ENDS.items() if compared else ():
        if getattr(entered[0], field) == getattr(entered[1], field):
            differ = _differ(space, getattr(first, field), getattr(second, field), getattr(space, atoms))
            target = space.diagrams.either(target, differ)
    found = {What.TARGET: target}
    if entered[0].mark == entered[1].mark:
        found[What.MARK] = changed(space, first.mark, second.mark)
        found[What.ROUTE] = changed(space, one.route_mark, other.route_mark)
    if began[0].connection_mark == began[1].connection_mark:
        found[What.CONNECTION_MARK] = changed(space, first.connection_mark, second.connection_mark)
    found[What.ZONE] = yes if (one.zones, first.state) != (other.zones, second.state) else no
    return {what: where for what, where in found.items() if where is not no}


_ENDS = {"source": "addresses", "destination": "addresses", "source_port": "ports", "destination_port": "ports"}


def mixed(trip: Trip) -> str:
    """Return why a packet's marks can't be known after a trip, or nothing."""
    terms = (*trip.header.mark, *trip.header.connection_mark, *trip.route_mark)
    return next((term.why for term in terms if isinstance(term, Mixed)), "")


def _differ(space: Space, one: Term | None, other: Term | None, atoms: Atoms[Any]) -> Node:
    """Return where two terms of a field are different values.

    Two variables may happen to be equal in an atom of several values; they count as different there, for no rule can
    tell, and an example that differs is found.
    """
    diagrams = space.diagrams
    match one, other:
        case _ if one == other:
            return diagrams.no
        case (Free(variable=variable, flip=flip), Fixed(atom=atom)) | (
            Fixed(atom=atom),
            Free(variable=variable, flip=flip),
        ):
            if flip:
                atom = atoms.atom_of(atoms.examples[atom][0] ^ flip)
            return diagrams.among(variable, atoms.all & ~(1 << atom))
        case Free(variable=first, flip=flip), Free(variable=second, flip=second_flip) if first != second:
            return diagrams.negation(space.alike(first, second, flip ^ second_flip))
        case _:
            return diagrams.yes
