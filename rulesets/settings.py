"""Readers of single settings: outside text in, typed value out, or a `CaptureError` that says why not.

Each takes the setting's name and the value as TOML or JSON gave it. Text is ASCII digits and known words only, so that
nothing unread ever reaches a rule.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeVar

from rulesets.vocabulary import CGROUP, INTERFACE, Address, Family, Mark, ModelError, Network, PortRange, SocketCgroup

_NUMBER = re.compile(r"[0-9]{1,10}|0x[0-9a-fA-F]{1,8}", re.ASCII)
_ANY_FAMILY: tuple[Network, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))

_Choice = TypeVar("_Choice", bound=StrEnum)


class CaptureError(ValueError):
    """A setting that cannot be used: `setting` and `value` as given, `reason` in words."""

    def __init__(self, setting: str, value: object, reason: str) -> None:
        """Keep setting, value and reason apart, so that a caller can add file and line."""
        super().__init__(f"{setting} = {shown(value)}: {reason}")
        self.setting = setting
        self.value = value
        self.reason = reason


def shown(value: object) -> str:
    """Return a value as an error message shows it: quoted, escaped, and cut where it is very long."""
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 120 else f"{text[:117]}..."


def boolean(name: str, value: object) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise CaptureError(name, value, "wants true or false")
    return value


def whole_number(lowest: int, highest: int) -> Callable[[str, object], int]:
    """Return a reader of whole numbers within limits, both included."""

    def read(name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise CaptureError(name, value, f"wants a whole number from {lowest} to {highest}")
        if not lowest <= value <= highest:
            raise CaptureError(name, value, f"is not within {lowest} to {highest}")
        return value

    return read


port = whole_number(1, 65535)


def user(name: str, value: object) -> int:
    """Return a numeric user. Names are resolved before, where the user database is at hand."""
    return whole_number(0, 2**32 - 2)(name, value)


def cgroup(name: str, value: object) -> SocketCgroup:
    """Return the match for the sockets of a cgroup, given by its path from the root of version 2."""
    if not isinstance(value, str):
        raise CaptureError(name, value, 'wants the path of a cgroup, such as "system.slice/proxy.service"')
    if value.startswith("/"):
        inside = re.sub(r"^/+(sys/fs/cgroup(/+unified)?(/+|$))?", "", value)
        said = f"write {inside}" if CGROUP.fullmatch(inside) else "is not"
        raise CaptureError(name, value, f"{said}: a path from the root of the cgroups, without a slash in front")
    names = value.split("/")
    if "" in names:
        raise CaptureError(name, value, "has a slash too many" if value else "is empty; the root holds every process")
    if not {".", ".."}.isdisjoint(names):
        raise CaptureError(name, value, "has a . or .. in it; write where it leads")
    if len(names) > 255:
        raise CaptureError(name, value, f"is {len(names)} levels deep, and the kernel compares 255 at most")
    if len(value) > 3840 or max(map(len, names)) > 255:
        raise CaptureError(name, value, "is too long: a name has 255 characters at most, a path 3840")
    if not CGROUP.fullmatch(value):
        raise CaptureError(name, value, "has a character that nft can't write or that no cgroup's name should have")
    return SocketCgroup(level=len(names), cgroup=value)


def seconds(name: str, value: object) -> float:
    """Return a positive time in seconds, at most a year."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CaptureError(name, value, "wants a number of seconds")
    if not 0 < value <= 31_536_000:
        raise CaptureError(name, value, "is not more than 0 and at most 31536000 seconds (a year)")
    return float(value)


def mark(name: str, value: object) -> Mark:
    """Return a mark written as a number, or as ``"VALUE/MASK"``."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    parts = value.split("/") if isinstance(value, str) else []
    if not 1 <= len(parts) <= 2 or not all(_NUMBER.fullmatch(part) for part in parts):
        raise CaptureError(name, value, 'wants a mark such as "0x539/0xfff"')
    numbers = [int(part, 16 if part.startswith("0x") else 10) for part in parts]
    if max(numbers) > 0xFFFFFFFF:
        raise CaptureError(name, value, "has more than 32 bits")
    try:
        return Mark(*numbers)
    except ModelError as error:
        raise CaptureError(name, value, str(error)) from None


def choice(options: type[_Choice]) -> Callable[[str, object], _Choice]:
    """Return a reader of one word out of a few."""

    def read(name: str, value: object) -> _Choice:
        if not isinstance(value, str) or value not in list(options):
            raise CaptureError(name, value, f"wants one of {', '.join(options)}")
        return options(value)

    return read


def choices(options: type[_Choice]) -> Callable[[str, object], tuple[_Choice, ...]]:
    """Return a reader of a list of words out of a few; each counts once, in the order of the few."""

    def read(name: str, value: object) -> tuple[_Choice, ...]:
        given = [choice(options)(name, each) for each in _items(name, value, f"words out of {', '.join(options)}")]
        return tuple(each for each in options if each in given)

    return read


def _items(name: str, value: object, what: str) -> list[object]:
    if not isinstance(value, list | tuple):
        raise CaptureError(name, value, f"wants a list of {what}")
    return list(value)


def families(name: str, value: object) -> tuple[Family, ...]:
    """Return the address families of a list of their names."""
    return tuple(choice(Family)(name, each) for each in _items(name, value, 'families, such as ["ipv4", "ipv6"]'))


def addresses(name: str, value: object) -> tuple[Address, ...]:
    """Return single addresses. IPv4-mapped IPv6 is refused: on the wire such a packet is IPv4."""
    return tuple(_address(name, each) for each in _items(name, value, "addresses"))


def _address(name: str, value: object) -> Address:
    try:
        address = ip_address(value if isinstance(value, str) else "")
    except ValueError:
        raise CaptureError(name, value, "is not an IPv4 or IPv6 address") from None
    if isinstance(address, IPv6Address) and address.scope_id:
        raise CaptureError(name, value, "names an interface (%), which a rule's address can't")
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        raise CaptureError(name, value, f"is IPv4-mapped; write {address.ipv4_mapped}")
    return address


def networks(name: str, value: object) -> tuple[Network, ...]:
    """Return networks; ``"*"`` alone, or as the list's only item, is every address of both families."""
    if value in ("*", ["*"]):
        return _ANY_FAMILY
    return tuple(_network(name, each) for each in _items(name, value, 'networks, or "*"'))


def _network(name: str, value: object) -> Network:
    text = value if isinstance(value, str) else ""
    if text == "*":
        raise CaptureError(name, value, "stands for all, and can't stand beside others")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise CaptureError(name, value, "is not an IPv4 or IPv6 network") from None
    if "%" in text:
        raise CaptureError(name, value, "names an interface (%), which a rule's address can't")
    if (
        text.partition("/")[0] != str(network.network_address)
        and ip_address(text.partition("/")[0]) != network.network_address
    ):
        raise CaptureError(name, value, f"has host bits set; write {network}")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        mapped = ip_network(f"{network.network_address.ipv4_mapped}/{network.prefixlen - 96}")
        raise CaptureError(name, value, f"is IPv4-mapped; write {mapped}")
    return network


def ports(name: str, value: object) -> tuple[PortRange, ...]:
    """Return ports, given as numbers or ``"8000-8100"``; ``"*"`` alone is every port."""
    if value in ("*", ["*"]):
        return (PortRange(0, 65535),)
    return tuple(_ports(name, each) for each in _items(name, value, 'ports, such as [80, "8000-8100"], or "*"'))


def _ports(name: str, value: object) -> PortRange:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if text == "*":
        raise CaptureError(name, value, "stands for all, and can't stand beside others")
    if not isinstance(text, str) or not re.fullmatch(r"-?[0-9]{1,9}(-[0-9]{1,9})?", text, re.ASCII):
        raise CaptureError(name, value, 'is no port, nor ports such as "8000-8100"')
    if text.startswith("-"):
        raise CaptureError(name, value, "is not within 1 to 65535")
    first, _, last = text.partition("-")
    low, high = int(first), int(last or first)
    if not (1 <= low <= 65535 and 1 <= high <= 65535):
        raise CaptureError(name, value, "is not within 1 to 65535")
    if low > high:
        raise CaptureError(name, value, f"runs backwards; write {high}-{low}")
    return PortRange(low, high)


def interfaces(name: str, value: object) -> tuple[str, ...]:
    """Return interface names; one that ends in ``*`` stands for all that begin so."""
    return tuple(_interface(name, each) for each in _items(name, value, 'interface names, such as ["eth1", "br-*"]'))


def _interface(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise CaptureError(name, value, "is no interface name")
    stem = value.removesuffix("*")
    if not stem:
        raise CaptureError(name, value, "would be every interface" if value else "is empty")
    if len(value) > 15:
        raise CaptureError(name, value, f"has {len(value)} characters, and interface names have 15 at most")
    if stem.startswith("@"):
        raise CaptureError(name, value, "begins with @, which nft takes for the name of a set")
    if not INTERFACE.fullmatch(stem) or stem in (".", ".."):
        raise CaptureError(name, value, "has a character that no interface name has")
    if stem == "lo" and not value.endswith("*"):
        raise CaptureError(name, value, "is the loopback interface, which is never captured")
    return value
