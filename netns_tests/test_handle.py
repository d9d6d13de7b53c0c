"""The handle on a real namespace: what moves its generation, what wakes its sockets, and that it lets go."""

import gc
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.errors import KernelError, NamespaceMissing
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from netns_tests.kernel_tables import thread_cookie
from netns_tests.namespace import Namespace
from netns_tests.world import World, eventually
from rulesets import pod
from rulesets.capture import Capture
from rulesets.diff import diff
from rulesets.pod import POD_TABLE

RULES = pod.build(Capture())
OTHER = pod.build(Capture(dns=False, outbound_port=16001))
SECONDS = 1.0


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace.create("handle") as made:
        yield made


@pytest.fixture
def handle(namespace: Namespace) -> Iterator[Handle]:
    made = Handle(Netns(namespace.name))
    yield made
    made.close()


def drained(sockets: tuple[socket.socket, ...]) -> int:
    """How many of them had something to say, which is read away."""
    spoke = 0
    for each in sockets:
        heard = False
        while True:
            try:
                each.recv(65536)
                heard = True
            except BlockingIOError:
                break
        spoke += heard
    return spoke


def test_apply_and_read_are_one_another_s_inverse(handle: Handle) -> None:
    assert handle.read(POD_TABLE) is None
    handle.apply(diff(None, RULES))
    assert handle.read(POD_TABLE) == RULES
    handle.apply(diff(RULES, OTHER))
    assert handle.read(POD_TABLE) == OTHER
    handle.apply(diff(OTHER, None))
    assert handle.read(POD_TABLE) is None


def test_the_generation_moves_with_every_change_and_only_then(handle: Handle, namespace: Namespace) -> None:
    seen = [handle.generation()]

    def moved() -> bool:
        seen.append(handle.generation())
        return seen[-1] != seen[-2]

    assert not moved()
    handle.apply(diff(None, RULES))
    assert moved()
    handle.read(POD_TABLE)
    handle.apply(diff(RULES, RULES))
    assert not moved()
    namespace.nft("add table ip foreign")
    assert moved()
    namespace.nft("list ruleset")
    assert not moved()
    namespace.nft("flush ruleset")
    assert moved()
    with Namespace.create("elsewhere") as elsewhere:
        elsewhere.nft("add table ip foreign")
    assert not moved()


@pytest.mark.parametrize(
    "command",
    [
        "nft add table ip foreign",
        "nft add chain inet weir-pod mine",
        "nft flush ruleset",
        "ip link set lo down",
        "ip link add more type veth peer name evenmore",
        "ip route add 192.0.2.0/24 dev lo",
        "ip -6 route add fd09::/64 dev lo",
        "ip rule add fwmark 7 lookup 77",
        "ip -6 rule add fwmark 7 lookup 77",
        "sysctl -qw net.ipv6.conf.lo.disable_ipv6=1",
    ],
)
def test_what_changes_wakes_the_subscription(handle: Handle, namespace: Namespace, command: str) -> None:
    handle.apply(diff(None, RULES))
    sockets = handle.subscribe()
    assert handle.subscribe() == sockets
    drained(sockets)
    assert select.select(sockets, [], [], 0)[0] == []
    namespace.command(*command.split())
    assert select.select(sockets, [], [], SECONDS)[0], f"{command} woke nothing"
    assert drained(sockets)


def test_reading_wakes_nothing(handle: Handle, namespace: Namespace) -> None:
    handle.apply(diff(None, RULES))
    sockets = handle.subscribe()
    drained(sockets)
    handle.read(POD_TABLE)
    handle.generation()
    for command in ("nft list ruleset", "ip route", "ip rule", "ss -ta"):
        namespace.command(*command.split())
    assert select.select(sockets, [], [], 0.1)[0] == []


def test_a_closed_handle_lets_its_namespace_go() -> None:
    """The other end of the pod's link is on the node: it goes when the pod's namespace does."""
    with World(pods=1) as world:
        pod_ = world.pods[0]
        handle = Handle(Netns(pod_.name))
        handle.apply(diff(None, RULES))
        handle.subscribe()
        assert handle.generation()
        pod_.delete()
        time.sleep(0.3)
        assert "pod1" in world.node.command("ip", "link"), "an open handle pins the namespace"
        with pytest.raises(NamespaceMissing):
            handle.apply(diff(RULES, OTHER))
        handle.close()
        eventually(lambda: "pod1" not in world.node.command("ip", "link"), "the link is gone", 1.0)
        handle.close()


def test_a_closed_handle_says_so(namespace: Namespace) -> None:
    handle = Handle(Netns(namespace.name))
    handle.close()
    for use in (handle.generation, lambda: handle.read(POD_TABLE), handle.subscribe):
        with pytest.raises(KernelError, match="the handle is closed"):
            use()
    with pytest.raises(NamespaceMissing):
        handle.apply(diff(None, RULES))
    with pytest.raises(NamespaceMissing), handle.inside():
        pass


def test_a_namespace_that_went_away_is_not_written(namespace: Namespace) -> None:
    handle = Handle(Netns(namespace.name))
    namespace.delete()
    with pytest.raises(NamespaceMissing, match=namespace.name):
        handle.apply(diff(None, RULES))
    with pytest.raises(NamespaceMissing), handle.inside():
        pass
    assert handle.read(POD_TABLE) is None
    handle.close()


def test_a_hundred_handles_leave_no_descriptor(namespace: Namespace) -> None:
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    Handle(Netns(namespace.name)).close()
    before = descriptors()
    for _ in range(100):
        handle = Handle(Netns(namespace.name))
        handle.subscribe()
        handle.close()
    for _ in range(20):
        with pytest.raises(NamespaceMissing):
            Handle(Netns("wt-none"))
    assert descriptors() == before


def test_any_thread_may_use_it_while_others_do(handle: Handle, namespace: Namespace) -> None:
    """libnftables ends the process where two threads meet in one context, so this would not just fail."""
    home = Path("/proc/self/ns/net").readlink()
    handle.apply(diff(None, RULES))
    stop = threading.Event()

    def read() -> int:
        reads = 0
        while not stop.is_set():
            assert handle.read(POD_TABLE) in (RULES, OTHER)
            assert handle.generation()
            with handle.inside():
                assert thread_cookie() == handle.cookie
            reads += 1
        return reads

    def write() -> None:
        for _ in range(50):
            handle.apply(diff(RULES, OTHER))
            handle.apply(diff(OTHER, RULES))

    with ThreadPoolExecutor(4) as threads:
        readers = [threads.submit(read) for _ in range(3)]
        threads.submit(write).result(60)
        stop.set()
        assert all(each.result(60) for each in readers)
    assert handle.read(POD_TABLE) == RULES
    assert Path("/proc/self/ns/net").readlink() == home


def test_handles_of_many_namespaces_write_where_they_belong() -> None:
    namespaces = [Namespace.create("many") for _ in range(8)]
    handles = [Handle(Netns(each.name)) for each in namespaces]
    wanted = [pod.build(Capture(outbound_port=16000 + number)) for number in range(8)]
    with ThreadPoolExecutor(4) as threads:
        for handle, rules in zip(handles, wanted, strict=True):
            threads.submit(handle.apply, diff(None, rules))
    assert [each.read(POD_TABLE) for each in handles] == wanted
    for namespace, number in zip(namespaces, range(8), strict=True):
        assert f"redirect to :{16000 + number}" in namespace.command("nft", "list", "ruleset")
    for handle, namespace in zip(handles, namespaces, strict=True):
        handle.close()
        namespace.delete()
