"""`prove` on whole rulesets: goldens, orders that matter and orders that don't, what is foreign, and large sets."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from rulesets import pod
from rulesets.capture import Capture
from rulesets.equivalence import Differs, Equal, Unknown, What, prove
from rulesets.equivalence.proof import explained, follow, kinds
from rulesets.model import Chain, Count, Counter, Rule, Ruleset
from rulesets.vocabulary import (
    Accept,
    Action,
    ChainType,
    Dnat,
    Dst,
    DstPort,
    Foreign,
    Hook,
    Mark,
    Match,
    PacketMark,
    PortRange,
    Proto,
    Protocol,
    Redirect,
    SetMark,
)
from tests import scenarios
from tests.packets_apart import confirmed

TCP = Proto(protocol=Protocol.TCP)
MOST_NODES = 30_000


def chain(*rules: Rule, kind: ChainType = ChainType.NAT, priority: int = -101) -> Chain:
    return Chain(name=f"{kind}-{abs(priority)}", type=kind, hook=Hook.OUTPUT, priority=priority, rules=rules)


def rule(slug: str, *matches: Match, action: Action | None = None) -> Rule:
    return Rule(slug=slug, matches=matches, action=action or Accept())


def table(*chains: Chain) -> Ruleset:
    slugs = {rule.slug for each in chains for rule in each.rules if rule.slug}
    return Ruleset(table="t", chains=chains, counters=tuple(Counter(name=slug) for slug in slugs))


def port(number: int, last: int = 0) -> DstPort:
    return DstPort(protocol=Protocol.TCP, ports=PortRange(number, last or number))


@pytest.mark.parametrize("name", scenarios.names())
def test_a_golden_equals_itself(name: str) -> None:
    ruleset = scenarios.load(name).ruleset
    proof = prove(ruleset, ruleset)
    assert isinstance(proof, Equal)
    assert proof.cells > 100
    assert not proof.expected


SAMPLED = {"sampled": "dual-stack", "sampled-outbound": "host-by-mark"}


@pytest.mark.parametrize("name", SAMPLED)
def test_sampling_changes_nothing_for_any_packet(name: str) -> None:
    assert isinstance(prove(scenarios.load(name).ruleset, scenarios.load(SAMPLED[name]).ruleset), Equal)


@pytest.mark.parametrize("name", scenarios.names())
def test_a_golden_differs_from_every_other(name: str) -> None:
    one = scenarios.load(name).ruleset
    for other in scenarios.names():
        if name < other and other not in SAMPLED:
            assert first_difference_holds(one, scenarios.load(other).ruleset), other


def first_difference_holds(one: Ruleset, other: Ruleset) -> bool:
    """Tell whether walking confirms the first difference that is found."""
    for kind, mentions in kinds((one, other)):
        space, followed = follow(kind, mentions, 1, naming=False)
        for parting in followed.partings:
            return all(confirmed((one,), (other,), each) for each in explained(space, parting))
    return False


@pytest.mark.parametrize(
    ("one", "other"), [("dual-stack", "dns-off"), ("exclusions", "inclusions"), ("ipv4-only", "ipv6-only")]
)
def test_every_way_in_which_goldens_differ_is_confirmed(one: str, other: str) -> None:
    a, b = scenarios.load(one).ruleset, scenarios.load(other).ruleset
    proof = prove(a, b)
    assert isinstance(proof, Differs)
    assert [str(each) for each in proof.differences if not confirmed((a,), (b,), each)] == []
    deciding = {(each.a_decided.place, each.b_decided.place, each.what) for each in proof.differences}
    assert len(deciding) == len(proof.differences) > 1


def test_a_difference_is_told_in_words() -> None:
    proof = prove(scenarios.load("dual-stack").ruleset, scenarios.load("dns-off").ruleset)
    assert isinstance(proof, Differs)
    assert str(proof.witness) == "10.0.0.5:40000 to 10.9.0.1:53 tcp, new, outgoing"
    assert (str(proof.a_decided), str(proof.b_decided)) == (
        "nat-out: outbound-dns-tcp",
        "nat-out: outbound-redirect",
    )
    assert proof.what is What.TARGET


def test_an_order_that_does_not_matter_is_equal() -> None:
    first, second = rule("a", port(80)), rule("b", port(443))
    last = rule("c", TCP, action=Redirect(port=15001))
    assert isinstance(prove(table(chain(first, second, last)), table(chain(second, first, last))), Equal)


def test_an_order_that_matters_differs() -> None:
    first = rule("a", port(80))
    last = rule("c", TCP, action=Redirect(port=15001))
    proof = prove(table(chain(first, last)), table(chain(last, first)))
    assert isinstance(proof, Differs)
    assert proof.witness.first.destination_port == 80
    assert (proof.a_decided.rule, proof.b_decided.rule) == (first, last)


def test_the_same_said_otherwise_is_equal() -> None:
    whole = rule("a", port(80, 90), action=Redirect(port=15001))
    halves = (
        rule("a", port(80, 84), action=Redirect(port=15001)),
        rule("b", port(85, 90), action=Redirect(port=15001)),
    )
    never = rule("c", Dst(network=ip_network("10.0.0.0/8")), port(85), action=Dnat(port=1))
    assert isinstance(prove(table(chain(whole)), table(chain(*halves))), Equal)
    assert isinstance(prove(table(chain(whole)), table(chain(whole, never))), Equal)


def test_one_boundary_off_by_one_is_the_witness() -> None:
    proof = prove(
        table(chain(rule("a", port(80, 90), action=Redirect(port=1)))),
        table(chain(rule("a", port(80, 91), action=Redirect(port=1)))),
    )
    assert isinstance(proof, Differs)
    assert {each.witness.first.destination_port for each in proof.differences} == {91}


def test_a_mark_set_before_is_the_mark_that_is_seen() -> None:
    """A rule that asks for a mark which an earlier chain always sets holds always."""
    marking = chain(rule("m", action=SetMark(mark=Mark(0x5, 0xF))), kind=ChainType.FILTER, priority=-300)
    asking = chain(rule("r", TCP, PacketMark(mark=Mark(0x5, 0xF)), action=Redirect(port=1)))
    plain = chain(rule("r", TCP, action=Redirect(port=1)))
    assert isinstance(prove(table(marking, asking), table(marking, plain)), Equal)
    assert isinstance(prove(table(asking), table(plain)), Differs)


def test_several_tables_are_one_side() -> None:
    first = table(chain(rule("a", port(80)), kind=ChainType.FILTER, priority=-300))
    second = table(chain(rule("r", TCP, action=Redirect(port=1))))
    assert isinstance(prove((first, second), second), Equal)
    assert isinstance(prove((first, second), first), Differs)


FOREIGN = Foreign(verbatim='{"limit": 5}')


def foreign_rule(*matches: Match, action: Action | None = None) -> Rule:
    return Rule(slug="", matches=(*matches, FOREIGN), action=action or Accept())


def test_what_is_foreign_is_unknown_and_never_equal() -> None:
    redirect = rule("r", TCP, action=Redirect(port=1))
    one = table(chain(foreign_rule(port(80)), redirect))
    proof = prove(one, one)
    assert isinstance(proof, Unknown)
    assert 0 < proof.unknown < proof.cells
    assert proof.reasons == ('{"limit": 5}',)


def test_a_difference_beside_what_is_foreign_is_one() -> None:
    one = table(chain(foreign_rule(port(80)), rule("r", TCP, action=Redirect(port=1))))
    proof = prove(one, table(chain(rule("r", TCP, action=Redirect(port=2)))))
    assert isinstance(proof, Differs)
    assert proof.unknown > 0
    assert all(each.witness.first.destination_port != 80 for each in proof.differences)


def test_what_is_foreign_where_it_does_not_matter_is_known() -> None:
    accepting = table(chain(foreign_rule(port(80)), rule("a")))
    assert isinstance(prove(accepting, table(chain(rule("a")))), Equal)


def large(networks: int, ranges: int, **more: Any) -> Ruleset:
    return pod.build(
        Capture.parse(
            {
                "exclude_outbound_networks": [f"10.{at // 250}.{at % 250}.0/24" for at in range(networks)],
                "exclude_outbound_ports": [f"{1000 + 20 * at}-{1009 + 20 * at}" for at in range(ranges)],
                **more,
            }
        )
    )


def test_a_thousand_networks_are_cut_into_few_cells() -> None:
    many, few = large(1000, 100), large(2, 2)
    same, small = prove(many, many), prove(few, few)
    assert isinstance(same, Equal)
    assert isinstance(small, Equal)
    assert same.cells == small.cells
    for kind, mentions in kinds((many, many)):
        assert follow(kind, mentions, 1, naming=False)[0].diagrams.size < MOST_NODES


def test_one_network_of_a_thousand_is_found() -> None:
    proof = prove(large(1000, 100), large(999, 100))
    assert isinstance(proof, Differs)
    assert proof.witness.first.destination in ip_network("10.3.249.0/24")


def test_a_rule_for_each_of_a_thousand_networks_equals_one_for_all() -> None:
    """As iptables has to write them, against a set of nft."""
    ours = large(1000, 100, dns=False)
    out = ours.chain("nat-out")
    assert out is not None
    rules: list[Rule] = []
    for each in out.rules:
        if each.slug == "outbound-excluded-network" and "v4" in str(each.matches):
            rules += [
                Rule(
                    slug="",
                    matches=(Dst(network=ip_network(f"10.{at // 250}.{at % 250}.0/24")),),
                    action=Accept(),
                    count=Count(),
                )
                for at in range(1000)
            ]
        else:
            rules.append(each)
    assert len(rules) > 1000
    chains = tuple(replace(each, rules=tuple(rules)) if each.name == "nat-out" else each for each in ours.chains)
    assert isinstance(prove(ours, replace(ours, chains=chains)), Equal)


def test_only_names_of_wanted_differences_can_be_expected() -> None:
    ruleset = scenarios.load("dual-stack").ruleset
    with pytest.raises(ValueError, match=r"no difference is called 'nonsense'; there are .*zone-direction"):
        prove(ruleset, ruleset, expected=["nonsense"])


def test_what_a_reader_could_not_read_is_never_called_equal() -> None:
    wish = pod.build(Capture())
    proof = prove(wish, replace(wish, foreign=(Foreign(verbatim="chain 'theirs'"),)))
    assert isinstance(proof, Unknown)
    assert any("theirs" in each for each in proof.reasons)
