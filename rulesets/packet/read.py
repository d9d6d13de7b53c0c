"""Whether a match that only others write holds for a packet."""

from typing import assert_never

from rulesets.packet.undecided import Undecided, in_ipset
from rulesets.packet.values import Packet, Receiver
from rulesets.vocabulary import (
    Address,
    AddressKind,
    AddressType,
    Aside,
    Between,
    Comment,
    ConnDirection,
    ConnState,
    ConnStates,
    End,
    InIpset,
    NoSocket,
    NoTcpFlags,
    OtherProto,
    Owner,
    Ports,
    Protocol,
    ReadMatch,
    ReceivingSocket,
    SocketOwner,
)


def applies(match: ReadMatch, packet: Packet) -> bool:
    """Tell whether a match can hold at all, negated or not."""
    match match:
        case Ports(protocol=protocol):
            return packet.protocol is protocol
        case NoTcpFlags():
            return packet.protocol is Protocol.TCP
        case Between(first=first):
            return first.version == packet.source.version
        case ConnDirection():
            return packet.state not in (ConnState.INVALID, ConnState.UNTRACKED)
        case _:
            return True


def found(match: ReadMatch, packet: Packet) -> bool:
    """Tell whether what a match names is so, its negation left aside; raises `Undecided`."""
    match match:
        case OtherProto():
            return False  # a packet is of one that has a name
        case Ports(end=end, ranges=ranges):
            ports = (packet.source_port, packet.destination_port)
            chosen = {End.SOURCE: ports[:1], End.DESTINATION: ports[1:], End.EITHER: ports}[end]
            return any(port in each for each in ranges for port in chosen)
        case Between(end=end, first=first, last=last):
            return int(first) <= int(packet.source if end is End.SOURCE else packet.destination) <= int(last)
        case AddressType(end=End.SOURCE, kinds=kinds):
            return _kind(packet.source, local=packet.source_local) in kinds
        case AddressType(kinds=kinds):
            return _kind(packet.destination, local=packet.destination_local) in kinds
        case ConnStates(states=states):
            return packet.state in states
        case ConnDirection(direction=direction):
            return packet.direction is direction
        case SocketOwner(owner=owner, first=low, last=high):
            number = packet.user if owner is Owner.USER else packet.group
            return number is not None and low <= number <= high
        case NoSocket():
            return packet.user is None
        case ReceivingSocket(transparent=transparent):
            return packet.receiver is Receiver.TRANSPARENT or (packet.receiver is Receiver.ORDINARY and not transparent)
        case NoTcpFlags(among=among):
            return not set(packet.tcp_flags) & set(among)
        case InIpset(name=name):
            raise Undecided(in_ipset(name))
        case Comment() | Aside():
            return True
        case _:
            assert_never(match)


def _kind(address: Address, *, local: bool) -> AddressKind:
    """Return what the routing tables say of an address; the broadcast addresses of interfaces are not known here."""
    if address.is_multicast:
        return AddressKind.MULTICAST
    if address.version == 4 and int(address) == 0xFFFFFFFF:
        return AddressKind.BROADCAST
    return AddressKind.LOCAL if local else AddressKind.UNICAST
