"""The packet that a user asks about, as written on the command line: ``out tcp 10.0.0.7:443``.

    out|in  tcp|udp|icmp  [SOURCE[:PORT] to] DESTINATION[:PORT]  [OPTION...]

An address of IPv6 stands in brackets. TCP and UDP need the destination's port, ICMP has none. Options, each once: the
connection's state (new, established, related, invalid, untracked), ``reply`` (a packet of its answers), ``mark=`` and
``connmark=`` (packet and connection mark), ``uid=`` and ``gid=`` (who sends), ``dev=`` (the interface it comes in by).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from agent.errors import ConfigError
from agent.kernel.sockets import endpoint
from rulesets.vocabulary import FULL_MASK, Address, ConnState, Family, Protocol, family_of

GRAMMAR = "out|in tcp|udp|icmp [SOURCE[:PORT] to] DESTINATION:PORT [OPTION...], such as 'out tcp 10.0.0.7:443'"
_WAYS = ("out", "in")
_PROTOCOLS = {"tcp": Protocol.TCP, "udp": Protocol.UDP, "icmp": Protocol.ICMP}
_STATES = tuple(map(str, ConnState))
_END = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,8}|0|[1-9][0-9]{0,9}", re.ASCII)
_INTERFACE = re.compile(r"[^\s/:]{1,15}")
_NO_USER = 2**32 - 1  # the kernel's "no user" (include/linux/uidgid.h)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A packet as asked for. `source` None, port 0, `user` and `group` None and an empty `device` are left to Weir."""

    inwards: bool
    protocol: Protocol
    destination: Address
    destination_port: int = 0
    source: Address | None = None
    source_port: int = 0
    state: ConnState = ConnState.NEW
    reply: bool = False
    mark: int = 0
    connection_mark: int = 0
    user: int | None = None
    group: int | None = None
    device: str = ""

    @property
    def family(self) -> Family:
        """The family of its addresses."""
        return family_of(self.destination)

    def __str__(self) -> str:
        icmp = self.protocol in (Protocol.ICMP, Protocol.ICMPV6)
        words = ["in" if self.inwards else "out", "icmp" if icmp else str(self.protocol)]
        if self.source is not None:
            words += [_end(self.source, self.source_port), "to"]
        words.append(_end(self.destination, self.destination_port))
        words += [str(self.state)] if self.state is not ConnState.NEW else []
        words += ["reply"] if self.reply else []
        words += [f"mark={self.mark:#x}"] if self.mark else []
        words += [f"connmark={self.connection_mark:#x}"] if self.connection_mark else []
        words += [f"uid={self.user}"] if self.user is not None else []
        words += [f"gid={self.group}"] if self.group is not None else []
        words += [f"dev={self.device}"] if self.device else []
        return " ".join(words)


def read(text: str) -> Asked:
    """Return the packet that a text describes. Raises `ConfigError`, which names the word that can't be read."""
    words = text.split()
    if len(words) < 3:
        raise _error(text, "is too short", f"wants {GRAMMAR}")
    way, named, *rest = words
    if way not in _WAYS:
        raise _error(text, f"{way!r}: wants out (sent from the namespace) or in (arriving there)")
    if named not in _PROTOCOLS:
        raise _error(text, f"{named!r}: wants tcp, udp or icmp")
    protocol, source, source_port = _PROTOCOLS[named], None, 0
    if "to" in rest[1:2]:
        if len(rest) < 3:
            raise _error(text, "'to': no destination follows")
        source, source_port = _read_end(text, rest[0], protocol, "source")
        rest = rest[2:]
    destination, port = _read_end(text, rest[0], protocol, "destination")
    if source is not None and source.version != destination.version:
        raise _error(text, f"{rest[0]!r}: source and destination are of different families")
    if protocol is Protocol.ICMP and destination.version == 6:
        protocol = Protocol.ICMPV6
    told = _options(text, rest[1:])
    inwards = way == "in"
    for name in ("uid", "gid") if inwards else ():
        if name in told:
            raise _error(text, f"'{name}=': no socket here sends a packet that comes in")
    return Asked(
        inwards=inwards,
        protocol=protocol,
        destination=destination,
        destination_port=port,
        source=source,
        source_port=source_port,
        state=ConnState(str(told.get("state", ConnState.NEW))),
        reply="reply" in told,
        mark=_given(told, "mark") or 0,
        connection_mark=_given(told, "connmark") or 0,
        user=_given(told, "uid"),
        group=_given(told, "gid"),
        device=str(told.get("dev", "")),
    )


def _given(told: Mapping[str, int | str], name: str) -> int | None:
    found = told.get(name)
    return found if isinstance(found, int) else None


def _read_end(text: str, word: str, protocol: Protocol, which: str) -> tuple[Address, int]:
    found = _END.fullmatch(word)
    if found is None:
        bare = ":" in word and "[" not in word and word.count(":") > 1
        raise _error(
            text,
            f"{word!r}: is no {which}",
            f"an address of IPv6 stands in brackets: [{word}]" if bare else f"wants {GRAMMAR}",
        )
    try:
        address: Address = IPv6Address(found["v6"]) if found["v6"] else IPv4Address(found["v4"])
    except ValueError as error:
        raise _error(text, f"{word!r}: {error}") from None
    port = int(found["port"] or 0)
    if protocol is Protocol.ICMP:
        if found["port"]:
            raise _error(text, f"{word!r}: ICMP has no ports")
    elif port > 65535 or (found["port"] and not port):
        raise _error(text, f"{word!r}: port {port} is not one of 1 to 65535")
    elif which == "destination" and not port:
        raise _error(text, f"{word!r}: {protocol} wants a port, as in {_end(address, 443)}")
    return address, port


def _options(text: str, words: list[str]) -> dict[str, int | str]:
    told: dict[str, int | str] = {}
    for word in words:
        name, value = _option(text, word)
        if name in told:
            raise _error(text, f"{word!r}: {'a state' if name == 'state' else name} is given twice")
        told[name] = value
    return told


def _option(text: str, word: str) -> tuple[str, int | str]:
    name, equals, value = word.partition("=")
    if not equals and name in _STATES:
        return "state", name
    if not equals and name == "reply":
        return "reply", ""
    if equals and name in _VALUES:
        found = _VALUES[name](value)
        if found is None:
            raise _error(text, f"{word!r}: {_WANTS[name]}")
        return name, found
    raise _error(text, f"{word!r}: is no option", f"options are {', '.join((*_STATES, 'reply'))}, {_LISTED}")


def _mark(value: str) -> int | None:
    number = int(value, 0) if _NUMBER.fullmatch(value) else -1
    return number if 0 <= number <= FULL_MASK else None


def _owner(value: str) -> int | None:
    number = int(value) if _NUMBER.fullmatch(value) and not value.startswith("0x") else -1
    return number if 0 <= number < _NO_USER else None


def _interface(value: str) -> str | None:
    return value if _INTERFACE.fullmatch(value) and value not in (".", "..") else None


_VALUES: Mapping[str, Callable[[str], int | str | None]] = {
    "mark": _mark,
    "connmark": _mark,
    "uid": _owner,
    "gid": _owner,
    "dev": _interface,
}
_WANTS = {
    "mark": "wants a number up to 0xffffffff",
    "connmark": "wants a number up to 0xffffffff",
    "uid": "wants a user's number",
    "gid": "wants a group's number",
    "dev": "wants the name of an interface",
}
_LISTED = ", ".join(f"{name}=" for name in _VALUES)


def _end(address: Address, port: int) -> str:
    if port:
        return endpoint(address, port)
    return f"[{address}]" if address.version == 6 else str(address)


def _error(text: str, said: str, hint: str = "") -> ConfigError:
    return ConfigError(f"--packet {text!r}: {said}", hint=hint)
