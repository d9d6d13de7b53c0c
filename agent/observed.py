"""What a namespace is like at this moment: rules, routes, families, listeners."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from agent.errors import TargetError
from agent.kernel import cgroups, ipv6, routing
from agent.kernel.handle import Handle
from agent.kernel.ipv6 import Ipv6
from agent.kernel.sockets import Listener, SocketDiag
from agent.targets import Absent, Target
from rulesets.capture import Capture
from rulesets.host import HOST_TABLE
from rulesets.model import Ruleset
from rulesets.pod import POD_TABLE
from rulesets.routing import NO_ROUTING, Routing
from rulesets.vocabulary import Family

_LOOPBACK_INDEX = 1  # lo is the first interface of every namespace (net/core/dev.c)
_LOOPBACK = {Family.IPV4: ip_address("127.0.0.1"), Family.IPV6: ip_address("::1")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """All that decides what is to be done.

    `listeners` are TCP and UDP, of both families. `proxy_cgroup` is the number of the proxy's cgroup: None where it
    isn't there, or the wish names none.
    """

    ruleset: Ruleset | None
    routing: Routing
    ipv6: Ipv6
    listeners: frozenset[Listener]
    proxy_cgroup: int | None = None

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


def observe(handle: Handle, target: Target, *, listeners: frozenset[Listener] | None = None) -> Observed:
    """Read a namespace; who listens there only where that isn't known from a moment ago."""
    with handle.inside():
        if listeners is None:
            with SocketDiag() as diag:
                listeners = diag.listening_ports()
        # Of all tables where nothing is wanted; else of few, which costs the same however many routes there are.
        wanted = None if isinstance(target.wish, Absent) else target.wish.capture.route_table
        state, rules_and_routes = ipv6.asked(), routing.read(wanted)
    return Observed(
        ruleset=_rules(handle, target),
        routing=rules_and_routes,
        ipv6=state,
        listeners=listeners,
        proxy_cgroup=None if isinstance(target.wish, Absent) else _proxy_cgroup(target.wish.capture),
    )


def _proxy_cgroup(capture: Capture) -> int | None:
    wanted = capture.proxy_cgroup
    if wanted is None:
        return None
    try:
        return cgroups.number(wanted.cgroup) if isinstance(wanted.cgroup, str) else wanted.cgroup
    except TargetError as error:
        raise TargetError(f"proxy_cgroup = {wanted.cgroup!r}: {error}", hint=error.hint) from None


def _rules(handle: Handle, target: Target) -> Ruleset | None:
    """Return the table that is meant; where none is wanted, whichever of Weir's two is there.

    A namespace can have been the host of another process tree, a container's say, and isn't the one that is called so.
    """
    tables = (POD_TABLE, HOST_TABLE) if isinstance(target.wish, Absent) else (target.table,)
    return next((found for found in map(handle.look, tables) if found is not None), None)


def has_traces(handle: Handle, target: Target) -> bool:
    """Tell whether anything of Weir is in the namespace of an absent target: a table, a rule or a route."""
    if _rules(handle, target) is not None:
        return True
    with handle.inside():
        return routing.read() != NO_ROUTING


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
    """Say where nothing listens, each port once; empty when all are answered."""
    lacking: dict[tuple[int, str], list[Unanswered]] = {}
    for each in ports:
        lacking.setdefault((each.port, each.setting), []).append(each)
    said = []
    for (port, setting), found in lacking.items():
        families = {each.family for each in found}
        over = "" if len(families) == len(Family) else " over IPv4" if Family.IPV4 in families else " over IPv6"
        said.append(f"{' and '.join(dict.fromkeys(each.protocol for each in found))} port {port} ({setting}){over}")
    return f"nothing listens on {', '.join(said)}" if said else ""


def _answers(listener: Listener, protocol: str, port: int, family: Family, setting: str) -> bool:
    if listener.protocol != protocol or listener.port != port:
        return False
    loopback = _LOOPBACK[family]
    if setting == "inbound_port":
        # Inbound connections keep the address and the interface that they came by: a listener on one address serves
        # that one, and a listener on loopback none.
        return listener.answers(loopback) if listener.address.is_unspecified else _serves(listener, family)
    return listener.answers(loopback) and listener.interface in (0, _LOOPBACK_INDEX)


def _serves(listener: Listener, family: Family) -> bool:
    return listener.address.version == _LOOPBACK[family].version and not listener.address.is_loopback
