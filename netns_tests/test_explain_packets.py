"""`weir explain --packet` against the kernel: a packet that is really sent meets just the rules that were named."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.explain import journey, live
from agent.explain.asked import read
from agent.explain.journey import End, Journey
from netns_tests.enrolling import Weir, capture
from netns_tests.namespace import Namespace
from netns_tests.proxy import Proxy
from netns_tests.servers import EchoServer
from netns_tests.tracing import Met, traced
from netns_tests.world import World

PORT = 41000
THEIRS = """
table inet theirs {
    chain known {
        tcp dport 8082 return
        tcp dport 8083 meta mark set 0x539
        udp dport 9 drop
    }
    chain first {
        type route hook output priority -160
        meta l4proto { tcp, udp } jump known
        tcp dport 8084 counter
    }
    chain guard {
        type filter hook input priority 5
        iifname "lo" tcp dport 15001 accept
    }
}
"""


@dataclass(frozen=True)
class Sent:
    """A packet, by its ends: `where` is a name of the world or an address, `mark` the socket's."""

    protocol: str
    where: str
    port: int
    end: End
    mark: int = 0
    inwards: bool = False


MATRIX = {
    "captured": Sent("tcp", "outside4", 8080, End.CAPTURED),
    "captured over IPv6": Sent("tcp", "outside6", 8080, End.CAPTURED),
    "returns to the chain before": Sent("tcp", "outside4", 8082, End.CAPTURED),
    "gets the proxy's mark": Sent("tcp", "outside4", 8083, End.DIRECT),
    "goes on after a rule that only counts": Sent("tcp", "outside6", 8084, End.CAPTURED),
    "the proxy's own": Sent("tcp", "outside4", 8080, End.DIRECT, mark=0x539),
    "to itself": Sent("tcp", "127.0.0.1", 8080, End.DELIVERED),
    "DNS": Sent("udp", "outside4", 53, End.CAPTURED),
    "UDP": Sent("udp", "outside6", 5000, End.DIRECT),
    "dropped by others": Sent("udp", "outside4", 9, End.DROPPED),
    "dropped by iptables-nft": Sent("udp", "outside4", 5001, End.DROPPED),
    "ICMP": Sent("icmp", "outside4", 0, End.DIRECT),
    "arrives": Sent("tcp", "pod4", 8080, End.CAPTURED, inwards=True),
    "arrives over IPv6": Sent("tcp", "pod6", 8080, End.CAPTURED, inwards=True),
    "arrives at the proxy's own port": Sent("tcp", "pod4", 15008, End.CAPTURED, inwards=True),
}


@pytest.fixture
def weir(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Weir]:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    pod = world.pods[0]
    with Proxy(pod), Weir(pod, tmp_path) as running, EchoServer(pod, 8080):
        running.capture()
        pod.nft(THEIRS)
        pod.command(*"iptables-nft -A OUTPUT -p udp --dport 5001 -j DROP".split())
        yield running


def address_of(world: World, where: str) -> str:
    names = {"outside4": world.outside.v4, "outside6": world.outside.v6}
    return {**names, "pod4": world.pods[0].v4, "pod6": world.pods[0].v6}.get(where, where)


def send(place: Namespace, one: Sent, source: str, to: str, stack: ExitStack) -> None:
    """Send the packet, and nothing else of that protocol to that port."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    if one.protocol == "icmp":
        opened = stack.enter_context(place.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        opened.sendto(struct.pack("!BBHHH", 8, 0, 0xF7FF, 0, 0), (to, 0))
        return
    kind = socket.SOCK_STREAM if one.protocol == "tcp" else socket.SOCK_DGRAM
    opened = stack.enter_context(place.socket(family, kind))
    opened.setblocking(False)
    if one.mark:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, one.mark)
    opened.bind((source, PORT))
    if one.protocol == "tcp":
        opened.connect_ex((to, one.port))
    else:
        with contextlib.suppress(PermissionError):  # it was dropped before it left
            opened.sendto(b"x", (to, one.port))


def asked_of(one: Sent, source: str, to: str) -> str:
    written = [f"[{each}]" if ":" in each else each for each in (source, to)]
    ends = " to ".join(written) if one.protocol == "icmp" else f"{written[0]}:{PORT} to {written[1]}:{one.port}"
    sender = "" if one.inwards else " uid=0 gid=0"
    mark = f" mark={one.mark:#x}" if one.mark else ""
    return f"{'in' if one.inwards else 'out'} {one.protocol} {ends}{mark}{sender}"


def rules_of(found: Journey) -> list[Met]:
    """Return the rules that were named, as a trace has them."""

    def one(place: str, chain: str, handle: int) -> Met:
        if place == "iptables-nft":
            table, _, name = chain.partition("/")
            return f"ip {table}", name, handle
        return place.removeprefix("table "), chain, handle

    return [one(each.table, each.chain, each.handle) for each in found.steps if each.table and each.line]


@pytest.mark.parametrize("name", MATRIX)
def test_a_packet_meets_the_rules_that_were_named(world: World, weir: Weir, name: str) -> None:
    one, pod = MATRIX[name], world.pods[0]
    to = address_of(world, one.where)
    sender = world.pods[1] if one.inwards else pod
    source = "127.0.0.1" if to == "127.0.0.1" else sender.v6 if ":" in to else sender.v4
    of_tcp = f"tcp sport {PORT} tcp dport {one.port} tcp flags & (syn | ack) == syn"
    match = {"tcp": of_tcp, "udp": f"udp sport {PORT}", "icmp": "icmp type echo-request"}[one.protocol]
    with traced(pod, match) as trace, ExitStack() as stack:
        asked = read(asked_of(one, source, to))
        rules = weir.call(live.read, weir.handle, "weir-pod")
        found = weir.call(journey.travel, asked, weir.handle, rules, capture())
        foretold = [each for each in rules_of(found) if each[0] != "inet test-trace"]
        send(sender, one, source, to, stack)
        assert trace.met(at_least=len(foretold)) == foretold, found
    assert found.end is one.end, found.said


def test_a_connection_that_is_established_is_walked_with_its_entry(world: World, weir: Weir) -> None:
    pod, to = world.pods[0], world.outside.v4
    with EchoServer(world.outside, 8080), pod.socket(socket.AF_INET) as opened:
        opened.connect((to, 8080))
        source, port = opened.getsockname()
        rules = weir.call(live.read, weir.handle, "weir-pod")
        asked = read(f"out tcp {source}:{port} to {to}:8080 established uid={os.getuid()}")
        found = weir.call(journey.travel, asked, weir.handle, rules, capture())
    assert (found.end, found.arrives) == (End.CAPTURED, "127.0.0.1:15001")
    assert any("its connection is tracked" in each for each in found.notes)


def test_what_can_t_be_walked_is_unknown_and_shown(world: World, weir: Weir) -> None:
    script = "add table ip odd; add chain ip odd o { type filter hook output priority -300; };"
    world.pods[0].nft(f"{script} add rule ip odd o tcp dport 8099 numgen random mod 2 == 0 drop")
    rules = weir.call(live.read, weir.handle, "weir-pod")
    found = weir.call(journey.travel, read("out tcp 10.99.0.2:8099"), weir.handle, rules, capture())
    assert found.end is End.UNKNOWN
    last = found.steps[-1]
    assert (last.table, last.chain, last.known) == ("table ip odd", "o", False)
    assert "numgen" in last.text
    assert last.did.removeprefix("unknown from here: ") in found.said


def test_where_there_is_no_route_nothing_is_met(world: World, weir: Weir) -> None:
    world.pods[0].command("ip", "-6", "route", "del", "default")
    rules = weir.call(live.read, weir.handle, "weir-pod")
    found = weir.call(journey.travel, read("out tcp [2001:db8::7]:443"), weir.handle, rules, capture())
    assert found.end is End.NO_ROUTE
    assert "ENETUNREACH" in found.said
