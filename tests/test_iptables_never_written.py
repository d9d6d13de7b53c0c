"""What is only ever read: shown in nft's words, walked, and never encoded."""

import json
from ipaddress import ip_address
from typing import get_args

import pytest

from rulesets import nft
from rulesets.diff import Plan, diff
from rulesets.model import Chain, Counter, RegularChain, Rule, Ruleset
from rulesets.netlink import encode
from rulesets.nft.others import aside_of, their_action, their_match
from rulesets.vocabulary import (
    Accept,
    Action,
    AddressKind,
    AddressType,
    Aside,
    Between,
    ChainType,
    Comment,
    ConnDirection,
    ConnState,
    ConnStates,
    Continue,
    CtZoneBoth,
    Direction,
    DnatTo,
    Drop,
    End,
    FlipMark,
    Goto,
    Hook,
    InIpset,
    Jump,
    Mark,
    MarkOf,
    Masquerade,
    Match,
    ModelError,
    NoSocket,
    NoTcpFlags,
    NoTrack,
    OtherProto,
    Owner,
    PortRange,
    Ports,
    Protocol,
    ReadAction,
    ReadMatch,
    ReceivingSocket,
    RejectIcmp,
    RestoreMark,
    Return,
    SaveMark,
    SocketOwner,
    TcpFlag,
    Tproxy,
)

_TWO = (PortRange(1, 1), PortRange(5, 9))
MATCHES: list[tuple[Match, str]] = [
    (OtherProto(number=132), "meta l4proto 132"),
    (Ports(protocol=Protocol.TCP, end=End.DESTINATION, ranges=_TWO, negate=True), "tcp dport != { 1, 5-9 }"),
    (Ports(protocol=Protocol.UDP, end=End.EITHER, ranges=_TWO), "(udp sport or dport { 1, 5-9 })"),
    (Between(end=End.SOURCE, first=ip_address("1.2.3.4"), last=ip_address("1.2.3.9")), "ip saddr 1.2.3.4-1.2.3.9"),
    (AddressType(end=End.SOURCE, kinds=(AddressKind.LOCAL,)), "fib saddr type local"),
    (ConnStates(states=(ConnState.NEW, ConnState.RELATED)), "ct state new,related"),
    (ConnDirection(direction=Direction.REPLY), "ct direction reply"),
    (SocketOwner(owner=Owner.GROUP, first=5, last=9), "meta skgid 5-9"),
    (SocketOwner(owner=Owner.USER, first=5, last=5, negate=True), "(meta skuid != 5, or no socket)"),
    (NoSocket(), "(no socket)"),
    (ReceivingSocket(transparent=True), "(transparent socket)"),
    (NoTcpFlags(among=(TcpFlag.SYN, TcpFlag.ACK)), "tcp flags & (syn|ack) == 0x0"),
    (InIpset(name="pods", ends=("dst", "src"), negate=True), "(!= ipset pods dst,src)"),
    (Comment(text="a remark"), "(a remark)"),
    (Aside(statement='{"log": {"prefix": "seen: "}}'), 'log prefix "seen: "'),
]
ACTIONS: list[tuple[Action, str]] = [
    (Jump(chain="other"), "jump other"),
    (Goto(chain="other"), "goto other"),
    (Return(), "return"),
    (Drop(), "drop"),
    (Continue(), "continue"),
    (Continue(beside="-j LOG"), "(-j LOG)"),
    (DnatTo(address=ip_address("fd00::1"), port=80), "dnat ip6 to [fd00::1]:80"),
    (Masquerade(fully_random=True), "masquerade fully-random"),
    (FlipMark(of=MarkOf.PACKET, value=1, mask=0), "meta mark set meta mark ^ 0x1"),
    (SaveMark(), "ct mark set meta mark"),
    (RestoreMark(packet_mask=0xFF), "(meta mark set meta mark & 0xffffff00 ^ (ct mark & 0xffffffff))"),
    (CtZoneBoth(zone=1), "ct zone set 1"),
    (NoTrack(), "notrack"),
    (Tproxy(port=1, mark=Mark(1, 1)), "(tproxy to :1 mark 0x1/0x1)"),
    (RejectIcmp(code="icmp-host-prohibited"), "(reject with icmp-host-prohibited)"),
]


def table(match: Match | None, action: Action) -> Ruleset:
    rule = Rule(slug="x", matches=() if match is None else (match,), action=action)
    chain = Chain(name="c", type=ChainType.FILTER, hook=Hook.OUTPUT, priority=0, rules=(rule,))
    return Ruleset(table="x-table", chains=(chain,), counters=(Counter(name="x"),))


def test_the_list_has_all_that_there_is() -> None:
    assert {type(match) for match, _ in MATCHES} == set(get_args(ReadMatch))
    assert {type(action) for action, _ in ACTIONS} == set(get_args(ReadAction))


@pytest.mark.parametrize(("match", "text"), MATCHES, ids=[each[1] for each in MATCHES])
def test_a_match_is_shown_and_not_encoded(match: Match, text: str) -> None:
    ruleset = table(match, Accept())
    assert f'\t\t{text} counter name "x" accept comment "x"' in nft.render(ruleset)
    shown = json.loads(nft.render_json(ruleset))["nftables"][-1]["rule"]["expr"][0]
    if "foreign" in shown:
        assert shown == {"foreign": text}
    else:
        assert (aside_of(shown) or their_match(shown)) == match
    with pytest.raises(ModelError, match="Weir never writes"):
        encode(Plan(actual=None, desired=ruleset))


@pytest.mark.parametrize(("action", "text"), ACTIONS, ids=[each[1] for each in ACTIONS])
def test_an_action_is_shown_and_not_encoded(action: Action, text: str) -> None:
    rule = Rule(slug="x", matches=(), action=action)
    assert nft.render_rule(rule) == f'counter name "x" {text} comment "x"'
    if not isinstance(action, Jump | Goto):
        shown = json.loads(nft.render_json(table(None, action)))["nftables"][-1]["rule"]["expr"][-1]
        if "foreign" in shown:
            assert shown == {"foreign": text}
        elif action != Continue():
            assert their_action(shown) == action
    if not isinstance(action, Jump | Goto):
        with pytest.raises(ModelError, match="Weir never writes"):
            encode(Plan(actual=None, desired=table(None, action)))


def test_a_regular_chain_is_shown_compared_and_not_encoded() -> None:
    rule = Rule(slug="x", matches=(), action=Jump(chain="other"))
    chain = Chain(name="c", type=ChainType.FILTER, hook=Hook.OUTPUT, priority=0, rules=(rule,))
    other = RegularChain(name="other", rules=(Rule(slug="x", matches=(), action=Return()),))
    counters = (Counter(name="x"),)
    with pytest.raises(ModelError, match="chain 'c', rule 1: chain 'other' does not exist"):
        Ruleset(table="x-table", chains=(chain,), counters=counters)
    made = Ruleset(table="x-table", chains=(chain,), regular=(other,), counters=counters)
    assert '\tchain other {\n\t\tcounter name "x" return' in nft.render(made)
    emptied = Ruleset(table="x-table", chains=(chain,), regular=(RegularChain(name="other"),), counters=counters)
    assert '- counter name "x" return comment "x"' in diff(made, emptied).describe()
    with pytest.raises(ModelError, match="Weir never writes a regular chain"):
        encode(Plan(actual=None, desired=made))
