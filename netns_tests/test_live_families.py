"""Where IPv6 is off, or off on `lo` alone, or left out: what becomes of its connections, and the words for it."""

from contextlib import ExitStack

import pytest

from agent.targets import State
from netns_tests.enrolling import Weir, alive, every_way, kernel_state, ways
from netns_tests.proxy import Proxy
from netns_tests.traffic import EchoServer, Tap, exchange
from netns_tests.world import Host, World

CAPTURED = ["captured"] * 4
IPV4_ONLY, IPV4_AND_DIRECT = ["captured"] * 2 + ["refused"] * 2, ["captured"] * 2 + ["direct"] * 2
IPV6_AND_REFUSED = ["refused"] * 2 + ["captured"] * 2
LO, EVERYWHERE = "net/ipv6/conf/lo/disable_ipv6", "net/ipv6/conf/all/disable_ipv6"
# Every wish that leaves IPv6 out where the namespace has it, or can't have it, and what is said.
UNCAPTURABLE = pytest.mark.parametrize(
    ("off_on_lo", "families", "words"),
    [
        (True, None, "IPv6 is off on lo only, so it can't be captured"),
        (True, ["ipv4", "ipv6"], "IPv6 is off on lo only, so it can't be captured"),
        (False, ["ipv4"], "ipv6 is not among families"),
        (True, ["ipv4"], "ipv6 is not among families"),
    ],
    ids=["off on lo", "off on lo, both wanted", "left out", "off on lo and left out"],
)


def wish(families: list[str] | None, **values: object) -> dict[str, object]:
    return values if families is None else {**values, "families": families}


@UNCAPTURABLE
def test_what_cannot_be_captured_is_refused_and_never_leaves(
    world: World, pod: Host, weir: Weir, off_on_lo: bool, families: list[str] | None, words: str
) -> None:
    if off_on_lo:
        pod.sysctl(LO, 1)
    before = kernel_state(pod)
    with Proxy(pod), Tap(pod, "eth0") as wire:
        for _ in range(2):  # it stays degraded when there is nothing to change
            outcome = weir.capture(**wish(families))
            assert outcome.state is State.DEGRADED
            assert f"{words}: its connections are refused" in outcome.reason
            assert ("no answer" in outcome.reason) == off_on_lo
            assert outcome.captured  # what is refused goes around nobody
        assert not outcome.plan
        # A reset for a process of the namespace itself would come by `lo`, which drops it where it has no IPv6.
        if off_on_lo:
            assert ways(world, pod, timeout=0.5) == ["captured", "captured", "hanging", "refused"]
        else:
            assert ways(world, pod) == IPV4_ONLY
        assert not [each for each in wire.connections() if each.source[0] == pod.v6]
        weir.remove()
        assert ways(world, pod) == ["direct"] * 4
    assert kernel_state(pod) == before


@UNCAPTURABLE
def test_or_left_direct_if_that_is_wanted(
    world: World, pod: Host, weir: Weir, off_on_lo: bool, families: list[str] | None, words: str
) -> None:
    if off_on_lo:
        pod.sysctl(LO, 1)
    with Proxy(pod):
        outcome = weir.capture(**wish(families, uncapturable="direct"))
        assert outcome.state is State.DEGRADED
        assert f"{words}: its connections are direct, outside the mesh" in outcome.reason
        assert not outcome.captured
        assert ways(world, pod) == IPV4_AND_DIRECT


def test_ipv6_alone(world: World, pod: Host, weir: Weir) -> None:
    with Proxy(pod):
        outcome = weir.capture(families=["ipv6"])
        assert (outcome.state, "ipv4 is not among families" in outcome.reason) == (State.DEGRADED, True)
        assert ways(world, pod) == IPV6_AND_REFUSED
        pod.sysctl(LO, 1)
        before = kernel_state(pod)
        failed = weir.capture(families=["ipv6"])
        assert failed.state is State.FAILED
        assert "IPv6 is off on lo only, so nothing can be captured" in failed.reason
        assert LO.replace("/", ".") in failed.hint
        assert kernel_state(pod) == before


def test_streams_of_a_refused_family_are_kept_and_counted(world: World, pod: Host, weir: Weir) -> None:
    pod.sysctl(LO, 1)
    with Proxy(pod), ExitStack() as stack:
        old = every_way(stack, world, pod, interval=None)
        assert weir.capture().kept == 4
        assert alive(old) == ["alive"] * 4


def test_ipv6_off_in_the_namespace_is_no_trouble(world: World, pod: Host, weir: Weir) -> None:
    pod.sysctl(EVERYWHERE, 1)
    before = kernel_state(pod)
    with Proxy(pod), EchoServer(world.outside) as server:
        outcome = weir.capture()
        assert outcome.state is State.APPLIED, outcome.reason
        assert not exchange(pod, (world.outside.v4, server.port)).direct
        assert weir.capture().state is State.UNCHANGED
        only = weir.capture(families=["ipv6"])
        assert only.state is State.DEGRADED
        assert "families names only ipv6: IPv6 is off in the namespace" in only.reason
        weir.remove()
    assert kernel_state(pod) == before


def test_ipv6_that_comes_later_is_captured_from_the_next_reconcile_on(world: World, pod: Host, weir: Weir) -> None:
    pod.sysctl(EVERYWHERE, 1)
    with Proxy(pod):
        weir.capture()
        assert "proto 119" in pod.command("ip", "-4", "rule")
        assert "proto 119" not in pod.command("ip", "-6", "rule")
    pod.sysctl(EVERYWHERE, 0)
    pod.ip(f"addr add {pod.v6}/64 dev eth0 nodad", "route add ::/0 via fd00:1::1")
    with Proxy(pod):
        outcome = weir.capture()
        assert outcome.state is State.APPLIED
        assert outcome.plan is not None
        assert "ip -6 rule" in outcome.plan.describe()
        assert ways(world, pod) == CAPTURED


@pytest.mark.parametrize("how", ["ipv6", "lo"])
def test_routes_that_a_toggle_took_come_back(world: World, pod: Host, weir: Weir, how: str) -> None:
    with Proxy(pod):
        weir.capture()
        applied = kernel_state(pod)
        for _ in range(3):
            if how == "lo":
                pod.ip("link set lo down")
                down = weir.capture()
                assert down.state in (State.FAILED, State.DEGRADED)
                pod.ip("link set lo up")
            else:
                pod.sysctl(LO, 1)
                pod.sysctl(LO, 0)
            assert kernel_state(pod) != applied, "the kernel took routes away"
            again = weir.capture()
            assert (again.state, bool(again.plan)) == (State.APPLIED, True), again.reason
            assert again.plan is not None
            assert not again.plan.rules
            assert kernel_state(pod) == applied
            assert ways(world, pod) == CAPTURED


def test_captured_streams_survive_a_toggle(world: World, pod: Host, weir: Weir) -> None:
    with Proxy(pod), ExitStack() as stack:
        weir.capture()
        streams = every_way(stack, world, pod)[:2]  # those over IPv4
        assert all(stream.captured for stream in streams)
        pod.sysctl(LO, 1)
        assert weir.capture().state is State.DEGRADED
        assert alive(streams) == ["alive"] * 2
        pod.sysctl(LO, 0)
        assert weir.capture().state is State.APPLIED
        assert alive(streams) == ["alive"] * 2
