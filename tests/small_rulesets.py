"""Small rulesets at random, over few values, so that their rules meet."""

import random
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

from rulesets.model import (
    INET_SERVICE,
    IPV4_ADDR,
    IPV4_ADDR_PORT,
    IPV6_ADDR,
    AddressPort,
    AddressRange,
    Chain,
    Count,
    Element,
    RegularChain,
    Rule,
    Ruleset,
    Set,
    with_counters,
)
from rulesets.vocabulary import (
    Accept,
    Action,
    AddressKind,
    AddressType,
    Between,
    ChainType,
    Comment,
    ConnDirection,
    ConnMark,
    ConnState,
    ConnStates,
    Continue,
    CtZone,
    CtZoneBoth,
    Direction,
    Dnat,
    DnatTo,
    Drop,
    Dst,
    DstPort,
    End,
    Family,
    FlipMark,
    Goto,
    Hook,
    InIface,
    InSet,
    Jump,
    LocalAddress,
    LocalSocket,
    Mark,
    MarkOf,
    Masquerade,
    Match,
    ModelError,
    NoSocket,
    NoTcpFlags,
    NoTrack,
    OfFamily,
    OtherProto,
    OutIface,
    Owner,
    PacketMark,
    Policy,
    PortRange,
    Ports,
    Proto,
    Protocol,
    ReceivingSocket,
    Redirect,
    Reject,
    RejectIcmp,
    RejectWith,
    RestoreMark,
    Return,
    SaveMark,
    SetConnMark,
    SetField,
    SetMark,
    Snat,
    SocketCgroup,
    SocketOwner,
    SocketUser,
    Src,
    SrcPort,
    TcpFlag,
    TcpFlags,
    Tproxy,
)

__all__ = ["NAMES", "SETS", "WITH_PORTS", "actions", "small_legacy", "small_ruleset"]

NETWORKS = tuple(
    map(
        ip_network,
        ("10.0.0.0/8", "10.9.0.0/16", "10.9.0.1/32", "192.0.2.0/24", "127.0.0.1/32", "fd00::/8", "fd00:9::1/128"),
    )
)
PORTS = (PortRange(443, 443), PortRange(80, 80), PortRange(440, 450), PortRange(1, 1023), PortRange(53, 53))
MARKS = (Mark(0x111, 0xFFF), Mark(0x539, 0xFFF), Mark(1, 1), Mark(0x30000, 0xF0000), Mark(0x539), Mark(0, 0xFFF))
NAMES = ("eth0", "eth1", "br-*", "lo", "e*")
FLAGS = (
    ((TcpFlag.SYN,), (TcpFlag.SYN,)),
    ((TcpFlag.SYN, TcpFlag.ACK), (TcpFlag.SYN,)),
    ((TcpFlag.RST,), (TcpFlag.RST,)),
)
WITH_PORTS = (Protocol.TCP, Protocol.UDP)
SETS = (
    Set(
        name="nets",
        key=IPV4_ADDR,
        interval=True,
        elements=(
            Element(value=ip_network("10.9.0.0/24")),
            Element(value=AddressRange(ip_address("192.0.2.3"), ip_address("192.0.2.9"))),
        ),
    ),
    Set(name="nets6", key=IPV6_ADDR, interval=True, elements=(Element(value=ip_network("fd00:9::/32")),)),
    Set(
        name="ports",
        key=INET_SERVICE,
        interval=True,
        elements=(Element(value=PortRange(80, 80)), Element(value=PortRange(443, 449))),
    ),
    Set(
        name="pairs",
        key=IPV4_ADDR_PORT,
        interval=False,
        elements=tuple(
            Element(value=AddressPort(ip_address(address), port))
            for address, port in (("10.9.0.1", 443), ("10.9.0.1", 80), ("10.9.0.2", 443))
        ),
    ),
)
PLACES = (
    (ChainType.FILTER, Hook.PREROUTING, -300),
    (ChainType.FILTER, Hook.OUTPUT, -300),
    (ChainType.FILTER, Hook.PREROUTING, -150),
    (ChainType.ROUTE, Hook.OUTPUT, -150),
    (ChainType.NAT, Hook.PREROUTING, -100),
    (ChainType.NAT, Hook.PREROUTING, -90),
    (ChainType.NAT, Hook.OUTPUT, -100),
    (ChainType.NAT, Hook.POSTROUTING, 100),
    (ChainType.FILTER, Hook.INPUT, 0),
    (ChainType.FILTER, Hook.FORWARD, 0),
    (ChainType.FILTER, Hook.OUTPUT, 0),
)


def small_ruleset(chance: random.Random, chains: int = 3, rules: int = 4) -> Ruleset:
    """Return a table as Weir could build one."""
    made = []
    for kind, hook, priority in chance.sample(PLACES, chains):
        some = tuple(_rule(chance, kind, hook) for _ in range(chance.randint(1, rules)))
        policy = Policy.DROP if chance.random() < 0.1 else Policy.ACCEPT
        name = f"{kind}-{hook}-{abs(priority)}"
        made.append(Chain(name=name, type=kind, hook=hook, priority=priority, rules=some, policy=policy))
    return with_counters("t", tuple(made), SETS)


def small_legacy(chance: random.Random, family: Family, chains: int = 4, rules: int = 4) -> Ruleset:
    """Return iptables' tables of a family, with all that only others write."""
    regular = tuple(
        RegularChain(
            name=f"t/C{number}",
            rules=tuple(
                _legacy_rule(chance, family, ChainType.FILTER, Hook.INPUT, number) for _ in range(chance.randint(0, 3))
            ),
        )
        for number in range(3)
    )
    made = [
        Chain(
            name=f"t/{kind}-{hook}-{abs(priority)}",
            type=kind,
            hook=hook,
            priority=priority,
            rules=tuple(_legacy_rule(chance, family, kind, hook, -1) for _ in range(chance.randint(1, rules))),
            count=Count(),
        )
        for kind, hook, priority in chance.sample(PLACES, chains)
    ]
    return Ruleset(table="iptables", chains=tuple(made), regular=regular, family=family, sets=SETS)


def _rule(chance: random.Random, kind: ChainType, hook: Hook) -> Rule:
    while True:
        action = chance.choice(actions(chance, kind, hook))
        matches: tuple[Match, ...] = ()
        if isinstance(action, Redirect | Dnat):
            matches = (Proto(protocol=chance.choice(WITH_PORTS)),)
        elif isinstance(action, Snat):
            matches = (OfFamily(family=Family.IPV4),)
        elif action == Reject(reply=RejectWith.TCP_RESET):
            matches = (Proto(protocol=Protocol.TCP),)
        matches += tuple(_match(chance) for _ in range(chance.choice((0, 1, 1, 2, 3))))
        try:
            rule = Rule(slug=f"r{chance.randrange(1000)}", matches=matches, action=action)
            with_counters("t", (Chain(name="c", type=kind, hook=hook, priority=0, rules=(rule,)),), SETS)
        except ModelError:
            continue
        return rule


def _legacy_rule(chance: random.Random, family: Family, kind: ChainType, hook: Hook, above: int) -> Rule:
    matches = tuple(chance.choice((_match, _read_match))(chance) for _ in range(chance.choice((0, 1, 1, 2, 3))))
    choice: list[Action] = [*actions(chance, kind, hook)] if above < 0 else [Accept()]
    if family is Family.IPV6:
        choice = [each for each in choice if not isinstance(each, Snat)]
    choice.extend(_read_actions(chance, family, kind, hook, above))
    return Rule(slug="", matches=matches, action=chance.choice(choice), count=Count())


def _match(chance: random.Random) -> Match:
    negate = chance.random() < 0.3
    among, wanted = chance.choice(FLAGS)
    field, name = chance.choice(
        (
            (SetField.DST_V4, "nets"),
            (SetField.SRC_V4, "nets"),
            (SetField.DST_V6, "nets6"),
            (SetField.TCP_DST_PORT, "ports"),
            (SetField.DST_V4_TCP_DST_PORT, "pairs"),
        )
    )
    makes: tuple[Callable[[], Match], ...] = (
        lambda: OfFamily(family=chance.choice(list(Family))),
        lambda: Proto(protocol=chance.choice(list(Protocol)), negate=negate),
        lambda: Src(network=chance.choice(NETWORKS), negate=negate),
        lambda: Dst(network=chance.choice(NETWORKS), negate=negate),
        lambda: SrcPort(protocol=chance.choice(WITH_PORTS), ports=chance.choice(PORTS), negate=negate),
        lambda: DstPort(protocol=chance.choice(WITH_PORTS), ports=chance.choice(PORTS), negate=negate),
        lambda: InIface(name=chance.choice(NAMES), negate=negate),
        lambda: OutIface(name=chance.choice(NAMES), negate=negate),
        lambda: PacketMark(mark=chance.choice(MARKS), negate=negate),
        lambda: ConnMark(mark=chance.choice(MARKS), negate=negate),
        lambda: SocketUser(user=chance.choice((0, 1337))),
        lambda: SocketCgroup(level=chance.choice((1, 2)), cgroup=chance.choice((7, 8))),
        LocalSocket,
        lambda: LocalAddress(negate=negate),
        lambda: InSet(field=field, name=name, negate=negate),
        lambda: TcpFlags(among=among, set=wanted, negate=negate),
    )
    return chance.choice(makes)()


def _read_match(chance: random.Random) -> Match:
    negate = chance.random() < 0.3
    end, either = chance.choice((End.SOURCE, End.DESTINATION)), chance.choice(list(End))
    makes: tuple[Callable[[], Match], ...] = (
        lambda: OtherProto(number=47, negate=negate),
        lambda: Ports(
            protocol=chance.choice(WITH_PORTS), end=either, ranges=tuple(chance.sample(PORTS, 2)), negate=negate
        ),
        lambda: Between(end=end, first=ip_address("10.9.0.1"), last=ip_address("10.9.0.77"), negate=negate),
        lambda: AddressType(end=end, kinds=tuple(chance.sample(list(AddressKind), 2)), negate=negate),
        lambda: ConnStates(states=tuple(chance.sample(list(ConnState), 2)), negate=negate),
        lambda: ConnDirection(direction=chance.choice(list(Direction))),
        lambda: SocketOwner(owner=chance.choice(list(Owner)), first=1000, last=1337, negate=negate),
        NoSocket,
        lambda: ReceivingSocket(transparent=negate),
        lambda: NoTcpFlags(among=(TcpFlag.SYN, TcpFlag.FIN), negate=negate),
        lambda: Comment(text="a remark"),
    )
    return chance.choice(makes)()


def actions(chance: random.Random, kind: ChainType, hook: Hook) -> list[Action]:
    mark = chance.choice(MARKS)
    found: list[Action] = [Accept(), SetMark(mark=mark), SetConnMark(mark=mark), CtZone(zone=1)]
    if hook is not Hook.POSTROUTING:
        found += [Reject(reply=chance.choice(list(RejectWith)))]
    if kind is ChainType.NAT and hook in (Hook.PREROUTING, Hook.OUTPUT):
        found += [Redirect(port=15001), Redirect(port=443), Dnat(port=15006)]
    if kind is ChainType.NAT and hook is Hook.POSTROUTING:
        found += [Snat(address=ip_address("10.0.0.9"))] * 2
    return found


def _read_actions(chance: random.Random, family: Family, kind: ChainType, hook: Hook, above: int) -> Iterator[Action]:
    yield from (Return(), Drop(), Continue(beside="log"), RejectIcmp(code="icmp-host-unreachable"))
    yield from (Jump(chain=f"t/C{number}") for number in range(above + 1, 3))
    yield from (Goto(chain=f"t/C{number}") for number in range(above + 1, 3))
    yield FlipMark(of=chance.choice(list(MarkOf)), value=0x1000, mask=0xF)
    yield SaveMark(packet_mask=0xFFF, connection_mask=0xFFF)
    yield RestoreMark(packet_mask=chance.choice((0xFFF, 0xFFFFFFFF)), connection_mask=0xFFF)
    yield CtZoneBoth(zone=1)
    yield NoTrack()
    if above < 0 and kind is ChainType.NAT and hook in (Hook.PREROUTING, Hook.OUTPUT):
        address = ip_address("10.9.0.1" if family is Family.IPV4 else "fd00:9::1")
        yield from (DnatTo(address=address, port=8080), DnatTo(address=address))
    if above < 0 and kind is ChainType.NAT and hook is Hook.POSTROUTING:
        yield Masquerade()
    if hook is Hook.PREROUTING:
        yield Tproxy(port=15001, mark=Mark(0x111, 0xFFF))
