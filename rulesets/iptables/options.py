"""The options of one match or target: each with its values and whether it is negated."""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from rulesets.iptables.words import FREE_TEXT, Word
from rulesets.vocabulary import Address, Family, Mark, ModelError, Network, PortRange, family_of

_MANY = 16384  # the addresses of services and pods come again and again, and reading one takes 10 us


class Unknown(Exception):
    """Something that has no variant: it is kept verbatim."""


class OtherFamily(Exception):
    """Something that only a save of the other family holds."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option; `values` are the words behind it."""

    name: str
    values: tuple[str, ...]
    negate: bool

    def value(self) -> str:
        """Return the one value; raises `Unknown` for none or several."""
        if len(self.values) != 1:
            raise Unknown
        return self.values[0]

    def plain(self) -> None:
        """Refuse a negation or a value where there is none; raises `Unknown`."""
        if self.negate or self.values:
            raise Unknown


def options(words: list[Word]) -> list[Option]:
    """Return the options that these words make; raises `Unknown` when something else stands among them."""
    found: list[Option] = []
    negate, at = False, 0
    while at < len(words):
        word = words[at]
        at += 1
        if word.text == "!" and not word.quoted and not negate:
            negate = True
            continue
        if not word.is_option:
            raise Unknown
        values = []
        if word.text in FREE_TEXT and at < len(words):
            values.append(words[at].text)
            at += 1
        while at < len(words) and not words[at].is_option and (words[at].quoted or words[at].text != "!"):
            values.append(words[at].text)
            at += 1
        found.append(Option(word.text, tuple(values), negate))
        negate = False
    if negate:
        raise Unknown
    return found


def number(text: str, highest: int = 0xFFFFFFFF) -> int:
    """Return a number, decimal or with 0x; raises `Unknown`."""
    try:
        value = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    except ValueError:
        raise Unknown from None
    if not 0 <= value <= highest:
        raise Unknown
    return value


def value_and_mask(text: str) -> tuple[int, int]:
    """Return ``value/mask``; without a mask it is all bits."""
    value, slash, mask = text.partition("/")
    return number(value), number(mask) if slash else 0xFFFFFFFF


def mark(text: str) -> Mark:
    """Return a mark; raises `Unknown` for one that is none, such as a value outside its mask."""
    try:
        return Mark(*value_and_mask(text))
    except ModelError:
        raise Unknown from None


def port_range(text: str) -> PortRange:
    """Return ``80`` or ``80:90``; either end may be missing, and is then the first or last port."""
    first, colon, last = text.partition(":")
    try:
        low = number(first, 65535) if first else 0
        high = (number(last, 65535) if last else 65535) if colon else low
        return PortRange(low, high)
    except ModelError:
        raise Unknown from None


@lru_cache(_MANY)
def address(text: str, family: Family) -> Address:
    """Return an address of this family; raises `OtherFamily` or `Unknown`."""
    try:
        found: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        raise Unknown from None
    if family_of(found) is not family:
        raise OtherFamily(text)
    return found


@lru_cache(_MANY)
def network(text: str, family: Family) -> Network:
    """Return a network of this family; raises `OtherFamily`, or `Unknown` for a mask with holes."""
    try:
        found = ip_network(text)
    except ValueError:
        raise Unknown from None
    if family_of(found) is not family:
        raise OtherFamily(text)
    return found
