"""What carries Weir's protocol number and is not as Weir writes it: seen, described, and taken away."""

from collections.abc import Iterator

import pytest

from agent.kernel import routing
from agent.kernel.rawnetlink import NLM_F_CREATE, RawNetlink
from agent.kernel.routing import PROTOCOL
from agent.kernel.routing_messages import rule_message
from netns_tests.namespace import Namespace
from netns_tests.routes import WANTED, apply, ip, state, with_foreign_routes
from rulesets.routing import NO_ROUTING, RoutingPlan, Stray


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with with_foreign_routes() as made:
        yield made


RULE = f"pref 32764 lookup 100 proto {PROTOCOL}"
MARKED = f"fwmark 0x111/0xfff {RULE}"
LOCAL = f"dev lo table 100 proto {PROTOCOL}"


def strayed(namespace: Namespace) -> list[str]:
    found = namespace.run(routing.read, 100)
    assert found == namespace.run(routing.read, 100), "what is read twice is the same"
    return [str(each) for each in (*found.strays.rules, *found.strays.routes)]


# What somebody does to Weir's rules and routes, and how that is described; "{ip}" and "{all}" are of either family.
@pytest.mark.parametrize("family", ["-4", "-6"])
@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ("route del local {all} table 100", f"route add local {{net}} {LOCAL}"),
            "route: local {net} dev lo",
        ),
        ((f"route add blackhole {{net}} table 100 proto {PROTOCOL}",), "route: blackhole {net}"),
        ((f"route add unreachable {{all}} metric 5 table 100 proto {PROTOCOL}",), "route: unreachable {all}"),
        ((f"route add local {{all}} metric 7 {LOCAL}",), "route: local {all} dev lo metric 7 table 100"),
        (("route del local {all} table 100", f"route add local {{all}} mtu 1400 {LOCAL}"), "metrics 0x"),
        (
            ("route del local {all} table 100", f"route add local {{all}} dev away table 100 proto {PROTOCOL}"),
            "dev away",
        ),
        (
            ("rule del {marked}", "rule add not {marked}"),
            "rule: not from all fwmark 0x111/0xfff priority 32764 lookup 100 proto 119",
        ),
        (("rule add from {net} {marked}",), "rule: from {net} fwmark 0x111"),
        (("rule add to {net} {marked}",), "rule: from all to {net} fwmark"),
        (("rule add iif lo {marked}",), "rule: from all iif lo fwmark"),
        (("rule del {marked}", "rule add iif lo {marked}"), "rule: from all iif lo fwmark"),
        (("rule add oif away {marked}", "rule add ipproto tcp dport 80 {marked}"), "oif away"),
        (("rule add uidrange 0-0 {marked}",), "uidrange 0x"),
        (("rule add suppress_prefixlength 0 {marked}",), "suppress_prefixlength 0"),
        (
            (f"rule add blackhole fwmark 0x111/0xfff pref 32764 proto {PROTOCOL}",),
            "rule: from all fwmark 0x111/0xfff priority 32764 proto 119 blackhole",
        ),
        ((f"rule add {RULE}",), "rule: from all priority 32764 lookup 100 proto 119"),
    ],
)
def test_what_somebody_made_of_ours_is_seen_and_goes(
    namespace: Namespace, family: str, lines: tuple[str, ...], said: str
) -> None:
    words = {"net": "198.51.100.0/24", "all": "all"} if family == "-4" else {"net": "fd08::/64", "all": "all"}
    ip(namespace, "link add away type veth peer name beside")
    ip(namespace, "link set away up")
    before = state(namespace)
    apply(namespace, NO_ROUTING, WANTED)
    captured = state(namespace)
    for line in lines:
        ip(namespace, f"{family} {line.format(**words, marked=MARKED)}")
    tampered = state(namespace)
    assert any(said.format(**words) in text for text in strayed(namespace)), strayed(namespace)
    actual = namespace.run(routing.read, 100)
    plan = RoutingPlan(actual=actual, desired=WANTED)
    assert plan
    assert all(f"  - {text}" in plan.describe() for text in strayed(namespace))

    assert actual.together(WANTED) == WANTED
    namespace.run(routing.apply, plan)
    assert namespace.run(routing.read) == WANTED
    assert sorted(state(namespace).split("\n")) == sorted(captured.split("\n"))

    apply(namespace, WANTED, actual)  # as where a change is taken back
    assert namespace.run(routing.read, 100) == actual
    assert sorted(state(namespace).split("\n")) == sorted(tampered.split("\n"))

    apply(namespace, actual, NO_ROUTING)
    assert namespace.run(routing.read) == NO_ROUTING
    assert state(namespace) == before


def test_strays_leave_what_others_have(namespace: Namespace) -> None:
    """Rules of others that differ by the protocol alone, and routes in any table."""
    others = MARKED.replace(f"proto {PROTOCOL}", "proto static")
    for line in (f"rule add not {others}", f"rule add iif lo {others}", "route add local 10.8.0.0/16 dev lo table 100"):
        ip(namespace, line)
    before = state(namespace)
    for line in (f"rule add not {MARKED}", f"rule add iif lo {MARKED}", f"route add local 10.9.0.0/16 {LOCAL}"):
        ip(namespace, line)
    ip(namespace, f"route add blackhole 10.10.0.0/16 table 77 proto {PROTOCOL}")
    found = namespace.run(routing.read)
    assert len(found.strays.rules) == len(found.strays.routes) == 2
    apply(namespace, found, NO_ROUTING)
    assert state(namespace) == before


def test_the_same_rule_twice_is_once_too_often(namespace: Namespace) -> None:
    """`ip rule add` is refused the second; who doesn't say NLM_F_EXCL isn't."""
    before = state(namespace)
    apply(namespace, NO_ROUTING, WANTED)
    captured = state(namespace)

    def insist() -> None:
        with RawNetlink(0, feature="rtnetlink", option="CONFIG_NET") as rtnetlink:
            for rule in WANTED.rules:
                assert not rtnetlink.ask(32, rule_message(rule), statement="ip rule add", flags=NLM_F_CREATE).errno

    namespace.run(insist)
    namespace.run(insist)
    found = namespace.run(routing.read, 100)
    assert [each.copy for each in found.strays.rules if isinstance(each, Stray)] == [2, 3, 2, 3]
    assert "once more" in RoutingPlan(actual=found, desired=WANTED).describe()
    apply(namespace, found, WANTED)
    assert state(namespace) == captured
    namespace.run(insist)
    apply(namespace, namespace.run(routing.read), NO_ROUTING)
    assert state(namespace) == before
