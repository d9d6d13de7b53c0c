"""The packets of a connection that come after its first: back in over loopback, its answers, and what follows."""

from dataclasses import dataclass, replace

from rulesets.equivalence.space import Role, Space, Way
from rulesets.equivalence.terms import Fixed, Header, Term
from rulesets.packet import Direction
from rulesets.vocabulary import ConnState, Hook


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A connection as one side's rules made it: its first packet as it entered the stack, and as it ended.

    `looped` says that it went over loopback, `mark` is the connection's own by now.
    """

    first: Header
    last: Header
    looped: bool
    mark: tuple[Term, ...]

    @property
    def answered_here(self) -> bool:
        """Whether the answer comes from this namespace."""
        return self.looped or self.last.destination_local


def looped(space: Space, sent: Header) -> Header:
    """Return the packet that comes in by ``lo`` when one that was sent went there."""
    return replace(
        sent,
        hook=Hook.PREROUTING,
        in_interface=space.loopback,
        out_interface=None,
        user=None,
        group=None,
        cgroups=None,
        destination_local=True,
        settled=True,
    )


def answer(space: Space, connection: Connection) -> Header:
    """Return an answer on its connection: from a socket here, or from where the first packet went."""
    here = connection.answered_here
    forwarded = not here and space.kind.way is Way.THROUGH
    translation = connection.last.translation
    masqueraded = translation is not None and translation.source is not None
    out: Term | None = space.loopback if connection.looped else space.free(Role.LATER, "out_interface")
    return _later(
        space,
        replace(
            _turned_round(connection.last),
            hook=Hook.OUTPUT if here else Hook.PREROUTING,
            in_interface=None if here else space.free(Role.LATER, "in_interface"),
            out_interface=out if here or forwarded else None,
            destination_local=connection.looped or not (here or (forwarded and not masqueraded)),
            source_local=Fixed(0 if here else 1),
            first_address=None,
            connection_mark=connection.mark,
        ),
    )


def another(space: Space, connection: Connection) -> Header:
    """Return a later packet from the one who began."""
    first = connection.first
    return _later(
        space,
        replace(
            first,
            in_interface=first.in_interface and space.free(Role.LATER, "in_interface"),
            out_interface=space.free(Role.LATER, "out_interface")
            if space.kind.way in (Way.OUT, Way.THROUGH)
            else first.out_interface,
            direction=Direction.ORIGINAL,
            connection_mark=connection.mark,
            translation=connection.last.translation,
        ),
    )


def translated(space: Space, header: Header, hook: Hook) -> Header:
    """Return a packet as connection tracking leaves it at a hook, as `rulesets.packet.following` says."""
    made, first = header.translation, space.first()
    if made is None:
        return header
    to_destination = hook in (Hook.PREROUTING, Hook.OUTPUT)
    original = header.direction is Direction.ORIGINAL
    if to_destination and original and made.destination is not None:
        address, port = made.destination
        local = header.destination_local if header.settled else made.local
        leaving = made.out_interface if hook is Hook.OUTPUT and made.out_interface else header.out_interface
        return replace(
            header, destination=address, destination_port=port, destination_local=local, out_interface=leaving
        )
    if to_destination and not original and made.source is not None:
        local = header.destination_local if header.settled else space.kind.way in (Way.OUT, Way.TO_SELF)
        return replace(header, destination=first.source, destination_port=first.source_port, destination_local=local)
    if not to_destination and original and made.source is not None:
        address, port = made.source
        return replace(header, source=address, source_port=port)
    if not to_destination and not original and made.destination is not None:
        return replace(header, source=first.destination, source_port=first.destination_port)
    return header


def reset(space: Space, refused: Header) -> Header:
    """Return the reset by which the kernel refuses a packet.

    It belongs to the refused connection (nf_ct_attach: related to it), and bears no mark (``fwmark_reflect`` is 0).
    """
    by_itself = refused.hook is Hook.OUTPUT
    return replace(
        _turned_round(refused),
        hook=Hook.OUTPUT,
        in_interface=None,
        out_interface=space.loopback if by_itself else space.free(Role.LATER, "out_interface"),
        mark=space.no_mark(),
        tcp_flags=space.free(Role.LATER, "tcp_flags"),
        user=None,
        group=None,
        cgroups=None,
        first_address=None,
        leaving_address=space.free(Role.LATER, "leaving_address"),
        destination_local=by_itself,
        source_local=Fixed(0),
        receiver=Fixed(0),
        state=ConnState.RELATED,
        settled=False,
    )


def _turned_round(header: Header) -> Header:
    return replace(
        header,
        source=header.destination,
        destination=header.source,
        source_port=header.destination_port,
        destination_port=header.source_port,
        direction=Direction.REPLY,
    )


def _later(space: Space, header: Header) -> Header:
    """Return a packet of a connection that is set up, with what its sender is free to choose."""
    sent_here = header.hook is Hook.OUTPUT
    return replace(
        header,
        mark=space.mark(Role.LATER),
        tcp_flags=header.tcp_flags and space.free(Role.LATER, "tcp_flags"),
        user=space.free(Role.LATER, "user") if sent_here else None,
        group=space.free(Role.LATER, "group") if sent_here else None,
        cgroups=space.free(Role.LATER, "cgroups") if sent_here else None,
        leaving_address=header.out_interface and space.free(Role.LATER, "leaving_address"),
        receiver=Fixed(0) if sent_here else space.free(Role.LATER, "receiver"),
        state=ConnState.ESTABLISHED,
        settled=False,
    )
