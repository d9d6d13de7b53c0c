"""The packets of a connection that come after its first, and what connection tracking makes of them."""

from dataclasses import replace

from rulesets.packet.values import Packet, Verdict
from rulesets.vocabulary import ConnState, Direction, Hook, Protocol, TcpFlag

_TRANSLATES_DESTINATION = (Hook.PREROUTING, Hook.OUTPUT)


def looped(verdict: Verdict) -> Packet:
    """Return the packet that comes in by ``lo`` when the one that a walk sent out went there.

    It keeps its mark and its connection, translation included; the sending socket is no longer known.
    """
    out = verdict.packet
    return replace(
        out,
        hook=Hook.PREROUTING,
        in_interface="lo",
        out_interface="",
        user=None,
        group=None,
        cgroups=(),
        destination_local=True,
        nat_settled=True,
    )


def answer(first: Packet, last: Packet) -> Packet:
    """Return an answer to a connection's first packet, which ended as `last`, as the answer enters the stack.

    It is of a socket of root's where it comes from this namespace.
    """
    here = last.destination_local
    forwarded = first.hook is Hook.PREROUTING and not here
    back = "lo" if last.nat_settled else first.in_interface
    masqueraded = last.translation is not None and last.translation.source is not None
    return replace(
        _later(last),
        hook=Hook.OUTPUT if here else Hook.PREROUTING,
        source=last.destination,
        source_port=last.destination_port,
        destination=last.source,
        destination_port=last.source_port,
        in_interface="" if here else last.out_interface,
        out_interface=back if here or forwarded else "",
        destination_local=last.nat_settled or not (here or (forwarded and not masqueraded)),
        source_local=here,
        user=0 if here else None,
        group=0 if here else None,
        interface_address=None,
        direction=Direction.REPLY,
        tcp_flags=(TcpFlag.SYN, TcpFlag.ACK) if last.protocol is Protocol.TCP else (),
    )


def another(first: Packet, last: Packet) -> Packet:
    """Return a later packet from the one who sent a connection's first, which ended as `last`."""
    flags = (TcpFlag.ACK,) if first.protocol is Protocol.TCP else ()
    later = replace(first, translation=last.translation, connection_mark=last.connection_mark, tcp_flags=flags)
    return replace(later, state=ConnState.ESTABLISHED)


def _later(packet: Packet) -> Packet:
    return replace(packet, mark=0, cgroups=(), state=ConnState.ESTABLISHED, nat_settled=False)


def translated(packet: Packet, hook: Hook) -> Packet:
    """Return a packet as connection tracking leaves it at a hook: with its connection's new ends, or the old ones.

    nf_nat_core.c, nf_nat_packet: where the kernel translates destinations an answer gets back the source that was
    taken from the first packet, and where it translates sources the destination.
    """
    made = packet.translation
    if made is None:
        return packet
    to_destination, original = hook in _TRANSLATES_DESTINATION, packet.direction is Direction.ORIGINAL
    if to_destination and original and made.destination is not None:
        address, port = made.destination
        leaving = made.out_interface if hook is Hook.OUTPUT and made.out_interface else packet.out_interface
        local = packet.destination_local if packet.nat_settled else made.local
        return replace(
            packet, destination=address, destination_port=port, destination_local=local, out_interface=leaving
        )
    if to_destination and not original and made.source is not None:
        local = packet.destination_local if packet.nat_settled else made.own
        ends = made.sent
        return replace(packet, destination=ends.source, destination_port=ends.source_port, destination_local=local)
    if not to_destination and original and made.source is not None:
        address, port = made.source
        return replace(packet, source=address, source_port=port)
    if not to_destination and not original and made.destination is not None:
        return replace(packet, source=made.sent.destination, source_port=made.sent.destination_port)
    return packet
