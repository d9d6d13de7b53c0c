"""Which connections are to be traced: a small strict grammar, and the rules that it becomes.

``[in|out] [ipv4|ipv6] [tcp|udp|icmp|icmpv6] [PEER] [host ADDRESS]``: PEER is ``NETWORK``, ``NETWORK:PORTS`` or
``:PORTS``. The network is that of the other side, who sends what comes in and gets what goes out; ports are those that
a connection goes to. What is read becomes matches of the ruleset's own types, and never text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network

from agent.errors import ConfigError
from rulesets.model import Chain, Rule, Ruleset, with_counters
from rulesets.vocabulary import (
    ChainType,
    Dst,
    DstPort,
    Family,
    Hook,
    Limited,
    Match,
    Network,
    OfFamily,
    PortRange,
    Proto,
    Protocol,
    Src,
    TcpFlag,
    TcpFlags,
    Trace,
    family_of,
)

TABLE = "weir-trace-"
_FIRST, _LAST = -350, 2**31 - 2  # before everybody's chains; before connection tracking confirms, which is at the last
_SYN = TcpFlags(among=(TcpFlag.FIN, TcpFlag.SYN, TcpFlag.RST, TcpFlag.ACK), set=(TcpFlag.SYN,))
_PROTOCOLS = {**{str(each): each for each in Protocol}, "icmpv6": Protocol.ICMPV6}
_WITH_PORTS = (Protocol.TCP, Protocol.UDP)
_HINT = "such as: out tcp 10.0.0.0/8:443, in udp :53, host 10.0.0.7, ipv6 tcp [fd00::/8]:443"


class Way(StrEnum):
    """Which way a connection goes: it comes from outside (or through loopback), or this namespace opens it."""

    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What is asked for; None is anything. `peer` is the other side's network, `host` either side's."""

    way: Way | None = None
    family: Family | None = None
    protocol: Protocol | None = None
    peer: Network | None = None
    host: Network | None = None
    ports: PortRange | None = None


def parse(words: Sequence[str]) -> Filter:
    """Return the filter that words mean. Raises `ConfigError`, naming the word."""
    read: dict[str, object] = {}
    left = [each for word in words for each in word.split()]
    while left:
        word = left.pop(0)
        if "%" in word:
            raise _refused(word, "an interface is no part of an address here")
        for name, value in _read(word, left):
            if name in read:
                raise _refused(word, f"says a second time which {name} is meant")
            read[name] = value
    found = Filter(**read)  # type: ignore[arg-type]  # each name has just the type that _read gives it
    _refuse_what_no_packet_is(found)
    return found


def _read(word: str, left: list[str]) -> Iterator[tuple[str, object]]:
    if word in list(Way):
        yield "way", Way(word)
    elif word in list(Family):
        yield "family", Family(word)
    elif word in _PROTOCOLS:
        yield "protocol", _PROTOCOLS[word]
    elif word == "host":
        if not left:
            raise _refused(word, "wants an address behind it")
        address = left.pop(0)
        try:
            if "%" in address:
                raise ValueError(address)
            yield "host", ip_network(ip_address(address))
        except ValueError:
            raise _refused(address, "is no address") from None
    else:
        network, ports = _parts(word)
        if network:
            try:
                yield "peer", ip_network(network)
            except ValueError as error:
                why = str(error) if "host bits" in str(error) else "is no word, network or :PORT that this knows"
                raise _refused(word, why) from None
        if ports is not None:
            yield "ports", _ports(word, ports)


def _parts(word: str) -> tuple[str, str | None]:
    """Return the network and the ports of a word; an IPv6 network with ports stands in brackets."""
    if word.startswith("["):
        network, bracket, behind = word[1:].partition("]")
        if not bracket or (behind and not behind.startswith(":")):
            raise _refused(word, "has no closing bracket, or something else than :PORT behind it")
        return network, behind[1:] if behind else None
    if word.count(":") > 1:
        return word, None
    network, colon, ports = word.partition(":")
    return network, ports if colon else None


def _ports(word: str, text: str) -> PortRange:
    first, dash, last = text.partition("-")
    if not (first.isascii() and first.isdecimal() and (not dash or (last.isascii() and last.isdecimal()))):
        raise _refused(word, "wants a port, or a range such as 8000-8100, behind the colon")
    low, high = int(first[:6]), int((last or first)[:6])
    if not 0 < low <= high < 65536:
        raise _refused(word, "wants ports of 1 to 65535, in rising order")
    return PortRange(low, high)


def _refuse_what_no_packet_is(found: Filter) -> None:
    versions = {family_of(each) for each in (found.peer, found.host) if each is not None}
    if found.protocol is Protocol.ICMP:
        versions.add(Family.IPV4)
    if found.protocol is Protocol.ICMPV6:
        versions.add(Family.IPV6)
    if found.family is not None:
        versions.add(found.family)
    if len(versions) > 1:
        raise ConfigError("filter: no packet is of two families", hint=_HINT)
    if found.ports is not None and found.protocol not in (None, *_WITH_PORTS):
        raise ConfigError(f"filter: {found.protocol} has no ports", hint=_HINT)


def _refused(word: str, why: str) -> ConfigError:
    return ConfigError(f"filter {word!r}: {why}", hint=_HINT)


def tracing(wanted: Filter, *, rate: int, number: int) -> Ruleset:
    """Return the table that has the kernel tell of what is asked for: its name ends with `number`.

    Of TCP the packets that open a connection are traced, of others every packet, for what is first nobody knows before
    connection tracking; of each rule at most `rate` packets a second. Chains without a rule stand behind everybody
    else's: there a packet is seen as it has become.
    """
    burst = max(5, rate)
    chains = [
        Chain(
            name=f"{way}-{'first' if first else 'last'}",
            type=ChainType.FILTER,
            hook=hook,
            priority=_FIRST if first else _LAST,
            rules=tuple(_rules(wanted, way, rate, burst)) if first else (),
        )
        for way, hook, first in (
            (Way.OUT, Hook.OUTPUT, True),
            (Way.OUT, Hook.POSTROUTING, False),
            (Way.IN, Hook.PREROUTING, True),
            (Way.IN, Hook.INPUT, False),
        )
        if not first or wanted.way in (None, way)
    ]
    return with_counters(f"{TABLE}{number}", tuple(chains))


def _rules(wanted: Filter, way: Way, rate: int, burst: int) -> Iterator[Rule]:
    for kind in _kinds(wanted):
        for ends in _ends(wanted, way):
            stated = any(isinstance(each, Src | Dst) for each in ends) or wanted.protocol in _ICMP
            family: tuple[Match, ...] = ()
            if wanted.family is not None and not stated:
                family = (OfFamily(family=wanted.family),)
            matches = (*family, *kind, *ends, Limited(per_second=rate, burst=burst))
            yield Rule(slug=f"traced-{way}", matches=matches, action=Trace())


_ICMP = (Protocol.ICMP, Protocol.ICMPV6)


def _kinds(wanted: Filter) -> Iterator[tuple[Match, ...]]:
    """Yield what to ask of protocol and ports, once for TCP and once for the rest, each with a limit of its own."""
    if wanted.protocol in (None, Protocol.TCP):
        to = () if wanted.ports is None else (DstPort(protocol=Protocol.TCP, ports=wanted.ports),)
        yield (_SYN, *to)
    if wanted.ports is not None and wanted.protocol in (None, Protocol.UDP):
        yield (DstPort(protocol=Protocol.UDP, ports=wanted.ports),)
    elif wanted.protocol is None:
        yield (Proto(protocol=Protocol.TCP, negate=True),)
    elif wanted.protocol is not Protocol.TCP:
        yield (Proto(protocol=wanted.protocol),)


def _ends(wanted: Filter, way: Way) -> Iterator[tuple[Match, ...]]:
    peer: tuple[Match, ...] = ()
    if wanted.peer is not None:
        peer = (Dst(network=wanted.peer) if way is Way.OUT else Src(network=wanted.peer),)
    if wanted.host is None:
        yield peer
    else:
        yield (*peer, Src(network=wanted.host))
        yield (*peer, Dst(network=wanted.host))
