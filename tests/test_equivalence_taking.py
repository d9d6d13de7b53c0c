"""What others' chains take from Weir's: those that are met first, and of captured traffic only."""

from dataclasses import replace
from itertools import product

import pytest

from rulesets import pod
from rulesets.capture import Capture
from rulesets.equivalence import Taken, Takings, What, taken
from rulesets.iptables import parse
from rulesets.model import Chain, Count, RegularChain, Rule, Ruleset
from rulesets.packet import Fate, walk_together
from rulesets.vocabulary import (
    Accept,
    Action,
    ChainType,
    Dnat,
    Drop,
    DstPort,
    Family,
    Foreign,
    Hook,
    InIface,
    Jump,
    Mark,
    Match,
    NoTrack,
    Policy,
    PortRange,
    Protocol,
    Redirect,
    SetConnMark,
    SetMark,
    Tproxy,
)

OURS = pod.build(Capture())
FIRST = "10.0.0.5:40000 to 10.9.0.1:8080 tcp, new, outgoing"


def port(number: int, protocol: Protocol = Protocol.TCP) -> DstPort:
    return DstPort(protocol=protocol, ports=PortRange(number, number))


def rule(action: Action, *matches: Match) -> Rule:
    return Rule(slug="", matches=matches or (port(8080),), action=action, count=Count())


def theirs(
    *rules: Rule,
    kind: ChainType = ChainType.FILTER,
    hook: Hook = Hook.OUTPUT,
    priority: int = -150,
    policy: Policy = Policy.ACCEPT,
    aside: tuple[Rule, ...] = (),
) -> Ruleset:
    chain = Chain(name="first", type=kind, hook=hook, priority=priority, rules=rules, policy=policy)
    return Ruleset(table="theirs", chains=(chain,), regular=(RegularChain(name="aside", rules=aside),))


def only(found: Takings) -> Taken:
    (one,) = found.taken
    assert found.unread == ()
    return one


# What takes a packet, and in what it shows.
TAKING: dict[str, tuple[Action, ChainType, int, What]] = {
    "redirected": (Redirect(port=9), ChainType.NAT, -110, What.TARGET),
    "sent on": (Dnat(port=80), ChainType.NAT, -101, What.TARGET),
    "the proxy's mark": (SetMark(mark=Mark(0x539)), ChainType.ROUTE, -150, What.TARGET),
    "the connection's mark": (SetConnMark(mark=Mark(0x111)), ChainType.ROUTE, -150, What.TARGET),
    "untracked": (NoTrack(), ChainType.FILTER, -300, What.TARGET),
    "dropped": (Drop(), ChainType.FILTER, -300, What.FATE),
    "dropped just before": (Drop(), ChainType.FILTER, -101, What.FATE),
    "dropped where nat is asked": (Drop(), ChainType.FILTER, -100, What.FATE),
}


@pytest.mark.parametrize("name", TAKING)
def test_an_earlier_rule_that_takes_packets_is_found_and_named(name: str) -> None:
    action, kind, priority, what = TAKING[name]
    others = theirs(rule(action), kind=kind, priority=priority)
    found = only(taken(others, OURS))
    assert str(found.witness) == FIRST
    assert (found.what, found.of, found.unknown) == (what, 0, "")
    assert (found.by.table, found.by.chain, found.by.number) == ("theirs", "first", 1)
    # And so a walk says of the packet.
    packet = found.witness.first
    alone, beside = walk_together((OURS,), packet), walk_together((others, OURS), packet)
    assert alone.packet.destination_port == 15001
    if priority < -100:  # the walk takes chains in the order of their numbers
        assert beside.fate is not Fate.ACCEPTED or beside.packet.destination_port != 15001


# What takes nothing, although it is met first or is about the same packets.
LEAVING: dict[str, tuple[Rule, ChainType, Hook, int]] = {
    "nat behind": (rule(Dnat(port=80)), ChainType.NAT, Hook.OUTPUT, -100),
    "filter behind": (rule(Drop()), ChainType.FILTER, Hook.OUTPUT, 0),
    "another mark": (rule(SetMark(mark=Mark(0x8000, 0x8000))), ChainType.ROUTE, Hook.OUTPUT, -150),
    "accepted": (rule(Accept()), ChainType.NAT, Hook.OUTPUT, -110),
    "of no captured protocol": (rule(Drop(), port(123, Protocol.UDP)), ChainType.FILTER, Hook.OUTPUT, -300),
    "of an excluded port": (rule(Drop(), port(9)), ChainType.FILTER, Hook.OUTPUT, -300),
    "at another hook": (rule(Drop()), ChainType.FILTER, Hook.FORWARD, -150),
}


@pytest.mark.parametrize("name", LEAVING)
def test_what_takes_nothing_is_not_found(name: str) -> None:
    ours = pod.build(Capture(exclude_outbound_ports=(PortRange(9, 9),), exclude_inbound_ports=(PortRange(9, 9),)))
    one, kind, hook, priority = LEAVING[name]
    assert not taken(theirs(one, kind=kind, hook=hook, priority=priority), ours)


def test_what_is_captured_because_of_theirs_is_found() -> None:
    found = only(taken(theirs(rule(SetMark(mark=Mark(0x8000))), kind=ChainType.ROUTE), OURS))
    assert found.witness.first.mark in (0x111, 0x539)  # of which neither is to be captured
    assert (str(found.decided), found.by.number) == ("nat-out: outbound-redirect", 1)


def test_an_empty_chain_and_one_that_nobody_jumps_to_take_nothing() -> None:
    assert not taken(theirs(), OURS)
    assert not taken(theirs(rule(Accept()), aside=(rule(Drop()),)), OURS)


def test_a_rule_in_a_chain_that_is_jumped_to_is_named() -> None:
    found = only(taken(theirs(rule(Jump(chain="aside")), aside=(rule(Drop()),)), OURS))
    assert (found.by.chain, found.by.number) == ("aside", 1)


def test_a_policy_that_drops_is_named() -> None:
    found = only(taken(theirs(policy=Policy.DROP), OURS))
    assert (found.by.chain, found.by.number, found.by.rule) == ("first", 0, None)


def test_inbound_traffic_is_taken_too() -> None:
    found = only(taken(theirs(rule(Tproxy(port=15006)), hook=Hook.PREROUTING), OURS))
    assert "arriving" in str(found.witness)
    assert found.by.number == 1


def test_what_is_dropped_on_its_way_to_the_proxy_is_found() -> None:
    """A redirected packet comes in by lo, and meets the chains at prerouting there."""
    found = only(taken(theirs(rule(Drop(), InIface(name="lo")), hook=Hook.PREROUTING, priority=-300), OURS))
    assert "back in by lo" in str(found.witness)
    assert found.what is What.FATE


def test_each_rule_has_a_packet_of_its_own_and_the_plainest_comes_first() -> None:
    rules = (rule(Drop(), port(4711, Protocol.TCP)), rule(NoTrack()), rule(Drop(), port(53, Protocol.UDP)))
    found = taken(theirs(*rules, priority=-300), OURS)
    assert {each.by.number: each.witness.first.destination_port for each in found.taken} == {1: 4711, 2: 8080, 3: 53}
    oddities = [each.witness.oddity for each in found.taken]
    assert oddities == sorted(oddities)


def test_of_several_rulesets_the_right_one_is_named() -> None:
    nothing = theirs(rule(SetMark(mark=Mark(0x8000, 0x8000))), kind=ChainType.ROUTE)
    found = only(taken((nothing, theirs(rule(Drop()), priority=-300), nothing), OURS))
    assert found.of == 1


UNREAD = Foreign(verbatim="-m statistic --mode random")


def test_what_cannot_be_read_may_take_what_is_captured_and_nothing_else() -> None:
    found = only(taken(theirs(rule(Drop(), port(8080), UNREAD), priority=-300), OURS))
    assert str(found.witness) == FIRST
    assert found.unknown == UNREAD.verbatim
    assert found.by.number == 1
    assert not taken(theirs(rule(Drop(), port(123, Protocol.UDP), UNREAD), priority=-300), OURS)
    assert not taken(theirs(rule(Drop(), UNREAD), priority=0), OURS)


def test_an_action_that_cannot_be_read_may_take_it() -> None:
    found = only(taken(theirs(rule(Foreign(verbatim="-j NFQUEUE")), priority=-150), OURS))
    assert found.unknown == "-j NFQUEUE"


def test_a_part_of_a_table_that_cannot_be_read_is_told() -> None:
    others = replace(theirs(rule(Accept())), foreign=(Foreign(verbatim="chain 'other'"),))
    found = taken(others, OURS)
    assert (found.taken, len(found.unread)) == ((), 1)
    assert "theirs" in found.unread[0]
    assert "chain 'other'" in found.unread[0]


def test_rules_that_are_too_many_are_told() -> None:
    found = taken(theirs(rule(Drop())), OURS, most_nodes=100)
    assert found.taken == ()
    assert any("too many or too deep" in each for each in found.unread)


SAVE = """*{table}
:OUTPUT ACCEPT [0:0]
-A OUTPUT -p tcp -m tcp --dport 8080 -j {target}
COMMIT
"""


@pytest.mark.parametrize(
    ("table", "target", "takes"),
    [
        ("raw", "DROP", True),
        ("raw", "NOTRACK", True),
        ("raw", "CT --zone 7", False),
        ("mangle", "MARK --set-xmark 0x539/0xffffffff", True),
        ("mangle", "CONNMARK --set-xmark 0x111/0xffffffff", True),
        ("mangle", "MARK --set-xmark 0x4000/0x4000", False),
        ("mangle", "TCPMSS --set-mss 1000", False),
        ("mangle", 'LOG --log-prefix "x"', False),
        ("nat", "REDIRECT --to-ports 9", False),
        ("filter", "DROP", False),
    ],
)
def test_of_iptables_rules_those_of_raw_and_mangle_come_first(table: str, target: str, takes: bool) -> None:
    for family in Family:
        found = taken(parse(SAVE.format(table=table, target=target), family), OURS)
        assert found.unread == ()
        assert [(each.by.chain, each.witness.kind.family) for each in found.taken] == [
            (f"{table}/OUTPUT", family)
        ] * takes


@pytest.mark.parametrize(("direction", "family"), list(product(("outbound", "inbound"), Family)))
def test_every_direction_and_family_that_is_captured_can_be_taken(direction: str, family: Family) -> None:
    ours = pod.build(Capture(outbound=direction == "outbound", inbound=direction == "inbound", dns=False))
    hook = Hook.OUTPUT if direction == "outbound" else Hook.PREROUTING
    save = SAVE.format(table="raw", target="DROP").replace("-A OUTPUT", f"-A {hook.upper()}")
    found = only(taken(parse(save, family), ours))
    assert (found.witness.kind.family, found.witness.first.hook) == (family, hook)
