"""Networks, ranges, ports and the elements of sets as spans of whole numbers."""

from collections.abc import Hashable

from rulesets.equivalence.atoms import Span
from rulesets.model import AddressPort, AddressRange, ElementValue, Set
from rulesets.vocabulary import Family, Network, PortRange, SetField, family_of

PORT_FIELDS = frozenset({SetField.TCP_DST_PORT})
PAIR_FIELDS = frozenset({SetField.DST_V4_TCP_DST_PORT, SetField.DST_V6_TCP_DST_PORT})


def pairs(elements: Set) -> dict[tuple[int, ...], list[int]]:
    """Return the addresses of a set of addresses with ports, by the ports that they stand with."""
    ports: dict[int, set[int]] = {}
    for element in elements.elements:
        if isinstance(element.value, AddressPort):
            ports.setdefault(int(element.value.address), set()).add(element.value.port)
    alike: dict[tuple[int, ...], list[int]] = {}
    for address, some in ports.items():
        alike.setdefault(tuple(sorted(some)), []).append(address)
    return alike


def ports_looked_up(number: int, elements: Set | None) -> dict[Hashable, list[Span]]:
    """Return the ports of a set of the ruleset with this number, by what a rule asks of them."""
    if elements is None:
        return {}
    found: dict[Hashable, list[Span]] = {
        (number, elements.name, ports): [(each, each) for each in ports] for ports in pairs(elements)
    }
    ranges = [(each.value.first, each.value.last) for each in elements.elements if isinstance(each.value, PortRange)]
    return found | ({(number, elements.name): ranges} if ranges else {})


def ends_of(value: Network | AddressRange) -> Span:
    """Return the first and the last address as numbers."""
    if isinstance(value, AddressRange):
        return int(value.first), int(value.last)
    return int(value.network_address), int(value.broadcast_address)


def family_of_element(value: ElementValue) -> Family | None:
    """Return the family of an element's addresses; None for ports, and for pairs, which are asked for otherwise."""
    match value:
        case AddressRange(first=first):
            return family_of(first)
        case PortRange() | AddressPort():
            return None
        case network:
            return family_of(network)
