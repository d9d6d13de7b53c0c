"""The model refuses what nft refuses, and what it would list back in another form."""

from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from rulesets.model import (
    INET_SERVICE,
    IPV4_ADDR,
    IPV4_ADDR_PORT,
    IPV6_ADDR,
    AddressPort,
    AddressRange,
    Chain,
    Counter,
    Element,
    KeyType,
    Rule,
    Ruleset,
    Set,
    with_counters,
)
from rulesets.vocabulary import (
    Accept,
    Action,
    ChainType,
    CtZone,
    Dnat,
    Dst,
    DstPort,
    Family,
    Hook,
    InIface,
    InSet,
    Mark,
    Match,
    ModelError,
    OfFamily,
    OutIface,
    PortRange,
    Proto,
    Protocol,
    Redirect,
    Reject,
    RejectWith,
    SetField,
    Snat,
    SocketCgroup,
    SocketUser,
    Src,
    SrcPort,
    TcpFlag,
    TcpFlags,
)

TCP, ICMP = Proto(protocol=Protocol.TCP), Proto(protocol=Protocol.ICMP)
V4, V6 = OfFamily(family=Family.IPV4), OfFamily(family=Family.IPV6)
TO_80 = DstPort(protocol=Protocol.TCP, ports=PortRange(80, 80))
FROM_80 = SrcPort(protocol=Protocol.TCP, ports=PortRange(80, 80))
HERE, THERE = Src(network=ip_network("10.0.0.0/8")), Dst(network=ip_network("fd00::/8"))
RESET = Reject(reply=RejectWith.TCP_RESET)


def rule(*matches: Match, action: Action | None = None, slug: str = "a-rule") -> Rule:
    return Rule(slug=slug, matches=matches, action=action or Accept())


def chain(*rules: Rule, kind: str = "nat", hook: str = "output", priority: int = 0, name: str = "a-chain") -> Chain:
    return Chain(name=name, type=ChainType(kind), hook=Hook(hook), priority=priority, rules=rules)


def of_ports(*values: PortRange | AddressPort, interval: bool = True) -> Set:
    return Set(
        name="a-set", key=INET_SERVICE, interval=interval, elements=tuple(Element(value=each) for each in values)
    )


def of_networks(*networks: str, interval: bool = True, comment: str = "") -> Set:
    elements = tuple(Element(value=ip_network(each), comment=comment) for each in networks)
    return Set(name="a-set", key=IPV4_ADDR, interval=interval, elements=elements)


LOOK = InSet(field=SetField.TCP_DST_PORT, name="a-set")

REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: rule(action=Redirect(port=15001)), "needs a match for TCP or UDP"),
    (lambda: rule(HERE, action=Dnat(port=15006)), "needs a match for TCP or UDP"),
    (lambda: rule(ICMP, action=Redirect(port=15001)), "needs a match for TCP or UDP"),
    (lambda: rule(Proto(protocol=Protocol.TCP, negate=True), action=Redirect(port=1)), "needs a match for TCP or UDP"),
    (lambda: rule(TCP, action=Redirect(port=0)), "port 0"),
    (lambda: rule(TCP, action=Dnat(port=65536)), "port 65536"),
    (lambda: rule(action=RESET), "answers TCP only"),
    (lambda: rule(V4, TCP, action=RESET), "does not list a family beside a TCP reset"),
    (lambda: rule(action=Snat(address=ip_address("192.0.2.1"))), "needs a match for its family"),
    (lambda: rule(V6, action=Snat(address=ip_address("192.0.2.1"))), "needs a match for its family"),
    (lambda: rule(action=CtZone(zone=0)), "zone 0"),
    (lambda: rule(action=CtZone(zone=65536)), "zone 65536"),
    (lambda: rule(TCP, DstPort(protocol=Protocol.UDP, ports=PortRange(53, 53))), "two protocols"),
    (lambda: rule(HERE, THERE), "two protocols or families"),
    (lambda: rule(V6, HERE), "two protocols or families"),
    (lambda: rule(V6, ICMP), "two protocols or families"),
    (lambda: rule(TCP, TO_80), "would leave out of its listing"),
    (lambda: rule(V4, HERE), "would leave out of its listing"),
    (lambda: rule(V4, ICMP), "would leave out of its listing"),
    (lambda: rule(TO_80, FROM_80), "right before"),
    (lambda: rule(FROM_80, HERE, TO_80), "right before"),
    (lambda: rule(DstPort(protocol=Protocol.ICMP, ports=PortRange(1, 1))), "has no ports"),
    (lambda: rule(SocketUser(user=2**32 - 1)), "is not a numeric user"),
    (lambda: rule(SocketUser(user=-1)), "is not a numeric user"),
    *[
        (lambda level=level, number=number: rule(SocketCgroup(level=level, cgroup=number)), "is no number of a cgroup")
        for level, number in ((0, 1), (256, 1), (1, 0), (1, -1), (1, 2**64))
    ],
    *[
        (lambda level=level, path=path: rule(SocketCgroup(level=level, cgroup=path)), "is no path of a cgroup")
        for level, path in ((1, ""), (1, "a/b"), (2, "a"), (2, "a/.."), (1, 'a"'), (3, "a//b"), (2, "/a"), (1, "a\n"))
    ],
    (lambda: chain(rule(SocketCgroup(level=1, cgroup=1)), hook="postrouting"), "asks for a socket"),
    *[
        (lambda name=name: rule(InIface(name=name)), "names no interface")
        for name in ("", "*", "a" * 16, "a" * 15 + "*", "a b", 'a"b', "a\\", "a\n", "a/b", "a*b", "@a", "é")
    ],
    (lambda: rule(OutIface(name="a" * 16)), "names no interface"),
    *[(lambda slug=slug: rule(slug=slug), "a slug is") for slug in ("", "A", "1a", "a b", 'a"', "a" * 64, "a\n", "-a")],
    (lambda: chain(kind="route", hook="input"), "no route chain stands at input"),
    (lambda: chain(hook="forward"), "no nat chain stands at forward"),
    (lambda: chain(priority=-200), "priority -200"),
    (lambda: chain(kind="filter", priority=2**31), "priority"),
    (lambda: chain(rule(TCP, action=Redirect(port=1)), kind="filter"), "can't stand in a filter chain"),
    (lambda: chain(rule(TCP, action=Redirect(port=1)), hook="input"), "can't stand in a nat chain at input"),
    (lambda: chain(rule(V4, action=Snat(address=ip_address("192.0.2.1")))), "can't stand"),
    (lambda: chain(rule(TCP, action=RESET), hook="postrouting"), "can't stand"),
    (lambda: Set(name="a-set", key=KeyType("ether_addr"), interval=False), "no set of type"),
    (lambda: Set(name="a-set", key=IPV4_ADDR_PORT, interval=True), "holds single ones"),
    (lambda: of_ports(PortRange(1, 5), PortRange(5, 9)), "overlaps"),
    (lambda: of_ports(PortRange(1, 9), PortRange(2, 3)), "overlaps"),
    (lambda: of_ports(PortRange(1, 2), interval=False), "is no element of type inet_service"),
    (lambda: of_ports(AddressPort(ip_address("10.0.0.1"), 1)), "is no element of type inet_service"),
    (lambda: of_networks("10.0.0.0/8", "10.1.0.0/16"), "overlaps"),
    (lambda: of_networks("10.0.0.0/8", interval=False), "is no element"),
    (lambda: of_networks("fd00::/8"), "is no element of type ipv4_addr"),
    *[
        (lambda comment=comment: of_networks("10.0.0.0/8", comment=comment), "can't be quoted")
        for comment in ('a"', "a\\", "a\n", "é", "a" * 129)
    ],
    (lambda: AddressRange(ip_address("10.0.0.2"), ip_address("10.0.0.1")), "not a rising range"),
    (lambda: AddressRange(ip_address("10.0.0.2"), ip_address("fd00::1")), "not a rising range"),
    (lambda: AddressPort(ip_address("10.0.0.2"), 65536), "port 65536"),
    (lambda: PortRange(5, 4), "not a rising range"),
    (lambda: PortRange(0, 65536), "within 0 to 65535"),
    (lambda: Mark(0x1539, 0xFFF), "outside its mask"),
    (lambda: Mark(0, 0), "mask 0x0"),
    (lambda: Mark(1, 2**32), "mask"),
    (lambda: TcpFlags(among=(TcpFlag.SYN, TcpFlag.FIN), set=(TcpFlag.SYN,)), "header's order"),
    (lambda: TcpFlags(among=(TcpFlag.SYN,), set=()), "are none"),
    (lambda: TcpFlags(among=(TcpFlag.SYN,), set=(TcpFlag.ACK,)), "not among"),
    (lambda: Ruleset(table="a b"), "table 'a b'"),
    (lambda: Ruleset(table=""), "table ''"),
    (lambda: Ruleset(table="t", chains=(chain(rule()),)), "needs counter 'a-rule'"),
    (lambda: with_counters("t", (chain(), chain())), "two chains have one name"),
    (lambda: Ruleset(table="t", counters=(Counter(name="c"), Counter(name="c"))), "two counters have one name"),
    (lambda: with_counters("t", (chain(rule(LOOK)),)), "needs set 'a-set'"),
    (lambda: with_counters("t", (chain(rule(LOOK)),), (of_networks("10.0.0.0/8"),)), "of another type"),
    (lambda: with_counters("t", (), (of_ports(), of_ports())), "two sets have one name"),
]


@pytest.mark.parametrize(("make", "reason"), REFUSED, ids=lambda each: each if isinstance(each, str) else "")
def test_what_nft_would_refuse_is_refused(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(ModelError, match=r"\w") as caught:
        make()
    assert reason in str(caught.value)


def test_what_has_no_order_is_kept_in_one() -> None:
    assert of_networks("10.1.0.0/16", "10.0.0.0/16") == of_networks("10.0.0.0/16", "10.1.0.0/16")
    first, second = chain(name="first"), chain(name="second", priority=-5)
    assert with_counters("t", (first, second)) == with_counters("t", (second, first))
    assert rule(V4, TCP) != rule(TCP, V4), "the order of matches is what is loaded"


def test_counts_are_no_part_of_what_a_counter_is() -> None:
    assert Counter(name="c", packets=5, bytes=300) == Counter(name="c")


def test_ranges_that_touch_may_stand_side_by_side() -> None:
    assert len(of_ports(PortRange(1, 5), PortRange(6, 9)).elements) == 2
    assert Set(name="s", key=IPV6_ADDR, interval=True).elements == ()
