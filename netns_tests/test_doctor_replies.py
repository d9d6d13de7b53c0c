"""A stolen reply path is named, really loses a probe, and what the doctor says mends it."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from netns_tests.examined import examined, found, mend
from netns_tests.patience import slow
from netns_tests.probing import Probing
from netns_tests.traffic import EchoServer, exchange
from netns_tests.world import Host, World
from rulesets.capture import PROBE_SOURCES

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
PROBED = 8080
VPN = ("link add vpn0 type veth peer name vpn1", "link set vpn0 up", "link set vpn1 up")


@pytest.fixture
def probed(world: World, pod: Host) -> Iterator[None]:
    """Have the node probe the pod, with the sources that Weir gives to probes."""
    with Probing(world.node) as life, EchoServer(pod, PROBED):
        life.put("a", pod.v4, pod.v6)
        yield


def probe(world: World, pod: Host, family: int) -> bool:
    """Tell whether a probe of the node is answered."""
    with contextlib.suppress(OSError):
        return exchange(world.node, (pod.address(family), PROBED), timeout=slow(1.0)).echoed == b"ping"
    return False


def ip(family: int) -> str:
    return "-4" if family == socket.AF_INET else "-6"


def source(family: int) -> str:
    return next(str(each) for each in PROBE_SOURCES if (each.version == 6) == (family == socket.AF_INET6))


@FAMILIES
def test_a_healthy_way_is_no_finding(world: World, pod: Host, probed: None, family: int) -> None:
    assert probe(world, pod, family)
    diagnosis = examined(world.node, *world.pods)
    assert not found(diagnosis, "probe-reply")
    assert not [each for each in world.pods if found(diagnosis, "probe-reply", each)]


@FAMILIES
def test_a_policy_route_of_the_pod_s_interface_steals_replies(
    world: World, pod: Host, probed: None, family: int
) -> None:
    """As AWS' network has it for pods with security groups: a rule for the interface, and the table local after it."""
    gateway = world.outside.address(family)
    for line in (
        "rule add pref 20 lookup local",
        "rule add pref 10 iif pod1 lookup 101",
        f"route add default via {gateway} table 101",
        "rule del pref 0 lookup local",
    ):
        world.node.command("ip", ip(family), *line.split())
    assert not probe(world, pod, family)
    (stolen,) = found(examined(world.node, pod), "probe-reply")
    assert stolen.level == "error"
    assert "arrives by pod1" in stolen.what
    assert "rule 10: from all iif pod1 lookup 101" in stolen.what
    mend(world.node, [stolen])
    assert probe(world, pod, family)
    assert not found(examined(world.node, pod), "probe-reply")


def test_a_reply_that_rp_filter_drops(world: World, pod: Host, probed: None) -> None:
    world.node.ip("rule add pref 50 from 10.0.1.1 to 10.0.1.2 lookup 102", "route add default via 10.99.0.2 table 102")
    world.node.sysctl("net/ipv4/conf/pod1/rp_filter", 1)
    assert not probe(world, pod, socket.AF_INET)
    (dropped,) = found(examined(world.node, pod), "probe-reply")
    assert "rp_filter on pod1" in dropped.what
    world.node.ip("rule del pref 50")
    assert probe(world, pod, socket.AF_INET)
    assert not found(examined(world.node, pod), "probe-reply")


@FAMILIES
@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_a_rule_in_the_pod_that_refuses_replies(world: World, pod: Host, probed: None, family: int, kind: str) -> None:
    pod.command("ip", ip(family), "rule", "add", "pref", "99", "to", source(family), kind)
    assert not probe(world, pod, family)
    (refused,) = found(examined(world.node, pod), "probe-reply", pod)
    assert f"rule 99: from all to {source(family)}" in refused.what
    assert kind in refused.what
    assert refused.level == ("error" if family == socket.AF_INET else "warning")
    pod.command("ip", ip(family), "rule", "del", "pref", "99")
    assert probe(world, pod, family)
    assert not found(examined(world.node, pod), "probe-reply", pod)


@FAMILIES
def test_a_second_network_in_the_pod_takes_replies(world: World, pod: Host, probed: None, family: int) -> None:
    pod.ip(*VPN)
    pod.command("ip", ip(family), "route", "add", source(family), "dev", "vpn0")
    assert not probe(world, pod, family)
    (taken,) = found(examined(world.node, pod), "probe-reply", pod)
    assert "leaves by vpn0, and the node is behind eth0" in taken.what
    pod.command("ip", ip(family), "route", "del", source(family), "dev", "vpn0")
    assert probe(world, pod, family)


def test_a_default_route_elsewhere_takes_replies_too(world: World, pod: Host, probed: None) -> None:
    """What is for far away goes there as well, so it is no measure."""
    pod.ip(*VPN, "route add 128.0.0.0/1 dev vpn0")
    assert not probe(world, pod, socket.AF_INET)
    (taken,) = found(examined(world.node, pod), "probe-reply", pod)
    assert "leaves by vpn0" in taken.what


def test_a_link_local_route_asks_the_link_for_the_probe_s_source(world: World, pod: Host, probed: None) -> None:
    pod.ip("route add 169.254.0.0/16 dev eth0 scope link")
    assert not probe(world, pod, socket.AF_INET)
    (asked,) = found(examined(world.node, pod), "probe-reply", pod)
    assert asked.level == "warning"
    assert "on the link eth0 itself" in asked.what
    mend(world.node, [asked])
    assert probe(world, pod, socket.AF_INET)
    assert not found(examined(world.node, pod), "probe-reply", pod)
