"""Generated rulesets that iptables can hold."""

from functools import cache
from typing import Any

from hypothesis import strategies as st

from rulesets.iptables.elements import Never
from rulesets.iptables.matches import STATES, TCP_FLAGS
from rulesets.iptables.order import in_order
from rulesets.iptables.places import PROGRAMS, TABLES, Place
from rulesets.model import (
    Chain,
    Count,
    Counter,
    RegularChain,
    Rule,
    Ruleset,
)
from rulesets.packet import Direction
from rulesets.vocabulary import (
    Accept,
    Action,
    AddressKind,
    AddressType,
    Between,
    Comment,
    ConnDirection,
    ConnMark,
    ConnStates,
    Continue,
    CtZone,
    CtZoneBoth,
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
    InIpset,
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
    OtherProto,
    OutIface,
    Owner,
    PacketMark,
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
    SetMark,
    Snat,
    SocketOwner,
    SocketUser,
    Src,
    SrcPort,
    TcpFlags,
    Tproxy,
)
from tests import strategies, values

_booleans = st.booleans()
_slugs = st.sampled_from([f"x-{letter}" for letter in "abcdefgh"])
_WRITTEN = [place for table in ("raw", "mangle", "nat", "filter") for place in TABLES[table]]
_ids = st.integers(0, 2**32 - 2)
_NAMES = st.lists(st.sampled_from(["X", "KUBE-A", "x_1"]), unique=True)
_COMMENTS = st.text("abc ABC0\"'\\ !-:/", min_size=1, max_size=40).filter(lambda text: text.strip() == text)
_GROUPS = _ids.map(lambda each: max(each, 5))


@st.composite
def placed(draw: st.DrawFn) -> Ruleset:
    """Draw an nft table whose chains stand where iptables has some."""
    known = tuple(draw(st.lists(strategies.sets(), max_size=3, unique_by=lambda each: each.name)))
    chains = []
    for number, place in enumerate(draw(st.lists(st.sampled_from(_WRITTEN), max_size=3, unique=True))):
        rules = tuple(draw(st.lists(strategies.rules(known, place.type, place.hook, True), max_size=6)))
        priority = place.priority - draw(st.integers(0, 1))
        chains.append(Chain(name=f"x-{number}", type=place.type, hook=place.hook, priority=priority, rules=rules))
    slugs = {rule.slug for chain in chains for rule in chain.rules}
    return Ruleset(table="x", chains=tuple(chains), sets=known, counters=tuple(Counter(name=slug) for slug in slugs))


@cache
def _own_matches(family: Family, hook: Hook) -> st.SearchStrategy[Match]:
    networks = (values.v4_networks if family is Family.IPV4 else values.v6_networks).filter(lambda net: net.prefixlen)
    addresses: st.SearchStrategy[Any] = values.v4 if family is Family.IPV4 else values.v6
    between = st.tuples(addresses, addresses).map(sorted)
    end, side = st.sampled_from(End), st.sampled_from([End.SOURCE, End.DESTINATION])
    ranges = st.lists(values.port_or_range, min_size=1, max_size=7).map(tuple)
    ports = values.port_or_range.filter(lambda each: each != PortRange(0, 65535))
    with_ports = st.sampled_from([Protocol.TCP, Protocol.UDP])
    flags = st.lists(st.sampled_from(TCP_FLAGS), min_size=1, unique=True).map(
        lambda some: tuple(flag for flag in TCP_FLAGS if flag in some)
    )
    names = values.interface_names.filter(lambda name: name[-1] != "+" and name[0] not in "!-")
    kinds: list[st.SearchStrategy[Any]] = [
        st.builds(Src, network=networks, negate=_booleans),
        st.builds(Dst, network=networks, negate=_booleans),
        st.builds(Proto, protocol=st.sampled_from(Protocol), negate=_booleans),
        st.builds(OtherProto, number=st.sampled_from([2, 47, 50, 51, 132, 136]), negate=_booleans),
        st.builds(SrcPort, protocol=with_ports, ports=ports, negate=_booleans),
        st.builds(DstPort, protocol=with_ports, ports=ports, negate=_booleans),
        st.builds(Ports, protocol=with_ports, end=end, ranges=ranges, negate=_booleans),
        st.builds(
            lambda end, pair, negate: Between(end=end, first=pair[0], last=pair[1], negate=negate),
            side,
            between,
            _booleans,
        ),
        st.builds(PacketMark, mark=values.marks, negate=_booleans),
        st.builds(ConnMark, mark=values.marks, negate=_booleans),
        st.builds(LocalAddress, negate=_booleans),
        st.builds(
            AddressType,
            end=side,
            kinds=st.sampled_from([(AddressKind.UNICAST,), (AddressKind.LOCAL, AddressKind.MULTICAST)]),
            negate=_booleans,
        ),
        st.builds(
            ConnStates,
            states=st.lists(st.sampled_from(STATES), min_size=1, unique=True).map(
                lambda some: tuple(each for each in STATES if each in some)
            ),
            negate=_booleans,
        ),
        st.builds(ConnDirection, direction=st.sampled_from(Direction)),
        st.builds(TcpFlags, among=st.just(TCP_FLAGS), set=flags, negate=_booleans),
        st.builds(NoTcpFlags, among=flags, negate=_booleans),
        st.builds(InIpset, name=st.just("x-set"), ends=st.sampled_from([("src",), ("dst", "src")]), negate=_booleans),
        st.builds(Comment, text=_COMMENTS),
    ]
    if hook in (Hook.PREROUTING, Hook.INPUT, Hook.FORWARD):
        kinds.append(st.builds(InIface, name=names, negate=_booleans))
    if hook in (Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING):
        kinds.append(st.builds(OutIface, name=names, negate=_booleans))
    if hook in (Hook.OUTPUT, Hook.POSTROUTING):
        kinds += [
            st.builds(SocketUser, user=_ids),
            st.builds(
                SocketOwner,
                owner=st.just(Owner.GROUP),
                first=st.just(5),
                last=_GROUPS,
                negate=_booleans,
            ),
            st.builds(SocketOwner, owner=st.just(Owner.USER), first=st.just(5), last=st.just(9), negate=_booleans),
            st.just(LocalSocket()),
            st.just(NoSocket()),
        ]
    if hook in (Hook.PREROUTING, Hook.INPUT):
        kinds.append(st.builds(ReceivingSocket, transparent=_booleans, wildcard=_booleans))
    return st.one_of(kinds)


@cache
def _own_actions(place: Place, family: Family, chains: tuple[str, ...]) -> st.SearchStrategy[Action]:
    addresses: st.SearchStrategy[Any] = values.v4 if family is Family.IPV4 else values.v6
    masks = st.integers(0, 0xFFFFFFFF)
    turned = st.tuples(st.sampled_from(MarkOf), st.integers(1, 0xFFFFFFFF), masks).filter(lambda m: m[1] & ~m[2])
    kinds: list[st.SearchStrategy[Any]] = [
        *(st.just(each) for each in (Accept(), Return(), Continue())),
        st.just(Continue(beside='-j LOG --log-prefix "a \\"b\\" "')),
        st.builds(SetMark, mark=values.marks),
        st.builds(SetConnMark, mark=values.marks),
        st.builds(lambda some: FlipMark(of=some[0], value=some[1], mask=some[2]), turned),
        st.builds(SaveMark, packet_mask=masks, connection_mask=masks),
        st.builds(RestoreMark, packet_mask=masks, connection_mask=masks),
    ]
    if chains:
        kinds += [st.builds(kind, chain=st.sampled_from(chains)) for kind in (Jump, Goto)]
    if place.table == "nat" and place.hook in (Hook.PREROUTING, Hook.OUTPUT):
        kinds += [st.builds(Redirect, port=values.ports), st.builds(Dnat, port=values.ports)]
        kinds.append(st.builds(DnatTo, address=addresses, port=st.one_of(st.none(), values.ports)))
    if place.table == "nat" and place.hook is Hook.POSTROUTING:
        kinds.append(st.sampled_from([Masquerade(), Masquerade(random=True), Masquerade(fully_random=True)]))
        kinds.append(st.builds(Snat, address=addresses))
    if place.table == "filter":
        kinds += [st.just(Drop()), st.just(Reject(reply=RejectWith.PORT_UNREACHABLE))]
        code = "icmp-host-prohibited" if family is Family.IPV4 else "icmp6-adm-prohibited"
        kinds += [st.just(RejectIcmp(code=code)), st.just(Reject(reply=RejectWith.TCP_RESET))]
    if place.table == "raw":
        kinds += [st.just(NoTrack()), st.just(CtZone(zone=1)), st.just(CtZoneBoth(zone=65535))]
    if place.name == "mangle/PREROUTING":
        to = st.one_of(st.none(), addresses.filter(lambda each: not each.is_unspecified))
        kinds.append(st.builds(Tproxy, port=values.ports, address=to, mark=st.one_of(st.none(), values.marks)))
    return st.one_of(kinds)


@st.composite
def _own_rule(draw: st.DrawFn, place: Place, family: Family, chains: tuple[str, ...]) -> Rule:
    action = draw(_own_actions(place, family, chains))
    drawn: list[Match] = list(draw(st.lists(_own_matches(family, place.hook), max_size=4)))
    needs_protocol = isinstance(action, Redirect | Dnat | DnatTo | Tproxy | Reject)
    if needs_protocol and action != Reject(reply=RejectWith.PORT_UNREACHABLE):
        drawn.insert(0, Proto(protocol=Protocol.TCP))
    matches: tuple[Match, ...] = ()
    for match in drawn:
        try:
            longer = in_order((*matches, match))
            sort_out(longer)
        except (ModelError, Never):
            continue
        matches = longer
    slug = draw(st.one_of(st.just(""), _slugs))
    if not slug and matches and isinstance(matches[-1], Comment):
        matches = (*matches, ConnMark(mark=Mark(1)))
    counts = st.integers(0, 2**63)
    return Rule(slug=slug, matches=matches, action=action, count=Count(packets=draw(counts), bytes=draw(counts)))


def sort_out(matches: tuple[Match, ...]) -> None:
    """Refuse what one rule can't ask for together."""
    protocols = {
        str(getattr(each, "protocol", "tcp" if hasattr(each, "among") else ""))
        for each in matches
        if hasattr(each, "protocol") or hasattr(each, "among")
    }
    heads = [type(each) for each in matches if isinstance(each, InIface | OutIface)]
    protocol_options = [each for each in matches if isinstance(each, Proto | OtherProto)]
    if len(protocols) + len([each for each in protocol_options if isinstance(each, OtherProto)]) > 1:
        raise ModelError("two protocols")
    if len(heads) > len(set(heads)) or len(protocol_options) > 1:
        raise ModelError("twice")


@st.composite
def own(draw: st.DrawFn, family: Family) -> Ruleset:
    """Draw rules of iptables' own: tables with user-defined chains, and all that parsing knows."""
    chains: list[Chain] = []
    regular: list[RegularChain] = []
    for table in draw(st.lists(st.sampled_from(["raw", "mangle", "nat", "filter"]), max_size=3, unique=True)):
        # A user-defined chain is led to from one place only, so that what may stand there may stand in it.
        lead = draw(st.sampled_from(TABLES[table]))
        names = tuple(f"{table}/{name}" for name in draw(_NAMES))
        for at, name in enumerate(names):
            rules = draw(st.lists(_own_rule(lead, family, names[at + 1 :]), max_size=3))
            regular.append(RegularChain(name=name, rules=tuple(rules)))
        for place in TABLES[table]:
            rules = draw(st.lists(_own_rule(place, family, names if place is lead else ()), max_size=3))
            chains.append(place.chain_of(tuple(rules)))
    return Ruleset(table=PROGRAMS[family], family=family, chains=tuple(chains), regular=tuple(regular))
