"""Whatever is left of Weir in a namespace, a removal takes it away, without a word of complaint."""

import dataclasses
import random
import socket
import struct
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.kernel import routing
from agent.targets import State
from netns_tests.captured import Address, plain
from netns_tests.enrolling import Weir, alive, capture, every_way, kernel_state, ways
from netns_tests.proxy import Proxy
from netns_tests.traffic import DnsServer, EchoServer, Stream, connect, dns_ask
from netns_tests.world import Host, World
from rulesets import pod as pods
from rulesets import routing as routes
from rulesets.capture import Capture
from rulesets.diff import diff
from rulesets.pod import Stage
from rulesets.routing import NO_ROUTING, RoutingPlan
from rulesets.vocabulary import Family

# All that Weir puts into a namespace, each with the command that takes it away.
PARTS = {
    "IPv4 rule": "ip -4 rule del pref 32764",
    "IPv6 rule": "ip -6 rule del pref 32764",
    "IPv4 route": "ip -4 route flush table 100",
    "IPv6 route": "ip -6 route flush table 100",
    "nat-pre": "nft delete chain inet weir-pod nat-pre",
    "nat-out": "nft delete chain inet weir-pod nat-out",
    "mangle-out": "nft delete chain inet weir-pod mangle-out",
    "raw-out": "nft delete chain inet weir-pod raw-out",
    "rules": "nft flush table inet weir-pod",
    "table": "nft delete table inet weir-pod",  # the last: the chains are in it
}
WISHES = [
    capture(),
    capture(dns=False),
    capture(inbound=False, dns=False),
    capture(families=["ipv6"], exclude_outbound_ports=[9], virtual_interfaces=["guest0"]),
    capture(proxy_user=4711, connection_mark="0x777/0xfff"),
]


def subsets(number: int) -> list[list[str]]:
    chance = random.Random(4711)
    alone = [[name] for name in PARTS]
    return [[], *alone, list(PARTS), *(chance.sample(list(PARTS), chance.randint(2, 6)) for _ in range(number))]


def test_any_part_may_be_missing(world: World, tmp_path: Path) -> None:
    pod = world.pods[0]
    before = kernel_state(pod)
    with Proxy(pod), Weir(pod, tmp_path) as weir:
        for number, missing in enumerate(subsets(20)):
            wanted = WISHES[number % len(WISHES)]
            assert weir.capture(wanted).state in (State.APPLIED, State.DEGRADED)
            for name, command in PARTS.items():
                if name in missing:
                    # Some wishes have no such part.
                    pod.command("sh", "-c", f"{command} 2>&1 || true")
            if number % 3 == 2:
                weir.records.forget(weir.handle.netns.identity)
            removed = weir.remove(drain=float(number % 2) * 60)
            assert removed.state in (State.REMOVED, State.UNCHANGED), f"{missing}: {removed.reason}"
            assert kernel_state(pod) == before, missing
            assert weir.remove().state is State.UNCHANGED


@pytest.mark.parametrize("stage", list(Stage))
def test_whichever_stage_a_killed_weir_has_left(world: World, tmp_path: Path, stage: Stage) -> None:
    pod = world.pods[0]
    before = kernel_state(pod)
    with Proxy(pod), Weir(pod, tmp_path) as weir:
        for again in (False, True):
            weir.call(weir.handle.apply, diff(None, pods.build(Capture(), stage=stage)))
            if again:
                assert weir.capture().state in (State.APPLIED, State.UNCHANGED)
                assert ways(world, pod) == ["captured"] * 4
            assert weir.remove().state is State.REMOVED
            assert kernel_state(pod) == before


def test_a_killed_transition_is_taken_up(world: World, tmp_path: Path) -> None:
    pod = world.pods[0]
    with Proxy(pod) as proxy, Weir(pod, tmp_path) as weir, ExitStack() as stack:
        old = every_way(stack, world, pod, interval=None)
        pod.run(routing.apply, RoutingPlan(actual=NO_ROUTING, desired=routes.build(Capture(), tuple(Family))))
        weir.call(weir.handle.apply, diff(None, pods.build(Capture(), stage=Stage.TRANSITION)))
        assert alive(old) == ["alive"] * 4
        captured = every_way(stack, world, pod, interval=None)
        assert weir.capture().kept == len(old)
        assert alive(old + captured) == ["alive"] * 8
        assert proxy.streams == len(captured)


def test_what_a_killed_weir_had_not_seen_to_is_made_up_for(world: World, tmp_path: Path) -> None:
    # Killed when the rules were written and neither queries forgotten nor streams marked: the rules look right.
    pod, server = world.pods[0], (world.outside.v4, 53)
    excluded = capture(exclude_outbound_networks=["10.99.0.0/24"], dns=False)
    with ExitStack() as stack:
        stack.enter_context(Proxy(pod))
        stack.enter_context(DnsServer(world.outside))
        weir = stack.enter_context(Weir(pod, tmp_path))
        identity = weir.handle.netns.identity
        weir.capture(excluded)
        stream = stack.enter_context(Stream(pod, world.outside, (world.outside.v4, 0)))
        direct = dns_ask(pod, server, source_port=5353)
        assert not stream.captured
        known = weir.records.read(identity, weir.handle.cookie)
        assert known is not None
        weir.records.write(identity, dataclasses.replace(known, settled=False))
        weir.call(weir.handle.apply, diff(pods.build(excluded), pods.build(Capture())))
        assert dns_ask(pod, server, source_port=5353) == direct
        outcome = weir.capture()
        assert (outcome.state, outcome.kept) == (State.UNCHANGED, 1)
        assert dns_ask(pod, server, source_port=5353) != direct
        assert stream.outcome() == "alive"


def from_port(pod: Host, target: Address) -> socket.socket:
    """Connect from a fixed port; the close is a reset, so that the port is free at once."""
    sock = connect(pod, target, source=(pod.v4, 30000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return sock


def is_direct(sock: socket.socket) -> bool:
    return sock.recv(100) == "{} {}\n".format(*plain(sock.getsockname())).encode()


def test_entries_from_before_somebody_flushed_the_rules_mislead_nobody(world: World, tmp_path: Path) -> None:
    # Without rules nothing tracks what becomes of the ports, and the entries wait, for up to five days.
    pod = world.pods[0]
    with Proxy(pod) as proxy, EchoServer(world.outside) as server, Weir(pod, tmp_path) as weir:
        target = (world.outside.v4, server.port)
        with from_port(pod, target) as direct:
            assert is_direct(direct)
            assert weir.capture().kept == 1
            pod.nft("flush ruleset")
        assert [flow for flow in weir.flows() if flow.original.source_port == 30000]
        assert weir.capture().kept == 0
        with from_port(pod, target) as captured:
            assert not is_direct(captured)
            pod.nft("flush ruleset")
        # Nobody told the proxy; its stream would hold on to the entry.
        assert weir.capture().state is State.APPLIED
        assert weir.remove().state is State.REMOVED
        with from_port(pod, target) as direct:
            assert is_direct(direct)
            assert weir.capture().kept == 1
            direct.sendall(b"still direct")
            assert direct.recv(100) == b"still direct"
            assert proxy.captured.find(original=target)
