"""Queries from a fixed port follow the rules at once, although connection tracking remembers where they went before."""

import pytest

from agent.targets import State
from netns_tests import dns
from netns_tests.enrolling import FAMILIES, Weir, start_conntrack
from netns_tests.proxy import DNS_ANSWER, Proxy
from netns_tests.servers import DNS_SERVER_ANSWER
from netns_tests.traffic import DnsServer, Stream, dns_ask
from netns_tests.world import Host, World

PORT = 5353
CAPTURED, DIRECT = [DNS_ANSWER[dns.A]], [DNS_SERVER_ANSWER[dns.A]]


def answers(world: World, pod: Host, *, tcp: bool = False) -> list[list[str]]:
    """Ask over both families: over UDP always from the same port."""
    port = 0 if tcp else PORT
    return [
        dns_ask(pod, (world.outside.address(family), 53), source_port=port, tcp=tcp, timeout=2) for family in FAMILIES
    ]


@pytest.mark.parametrize("tracked", [False, True], ids=["untracked", "tracked"])
def test_queries_are_captured_from_the_first_on(world: World, pod: Host, weir: Weir, tracked: bool) -> None:
    if tracked:
        start_conntrack(pod)
    with Proxy(pod), DnsServer(world.outside):
        assert answers(world, pod) == [DIRECT, DIRECT]
        entries = [flow for flow in weir.flows() if flow.original.source_port == PORT]
        assert len(entries) == (2 if tracked else 0)
        assert weir.capture().state is State.APPLIED
        assert answers(world, pod) == [CAPTURED, CAPTURED]
        assert answers(world, pod, tcp=True) == [CAPTURED, CAPTURED]


def test_turning_dns_off_and_on_and_removing_holds_at_once(world: World, pod: Host, weir: Weir) -> None:
    with Proxy(pod), DnsServer(world.outside):
        for _ in range(5):
            weir.capture()
            assert answers(world, pod) == [CAPTURED, CAPTURED]
            weir.capture(dns=False)
            assert answers(world, pod) == [DIRECT, DIRECT]
        weir.capture()
        assert answers(world, pod) == [CAPTURED, CAPTURED]
        start_conntrack(pod)  # which keeps old entries in use when Weir's rules are gone
        assert weir.remove().state is State.REMOVED
        assert answers(world, pod) == [DIRECT, DIRECT]


def test_a_proxy_that_asks_for_itself_is_answered_meanwhile(world: World, pod: Host, weir: Weir) -> None:
    # The proxy's own query may come from the very port that the client uses: the zones keep them apart.
    with Proxy(pod, forward_dns=(world.outside.v4, 53)), DnsServer(world.outside) as server:
        for wanted in ({}, {"dns": False}, {}):
            weir.capture(**wanted)
            for _ in range(20):
                assert answers(world, pod) == [DIRECT, DIRECT]
        assert len(server.peers) == 120


def test_draining_asks_the_old_way_at_once(world: World, pod: Host, weir: Weir) -> None:
    with Proxy(pod), DnsServer(world.outside):
        weir.capture()
        with Stream(pod, world.outside, (world.outside.v4, 0)) as stream:
            assert answers(world, pod) == [CAPTURED, CAPTURED]
            assert weir.remove(drain=60).state is State.DRAINING
            assert answers(world, pod) == [DIRECT, DIRECT]
            assert weir.capture().state is State.APPLIED
            assert answers(world, pod) == [CAPTURED, CAPTURED]
            assert stream.outcome() == "alive"
