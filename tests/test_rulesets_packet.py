"""`walk` by hand: what becomes of single packets, and by which rules."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from rulesets import pod
from rulesets.capture import Capture
from rulesets.model import Chain, Rule, Ruleset, with_counters
from rulesets.packet import ConnState, Fate, Packet, looped, walk
from rulesets.pod import Stage
from rulesets.vocabulary import (
    Accept,
    ChainType,
    Family,
    Foreign,
    Hook,
    Mark,
    OfFamily,
    PacketMark,
    Policy,
    Proto,
    Protocol,
    Redirect,
    SetMark,
    TcpFlag,
)

POD4, POD6 = ip_address("10.0.1.2"), ip_address("fd00:1::2")


def out(to: str, port: int = 80, **rest: Any) -> Packet:
    """Return what a process of the pod sends."""
    destination = ip_address(to)
    here = destination.is_loopback or destination in (POD4, POD6)
    values: dict[str, Any] = {
        "hook": Hook.OUTPUT,
        "source": destination if here else POD4 if destination.version == 4 else POD6,
        "destination": destination,
        "source_port": 33333,
        "destination_port": port,
        "out_interface": "lo" if here else "eth0",
        "user": 1000,
        "destination_local": here,
    }
    return Packet(**(values | rest))


def arriving(source: str, port: int = 80, **rest: Any) -> Packet:
    """Return what comes in by eth0 for the pod."""
    peer = ip_address(source)
    values: dict[str, Any] = {
        "hook": Hook.PREROUTING,
        "source": peer,
        "destination": POD4 if peer.version == 4 else POD6,
        "source_port": 33333,
        "destination_port": port,
        "in_interface": "eth0",
        "interface_address": POD4 if peer.version == 4 else POD6,
    }
    return Packet(**(values | rest))


UDP: dict[str, Any] = {"protocol": Protocol.UDP}
PROXY: dict[str, Any] = {"mark": 0x539}
REPLY: dict[str, Any] = {"mark": 0x111}
ACK: dict[str, Any] = {"tcp_flags": (TcpFlag.ACK,)}
FORWARDED: dict[str, Any] = {"destination": ip_address("10.9.9.9"), "destination_local": False, "out_interface": "eth1"}

# Settings (and stage), the packet, the rule that decides (none: the end of the chains), and the port it goes to.
CASES: list[tuple[dict[str, Any], Packet, str, int]] = [
    ({}, out("192.0.2.1"), "outbound-redirect", 15001),
    ({}, out("2001:db8::1"), "outbound-redirect", 15001),
    ({}, out("192.0.2.1", **PROXY), "outbound-from-proxy", 80),
    ({}, out("192.0.2.1", mark=0x538), "outbound-redirect", 15001),
    ({}, out("192.0.2.1", mark=0xABCD0539), "outbound-from-proxy", 80),
    ({}, out("127.0.0.1"), "outbound-loopback", 80),
    ({}, out("::1"), "outbound-loopback", 80),
    ({}, out("10.0.1.2"), "outbound-to-self", 80),
    ({}, out("169.254.7.127"), "outbound-probe", 80),
    ({}, out("192.0.2.1", 53, **UDP), "outbound-dns-udp", 15053),
    ({}, out("192.0.2.1", 53), "outbound-dns-tcp", 15053),
    ({}, out("127.0.0.1", 53, **UDP), "outbound-not-tcp", 53),
    ({}, out("192.0.2.1", 53, **UDP, **PROXY), "outbound-from-proxy", 53),
    ({}, out("192.0.2.1", 443, **UDP), "outbound-not-tcp", 443),
    ({}, out("192.0.2.1", **REPLY), "outbound-reply", 80),
    ({"dns": False}, out("192.0.2.1", 53, **UDP), "outbound-not-tcp", 53),
    ({"dns": False}, out("192.0.2.1", 53), "outbound-redirect", 15001),
    ({"outbound": False, "dns": False}, out("192.0.2.1"), "", 80),
    ({}, arriving("192.0.2.1"), "inbound-redirect", 15006),
    ({}, arriving("2001:db8::1"), "inbound-redirect", 15006),
    ({}, arriving("192.0.2.1", 15008), "inbound-hbone", 15008),
    ({}, arriving("169.254.7.127"), "inbound-probe", 80),
    ({}, arriving("192.0.2.1", 53, **UDP), "inbound-not-tcp", 53),
    ({}, arriving("192.0.2.1", **FORWARDED), "inbound-not-local", 80),
    ({"ingress": True}, arriving("192.0.2.1"), "", 80),
    ({"inbound": False}, arriving("192.0.2.1"), "", 80),
    ({"virtual_interfaces": ["br-*"]}, arriving("192.0.2.1", in_interface="br-7"), "virtual-interface", 15001),
    (
        {"virtual_interfaces": ["br-*"]},
        arriving("192.0.2.1", **FORWARDED | {"in_interface": "br-7"}),
        "virtual-interface",
        15001,
    ),
    (
        {"virtual_interfaces": ["br-*"]},
        arriving("192.0.2.1", in_interface="br-7", **UDP),
        "virtual-interface-other",
        80,
    ),
    ({"virtual_interfaces": ["br-*"]}, arriving("192.0.2.1", in_interface="br7"), "inbound-redirect", 15006),
    ({"exclude_interfaces": ["eth0"]}, out("192.0.2.1"), "outbound-excluded-interface", 80),
    ({"exclude_interfaces": ["eth0"]}, arriving("192.0.2.1"), "inbound-excluded-interface", 80),
    ({"exclude_outbound_networks": ["192.0.2.0/24"]}, out("192.0.2.1"), "outbound-excluded-network", 80),
    ({"exclude_outbound_networks": ["192.0.2.0/24"]}, out("192.0.2.1", 53), "outbound-dns-tcp", 15053),
    ({"exclude_outbound_ports": ["70-80"]}, out("192.0.2.1"), "outbound-excluded-port", 80),
    ({"include_outbound_ports": [81]}, out("192.0.2.1"), "outbound-not-included-port", 80),
    ({"include_outbound_networks": ["10.0.0.0/8"]}, out("192.0.2.1"), "outbound-not-included-network", 80),
    ({"include_outbound_networks": ["10.0.0.0/8"]}, out("2001:db8::1"), "outbound-not-included-network", 80),
    ({"include_outbound_networks": ["10.0.0.0/8"]}, out("10.2.0.1"), "outbound-redirect", 15001),
    (
        {"include_outbound_networks": ["10.0.0.0/8"], "exclude_outbound_networks": ["10.1.0.0/16"]},
        *(out("10.1.0.1"), "outbound-excluded-network", 80),
    ),
    ({"exclude_inbound_networks": ["192.0.2.1"]}, arriving("192.0.2.1"), "inbound-excluded-network", 80),
    ({"include_inbound_ports": [8080]}, arriving("192.0.2.1"), "inbound-not-included-port", 80),
    ({"families": ["ipv4"], "uncapturable": "direct"}, out("2001:db8::1"), "", 80),
    ({"families": ["ipv4"]}, out("2001:db8::1", tcp_flags=(TcpFlag.RST,)), "outbound-reset", 80),
    ({"proxy_user": 1337}, out("192.0.2.1", user=1337), "outbound-from-proxy", 80),
    ({"proxy_user": 1337}, out("192.0.2.1", user=1338), "outbound-redirect", 15001),
    ({"proxy_cgroup": "a/b"}, out("192.0.2.1", cgroups=("a", "a/b", "a/b/c")), "outbound-from-proxy", 80),
    ({"proxy_cgroup": "a/b"}, out("192.0.2.1", cgroups=("a",)), "outbound-redirect", 15001),
    ({"proxy_cgroup": "a/b"}, out("192.0.2.1", cgroups=("b", "b/a/b")), "outbound-redirect", 15001),
    ({"stage": "transition"}, out("192.0.2.1"), "outbound-redirect", 15001),
    ({"stage": "transition"}, out("192.0.2.1", **ACK), "outbound-not-new", 80),
    ({"stage": "transition"}, arriving("192.0.2.1", **ACK), "inbound-not-new", 80),
    ({"stage": "draining"}, out("192.0.2.1"), "", 80),
    ({}, out("192.0.2.1", **ACK), "outbound-redirect", 15001),
    ({}, out("192.0.2.1", state=ConnState.ESTABLISHED), "", 80),
]


def built(settings: dict[str, Any]) -> Ruleset:
    settings = dict(settings)
    stage = Stage(settings.pop("stage", "steady"))
    return pod.build(Capture.parse(settings), stage=stage)


@pytest.mark.parametrize(("settings", "packet", "slug", "port"), CASES, ids=str)
def test_a_packet_goes_where_it_should(settings: dict[str, Any], packet: Packet, slug: str, port: int) -> None:
    verdict = walk(built(settings), packet)
    assert verdict.fate is Fate.ACCEPTED
    assert (verdict.decided_by, verdict.packet.destination_port) == (slug, port)
    assert verdict.translated == (port != packet.destination_port)


@pytest.mark.parametrize(
    ("packet", "slug"),
    [
        (out("2001:db8::1"), "outbound-refused"),
        (out("2001:db8::1", 53), "outbound-dns-tcp-refused"),
        (out("2001:db8::1", 53, **UDP), "outbound-dns-refused"),
        (arriving("2001:db8::1"), "inbound-refused"),
    ],
)
def test_what_cannot_be_captured_is_refused(packet: Packet, slug: str) -> None:
    verdict = walk(built({"families": ["ipv4"]}), packet)
    assert (verdict.fate, verdict.decided_by) == (Fate.REFUSED, slug)


def test_a_redirected_packet_goes_to_loopback_and_keeps_its_source() -> None:
    packet = walk(built({}), out("192.0.2.1")).packet
    assert (packet.source, packet.destination, packet.out_interface) == (POD4, ip_address("127.0.0.1"), "lo")


def test_an_inbound_packet_keeps_the_address_it_asked_for() -> None:
    asked = ip_address("10.0.1.99")
    assert walk(built({}), arriving("192.0.2.1", destination=asked)).packet.destination == asked


def test_a_guest_is_redirected_to_its_interface_or_dropped_where_that_has_no_address() -> None:
    ruleset = built({"virtual_interfaces": ["eth0"]})
    assert walk(ruleset, arriving("192.0.2.1", destination=ip_address("203.0.113.1"))).packet.destination == POD4
    assert walk(ruleset, arriving("192.0.2.1", interface_address=None)).fate is Fate.DROPPED


def test_the_proxys_query_is_tracked_in_a_zone_of_its_own() -> None:
    assert walk(built({}), out("192.0.2.1", 53, **UDP, **PROXY)).zone == 1
    assert walk(built({}), out("192.0.2.1", 53, **UDP)).zone == 0


def test_what_the_proxy_opens_for_a_client_is_known_on_its_way_back() -> None:
    ruleset = built({})
    dialled = walk(ruleset, out("10.0.1.2", source=ip_address("192.0.2.1"), **PROXY))
    here = walk(ruleset, looped(dialled))
    assert here.packet.connection_mark == 0x111
    assert not here.translated
    back = out("192.0.2.1", connection_mark=0x111, state=ConnState.ESTABLISHED, tcp_flags=(TcpFlag.SYN, TcpFlag.ACK))
    answered = walk(ruleset, back)
    assert (answered.packet.mark, answered.rerouted) == (0x111, True)


def test_a_packet_that_comes_back_over_loopback_is_past_nat() -> None:
    """The application calling itself by its own address is not captured, although its packet comes in."""
    ruleset = built({"outbound": False, "dns": False})
    sent = walk(ruleset, out("10.0.1.2"))
    assert walk(ruleset, looped(sent)).packet.destination_port == 80
    assert walk(ruleset, replace(looped(sent), nat_settled=False)).packet.destination_port == 15006


@pytest.mark.parametrize("slug", ["outbound-from-proxy", "outbound-loopback", "outbound-to-self", "inbound-hbone"])
def test_one_wrong_rule_is_noticed(slug: str) -> None:
    right = built({})
    chains = tuple(
        replace(chain, rules=tuple(rule for rule in chain.rules if rule.slug != slug)) for chain in right.chains
    )
    wrong = replace(right, chains=chains)
    changed = [case for case in CASES if not case[0] and walk(wrong, case[1]) != walk(right, case[1])]
    assert changed
    assert {case[2] for case in changed} == {slug}


def chain(
    name: str, priority: int, *rules: Rule, kind: ChainType = ChainType.FILTER, policy: Policy = Policy.ACCEPT
) -> Chain:
    return Chain(name=name, type=kind, hook=Hook.OUTPUT, priority=priority, rules=rules, policy=policy)


def rule(slug: str, *matches: Any, action: Any = None) -> Rule:
    return Rule(slug=slug, matches=matches, action=action or Accept())


def test_chains_are_met_by_rising_priority_and_accept_ends_one_chain_only() -> None:
    marking = rule("mark", action=SetMark(mark=Mark(0x10, 0xF0)))
    seeing = rule("see", PacketMark(mark=Mark(0x10, 0xF0)))
    ruleset = with_counters(
        "t", (chain("late", 5, seeing), chain("early", -5, rule("stop"), marking), chain("middle", 0, marking))
    )
    verdict = walk(ruleset, out("192.0.2.1", mark=0x7))
    assert [(met.chain, met.slug) for met in verdict.rules] == [("early", "stop"), ("middle", "mark"), ("late", "see")]
    assert verdict.packet.mark == 0x17


def test_a_second_nat_chain_sees_only_what_the_first_left() -> None:
    tcp = Proto(protocol=Protocol.TCP)
    first = chain(
        "first", -101, rule("v4", OfFamily(family=Family.IPV4), tcp, action=Redirect(port=1)), kind=ChainType.NAT
    )
    second = chain("second", -100, rule("all", tcp, action=Redirect(port=2)), kind=ChainType.NAT)
    ruleset = with_counters("t", (first, second))
    assert walk(ruleset, out("192.0.2.1")).packet.destination_port == 1
    assert walk(ruleset, out("2001:db8::1")).packet.destination_port == 2


def test_a_policy_decides_at_the_end() -> None:
    assert walk(with_counters("t", (chain("c", 0, policy=Policy.DROP),)), out("192.0.2.1")).fate is Fate.DROPPED


@pytest.mark.parametrize("place", ["match", "action"])
def test_what_is_foreign_is_said_to_be_unknown(place: str) -> None:
    foreign = Foreign(verbatim='{"limit": 5}')
    made = rule("", foreign) if place == "match" else Rule(slug="", matches=(), action=foreign)
    verdict = walk(Ruleset(table="t", chains=(chain("c", 0, made),)), out("192.0.2.1"))
    assert (verdict.fate, verdict.unknown) == (Fate.UNKNOWN, '{"limit": 5}')
