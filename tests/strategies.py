"""Generated captures and rulesets, over all that the settings and the model allow."""

from ipaddress import IPv4Address
from typing import Any

from hypothesis import strategies as st

from rulesets.capture import Capture, Established, ProxyAbsent, Uncapturable
from rulesets.model import (
    INET_SERVICE,
    IPV4_ADDR,
    IPV4_ADDR_PORT,
    IPV6_ADDR,
    IPV6_ADDR_PORT,
    AddressPort,
    AddressRange,
    Chain,
    Counter,
    Element,
    KeyType,
    Rule,
    Ruleset,
    Set,
)
from rulesets.model.sets import key_of_field
from rulesets.settings import CaptureError
from rulesets.vocabulary import (
    Accept,
    Action,
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
    Limited,
    LocalAddress,
    LocalSocket,
    Match,
    ModelError,
    OfFamily,
    OutIface,
    PacketMark,
    Policy,
    PortRange,
    Proto,
    Protocol,
    Redirect,
    Reject,
    RejectWith,
    Sampled,
    SetConnMark,
    SetField,
    SetMark,
    Snat,
    SocketCgroup,
    SocketUser,
    Src,
    SrcPort,
    TcpFlag,
    TcpFlags,
    Trace,
    family_of,
)
from tests import values

__all__ = ["captures", "pairs", "rulesets", "settings"]

_booleans = st.booleans()


@st.composite
def settings(draw: st.DrawFn) -> dict[str, Any]:
    """Draw settings as a file gives them, mostly few at a time; together they may contradict each other."""
    ports = st.one_of(values.ports, values.port_ranges.map(str))
    several_ports = st.one_of(st.just("*"), st.lists(ports, max_size=5))
    several_networks = st.one_of(st.just("*"), st.lists(values.networks.map(str), max_size=5))
    several_interfaces = st.lists(values.interface_names.filter(lambda name: name != "lo"), max_size=3)
    addresses = values.addresses.filter(lambda each: each.version == 4 or each.ipv4_mapped is None).map(str)
    mark = values.marks.filter(lambda each: each.value > 0).map(str)
    every: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(("outbound_port", "inbound_port", "hbone_port", "dns_port"), values.ports),
        **dict.fromkeys(("dns", "inbound", "outbound", "ingress"), _booleans),
        **dict.fromkeys(("proxy_mark", "connection_mark"), mark),
        "proxy_user": st.integers(0, 2**32 - 2),
        "proxy_cgroup": values.cgroups,
        "probe_sources": st.lists(addresses, max_size=3),
        **dict.fromkeys(("virtual_interfaces", "exclude_interfaces"), several_interfaces),
        **{f"{kind}_{way}_ports": several_ports for kind in ("include", "exclude") for way in ("outbound", "inbound")},
        **{
            f"{kind}_{way}_networks": several_networks
            for kind in ("include", "exclude")
            for way in ("outbound", "inbound")
        },
        "families": st.lists(st.sampled_from(Family), min_size=1, max_size=2, unique=True).map(
            lambda some: [str(each) for each in some]
        ),
        "established": st.sampled_from(Established).map(str),
        "kept_deadline": st.one_of(st.integers(1, 3600), st.floats(0.5, 3600.0)),
        "when_proxy_absent": st.sampled_from(ProxyAbsent).map(str),
        "uncapturable": st.sampled_from(Uncapturable).map(str),
        "route_table": st.integers(1, 2**32 - 1),
        "rule_priority": st.integers(1, 32765),
        "sample": st.integers(0, 1_000_000_000),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(every)), max_size=8, unique=True))
    return {name: draw(every[name]) for name in chosen}


@st.composite
def captures(draw: st.DrawFn, *, by_nft: bool = False) -> Capture:
    """Draw a capture: settings that are accepted together.

    `by_nft`: nft can load its rules as text on any machine, so it names no cgroup, which would have to be there.
    """
    chosen = {name: value for name, value in draw(settings()).items() if not (by_nft and name == "proxy_cgroup")}
    while True:
        try:
            return Capture.parse(chosen)
        except CaptureError as error:
            # Leave out what it complains of, or everything: drawing again would mostly fail again.
            left = {name: value for name, value in chosen.items() if name != error.setting}
            chosen = left if len(left) < len(chosen) else {}


_names = st.text("abcdefghij", min_size=1, max_size=3).map(lambda text: f"x-{text}")
_slugs = st.sampled_from([f"x-{letter}" for letter in "abcdefgh"])
_comments = st.one_of(st.just(""), st.text("abc ABC019!#$%&'()*+,-./:;<=>?@[]^_`{|}~", max_size=128))


@st.composite
def sets(draw: st.DrawFn) -> Set:
    """Draw a set of any type with elements that do not overlap."""
    key = draw(st.sampled_from([IPV4_ADDR, IPV6_ADDR, INET_SERVICE, IPV4_ADDR_PORT, IPV6_ADDR_PORT]))
    interval = draw(_booleans) and key not in (IPV4_ADDR_PORT, IPV6_ADDR_PORT)
    elements: tuple[Element, ...] = ()
    name = draw(_names)
    for value in draw(st.lists(_values(key, interval), max_size=6)):
        try:
            element = Element(value=value, comment=draw(_comments))
            elements = Set(name=name, key=key, interval=interval, elements=(*elements, element)).elements
        except ModelError:
            continue  # it overlaps one that is there
    return Set(name=name, key=key, interval=interval, elements=elements)


def _values(key: KeyType, interval: bool) -> st.SearchStrategy[Any]:
    addresses: st.SearchStrategy[Any] = values.v4 if key in (IPV4_ADDR, IPV4_ADDR_PORT) else values.v6
    if key in (IPV4_ADDR_PORT, IPV6_ADDR_PORT):
        return st.builds(AddressPort, addresses, st.integers(0, 65535))
    if key == INET_SERVICE:
        return (
            st.one_of(values.port_or_range, st.integers(0, 65535).map(lambda port: PortRange(port, port)))
            if interval
            else (st.integers(0, 65535).map(lambda port: PortRange(port, port)))
        )
    if not interval:
        return addresses.map(lambda address: values.network_of(address, 128))
    ranges = st.tuples(addresses, addresses).filter(lambda pair: pair[0] < pair[1] and not _is_network(*pair))
    return st.one_of(
        values.v4_networks if key == IPV4_ADDR else values.v6_networks, ranges.map(lambda pair: AddressRange(*pair))
    )


def _is_network(first: IPv4Address, last: IPv4Address) -> bool:
    size = int(last) - int(first) + 1
    return size & (size - 1) == 0 and int(first) % size == 0


_tcp_flags = st.lists(st.sampled_from(TcpFlag), min_size=1, unique=True).flatmap(
    lambda among: st.builds(
        lambda chosen: TcpFlags(among=_in_order(among), set=_in_order(chosen)),
        st.lists(st.sampled_from(among), min_size=1, unique=True),
    )
)


def _in_order(flags: list[TcpFlag]) -> tuple[TcpFlag, ...]:
    return tuple(flag for flag in TcpFlag if flag in flags)


def matches(known: tuple[Set, ...]) -> st.SearchStrategy[Match]:
    """Draw one match of any kind; those of sets look into one of these."""
    with_ports = st.sampled_from([Protocol.TCP, Protocol.UDP])
    kinds: list[st.SearchStrategy[Any]] = [
        st.builds(OfFamily, family=st.sampled_from(Family)),
        st.builds(Proto, protocol=st.sampled_from(Protocol), negate=_booleans),
        st.builds(Src, network=values.networks, negate=_booleans),
        st.builds(Dst, network=values.networks, negate=_booleans),
        st.builds(SrcPort, protocol=with_ports, ports=values.port_or_range, negate=_booleans),
        st.builds(DstPort, protocol=with_ports, ports=values.port_or_range, negate=_booleans),
        st.builds(InIface, name=values.interface_names, negate=_booleans),
        st.builds(OutIface, name=values.interface_names, negate=_booleans),
        st.builds(PacketMark, mark=values.marks, negate=_booleans),
        st.builds(ConnMark, mark=values.marks, negate=_booleans),
        st.builds(SocketUser, user=st.integers(0, 2**32 - 2)),
        st.builds(SocketCgroup, level=st.integers(1, 255), cgroup=st.integers(1, 2**64 - 1)),
        st.just(LocalSocket()),
        st.builds(LocalAddress, negate=_booleans),
        st.builds(
            lambda flags, negate: TcpFlags(among=flags.among, set=flags.set, negate=negate), _tcp_flags, _booleans
        ),
    ]
    lookups = [(field, each.name) for field in SetField for each in known if each.key == key_of_field(field)]
    if lookups:
        chosen = st.sampled_from(lookups)
        kinds.append(
            st.builds(lambda pair, negate: InSet(field=pair[0], name=pair[1], negate=negate), chosen, _booleans)
        )
    return st.one_of(kinds)


def actions(kind: ChainType, hook: Hook) -> st.SearchStrategy[Action]:
    """Draw one action that may stand in a chain of this type at this hook."""
    anywhere: list[st.SearchStrategy[Any]] = [
        st.just(Accept()),
        st.builds(SetMark, mark=values.marks),
        st.builds(SetConnMark, mark=values.marks),
        st.builds(CtZone, zone=st.integers(1, 65535)),
        st.just(Trace()),
    ]
    if hook is not Hook.POSTROUTING:
        anywhere.append(st.builds(Reject, reply=st.sampled_from(RejectWith)))
    if kind is ChainType.NAT and hook in (Hook.PREROUTING, Hook.OUTPUT):
        anywhere += [st.builds(Redirect, port=values.ports), st.builds(Dnat, port=values.ports)]
    if kind is ChainType.NAT and hook in (Hook.INPUT, Hook.POSTROUTING):
        anywhere.append(st.builds(Snat, address=values.addresses))
    return st.one_of(anywhere)


@st.composite
def rules(draw: st.DrawFn, known: tuple[Set, ...], kind: ChainType, hook: Hook, by_nft: bool) -> Rule:
    """Draw a rule; what contradicts what was drawn before is left out, what the action needs is put in."""
    action, slug = draw(actions(kind, hook)), draw(_slugs)
    chosen: tuple[Match, ...] = ()
    if isinstance(action, Redirect | Dnat):
        chosen = (Proto(protocol=draw(st.sampled_from([Protocol.TCP, Protocol.UDP]))),)
        if draw(_booleans):
            chosen = (draw(st.builds(DstPort, protocol=st.just(Protocol.UDP), ports=values.port_or_range)),)
    elif isinstance(action, Reject) and action.reply is RejectWith.TCP_RESET:
        chosen = draw(st.sampled_from([(Proto(protocol=Protocol.TCP),), (draw(_tcp_flags),)]))
    elif isinstance(action, Trace):
        numbers = st.integers(1, 2**31 - 1)
        by_chance = st.builds(Sampled, one_in=numbers)
        by_number = st.builds(Limited, per_second=st.integers(1, 100_000), burst=st.integers(1, 1000))
        chosen = (draw(st.one_of(by_chance, by_number)),)
    elif isinstance(action, Snat):
        chosen = (OfFamily(family=family_of(action.address)),)
    rule = Rule(slug=slug, matches=chosen, action=action)
    cgroups = not by_nft and hook in (Hook.PREROUTING, Hook.INPUT, Hook.OUTPUT)
    for match in draw(st.lists(matches(known), max_size=4)):
        if isinstance(match, SocketCgroup) and not cgroups:
            continue
        try:
            rule = Rule(slug=slug, matches=(*rule.matches, match), action=action)
        except ModelError:
            continue
    return rule


@st.composite
def rulesets(draw: st.DrawFn, table: str = "x-table", *, by_nft: bool = False) -> Ruleset:
    """Draw a ruleset with everything that the model has, foreign things aside; `by_nft` as `captures`."""
    known = tuple(draw(st.lists(sets(), max_size=4, unique_by=lambda each: each.name)))
    chains = []
    for name in draw(st.lists(_names, max_size=4, unique=True)):
        kind = draw(st.sampled_from(ChainType))
        hooks = {
            ChainType.FILTER: list(Hook),
            ChainType.ROUTE: [Hook.OUTPUT],
            ChainType.NAT: [Hook.PREROUTING, Hook.INPUT, Hook.OUTPUT, Hook.POSTROUTING],
        }
        hook = draw(st.sampled_from(hooks[kind]))
        priority = draw(st.integers(-199 if kind is ChainType.NAT else -400, 400))
        policy = draw(st.sampled_from(Policy))
        drawn = draw(st.lists(rules(known, kind, hook, by_nft), max_size=5))
        chains.append(Chain(name=name, type=kind, hook=hook, priority=priority, policy=policy, rules=tuple(drawn)))
    slugs = {rule.slug for chain in chains for rule in chain.rules} | set(draw(st.lists(_slugs, max_size=2)))
    counts = st.integers(0, 2**63 - 1)
    counters = tuple(Counter(name=slug, packets=draw(counts), bytes=draw(counts)) for slug in sorted(slugs))
    return Ruleset(table=table, chains=tuple(chains), sets=known, counters=counters)


def pairs(*, by_nft: bool = False) -> st.SearchStrategy[tuple[Ruleset, Ruleset]]:
    """Draw two rulesets of one table; their names are few, so that they share some of everything."""
    return st.tuples(rulesets(by_nft=by_nft), rulesets(by_nft=by_nft))
