"""What holds for every ruleset that iptables can hold."""

from ipaddress import ip_address
from typing import get_args

import pytest
from hypothesis import HealthCheck, Phase, given, reject
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rulesets import iptables
from rulesets.model import IPV4_ADDR_PORT, AddressPort, Chain, Counter, Element, Rule, Ruleset, Set, with_counters
from rulesets.packet import Packet, walk
from rulesets.packet.values import Verdict
from rulesets.vocabulary import (
    Accept,
    Aside,
    ChainType,
    Family,
    Hook,
    InSet,
    Mark,
    ModelError,
    Proto,
    Protocol,
    ReadAction,
    ReadMatch,
    SetField,
    SetMark,
)
from tests import iptables_packets
from tests import iptables_strategies as strategies

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]
quick = hypothesis_settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=SLOW,
)
families = st.sampled_from(Family)


def counts(ruleset: Ruleset) -> list[tuple[int, int]]:
    return [(rule.count.packets, rule.count.bytes) for rule in ruleset.rules() if rule.count]


@quick
@given(st.data(), families)
def test_what_is_rendered_is_parsed_as_the_same(data: st.DataObject, family: Family) -> None:
    ruleset = data.draw(strategies.own(family))
    save = iptables.render(ruleset, family, counters=True)
    parsed = iptables.parse(save, family)
    assert parsed == ruleset
    assert counts(parsed) == counts(ruleset)
    assert iptables.render(parsed, family, counters=True) == save


def drawn(data: st.DataObject, family: Family) -> tuple[Ruleset, Ruleset]:
    """A table of nft's and the same as iptables' rules; what iptables can't express is left out, rule by rule."""
    ruleset = data.draw(strategies.placed())
    said = ""
    try:
        return ruleset, iptables.translate(ruleset, family)
    except ModelError as error:
        said = str(error)
    assert any(f"rule {rule.slug!r}: " in said for rule in ruleset.rules()), f"no rule is named: {said}"
    reject()
    raise AssertionError("not reached")


@quick
@given(st.data(), families)
def test_a_translation_is_rendered_and_parsed_as_the_same(data: st.DataObject, family: Family) -> None:
    _, translated = drawn(data, family)
    assert iptables.parse(iptables.render(translated, family), family) == translated


def fate(verdict: Verdict) -> tuple[object, ...]:
    return (
        verdict.fate, verdict.packet, verdict.translated, verdict.zone, verdict.rerouted, verdict.masqueraded,
    )  # fmt: skip


def decisions(verdict: Verdict) -> list[str]:
    """The slugs of the rules that did something: the leads to other chains have none."""
    return [met.slug for met in verdict.rules if met.slug]


@hypothesis_settings(quick, max_examples=100)
@given(st.data(), families)
def test_a_translation_means_the_same_for_every_packet(data: st.DataObject, family: Family) -> None:
    ruleset, translated = drawn(data, family)
    for packet in data.draw(st.lists(iptables_packets.packets(ruleset, family), min_size=5, max_size=20)):
        before, after = walk(ruleset, packet), walk(translated, packet)
        assert fate(after) == fate(before), iptables.render(translated, family)
        assert decisions(after) == decisions(before)


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("protocol", [Protocol.ICMP, Protocol.ICMPV6])
def test_either_icmp_is_a_number_in_packets_of_both_families(protocol: Protocol, family: Family) -> None:
    rule = Rule(slug="met", matches=(Proto(protocol=protocol),), action=Accept())
    chain = Chain(name="pre", type=ChainType.FILTER, hook=Hook.PREROUTING, priority=-300, rules=(rule,))
    ruleset = Ruleset(table="x", chains=(chain,), counters=(Counter(name="met"),))
    address = ip_address("10.0.0.1" if family is Family.IPV4 else "fd00::1")
    packet = Packet(hook=Hook.PREROUTING, source=address, destination=address, protocol=protocol)
    for each in (ruleset, iptables.translate(ruleset, family)):
        assert decisions(walk(each, packet)) == ["met"]


@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_a_set_of_addresses_and_ports_is_asked_of_tcp_alone(protocol: Protocol, negate: bool) -> None:
    addresses = [ip_address("10.0.0.1"), ip_address("10.0.0.2")]
    pairs = Set(
        name="pairs",
        key=IPV4_ADDR_PORT,
        interval=False,
        elements=tuple(Element(value=AddressPort(each, 80)) for each in addresses),
    )
    match = InSet(field=SetField.DST_V4_TCP_DST_PORT, name="pairs", negate=negate)
    rules = (
        Rule(slug="looked-up", matches=(match,), action=SetMark(mark=Mark(1))),
        Rule(slug="behind", matches=(), action=SetMark(mark=Mark(2, 2))),
    )
    chain = Chain(name="c", type=ChainType.ROUTE, hook=Hook.OUTPUT, priority=-150, rules=rules)
    ruleset = with_counters("x", (chain,), (pairs,))
    translated = iptables.translate(ruleset, Family.IPV4)
    for address, port in ((addresses[0], 80), (addresses[1], 80), (addresses[0], 81), (ip_address("10.0.0.3"), 80)):
        packet = Packet(
            hook=Hook.OUTPUT, source=addresses[0], destination=address, protocol=protocol, destination_port=port
        )
        assert fate(walk(translated, packet)) == fate(walk(ruleset, packet))


def test_generated_saves_have_every_variant() -> None:
    found: set[type] = set()

    @hypothesis_settings(quick, max_examples=500, derandomize=True, phases=[Phase.generate])
    @given(st.data(), families)
    def collect(data: st.DataObject, family: Family) -> None:
        for rule in data.draw(strategies.own(family)).rules():
            found.update(type(part) for part in (*rule.matches, rule.action))

    collect()
    assert {*get_args(ReadMatch), *get_args(ReadAction)} - found == {Aside}  # which is nft's
