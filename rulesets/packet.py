"""`walk`: an imaginary packet through a ruleset, as the kernel would take it.

One walk is one passage: from the hook where the packet enters to the one where it is delivered or sent. A packet over
loopback makes two, out and in; the second begins with what the first left behind.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_address
from typing import assert_never

from rulesets.model import AddressPort, AddressRange, Chain, Ruleset, Set
from rulesets.vocabulary import (
    Accept,
    Action,
    Address,
    ChainType,
    ConnMark,
    CtZone,
    Dnat,
    Dst,
    DstPort,
    Family,
    Foreign,
    Hook,
    InIface,
    InSet,
    LocalAddress,
    LocalSocket,
    Match,
    OfFamily,
    OutIface,
    PacketMark,
    Policy,
    PortRange,
    Proto,
    Protocol,
    Redirect,
    Reject,
    RejectWith,
    SetConnMark,
    SetField,
    SetMark,
    Snat,
    SocketUser,
    Src,
    SrcPort,
    TcpFlag,
    TcpFlags,
    family_of,
)

LOOPBACK = {Family.IPV4: ip_address("127.0.0.1"), Family.IPV6: ip_address("::1")}


class ConnState(StrEnum):
    """What connection tracking says of a packet (nf_conntrack_common.h, IP_CT_*)."""

    NEW = "new"
    ESTABLISHED = "established"


class Direction(StrEnum):
    """Whether a packet goes the way of its connection's first packet, or back."""

    ORIGINAL = "original"
    REPLY = "reply"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet as it enters the stack at `hook`: `OUTPUT` from a local socket, `PREROUTING` from an interface.

    `user` is the owner of the sending local socket; None is no local socket. `destination_local` says whether the
    destination is an address of this namespace, so whether an arriving packet is delivered here or forwarded.
    `interface_address` is the first address of the interface that it came in by: None makes a redirect drop.
    """

    hook: Hook
    source: Address
    destination: Address
    protocol: Protocol = Protocol.TCP
    source_port: int = 0
    destination_port: int = 0
    in_interface: str = ""
    out_interface: str = ""
    mark: int = 0
    connection_mark: int = 0
    tcp_flags: tuple[TcpFlag, ...] = (TcpFlag.SYN,)
    user: int | None = None
    destination_local: bool = True
    interface_address: Address | None = None
    state: ConnState = ConnState.NEW
    direction: Direction = Direction.ORIGINAL

    @property
    def family(self) -> Family:
        """The family of its addresses."""
        return family_of(self.source)


class Fate(StrEnum):
    """What became of a packet."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    DROPPED = "dropped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """A rule that matched, and the chain that it stands in."""

    chain: str
    slug: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a packet fared.

    `packet` is as it leaves: with the addresses, ports and marks that it has then. `translated` says whether its
    connection's addresses or ports were changed, `zone` is the original direction's conntrack zone (0: the default),
    `rerouted` whether a ``route`` chain changed its mark. `UNKNOWN` names the foreign thing that decided in `unknown`.
    """

    fate: Fate
    packet: Packet
    rules: tuple[Met, ...]
    translated: bool = False
    zone: int = 0
    rerouted: bool = False
    unknown: str = ""

    @property
    def decided_by(self) -> str:
        """The slug of the last rule met, empty when no rule matched."""
        return self.rules[-1].slug if self.rules else ""


class _Unknown(Exception):
    """A foreign match: whether it holds can't be said."""


def walk(ruleset: Ruleset, packet: Packet) -> Verdict:
    """Take a packet through every chain that it meets, hook by hook and by rising priority."""
    verdict = Verdict(fate=Fate.ACCEPTED, packet=packet, rules=())
    for hook in _passage(packet):
        # A nat mapping is set up once for each direction of translation; later nat chains don't see the packet.
        mapped = False
        for chain in sorted((each for each in ruleset.chains if each.hook is hook), key=lambda each: each.priority):
            if chain.type is ChainType.NAT and (packet.state is not ConnState.NEW or mapped):
                continue
            before = verdict
            verdict = _through(ruleset, chain, verdict)
            mapped = verdict.translated and not before.translated
            if verdict.fate is not Fate.ACCEPTED:
                return verdict
            if chain.type is ChainType.ROUTE and verdict.packet.mark != before.packet.mark:
                verdict = replace(verdict, rerouted=True)
    return verdict


def _passage(packet: Packet) -> tuple[Hook, ...]:
    if packet.hook is Hook.OUTPUT:
        return (Hook.OUTPUT, Hook.POSTROUTING)
    if packet.destination_local:
        return (Hook.PREROUTING, Hook.INPUT)
    return (Hook.PREROUTING, Hook.FORWARD, Hook.POSTROUTING)


def _through(ruleset: Ruleset, chain: Chain, verdict: Verdict) -> Verdict:
    for rule in chain.rules:
        try:
            if not all(_holds(ruleset, match, verdict.packet, chain.hook) for match in rule.matches):
                continue
        except _Unknown as unknown:
            return replace(verdict, fate=Fate.UNKNOWN, unknown=str(unknown))
        met = replace(verdict, rules=(*verdict.rules, Met(chain=chain.name, slug=rule.slug)))
        verdict, ended = _carry_out(rule.action, met, chain.hook)
        if ended:
            return verdict
    return verdict if chain.policy is Policy.ACCEPT else replace(verdict, fate=Fate.DROPPED)


def _carry_out(action: Action, verdict: Verdict, hook: Hook) -> tuple[Verdict, bool]:
    """Return the verdict after an action, and whether the chain ends with it."""
    packet = verdict.packet
    match action:
        case Accept():
            return verdict, True
        case Redirect(port=port):
            return _redirected(verdict, hook, port), True
        case Dnat(port=port):
            return replace(verdict, packet=replace(packet, destination_port=port), translated=True), True
        case Snat(address=address):
            return replace(verdict, packet=replace(packet, source=address), translated=True), True
        case SetMark(mark=mark):
            return replace(verdict, packet=replace(packet, mark=mark.put_on(packet.mark))), False
        case SetConnMark(mark=mark):
            marked = replace(packet, connection_mark=mark.put_on(packet.connection_mark))
            return replace(verdict, packet=marked), False
        case CtZone(zone=zone):
            return replace(verdict, zone=zone), False
        case Reject(reply=RejectWith()):
            return replace(verdict, fate=Fate.REFUSED), True
        case Foreign(verbatim=verbatim):
            return replace(verdict, fate=Fate.UNKNOWN, unknown=verbatim), True
        case _:
            assert_never(action)


def _redirected(verdict: Verdict, hook: Hook, port: int) -> Verdict:
    packet = verdict.packet
    if hook is Hook.OUTPUT:
        # nf_nat_redirect.c: a local packet goes to loopback, and is routed there.
        to, out = LOOPBACK[packet.family], "lo"
    elif packet.interface_address is None:
        return replace(verdict, fate=Fate.DROPPED)
    else:
        to, out = packet.interface_address, packet.out_interface
    changed = replace(packet, destination=to, destination_port=port, out_interface=out, destination_local=True)
    return replace(verdict, packet=changed, translated=True)


def _holds(ruleset: Ruleset, match: Match, packet: Packet, hook: Hook) -> bool:
    """Tell whether a match holds for a packet; raises `_Unknown` where that can't be said."""
    return _found(ruleset, match, packet, hook) != getattr(match, "negate", False) and _applies(match, packet)


def _applies(match: Match, packet: Packet) -> bool:
    """Tell whether a match can hold at all: nft tests the family or protocol first that a header field belongs to."""
    match match:
        case Src(network=network) | Dst(network=network):
            return family_of(network) is packet.family
        case SrcPort(protocol=protocol) | DstPort(protocol=protocol):
            return protocol is packet.protocol
        case TcpFlags():
            return packet.protocol is Protocol.TCP
        case InSet(field=field):
            return _key(field, packet) is not None
        case _:
            return True


def _found(ruleset: Ruleset, match: Match, packet: Packet, hook: Hook) -> bool:
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
            return hook in (Hook.PREROUTING, Hook.INPUT, Hook.FORWARD) and _same_name(name, packet.in_interface)
        case OutIface(name=name):
            return hook in (Hook.OUTPUT, Hook.POSTROUTING, Hook.FORWARD) and _same_name(name, packet.out_interface)
        case PacketMark(mark=mark):
            return mark.matches(packet.mark)
        case ConnMark(mark=mark):
            return mark.matches(packet.connection_mark)
        case SocketUser(user=user):
            return packet.user == user
        case LocalSocket():
            return packet.user is not None
        case LocalAddress():
            return packet.destination_local
        case InSet(field=field, name=name):
            key, elements = _key(field, packet), ruleset.find_set(name)
            return key is not None and elements is not None and _contains(elements, key)
        case TcpFlags(among=among, set=wanted):
            return set(packet.tcp_flags) & set(among) == set(wanted)
        case Foreign(verbatim=verbatim):
            raise _Unknown(verbatim)
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

