"""One of everything that a ruleset can hold: every match and action, each way that the kernel treats differently."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

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
    Rule,
    Ruleset,
    Set,
)
from rulesets.model.sets import key_of_field
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
    Mark,
    Match,
    Network,
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
)

_BOTH = (False, True)
_NETWORKS: tuple[Network, ...] = (
    *(IPv4Network(each) for each in ("0.0.0.0/0", "10.0.0.0/8", "10.128.0.0/9", "1.2.3.0/24", "1.2.3.4/32")),
    *(IPv6Network(each) for each in ("::/0", "fc00::/7", "fd00::/16", "fd00::/61", "fd00::1/128")),
)
_PORTS = (PortRange(80, 80), PortRange(0, 5), PortRange(1024, 65535), PortRange(0, 65535))
_MARKS = (Mark(5), Mark(0), Mark(0x111, 0xFFF), Mark(0, 0xFFF), Mark(0xABC00000, 0xFFF00000))
_NAMES = ("lo", "abcdefghijklmno", "br-*")
_FLAGS = (
    ((TcpFlag.SYN,), (TcpFlag.SYN,)),
    ((TcpFlag.FIN, TcpFlag.SYN, TcpFlag.RST, TcpFlag.ACK), (TcpFlag.SYN,)),
    (tuple(TcpFlag), (TcpFlag.FIN, TcpFlag.CWR)),
)

SETS = (
    Set(
        name="networks",
        key=IPV4_ADDR,
        interval=True,
        elements=(
            Element(value=IPv4Network("10.0.0.0/8"), comment="ours"),
            Element(value=IPv4Network("11.0.0.0/32")),
            Element(value=AddressRange(IPv4Address("11.0.0.1"), IPv4Address("11.0.0.9"))),
            Element(value=IPv4Network("255.255.255.0/24"), comment="the last"),
        ),
    ),
    Set(name="everything", key=IPV4_ADDR, interval=True, elements=(Element(value=IPv4Network("0.0.0.0/0")),)),
    Set(
        name="networks6",
        key=IPV6_ADDR,
        interval=True,
        elements=(Element(value=IPv6Network("::/8")), Element(value=IPv6Network("ffff::/16"), comment="c" * 128)),
    ),
    Set(name="empty", key=IPV6_ADDR, interval=True),
    Set(name="addresses", key=IPV4_ADDR, interval=False, elements=(Element(value=IPv4Network("1.2.3.4")),)),
    Set(name="addresses6", key=IPV6_ADDR, interval=False, elements=(Element(value=IPv6Network("::1"), comment="lo"),)),
    Set(
        name="ports",
        key=INET_SERVICE,
        interval=True,
        elements=tuple(Element(value=each) for each in (PortRange(1, 10), PortRange(11, 11), PortRange(99, 65535))),
    ),
    Set(name="single-ports", key=INET_SERVICE, interval=False, elements=(Element(value=PortRange(0, 0)),)),
    Set(
        name="pairs",
        key=IPV4_ADDR_PORT,
        interval=False,
        elements=(Element(value=AddressPort(IPv4Address("1.2.3.4"), 80), comment="a pod"),),
    ),
    Set(
        name="pairs6",
        key=IPV6_ADDR_PORT,
        interval=False,
        elements=(Element(value=AddressPort(IPv6Address("::1"), 65535)),),
    ),
)

MATCHES: tuple[Match, ...] = (
    *(OfFamily(family=family) for family in Family),
    *(Proto(protocol=protocol, negate=negate) for protocol in Protocol for negate in _BOTH),
    *(Src(network=network, negate=negate) for network in _NETWORKS for negate in _BOTH),
    *(Dst(network=network, negate=negate) for network in _NETWORKS for negate in _BOTH),
    *(SrcPort(protocol=Protocol.UDP, ports=ports, negate=negate) for ports in _PORTS for negate in _BOTH),
    *(DstPort(protocol=Protocol.TCP, ports=ports, negate=negate) for ports in _PORTS for negate in _BOTH),
    *(InIface(name=name, negate=negate) for name in _NAMES for negate in _BOTH),
    *(OutIface(name=name, negate=negate) for name in _NAMES for negate in _BOTH),
    *(PacketMark(mark=mark, negate=negate) for mark in _MARKS for negate in _BOTH),
    *(ConnMark(mark=mark, negate=negate) for mark in _MARKS for negate in _BOTH),
    SocketUser(user=0),
    SocketUser(user=2**32 - 2),
    SocketCgroup(level=1, cgroup=1),
    SocketCgroup(level=255, cgroup=1),
    SocketCgroup(level=1, cgroup=2**64 - 1),
    LocalSocket(),
    *(LocalAddress(negate=negate) for negate in _BOTH),
    *(
        InSet(field=field, name=each.name, negate=negate)
        for field in SetField
        for each in SETS
        if each.key == key_of_field(field)
        for negate in _BOTH
    ),
    *(TcpFlags(among=among, set=wanted, negate=negate) for among, wanted in _FLAGS for negate in _BOTH),
)

_TCP = Proto(protocol=Protocol.TCP)
ANYWHERE: tuple[Action, ...] = (
    Accept(),
    *(SetMark(mark=mark) for mark in _MARKS),
    *(SetConnMark(mark=mark) for mark in _MARKS),
    Trace(),
    CtZone(zone=1),
    CtZone(zone=65535),
    Reject(reply=RejectWith.PORT_UNREACHABLE),
)
# What needs another match in the same rule, or a place of its own.
PLACED: tuple[tuple[Hook, ChainType, Match, Action], ...] = (
    (Hook.INPUT, ChainType.FILTER, _TCP, Reject(reply=RejectWith.TCP_RESET)),
    *(
        (Hook.OUTPUT, ChainType.ROUTE, match, Trace())
        for match in (
            Sampled(one_in=1),
            Sampled(one_in=2**31 - 1),
            Limited(per_second=1, burst=1),
            Limited(per_second=100_000, burst=5),
        )
    ),
    *(
        (hook, ChainType.NAT, match, action)
        for hook in (Hook.PREROUTING, Hook.OUTPUT)
        for match in (_TCP, Proto(protocol=Protocol.UDP), DstPort(protocol=Protocol.TCP, ports=PortRange(80, 80)))
        for action in (Redirect(port=15001), Dnat(port=15006))
    ),
    *(
        (hook, ChainType.NAT, OfFamily(family=family), Snat(address=address))
        for hook in (Hook.INPUT, Hook.POSTROUTING)
        for family, address in ((Family.IPV4, IPv4Address("1.2.3.4")), (Family.IPV6, IPv6Address("fd00::1")))
    ),
)
_SYN = TcpFlags(among=_FLAGS[1][0], set=_FLAGS[1][1])
# Several matches in one rule: what one implies isn't tested again by the next.
TOGETHER: tuple[tuple[Match, ...], ...] = (
    (Src(network=_NETWORKS[4]), Dst(network=_NETWORKS[3], negate=True), Src(network=_NETWORKS[1])),
    (Src(network=_NETWORKS[4]), DstPort(protocol=Protocol.TCP, ports=_PORTS[0]), _SYN),
    (Proto(protocol=Protocol.ICMPV6), Dst(network=_NETWORKS[9])),
    (Proto(protocol=Protocol.UDP, negate=True), DstPort(protocol=Protocol.TCP, ports=_PORTS[1])),
    (InSet(field=SetField.DST_V4_TCP_DST_PORT, name="pairs"), DstPort(protocol=Protocol.TCP, ports=_PORTS[1])),
    (DstPort(protocol=Protocol.TCP, ports=_PORTS[1]), InSet(field=SetField.DST_V6_TCP_DST_PORT, name="pairs6")),
    (LocalSocket(), PacketMark(mark=_MARKS[2]), ConnMark(mark=_MARKS[2], negate=True), LocalAddress()),
)  # fmt: skip


def ruleset(table: str = "x-table", *, by_nft: bool = False) -> Ruleset:
    """Return one table with all of it. `by_nft`: but for what nft can't load as text, the numbers of cgroups."""
    alone = (match for match in MATCHES if not (by_nft and isinstance(match, SocketCgroup)))
    matching = (*((match,) for match in alone), *TOGETHER)
    rules = tuple(Rule(slug="matched", matches=each, action=Accept()) for each in matching)
    acting = tuple(Rule(slug="acted", matches=(), action=action) for action in ANYWHERE)
    chains = [
        Chain(name="matching", type=ChainType.FILTER, hook=Hook.PREROUTING, priority=-(2**31), rules=rules),
        Chain(name="acting", type=ChainType.ROUTE, hook=Hook.OUTPUT, priority=2**31 - 1, rules=acting),
        Chain(name="forwarded", type=ChainType.FILTER, hook=Hook.FORWARD, priority=0, policy=Policy.DROP),
    ]
    places = dict.fromkeys((hook, kind) for hook, kind, _, _ in PLACED)
    for number, (hook, kind) in enumerate(places):
        placed = tuple(
            Rule(slug=f"placed-{number}", matches=(match,), action=action)
            for at, of, match, action in PLACED
            if (at, of) == (hook, kind)
        )
        chains.append(Chain(name=f"placed-{number}", type=kind, hook=hook, priority=number, rules=placed))
    slugs = {rule.slug for chain in chains for rule in chain.rules}
    counters = [Counter(name=slug) for slug in slugs]
    counters += [Counter(name="unused"), Counter(name="counted", packets=2**63, bytes=2**64 - 1)]
    return Ruleset(table=table, chains=tuple(chains), sets=SETS, counters=tuple(counters))
