"""Probes of the node reach a captured pod past its proxy; nothing else that comes from the node or through it does."""

import socket
from collections.abc import Iterator

import pytest

from netns_tests.enrolling import Weir
from netns_tests.probing import Probing
from netns_tests.proxy import Proxy
from netns_tests.traffic import EchoServer, exchange
from netns_tests.world import Host, World
from rulesets.capture import PROBE_SOURCES

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
PROBED, APP = 8080, 8081


@pytest.fixture
def proxy(weir: Weir, pod: Host) -> Iterator[Proxy]:
    """Give a test a captured pod's proxy."""
    with Proxy(pod) as running:
        assert weir.capture().captured
        yield running


def source(family: int) -> str:
    return next(str(each) for each in PROBE_SOURCES if (each.version == 6) == (family == socket.AF_INET6))


@FAMILIES
def test_a_probe_passes_by_the_proxy_and_what_is_forwarded_does_not(
    world: World, pod: Host, proxy: Proxy, family: int
) -> None:
    with Probing(world.node) as life, EchoServer(pod, PROBED):
        target = (pod.address(family), PROBED)
        found = exchange(world.node, target)
        assert proxy.captured.find("inbound", client=found.local, original=target), "nothing of it is known yet"
        life.put("a", pod.v4, pod.v6)
        before = len(proxy.captured)
        found = exchange(world.node, target)
        assert (found.seen[0], found.echoed) == (source(family), b"ping")
        assert exchange(world.node, target, user=1000).seen[0] == source(family), "whoever the kubelet runs as"
        assert len(proxy.captured) == before
        for client in (world.outside, world.pods[1]):
            found = exchange(client, target)
            assert found.seen[0] == client.address(family)
            assert proxy.captured.find("inbound", client=found.local, original=target)
        life.drop("a")
        found = exchange(world.node, target)
        assert proxy.captured.find("inbound", client=found.local, original=target)


@FAMILIES
def test_where_ports_are_named_only_these_pass(world: World, pod: Host, proxy: Proxy, family: int) -> None:
    with Probing(world.node) as life, EchoServer(pod, PROBED), EchoServer(pod, APP):
        life.put("a", pod.v4, pod.v6, ports=(PROBED,))
        probed, other = (pod.address(family), PROBED), (pod.address(family), APP)
        assert exchange(world.node, probed).seen[0] == source(family)
        assert not proxy.captured.find("inbound", original=probed)
        found = exchange(world.node, other)
        assert proxy.captured.find("inbound", client=found.local, original=other)


@FAMILIES
def test_a_pod_that_isn_t_captured_answers_all_the_same(world: World, family: int) -> None:
    """So that the elements can come first."""
    pod_ = world.pods[1]
    with Probing(world.node) as life, EchoServer(pod_, PROBED):
        life.put("b", pod_.v4, pod_.v6)
        found = exchange(world.node, (pod_.address(family), PROBED))
        assert (found.seen[0], found.echoed) == (source(family), b"ping")
