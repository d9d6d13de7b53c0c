"""Whether a match holds for a packet."""

from typing import assert_never

from rulesets.model import AddressPort, AddressRange, Ruleset, Set
from rulesets.packet.read import applies, found
from rulesets.packet.undecided import Undecided
from rulesets.packet.values import Packet
from rulesets.vocabulary import (
    Address,
    ConnMark,
    ConnState,
    Dst,
    DstPort,
    Family,
    Foreign,
    Hook,
    InIface,
    InSet,
    Limited,
    LocalAddress,
    LocalSocket,
    Match,
    OfFamily,
    OneOf,
    OutIface,
    PacketMark,
    PortRange,
    Proto,
    Protocol,
    ReadMatch,
    Sampled,
    SetField,
    SocketCgroup,
    SocketUser,
    Src,
    SrcPort,
    TcpFlags,
    family_of,
)


def holds(ruleset: Ruleset, match: Match, packet: Packet, hook: Hook) -> bool:
    """Tell whether a match holds for a packet; raises `Undecided` where that can't be said."""
    return _found(ruleset, match, packet, hook) != getattr(match, "negate", False) and _applies(match, packet)


def _applies(match: Match, packet: Packet) -> bool:
    """Tell whether a match can hold at all: nft tests the family or protocol first that a header field belongs to."""
    if isinstance(match, ReadMatch):
        return applies(match, packet)
    match match:
        case Src(network=network) | Dst(network=network):
            return family_of(network) is packet.family
        case SrcPort(protocol=protocol) | DstPort(protocol=protocol):
            return protocol is packet.protocol
        case TcpFlags():
            return packet.protocol is Protocol.TCP
        case ConnMark():
            return packet.state not in (ConnState.INVALID, ConnState.UNTRACKED)
        case InSet(field=field):
            return _key(field, packet) is not None
        case OneOf(matches=matches):
            return any(_applies(each, packet) for each in matches)
        case _:
            return True


def _found(ruleset: Ruleset, match: Match, packet: Packet, hook: Hook) -> bool:
    if isinstance(match, ReadMatch):
        return found(match, packet)
    match match:
        case OfFamily(family=family):
            return packet.family is family
        case Proto(protocol=protocol):
            return packet.protocol is protocol
        case Src(network=network):
            return packet.source in network
        case Dst(network=network):
            return packet.destination in network
        case SrcPort(ports=ports):
            return packet.source_port in ports
        case DstPort(ports=ports):
            return packet.destination_port in ports
        case InIface(name=name):
            # Known in postrouting too, since Linux 5.7 (28f8bfd1ac94), where the packet came in by one.
            return hook is not Hook.OUTPUT and _same_name(name, packet.in_interface)
        case OutIface(name=name):
            return hook in (Hook.OUTPUT, Hook.POSTROUTING, Hook.FORWARD) and _same_name(name, packet.out_interface)
        case PacketMark(mark=mark):
            return mark.matches(packet.mark)
        case ConnMark(mark=mark):
            return mark.matches(packet.connection_mark)
        case SocketUser(user=user):
            return packet.user == user
        case SocketCgroup(level=level, cgroup=cgroup):
            return level <= len(packet.cgroups) and packet.cgroups[level - 1] == cgroup
        case LocalSocket():
            return packet.user is not None
        case LocalAddress():
            return packet.destination_local
        case InSet(field=field, name=name):
            key, elements = _key(field, packet), ruleset.find_set(name)
            return key is not None and elements is not None and _contains(elements, key)
        case TcpFlags(among=among, set=wanted):
            return set(packet.tcp_flags) & set(among) == set(wanted)
        case OneOf(matches=matches):
            return any(holds(ruleset, each, packet, hook) for each in matches)
        case Sampled() | Limited():
            raise Undecided("packets are chosen by chance or by their number")
        case Foreign(verbatim=verbatim):
            raise Undecided(verbatim)
        case _:
            assert_never(match)


def _same_name(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _key(field: SetField, packet: Packet) -> Address | int | tuple[Address, int] | None:
    """Return what a set is looked up with, or None when the packet has no such field."""
    v4, tcp = packet.family is Family.IPV4, packet.protocol is Protocol.TCP
    keys: dict[SetField, Address | int | tuple[Address, int] | None] = {
        SetField.SRC_V4: packet.source if v4 else None,
        SetField.SRC_V6: None if v4 else packet.source,
        SetField.DST_V4: packet.destination if v4 else None,
        SetField.DST_V6: None if v4 else packet.destination,
        SetField.TCP_DST_PORT: packet.destination_port if tcp else None,
        SetField.DST_V4_TCP_DST_PORT: (packet.destination, packet.destination_port) if v4 and tcp else None,
        SetField.DST_V6_TCP_DST_PORT: (packet.destination, packet.destination_port) if tcp and not v4 else None,
    }
    return keys[field]


def _contains(elements: Set, key: Address | int | tuple[Address, int]) -> bool:
    for value in (element.value for element in elements.elements):
        match value:
            case PortRange():
                found = isinstance(key, int) and key in value
            case AddressPort(address=address, port=port):
                found = key == (address, port)
            case AddressRange(first=first, last=last):
                found = not isinstance(key, int | tuple) and int(first) <= int(key) <= int(last)
            case network:
                found = not isinstance(key, int | tuple) and key in network
        if found:
            return True
    return False
