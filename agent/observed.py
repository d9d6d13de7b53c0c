"""What a namespace is like at this moment: rules, routes, families, listeners."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from agent.kernel import ipv6, routing
from agent.kernel.handle import Handle
from agent.kernel.ipv6 import Ipv6
from agent.kernel.sockets import Listener, SocketDiag
from rulesets.capture import Capture
from rulesets.model import Ruleset
from rulesets.routing import Routing
from rulesets.vocabulary import Family

_LOOPBACK = {Family.IPV4: ip_address("127.0.0.1"), Family.IPV6: ip_address("::1")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """All that decides what is to be done. `listeners` are TCP and UDP, of both families."""

    ruleset: Ruleset | None
    routing: Routing
    ipv6: Ipv6
    listeners: frozenset[Listener]

    @property
    def families(self) -> tuple[Family, ...]:
        """The families in which the namespace can be reached, or reach others."""
        return (Family.IPV4,) if self.ipv6 in (Ipv6.ABSENT, Ipv6.OFF) else tuple(Family)

    @property
    def capturable(self) -> tuple[Family, ...]:
        """The families that can be redirected."""
        return tuple(Family) if self.ipv6 is Ipv6.ON else (Family.IPV4,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A port to which connections would be redirected, and where nothing listens."""

    setting: str
    port: int
    protocol: str
    family: Family

    def __str__(self) -> str:
        return f"{self.protocol} port {self.port} ({self.setting})"


def observe(handle: Handle, table: str) -> Observed:
    """Read a namespace."""
    with handle.inside():
        with SocketDiag() as diag:
            listeners = diag.listening_ports()
        state, rules_and_routes = ipv6.state(), routing.read()
    return Observed(ruleset=handle.read(table), routing=rules_and_routes, ipv6=state, listeners=listeners)


def unanswered(capture: Capture, listeners: Iterable[Listener], families: tuple[Family, ...]) -> tuple[Unanswered, ...]:
    """Return the ports of the proxy on which nothing listens, for the families that would be redirected there."""
    wanted = [(setting, port, "tcp") for setting, port in capture.proxy_ports.items()]
    wanted += [("dns_port", port, "udp") for setting, port in capture.proxy_ports.items() if setting == "dns_port"]
    return tuple(
        Unanswered(setting=setting, port=port, protocol=protocol, family=family)
        for setting, port, protocol in wanted
        for family in families
        if family in capture.captured_families
        and not any(_answers(each, protocol, port, family, setting) for each in listeners)
    )


def in_words(ports: tuple[Unanswered, ...]) -> str:
    """Say where nothing listens, ports that lack in both families once; empty when all are answered."""
    families: dict[str, list[str]] = {}
    for each in ports:
        families.setdefault(str(each), []).append("IPv4" if each.family is Family.IPV4 else "IPv6")
    said = [port if len(lacking) == 2 else f"{port} over {lacking[0]}" for port, lacking in families.items()]
    return f"nothing listens on {', '.join(said)}" if said else ""


def _answers(listener: Listener, protocol: str, port: int, family: Family, setting: str) -> bool:
    if listener.protocol != protocol or listener.port != port:
        return False
    if listener.answers(_LOOPBACK[family]):
        return True
    # Inbound connections keep the address that the client asked for, so a listener on one address serves that one.
    return setting == "inbound_port" and listener.address.version == _LOOPBACK[family].version
