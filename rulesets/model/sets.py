"""Named sets and their elements."""

import re
from dataclasses import dataclass

from rulesets.vocabulary import Address, ModelError, Network, PortRange, SetField


@dataclass(frozen=True, slots=True, order=True)
class AddressPort:
    """An address with a destination port, the element of a concatenated set."""

    address: Address
    port: int

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ModelError(f"port {self.port} is not within 0 to 65535")


@dataclass(frozen=True, slots=True, order=True)
class AddressRange:
    """Addresses from `first` to `last`, where they are no network. Weir writes networks; others may write ranges."""

    first: Address
    last: Address

    def __post_init__(self) -> None:
        if self.first.version != self.last.version or int(self.first) >= int(self.last):
            raise ModelError(f"addresses {self.first}-{self.last} are not a rising range of one family")


ElementValue = Network | PortRange | AddressPort | AddressRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One element of a set, with the comment that says whose it is."""

    value: ElementValue
    comment: str = ""


class KeyType(str):
    """The nft type of a set's elements, such as ``ipv4_addr`` or ``ipv4_addr . inet_service``."""

    __slots__ = ()


IPV4_ADDR = KeyType("ipv4_addr")
IPV6_ADDR = KeyType("ipv6_addr")
INET_SERVICE = KeyType("inet_service")
IPV4_ADDR_PORT = KeyType("ipv4_addr . inet_service")
IPV6_ADDR_PORT = KeyType("ipv6_addr . inet_service")


_FIELDS = {
    SetField.SRC_V4: IPV4_ADDR,
    SetField.SRC_V6: IPV6_ADDR,
    SetField.DST_V4: IPV4_ADDR,
    SetField.DST_V6: IPV6_ADDR,
    SetField.TCP_DST_PORT: INET_SERVICE,
    SetField.DST_V4_TCP_DST_PORT: IPV4_ADDR_PORT,
    SetField.DST_V6_TCP_DST_PORT: IPV6_ADDR_PORT,
}
_KEYS = (IPV4_ADDR, IPV6_ADDR, INET_SERVICE, IPV4_ADDR_PORT, IPV6_ADDR_PORT)
# Comments are quoted, and nft has no escape for what would end one. 128: NFTNL_UDATA_COMMENT_MAXLEN.
_COMMENT = re.compile(r"[ !#-\[\]-~]{0,128}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """A named set. `interval` sets hold networks and ranges, others single values; elements are kept sorted.

    Others' sets may have a `comment`, and a `size` that they don't grow beyond.
    """

    name: str
    key: KeyType
    interval: bool
    elements: tuple[Element, ...] = ()
    comment: str = ""
    size: int | None = None

    def __post_init__(self) -> None:
        if self.key not in _KEYS:
            raise ModelError(f"set {self.name!r}: no set of type {self.key!r} is ever looked up")
        if self.interval and self.key in (IPV4_ADDR_PORT, IPV6_ADDR_PORT):
            raise ModelError(f"set {self.name!r}: a set of addresses with ports holds single ones")
        if not _COMMENT.fullmatch(self.comment):
            raise ModelError(f"set {self.name!r}: comment {self.comment!r} can't be quoted")
        object.__setattr__(self, "elements", tuple(sorted(self.elements, key=_element_order)))
        before = -1
        for element in self.elements:
            if not _COMMENT.fullmatch(element.comment):
                raise ModelError(f"set {self.name!r}: comment {element.comment!r} can't be quoted")
            if _key_of(element.value) != self.key or not (self.interval or _is_single(element.value)):
                raise ModelError(f"set {self.name!r}: {element.value} is no element of type {self.key}")
            if isinstance(element.value, AddressPort):
                continue
            first, last = _ends(element.value)
            if first <= before:
                raise ModelError(f"set {self.name!r}: {element.value} overlaps the element before it")
            before = last
        if len({each.value for each in self.elements}) < len(self.elements):
            raise ModelError(f"set {self.name!r} holds an element twice")


def key_of_field(field: SetField) -> KeyType:
    """Return the type of the sets that a header field can be looked up in."""
    return _FIELDS[field]


def _key_of(value: ElementValue) -> KeyType:
    match value:
        case PortRange():
            return INET_SERVICE
        case AddressPort(address=address):
            return IPV4_ADDR_PORT if address.version == 4 else IPV6_ADDR_PORT
        case AddressRange(first=first):
            return IPV4_ADDR if first.version == 4 else IPV6_ADDR
        case network:
            return IPV4_ADDR if network.version == 4 else IPV6_ADDR


def _ends(value: Network | PortRange | AddressRange) -> tuple[int, int]:
    match value:
        case PortRange(first=low, last=high):
            return low, high
        case AddressRange(first=first, last=last):
            return int(first), int(last)
        case network:
            return int(network.network_address), int(network.broadcast_address)


def _is_single(value: ElementValue) -> bool:
    if isinstance(value, AddressPort):
        return True
    first, last = _ends(value)
    return first == last


def _element_order(element: Element) -> tuple[int, int, str]:
    if isinstance(element.value, AddressPort):
        return (int(element.value.address), element.value.port, element.comment)
    return (*_ends(element.value), element.comment)
