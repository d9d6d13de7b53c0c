"""The table inside a pod, or of a plain host's own traffic: one function per reason, in the order of the rules.

Four base chains, no jumps. Each hook stands one before the usual priority, so that whoever loads a chain later still
comes after. The order of the rules is the meaning: an earlier one wins, so exclusion beats inclusion and DNS comes
before both. Everything below knows the proxy by its mark alone. The intent of every rule is its slug.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from ipaddress import ip_network

from rulesets.capture import ALL_NETWORKS, ALL_PORTS, Capture, Uncapturable
from rulesets.model import (
    INET_SERVICE,
    IPV4_ADDR,
    IPV6_ADDR,
    Chain,
    Element,
    Rule,
    Ruleset,
    Set,
    with_counters,
)
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
    Hook,
    InIface,
    InSet,
    LocalAddress,
    Match,
    Network,
    OfFamily,
    OutIface,
    PacketMark,
    PortRange,
    Proto,
    Protocol,
    Redirect,
    Reject,
    RejectWith,
    SetConnMark,
    SetField,
    SetMark,
    SocketUser,
    Src,
    TcpFlag,
    TcpFlags,
    family_of,
    host_network,
)

POD_TABLE = "weir-pod"
# One zone for the proxy's own queries, as Istio's: a client and the proxy may use the same ports (istio#33250).
DNS_ZONE = 1
DNS = PortRange(53, 53)
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.1/32"), ip_network("::1/128"))

TCP = Proto(protocol=Protocol.TCP)
NOT_TCP = Proto(protocol=Protocol.TCP, negate=True)
LEAVES_BY_LOOPBACK = OutIface(name="lo")
_SYN_OF = (TcpFlag.FIN, TcpFlag.SYN, TcpFlag.RST, TcpFlag.ACK)
NOT_SYN = TcpFlags(among=_SYN_OF, set=(TcpFlag.SYN,), negate=True)


class Stage(StrEnum):
    """Where a namespace stands between direct and captured.

    `TRANSITION` redirects only connections that begin, so that open ones go on until conntrack knows them. It must not
    last: a captured stream that loses its conntrack entry would go out in plain. `DRAINING` redirects nothing and
    keeps what captured streams need to go on.
    """

    STEADY = "steady"
    TRANSITION = "transition"
    DRAINING = "draining"


Reason = Callable[[Capture, Stage], Iterator[Rule]]


def build(capture: Capture, *, stage: Stage = Stage.STEADY, table: str = POD_TABLE) -> Ruleset:
    """Return the whole table that carries out a capture. Chains that would be empty are left out, but for draining."""
    if stage is Stage.DRAINING:
        # A namespace without any nat chain un-translates nothing: every captured stream would break.
        chains = (*_chains(capture, stage, (MANGLE_OUT,)), NAT_OUT)
    else:
        chains = _chains(capture, stage, tuple(REASONS))
    return with_counters(table, tuple(chains), _sets(capture) if stage is not Stage.DRAINING else ())


def _chains(capture: Capture, stage: Stage, places: tuple[Chain, ...]) -> Iterator[Chain]:
    for place in places:
        rules = tuple(rule for reason in REASONS[place] for rule in reason(capture, stage))
        if rules:
            yield Chain(name=place.name, type=place.type, hook=place.hook, priority=place.priority, rules=rules)


# raw-out: before connection tracking.


def proxy_by_user(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """A proxy that doesn't mark its packets is known by its user. The user becomes the mark once, here."""
    if capture.proxy_user is not None:
        yield Rule(
            slug="proxy-by-user",
            matches=(SocketUser(user=capture.proxy_user),),
            action=SetMark(mark=capture.proxy_mark),
        )


def dns_zone(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """The proxy's own queries are tracked apart: a client may have used the same ports for its redirected query."""
    if capture.dns:
        matches = (PacketMark(mark=capture.proxy_mark), DstPort(protocol=Protocol.UDP, ports=DNS))
        yield Rule(slug="dns-zone", matches=matches, action=CtZone(zone=DNS_ZONE))


# mangle-out: the way back of connections that the proxy opened to the application in the client's name.


def reply_to_proxy(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """A packet of such a connection gets the mark that routes it to the proxy instead of to the client."""
    if capture.inbound:
        mark = capture.connection_mark
        yield Rule(slug="reply-to-proxy", matches=(ConnMark(mark=mark),), action=SetMark(mark=mark))


def proxy_to_app(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """A connection that the proxy opens over loopback is remembered by its mark."""
    if capture.inbound:
        matches = (LEAVES_BY_LOOPBACK, PacketMark(mark=capture.proxy_mark))
        yield Rule(slug="proxy-to-app", matches=matches, action=SetConnMark(mark=capture.connection_mark))


# nat-pre: connections that arrive.


def virtual_interfaces(capture: Capture, stage: Stage) -> Iterator[Rule]:
    """What comes from a guest behind this namespace (a virtual machine, a nested container) is outbound."""
    for name in capture.virtual_interfaces:
        guest = InIface(name=name)
        slugs = ("virtual-interface", "virtual-interface-refused")
        if stage is Stage.TRANSITION:
            yield _accept("virtual-interface-not-new", guest, NOT_SYN)
        yield from _capture_tcp(capture, slugs, Redirect(port=capture.outbound_port), guest)
        yield _accept("virtual-interface-other", guest)


def inbound_not_local(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """What the namespace only forwards is not for it."""
    if _captures_inbound(capture):
        yield _accept("inbound-not-local", LocalAddress(negate=True))


def inbound_excluded_interfaces(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Interfaces that stay out, coming in."""
    if _captures_inbound(capture):
        for name in capture.exclude_interfaces:
            yield _accept("inbound-excluded-interface", InIface(name=name))


def inbound_not_tcp(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Only TCP is captured; the rules below need not ask again."""
    if _captures_inbound(capture):
        yield _accept("inbound-not-tcp", NOT_TCP)


def inbound_not_new(capture: Capture, stage: Stage) -> Iterator[Rule]:
    """In transition, the streams that are open go on."""
    if _captures_inbound(capture) and stage is Stage.TRANSITION:
        yield _accept("inbound-not-new", NOT_SYN)


def inbound_from_proxy(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """What the proxy sends to the application."""
    if _captures_inbound(capture):
        yield _accept("inbound-from-proxy", PacketMark(mark=capture.proxy_mark))


def inbound_probes(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """The kubelet's probes, which the node's table gives these sources, go straight to the application."""
    if _captures_inbound(capture):
        for address in capture.probe_sources:
            yield _accept("inbound-probe", Src(network=host_network(address)))


def inbound_loopback(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """The application talking to itself."""
    if _captures_inbound(capture):
        for network in LOOPBACK:
            yield _accept("inbound-loopback", Dst(network=network))


def inbound_hbone(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Tunnelled connections are for the proxy already."""
    if _captures_inbound(capture):
        port = PortRange(capture.hbone_port, capture.hbone_port)
        yield _accept("inbound-hbone", DstPort(protocol=Protocol.TCP, ports=port))


def inbound_selection(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Peers and ports that are excluded or not included, coming in."""
    if _captures_inbound(capture):
        yield from _selection(capture, "inbound", {Family.IPV4: SetField.SRC_V4, Family.IPV6: SetField.SRC_V6})


def inbound_capture(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """All other TCP goes to the proxy.

    ``dnat`` to the port keeps the address that the client asked for: a redirect would rewrite it to the interface's
    first address, and drop where the interface has none.
    """
    if _captures_inbound(capture):
        slugs = ("inbound-redirect", "inbound-refused")
        yield from _capture_tcp(capture, slugs, Dnat(port=capture.inbound_port))


# nat-out: connections that processes of the namespace open.


def outbound_from_proxy(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """The proxy's own connections."""
    if capture.outbound:
        yield _accept("outbound-from-proxy", PacketMark(mark=capture.proxy_mark))


def outbound_excluded_interfaces(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Interfaces that stay out, going out."""
    if capture.outbound:
        for name in capture.exclude_interfaces:
            yield _accept("outbound-excluded-interface", OutIface(name=name))


def outbound_dns_udp(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """DNS queries go to the proxy, whichever resolver they are for; those to a resolver on loopback stay."""
    if capture.dns:
        query = (OutIface(name="lo", negate=True), DstPort(protocol=Protocol.UDP, ports=DNS))
        only = _only_captured(capture)
        yield Rule(slug="outbound-dns-udp", matches=(*only, *query), action=Redirect(port=capture.dns_port))
        if only and capture.uncapturable is Uncapturable.REJECT:
            yield Rule(slug="outbound-dns-refused", matches=query, action=Reject(reply=RejectWith.PORT_UNREACHABLE))


def outbound_not_tcp(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Only TCP is captured; the rules below need not ask again."""
    if capture.outbound:
        yield _accept("outbound-not-tcp", NOT_TCP)


def outbound_not_new(capture: Capture, stage: Stage) -> Iterator[Rule]:
    """In transition, the streams that are open go on."""
    if capture.outbound and stage is Stage.TRANSITION:
        yield _accept("outbound-not-new", NOT_SYN)


def outbound_loopback(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """The application talking to itself."""
    if capture.outbound:
        for network in LOOPBACK:
            yield _accept("outbound-loopback", Dst(network=network))


def outbound_probes(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Answers to the node's probes, should they look like connections of their own."""
    if capture.outbound:
        for address in capture.probe_sources:
            yield _accept("outbound-probe", Dst(network=host_network(address)))


def outbound_dns_tcp(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """DNS over TCP, before any exclusion, as over UDP."""
    if capture.dns:
        matches = (*_only_captured(capture), DstPort(protocol=Protocol.TCP, ports=DNS))
        yield Rule(slug="outbound-dns-tcp", matches=matches, action=Redirect(port=capture.dns_port))


def outbound_reply(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """A reply on its way back to the proxy."""
    if capture.outbound and capture.inbound:
        yield _accept("outbound-reply", PacketMark(mark=capture.connection_mark))


def outbound_to_self(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """The application talking to itself by another of its addresses."""
    if capture.outbound:
        yield _accept("outbound-to-self", LEAVES_BY_LOOPBACK)


def outbound_selection(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """Peers and ports that are excluded or not included, going out."""
    if capture.outbound:
        yield from _selection(capture, "outbound", {Family.IPV4: SetField.DST_V4, Family.IPV6: SetField.DST_V6})


def outbound_capture(capture: Capture, _stage: Stage) -> Iterator[Rule]:
    """All other TCP goes to the proxy."""
    if capture.outbound:
        slugs = ("outbound-redirect", "outbound-refused")
        yield from _capture_tcp(capture, slugs, Redirect(port=capture.outbound_port))


RAW_OUT = Chain(name="raw-out", type=ChainType.FILTER, hook=Hook.OUTPUT, priority=-300)
MANGLE_OUT = Chain(name="mangle-out", type=ChainType.ROUTE, hook=Hook.OUTPUT, priority=-150)
NAT_PRE = Chain(name="nat-pre", type=ChainType.NAT, hook=Hook.PREROUTING, priority=-101)
NAT_OUT = Chain(name="nat-out", type=ChainType.NAT, hook=Hook.OUTPUT, priority=-101)

# The whole table at a glance: where, and in which order.
REASONS: dict[Chain, tuple[Reason, ...]] = {
    RAW_OUT: (proxy_by_user, dns_zone),
    MANGLE_OUT: (reply_to_proxy, proxy_to_app),
    NAT_PRE: (
        virtual_interfaces,
        inbound_not_local,
        inbound_excluded_interfaces,
        inbound_not_tcp,
        inbound_not_new,
        inbound_from_proxy,
        inbound_probes,
        inbound_loopback,
        inbound_hbone,
        inbound_selection,
        inbound_capture,
    ),
    NAT_OUT: (
        outbound_from_proxy,
        outbound_excluded_interfaces,
        outbound_dns_udp,
        outbound_not_tcp,
        outbound_not_new,
        outbound_loopback,
        outbound_probes,
        outbound_dns_tcp,
        outbound_reply,
        outbound_to_self,
        outbound_selection,
        outbound_capture,
    ),
}


# What several reasons share.


def _captures_inbound(capture: Capture) -> bool:
    # An ingress pod takes connections from outside the mesh as they are; its tunnelled ones still use mangle-out.
    return capture.inbound and not capture.ingress


def _accept(slug: str, *matches: Match) -> Rule:
    return Rule(slug=slug, matches=matches, action=Accept())


def _only_captured(capture: Capture) -> tuple[Match, ...]:
    """Return the match for the one family that is captured; nothing when both are."""
    families = capture.captured_families
    return () if len(families) == 2 else (OfFamily(family=families[0]),)


def _capture_tcp(capture: Capture, slugs: tuple[str, str], action: Action, *matches: Match) -> Iterator[Rule]:
    """Redirect TCP, and refuse that of a family that can't be captured, unless it is to go direct."""
    redirected, refused = slugs
    only = _only_captured(capture)
    yield Rule(slug=redirected, matches=(*matches, *only, TCP), action=action)
    if only and capture.uncapturable is Uncapturable.REJECT:
        # No match for the other family: nft would not list it back, and what comes here is of no other.
        yield Rule(slug=refused, matches=(*matches, TCP), action=Reject(reply=RejectWith.TCP_RESET))


def _selection(capture: Capture, way: str, peer: dict[Family, SetField]) -> Iterator[Rule]:
    """Accept what is excluded, then what is not included."""
    excluded, included = _networks(capture, f"exclude_{way}_networks"), _networks(capture, f"include_{way}_networks")
    for family, field in peer.items():
        if excluded[family]:
            name = _set_name(f"exclude_{way}_networks", family)
            yield _accept(f"{way}-excluded-network", InSet(field=field, name=name))
    if getattr(capture, f"exclude_{way}_ports"):
        name = _set_name(f"exclude_{way}_ports")
        yield _accept(f"{way}-excluded-port", InSet(field=SetField.TCP_DST_PORT, name=name))
    for family, field in peer.items():
        if not included[family]:
            yield _accept(f"{way}-not-included-network", OfFamily(family=family))
        elif included[family] != _everything(family):
            name = _set_name(f"include_{way}_networks", family)
            yield _accept(f"{way}-not-included-network", InSet(field=field, name=name, negate=True))
    if getattr(capture, f"include_{way}_ports") != ALL_PORTS:
        name = _set_name(f"include_{way}_ports")
        yield _accept(f"{way}-not-included-port", InSet(field=SetField.TCP_DST_PORT, name=name, negate=True))


def _networks(capture: Capture, setting: str) -> dict[Family, tuple[Network, ...]]:
    networks: tuple[Network, ...] = getattr(capture, setting)
    return {family: tuple(each for each in networks if family_of(each) is family) for family in Family}


def _everything(family: Family) -> tuple[Network, ...]:
    return tuple(each for each in ALL_NETWORKS if family_of(each) is family)


def _set_name(setting: str, family: Family | None = None) -> str:
    name = setting.replace("_", "-")
    return name if family is None else f"{name}-{'v4' if family is Family.IPV4 else 'v6'}"


def _sets(capture: Capture) -> tuple[Set, ...]:
    """Return the sets that `_selection` looks into."""
    return tuple(_sets_of_networks(capture)) + tuple(_sets_of_ports(capture))


def _ways(capture: Capture) -> tuple[str, ...]:
    on = {"outbound": capture.outbound, "inbound": _captures_inbound(capture)}
    return tuple(way for way, captured in on.items() if captured)


def _sets_of_networks(capture: Capture) -> Iterator[Set]:
    for way in _ways(capture):
        for kind in ("exclude", "include"):
            for family, networks in _networks(capture, f"{kind}_{way}_networks").items():
                if networks and not (kind == "include" and networks == _everything(family)):
                    yield Set(
                        name=_set_name(f"{kind}_{way}_networks", family),
                        key=IPV4_ADDR if family is Family.IPV4 else IPV6_ADDR,
                        interval=True,
                        elements=tuple(Element(value=each) for each in networks),
                    )


def _sets_of_ports(capture: Capture) -> Iterator[Set]:
    for way in _ways(capture):
        for kind in ("exclude", "include"):
            ports: tuple[PortRange, ...] = getattr(capture, f"{kind}_{way}_ports")
            if ports and not (kind == "include" and ports == ALL_PORTS):
                elements = tuple(Element(value=each) for each in ports)
                yield Set(name=_set_name(f"{kind}_{way}_ports"), key=INET_SERVICE, interval=True, elements=elements)
