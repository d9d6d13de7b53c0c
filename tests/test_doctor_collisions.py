"""What the doctor makes of others' rules, routes, marks and ports: values in, findings out. No root, no kernel."""

from ipaddress import ip_address, ip_network

import pytest

from agent.doctor import marks, policy, ports, replies
from agent.doctor.findings import Level
from agent.kernel.policy_rules import LOCAL, LOOKUP, Route, RuleEntry
from agent.kernel.portid import Process
from rulesets.capture import Capture
from rulesets.model import Chain, Rule, with_counters
from rulesets.routing import OtherRoutes
from rulesets.vocabulary import ChainType, Family, Hook, Mark, PacketMark, PortRange, SetConnMark, SetMark, SocketUser

CAPTURE = Capture()
V4, V6 = Family.IPV4, Family.IPV6

# Policy rules


def rule(**values: object) -> RuleEntry:
    given = {"family": V4, "priority": 500, "action": LOOKUP, "table": 200, "protocol": 3, **values}
    return RuleEntry(**given)  # type: ignore[arg-type]


FULL = {(V4, 200): True, (V4, 52): False, (V6, 200): True, (V4, 100): True, (V4, 254): True}


@pytest.mark.parametrize(
    ("entry", "checks"),
    [
        (rule(), ["rule-order"]),
        (rule(table=52), ["rule-order"]),
        (rule(table=53), []),  # without a route there: the kernel goes on
        (rule(table=255), []),
        (rule(priority=32765), []),
        (rule(protocol=119), []),
        (rule(mark=0x111, mask=0xFFF, table=100, priority=1000), []),  # another agent's, for the same
        (rule(mark=0x100, mask=0xF00), ["mark-collision"]),
        (rule(mark=0x500, mask=0xF00), ["mark-collision"]),
        (rule(mark=0x200, mask=0xF00), []),
        (rule(mark=0x80000, mask=0xFF0000), []),
        (rule(mark=0xCA6C, mask=0xFFFFFFFF, inverted=True), ["rule-order"]),
        (rule(mark=0x111, mask=0xFFF, inverted=True), []),
        (rule(in_interface="eth0"), []),
        (rule(in_interface="lo"), ["rule-order"]),
        (rule(table=100, source=ip_network("10.0.0.0/8")), ["rule-order", "table-collision"]),
        (rule(action=6, table=0), ["rule-order"]),
        (rule(action=3, table=0), []),
    ],
    ids=str,
)
def test_a_policy_rule_of_others(entry: RuleEntry, checks: list[str]) -> None:
    assert [each.check for each in policy.judge([entry], (), CAPTURE, FULL)] == checks


def test_a_rule_that_takes_only_some_is_a_warning() -> None:
    levels = [
        next(iter(policy.judge([each], (), CAPTURE, FULL))).level
        for each in (rule(), rule(table=52), rule(suppresses=True), rule(source=ip_network("10.0.0.0/8")))
    ]
    assert levels == [Level.ERROR, Level.WARNING, Level.WARNING, Level.WARNING]


def test_outbound_alone_needs_no_rule_and_no_table() -> None:
    others = [OtherRoutes(family=V4, table=100, protocol=3)]
    assert [each.check for each in policy.judge([rule()], others, CAPTURE, FULL)] == ["rule-order", "table-collision"]
    assert not list(policy.judge([rule()], others, Capture(inbound=False), FULL))


# The way of a probe's answer

POD, NODE = ip_address("10.0.1.2"), ip_address("10.0.1.1")
FIRST = rule(priority=0, table=255)


def reply(route: Route, **values: object) -> replies.NodeReply:
    given = {"interface": "eni1a2b3c4d", "pod": POD, "node": NODE, "route": route, **values}
    return replies.NodeReply(**given)  # type: ignore[arg-type]


def test_answers_to_the_table_local_are_well() -> None:
    assert not list(replies.judge_node([reply(Route(kind=LOCAL, table=255))], [FIRST]))


def test_the_rule_that_steals_is_named_with_its_network_once_for_an_interface() -> None:
    thief = rule(priority=10, table=101, in_interface="eni1a2b3c4d")
    stolen = Route(kind=1, table=101, interface=7)
    (found,) = replies.judge_node([reply(stolen), reply(stolen, pod=POD + 1)], [thief, rule(priority=20, table=255)])
    assert "AWS VPC CNI" in found.what
    assert "ip rule 10: from all iif eni1a2b3c4d lookup 101" in found.what
    assert found.command == "ip rule add pref 9 iif eni1a2b3c4d to 10.0.1.1 lookup local"


@pytest.mark.parametrize(("error", "filters", "filtered"), [(18, 0, True), (22, 1, True), (22, 0, False)])
def test_what_rp_filter_drops_is_told_from_other_refusals(error: int, filters: int, filtered: bool) -> None:
    (found,) = replies.judge_node([reply(Route(error=error, said="EINVAL"), filters=filters)], [FIRST])
    assert ("rp_filter" in found.what) is filtered


# Marks


def ruleset(one: Rule) -> marks.Theirs:
    chain = Chain(name="out", type=ChainType.ROUTE, hook=Hook.OUTPUT, priority=-150, rules=(one,))
    return marks.Theirs(place="table inet t", ruleset=with_counters("t", (chain,)))


@pytest.mark.parametrize(
    ("one", "found"),
    [
        (Rule(slug="a", matches=(), action=SetMark(mark=Mark(0x4000, 0x4000))), []),
        (Rule(slug="a", matches=(), action=SetMark(mark=Mark(0x1))), ["sets bits 0xfff of the packet mark"]),
        (Rule(slug="a", matches=(), action=SetConnMark(mark=Mark(0x1, 0xFF))), ["sets bits 0xff of the connection"]),
        (Rule(slug="a", matches=(SocketUser(user=1337),), action=SetMark(mark=Mark(0x1539))), []),
        (
            Rule(slug="a", matches=(PacketMark(mark=Mark(0x500, 0xF00)),), action=SetMark(mark=Mark(0x8000, 0x8000))),
            ["chooses packets with the proxy mark 0x539/0xfff"],
        ),
        (Rule(slug="a", matches=(PacketMark(mark=Mark(0x200, 0xF00)),), action=SetMark(mark=Mark(0, 0x8000))), []),
    ],
)
def test_rules_that_touch_marks(one: Rule, found: list[str]) -> None:
    said = [each.what for each in marks.judge([ruleset(one)], CAPTURE)]
    assert len(said) == len(found)
    assert all(part in whole for part, whole in zip(found, said, strict=True))


# Ports


def bound(port: int, inode: int, user: int = 0) -> ports.Bound:
    return ports.Bound(port=port, address=ip_address("0.0.0.0"), user=user, inode=inode)


PROXY, APP = Process(number=1, name="ztunnel"), Process(number=2, name="nginx")
ALL = (bound(15001, 1), bound(15006, 2), bound(15008, 3))


@pytest.mark.parametrize(
    ("listening", "held", "names"),
    [
        (ALL, {1: (PROXY,), 2: (PROXY,), 3: (PROXY,)}, []),
        (ALL, {1: (PROXY,), 2: (PROXY,), 3: (APP,)}, ["0.0.0.0:15008 is listened on by process 2 (nginx)"]),
        (ALL[2:], {3: (APP,)}, ["0.0.0.0:15008 is listened on by process 2 (nginx)"]),
        (ALL[2:], {}, ["0.0.0.0:15008 is listened on by a process of user 0"]),
        ((), {}, []),
    ],
)
def test_who_has_the_proxy_s_ports(
    listening: tuple[ports.Bound, ...], held: dict[int, tuple[Process, ...]], names: list[str]
) -> None:
    said = [each.what for each in ports.judge(listening, held, None, CAPTURE)]
    assert len(said) == len(names)
    assert all(whole.startswith(part) for part, whole in zip(names, said, strict=True))


def test_ports_that_are_kept_free_are_no_finding() -> None:
    taken = ports.Range(first=1024, last=60999)
    (found,) = ports.judge((), {}, taken, CAPTURE)
    assert found.command == "sysctl -w net.ipv4.ip_local_reserved_ports=15001,15006,15008,15053"
    free = ports.Range(first=1024, last=60999, reserved=(PortRange(15001, 15008), PortRange(15053, 15053)))
    assert not list(ports.judge((), {}, free, CAPTURE))
    assert not list(ports.judge((), {}, ports.Range(first=32768, last=60999), CAPTURE))
