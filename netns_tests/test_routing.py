"""Rules and routes beside those of others: what is added, found, refused, undone and taken away."""

import socket
from collections.abc import Iterator

import pytest

from agent.errors import KernelError, RouteTableTaken
from agent.kernel import routing, routing_messages
from agent.kernel.routing import PROTOCOL
from netns_tests.namespace import Namespace
from netns_tests.routes import BOTH, WANTED, apply, counted_messages, ip, state, with_foreign_routes
from rulesets.capture import Capture
from rulesets.routing import NO_ROUTING, LocalRoute, OtherRoutes, PolicyRule, Routing, build
from rulesets.vocabulary import Family, Mark


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with with_foreign_routes() as made:
        yield made


def test_what_is_added_is_read_and_taken_away_without_a_trace(namespace: Namespace) -> None:
    before = state(namespace)
    assert namespace.run(routing.read) == NO_ROUTING
    apply(namespace, NO_ROUTING, WANTED)
    assert namespace.run(routing.read) == WANTED
    assert len(WANTED.rules) == len(WANTED.routes) == 2
    shown = state(namespace)
    assert shown.count(f"proto {PROTOCOL}") == 4
    assert f"32764:\tfrom all fwmark 0x111/0xfff lookup 100 proto {PROTOCOL}" in shown.replace("\t0:", "")
    apply(namespace, WANTED, WANTED)
    assert state(namespace) == shown
    apply(namespace, WANTED, NO_ROUTING)
    assert state(namespace) == before
    apply(namespace, WANTED, NO_ROUTING)  # absent is done
    assert state(namespace) == before


def test_one_family_is_left_alone(namespace: Namespace) -> None:
    only = build(Capture(), (Family.IPV6,))
    apply(namespace, NO_ROUTING, only)
    assert namespace.run(routing.read) == only
    assert str(PROTOCOL) not in namespace.command("ip", "-4", "rule")
    apply(namespace, only, WANTED)
    assert namespace.run(routing.read) == WANTED
    apply(namespace, WANTED, only)
    assert namespace.run(routing.read) == only


@pytest.mark.parametrize("table", [100, 255 + 1, 70000, 2**32 - 1])
def test_numbers_of_every_size(namespace: Namespace, table: int) -> None:
    before = state(namespace)
    wanted = Routing(
        rules=tuple(PolicyRule(family=each, mark=Mark(0x80000001), table=table, priority=31999) for each in BOTH),
        routes=tuple(LocalRoute(family=each, table=table) for each in BOTH),
    )
    apply(namespace, NO_ROUTING, wanted)
    assert namespace.run(routing.read) == wanted
    assert f"fwmark 0x80000001 lookup {table}" in namespace.command("ip", "rule")
    apply(namespace, wanted, NO_ROUTING)
    assert state(namespace) == before


def test_settings_that_change_replace_what_is_there(namespace: Namespace) -> None:
    before = state(namespace)
    changed = build(Capture(route_table=4711, rule_priority=31000, connection_mark=Mark(0x7000, 0xF000)), BOTH)
    apply(namespace, NO_ROUTING, WANTED)
    apply(namespace, namespace.run(routing.read), changed)
    assert namespace.run(routing.read) == changed
    apply(namespace, changed, NO_ROUTING)
    assert state(namespace) == before


@pytest.mark.parametrize(
    "route", ["route add 192.0.2.0/24 dev lo table 100", "-6 route add fd09::/64 dev lo table 100"]
)
def test_a_table_of_somebody_else_is_refused(namespace: Namespace, route: str) -> None:
    ip(namespace, route)
    before = state(namespace)
    with pytest.raises(RouteTableTaken, match="route table 100 holds routes that aren't Weir's") as refused:
        apply(namespace, namespace.run(routing.read, 100), WANTED)
    assert "show table 100" in refused.value.statement
    assert "route_table" in refused.value.hint
    assert state(namespace) == before
    assert namespace.run(routing.read) == NO_ROUTING


def test_a_table_of_thousands_of_routes_is_not_listed_to_its_end(namespace: Namespace) -> None:
    apply(namespace, NO_ROUTING, WANTED)
    namespace.ip(*(f"route add 172.16.{i // 256}.{i % 256}/32 dev lo table 100" for i in range(3000)))
    with counted_messages() as listed:
        found = namespace.run(routing.read, 100)
    assert found == WANTED, "our own are found among them"
    assert found.others == (OtherRoutes(family=Family.IPV4, table=100, protocol=3),)
    assert sum(listed) < 1000
    apply(namespace, found, NO_ROUTING)


@pytest.mark.parametrize("family", ["-4", "-6"])
@pytest.mark.parametrize("protocol", ["", "proto static"])
def test_an_equal_rule_of_somebody_else_lives_beside_ours(namespace: Namespace, family: str, protocol: str) -> None:
    """The kernel tells rules apart by their protocol as well, when it adds one and when it deletes one."""
    ip(namespace, f"{family} rule add fwmark 0x111/0xfff pref 32764 lookup 100 {protocol}")
    before = state(namespace)
    assert namespace.run(routing.read) == NO_ROUTING
    apply(namespace, WANTED, NO_ROUTING)
    assert state(namespace) == before, "what is not ours is not deleted"
    apply(namespace, NO_ROUTING, WANTED)
    assert namespace.run(routing.read) == WANTED
    apply(namespace, WANTED, NO_ROUTING)
    assert state(namespace) == before


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_a_rule_that_came_meanwhile_is_refused_and_all_else_taken_back(namespace: Namespace, family: str) -> None:
    ip(namespace, f"{family} rule add fwmark 0x111/0xfff pref 32764 lookup 100 proto {PROTOCOL}")
    before = state(namespace)
    with pytest.raises(RouteTableTaken, match="the same is there already") as refused:
        apply(namespace, NO_ROUTING, WANTED)
    assert "rule_priority" in refused.value.hint
    assert state(namespace) == before


def test_lo_down_is_said_and_undone(namespace: Namespace) -> None:
    ip(namespace, "link set lo down")
    before = state(namespace)
    with pytest.raises(KernelError, match="Network is down") as refused:
        apply(namespace, NO_ROUTING, WANTED)
    assert "ip link set lo up" in refused.value.hint
    assert state(namespace) == before


def test_a_failure_half_way_takes_back_the_first_half(namespace: Namespace) -> None:
    """IPv4's route goes in, then IPv6's can't: the interface has none."""
    namespace.sysctl("net/ipv6/conf/lo/disable_ipv6", 1)
    before = state(namespace)
    with pytest.raises(KernelError, match="ip -6 route add local ::/0") as refused:
        apply(namespace, NO_ROUTING, WANTED)
    assert f"proto {PROTOCOL}" in refused.value.statement
    assert state(namespace) == before


def test_ipv6_off_is_no_matter_where_it_is_not_wanted(namespace: Namespace) -> None:
    namespace.sysctl("net/ipv6/conf/all/disable_ipv6", 1)
    before = state(namespace)
    only = build(Capture(), (Family.IPV4,))
    apply(namespace, NO_ROUTING, only)
    assert namespace.run(routing.read) == only
    apply(namespace, only, NO_ROUTING)
    apply(namespace, WANTED, NO_ROUTING)
    assert state(namespace) == before


def test_what_a_toggle_took_is_seen_and_comes_again(namespace: Namespace) -> None:
    apply(namespace, NO_ROUTING, WANTED)
    namespace.sysctl("net/ipv6/conf/all/disable_ipv6", 1)
    namespace.sysctl("net/ipv6/conf/all/disable_ipv6", 0)
    left = namespace.run(routing.read)
    assert left == Routing(rules=WANTED.rules, routes=(LocalRoute(family=Family.IPV4, table=100),))
    apply(namespace, left, WANTED)
    assert namespace.run(routing.read) == WANTED


def test_what_a_killed_weir_left_is_found_by_its_rules(namespace: Namespace) -> None:
    """Another table than the one that is wanted now."""
    changed = build(Capture(route_table=4711), BOTH)
    apply(namespace, NO_ROUTING, changed)
    assert namespace.run(routing.read, 100) == changed


def test_routes_of_others_are_not_even_listed(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [f"route add 172.{16 + i // 65536}.{i // 256 % 256}.{i % 256}/32 dev lo" for i in range(20_000)]
    namespace.ip(*many)
    with counted_messages() as listed:
        apply(namespace, NO_ROUTING, WANTED)
        assert namespace.run(routing.read, 100) == WANTED
        assert namespace.run(routing.read) == WANTED
        assert 0 < sum(listed) < 100
        del listed[:]
        monkeypatch.setattr(routing, "_NETLINK_GET_STRICT_CHK", 12345)  # as before Linux 4.20, which has no such option
        assert namespace.run(routing.read, 100) == WANTED
        assert sum(listed) > 20_000
    apply(namespace, WANTED, NO_ROUTING)
    assert namespace.run(routing.read, 100) == NO_ROUTING


def test_a_family_that_the_kernel_lacks_has_none(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(namespace, NO_ROUTING, WANTED)
    lacking = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_DECnet}  # gone from Linux since 6.1
    monkeypatch.setattr(routing_messages, "FAMILIES", lacking)
    only = build(Capture(), (Family.IPV4,))
    assert namespace.run(routing.read) == namespace.run(routing.read, 100) == only
    apply(namespace, WANTED, only)  # what can't be there is gone
    with pytest.raises(KernelError, match="ip -6 rule add"):
        apply(namespace, only, WANTED)
    assert namespace.run(routing.read) == only
