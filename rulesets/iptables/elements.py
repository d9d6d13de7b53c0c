"""Sets, which iptables' rules don't have: their elements as matches, ports as few rules as multiport takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rulesets.model import AddressPort, AddressRange, ElementValue, Ruleset, Set
from rulesets.vocabulary import (
    Between,
    Dst,
    DstPort,
    End,
    InSet,
    Match,
    ModelError,
    PortRange,
    Ports,
    Proto,
    Protocol,
    SetField,
    Src,
    SrcPort,
    host_network,
)

Choice = Sequence[Match]
_MULTIPORT = 15  # XT_MULTI_PORTS; a range takes two (include/uapi/linux/netfilter/xt_multiport.h)
_ALL_PORTS = PortRange(0, 65535)
_SOURCES = (SetField.SRC_V4, SetField.SRC_V6)


class Never(Exception):
    """No packet of the family is what a rule asks for, or none gets to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What is in a set: one of these choices holds, or none of them where it is negated."""

    choices: tuple[tuple[Match, ...], ...]
    negate: bool
    implied: tuple[Match, ...] = ()


def narrowed(match: Match) -> tuple[Match, ...]:
    """Return what a match asks for beyond what every packet has: of all ports only the protocol is left.

    iptables prints nothing for what holds for all. Raises `Never` for the negation of that.
    """
    match match:
        case Src(network=network, negate=negate) | Dst(network=network, negate=negate) if network.prefixlen == 0:
            left: tuple[Match, ...] = ()
        case SrcPort(protocol=protocol, ports=ports, negate=negate) if ports == _ALL_PORTS:
            left = (Proto(protocol=protocol),)
        case DstPort(protocol=protocol, ports=ports, negate=negate) if ports == _ALL_PORTS:
            left = (Proto(protocol=protocol),)
        case _:
            return (match,)
    if negate:
        raise Never
    return left


def lookups_of(ruleset: Ruleset, match: Match) -> Iterator[Lookup]:
    """Yield the lookup that a match makes; nothing for a match that isn't one."""
    if not isinstance(match, InSet):
        return
    found = ruleset.find_set(match.name)
    if found is None:
        raise ModelError(f"set {match.name!r} does not exist")
    tcp = (Proto(protocol=Protocol.TCP),)
    if match.field is SetField.TCP_DST_PORT:
        yield _lookup(tuple(_port_choices(found)), match, tcp)
        return
    choices = tuple(_choice(each.value, match.field) for each in found.elements)
    with_port = match.field in (SetField.DST_V4_TCP_DST_PORT, SetField.DST_V6_TCP_DST_PORT)
    yield _lookup(choices, match, tcp if with_port else ())


def _lookup(choices: tuple[tuple[Match, ...], ...], match: InSet, implied: tuple[Match, ...]) -> Lookup:
    everything = [choice for choice in choices if len(choice) == 1 and narrowed(choice[0]) != choice]
    if everything and match.negate:
        raise Never
    return Lookup(
        choices=(narrowed(everything[0][0]),) if everything else choices, negate=match.negate, implied=implied
    )


def inline(lookup: Lookup) -> tuple[Match, ...] | None:
    """Return the matches that say the same in one rule, or None when it takes several.

    What must hold for no choice of one match each is the negation of all of them, side by side, where iptables takes
    them so: ports, and one network.
    """
    if not lookup.negate:
        return lookup.choices[0] if len(lookup.choices) == 1 else None
    single = [choice[0] for choice in lookup.choices if len(choice) == 1]
    if len(single) < len(lookup.choices):
        return None
    if len(single) > 1 and not all(isinstance(each, Ports | DstPort) for each in single):
        return None
    return (*lookup.implied, *map(_negated, single))


def _negated(match: Match) -> Match:
    match match:
        case Src(network=network):
            return Src(network=network, negate=True)
        case Dst(network=network):
            return Dst(network=network, negate=True)
        case Between(end=end, first=first, last=last):
            return Between(end=end, first=first, last=last, negate=True)
        case DstPort(protocol=protocol, ports=ports):
            return DstPort(protocol=protocol, ports=ports, negate=True)
        case Ports(protocol=protocol, end=end, ranges=ranges):
            return Ports(protocol=protocol, end=end, ranges=ranges, negate=True)
        case _:
            raise AssertionError("no element is one of these")


def _choice(value: ElementValue, field: SetField) -> tuple[Match, ...]:
    end = End.SOURCE if field in _SOURCES else End.DESTINATION
    match value:
        case AddressRange(first=first, last=last):
            return (Between(end=end, first=first, last=last),)
        case AddressPort(address=address, port=port):
            ports = DstPort(protocol=Protocol.TCP, ports=PortRange(port, port))
            return (Dst(network=host_network(address)), ports)
        case PortRange():
            raise AssertionError("ports are taken many at a time")
        case network:
            return (Src(network=network) if end is End.SOURCE else Dst(network=network),)


def _port_choices(found: Set) -> Iterator[tuple[Match, ...]]:
    chunk: list[PortRange] = []
    slots = 0
    for value in (element.value for element in found.elements):
        if not isinstance(value, PortRange):
            raise AssertionError("a set of ports holds ports")
        size = 1 if value.first == value.last else 2
        if slots + size > _MULTIPORT:
            yield (_one_of(chunk),)
            chunk, slots = [], 0
        chunk.append(value)
        slots += size
    if chunk:
        yield (_one_of(chunk),)


def _one_of(ranges: list[PortRange]) -> Match:
    if len(ranges) == 1:
        return DstPort(protocol=Protocol.TCP, ports=ranges[0])
    return Ports(protocol=Protocol.TCP, end=End.DESTINATION, ranges=tuple(ranges))
