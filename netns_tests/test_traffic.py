"""The harness against rules written by hand: it tells the truth about a redirection that isn't Weir's."""

import os
import re
import signal
import socket
from collections.abc import Iterator

import pytest

from netns_tests import dns
from netns_tests.by_hand import redirect_by_hand, undo_by_hand
from netns_tests.proxy import DNS_ANSWER, HBONE_ANSWER, INBOUND, OUTBOUND, Proxy
from netns_tests.proxy_process import ProxyProcess
from netns_tests.servers import DNS_SERVER_ANSWER
from netns_tests.tap import _assemble
from netns_tests.traffic import (
    DnsServer,
    EchoServer,
    Hammer,
    HttpServer,
    Stream,
    Tap,
    UdpEchoServer,
    connect,
    dns_ask,
    exchange,
    hammer,
    http_get,
    udp_ask,
)
from netns_tests.world import Host, World, eventually

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
USER = 4711
MARK = 0x539
# Whatever the user sends bears the proxy mark before any other chain looks at it.
USER_TO_MARK = """table inet by-user {
    chain output {
        type filter hook output priority -301
        meta skuid 4711 meta mark set 0x539
    }
}"""


@pytest.fixture
def pod(world: World) -> Host:
    return world.pods[0]


@pytest.fixture
def proxy(pod: Host) -> Iterator[Proxy]:
    """Give a test a proxy to which the pod's traffic is redirected."""
    with Proxy(pod) as running:
        redirect_by_hand(pod)
        yield running


def in_the_way(world: World, rule: str) -> None:
    """Put a rule on the way between the pods and the outside."""
    world.node.nft(
        f"table inet in-the-way {{\n chain forward {{\n  type filter hook forward priority 0\n  {rule}\n }}\n}}"
    )


@FAMILIES
def test_outbound_goes_through_the_proxy_to_where_it_was_going(
    world: World, pod: Host, proxy: Proxy, family: int
) -> None:
    with EchoServer(world.outside) as server:
        target = (world.outside.address(family), server.port)
        found = exchange(pod, target)
        assert not found.direct
        assert found.echoed == b"ping"
        assert server.peers == [found.seen]
        assert proxy.captured.find("outbound", client=found.local, original=target)


@FAMILIES
@pytest.mark.parametrize("keep_source", [True, False])
def test_inbound_reaches_the_application_with_the_clients_address(
    world: World, pod: Host, family: int, keep_source: bool
) -> None:
    with Proxy(pod, keep_source=keep_source) as proxy, EchoServer(pod, 8080):
        redirect_by_hand(pod)
        target = (pod.address(family), 8080)
        for client in (world.outside, world.pods[1]):
            found = exchange(client, target)
            assert not found.direct
            assert found.echoed == b"ping"
            loopback = "127.0.0.1" if family == socket.AF_INET else "::1"
            assert found.seen[0] == (client.address(family) if keep_source else loopback)
            assert proxy.captured.find("inbound", client=found.local, original=target)


@FAMILIES
def test_a_proxy_known_by_its_user(world: World, pod: Host, family: int) -> None:
    pod.nft(USER_TO_MARK)
    with Proxy(pod, mark=None, user=USER) as proxy, EchoServer(pod, 8080), EchoServer(world.outside) as server:
        redirect_by_hand(pod)
        assert not exchange(pod, (world.outside.address(family), server.port)).direct
        assert exchange(world.outside, (pod.address(family), 8080)).seen[0] == world.outside.address(family)
        assert [entry.direction for entry in proxy.captured] == ["outbound", "inbound"]


@FAMILIES
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_dns_is_answered_by_the_proxy(world: World, pod: Host, proxy: Proxy, family: int, tcp: bool) -> None:
    with DnsServer(world.outside):
        server = (world.outside.address(family), 53)
        assert dns_ask(pod, server, "a.weir.test", tcp=tcp) == [DNS_ANSWER[dns.A]]
        assert dns_ask(pod, server, kind=dns.AAAA, tcp=tcp, source_port=5353) == [DNS_ANSWER[dns.AAAA]]
        assert dns_ask(pod, server, tcp=tcp, mark=MARK) == [DNS_SERVER_ANSWER[dns.A]]
    assert [entry.name for entry in proxy.captured.find("dns")] == ["a.weir.test", "weir.test"]


@FAMILIES
def test_dns_that_the_proxy_passes_on(world: World, pod: Host, family: int) -> None:
    server = (world.outside.address(family), 53)
    with DnsServer(world.outside) as upstream, Proxy(pod, forward_dns=server) as proxy:
        redirect_by_hand(pod)
        assert dns_ask(pod, server) == [DNS_SERVER_ANSWER[dns.A]]
        assert dns_ask(pod, server, tcp=True) == [DNS_SERVER_ANSWER[dns.A]]
        assert len(upstream.peers) == len(proxy.captured.find("dns")) == 2


@FAMILIES
def test_without_rules_everything_is_direct(world: World, pod: Host, proxy: Proxy, family: int) -> None:
    undo_by_hand(pod)
    address = world.outside.address(family)
    with HttpServer(world.outside, name="outside"), UdpEchoServer(world.outside) as udp, DnsServer(world.outside):
        answered = http_get(pod, (address, 80), "/path")
        assert answered == {"server": "outside", "path": "/path", "peer": answered["local"], "local": answered["local"]}
        assert udp_ask(pod, (address, udp.port), b"data", source_port=4711) == b"data"
        assert udp.peers == [(pod.address(family), 4711)]
        assert dns_ask(pod, (address, 53)) == [DNS_SERVER_ANSWER[dns.A]]
    assert len(proxy.captured) == 0


@FAMILIES
def test_who_reaches_the_proxys_ports_directly(world: World, pod: Host, family: int) -> None:
    with Proxy(pod) as proxy:
        for port in (OUTBOUND, INBOUND):
            # The reset may be there before connect returns.
            with pytest.raises(ConnectionResetError), connect(world.outside, (pod.address(family), port)) as stray:
                stray.recv(1)
        with connect(world.outside, (pod.address(family), 15008)) as hbone:
            assert hbone.recv(100) == HBONE_ANSWER
        assert [entry.direction for entry in proxy.captured] == ["stray", "stray", "hbone"]


def test_an_application_that_is_not_there_is_an_error_for_the_client(world: World, pod: Host, proxy: Proxy) -> None:
    with pytest.raises(ConnectionResetError), connect(world.outside, (pod.v4, 8080)) as client:
        client.recv(1)


def test_clients_with_a_mark_and_a_user(world: World, pod: Host) -> None:
    pod.nft("""table inet refuse {
        chain output {
            type filter hook output priority 0
            meta skuid 4711 reject with tcp reset
            meta mark 0x77 reject with tcp reset
        }
    }""")
    with EchoServer(world.outside) as server:
        target = (world.outside.v4, server.port)
        assert exchange(pod, target).direct
        for user, mark in ((USER, None), (None, 0x77)):
            with pytest.raises(ConnectionRefusedError):
                exchange(pod, target, user=user, mark=mark)
            assert hammer(pod, target, count=3, user=user, mark=mark).failed == {"ECONNREFUSED": 3}


@FAMILIES
def test_hammer_counts_what_the_proxy_and_the_server_saw(world: World, pod: Host, proxy: Proxy, family: int) -> None:
    with EchoServer(world.outside) as server, EchoServer(pod, 8080):
        out = hammer(pod, (world.outside.address(family), server.port), count=300)
        into = hammer(world.pods[1], (pod.address(family), 8080), count=300)
        around = hammer(pod, (world.outside.address(family), server.port), count=50, mark=MARK)
    assert (out.captured, into.captured, around.direct) == (300, 300, 50), f"{out}; {into}; {around}"
    assert len(proxy.captured) == 600
    assert out.contradicted(proxy.captured) == []
    proxy.captured.clear()
    assert len(out.contradicted(proxy.captured)) == 300


def test_hammer_says_how_connections_fail(world: World, pod: Host) -> None:
    assert hammer(pod, (world.outside.v6, 1), count=5).failed == {"ECONNREFUSED": 5}
    in_the_way(world, "tcp dport 1 drop")
    assert hammer(pod, (world.outside.v6, 1), count=5, timeout=0.2).failed == {"timeout": 5}


def test_hammer_sees_a_pod_being_enrolled(world: World, pod: Host) -> None:
    with EchoServer(world.outside) as server, Proxy(pod) as proxy:
        # These rules break what is under way, and a client that only waits for an answer isn't even reset: it hangs.
        with Hammer(pod, (world.outside.v4, server.port), timeout=0.5) as running:
            eventually(lambda: len(running) > 100, "connections before the rules")
            redirect_by_hand(pod)
            before = len(running)
            eventually(lambda: len(running) > before + 100, "connections after them")
            result = running.result()
        assert result.direct >= 100
        assert result.captured >= 100 - 8
        assert result.contradicted(proxy.captured) == []


@FAMILIES
def test_a_stream_proves_that_nothing_was_lost(world: World, pod: Host, proxy: Proxy, family: int) -> None:
    with (
        Stream(pod, world.outside, (world.outside.address(family), 0), interval=0, size=50_000) as fast,
        Stream(world.outside, pod, (pod.address(family), 0)) as inbound,
        Stream(pod, world.pods[1], (world.pods[1].address(family), 0), interval=None, mark=MARK) as idle,
    ):
        eventually(lambda: min(fast.received) > 4_000_000, "megabytes both ways")
        assert [stream.captured for stream in (fast, inbound, idle)] == [True, True, False]
        assert [stream.outcome() for stream in (fast, inbound, idle)] == ["alive"] * 3
        assert idle.received == (1024, 1024)
        assert proxy.streams == 2
        assert fast.finish() > 8_000_000
        assert inbound.finish() > 2 * 1024
        assert idle.finish() == 2 * 1024
    eventually(lambda: proxy.streams == 0, "the proxy lets ended streams go")


def test_a_stream_says_how_it_broke(world: World, pod: Host, proxy: Proxy) -> None:
    target = (world.outside.v4, 0)
    with Stream(pod, world.outside, target) as lost:
        in_the_way(world, "oifname outside drop")
        assert lost.outcome(0.5) == "client alive, server hang"  # the rule drops one direction only
        with pytest.raises(AssertionError, match="no end came"):
            lost.finish(0.2)
    world.node.nft("delete table inet in-the-way")
    with Stream(pod, world.outside, target, interval=None) as corrupt:
        corrupt._ends[0].sock.send(b"x")
        assert corrupt.outcome(0.5).endswith("server corrupt")
    with Stream(pod, world.outside, target, interval=None) as refused:
        in_the_way(world, "meta l4proto tcp reject with tcp reset")
        assert "client ECONNRESET" in refused.outcome()
    world.node.nft("delete table inet in-the-way")
    with Stream(pod, world.outside, target) as ended:
        proxy.stop()
        # A close with unread data is a reset, so each end may see either.
        assert re.fullmatch("client (EOF|ECONNRESET|EPIPE), server (EOF|ECONNRESET|EPIPE)", ended.outcome())


def test_a_tap_sees_what_is_on_the_wire_and_only_that(world: World, pod: Host, proxy: Proxy) -> None:
    with (
        Tap(pod, "eth0") as wire,
        Stream(pod, world.outside, (world.outside.v6, 0)) as captured,
        Stream(pod, world.outside, (world.outside.v6, 0), mark=MARK) as direct,
    ):
        assert (captured.outcome(), direct.outcome()) == ("alive", "alive")
        # The test proxy doesn't encrypt: its own connection shows the marker, the client's must not be there.
        assert wire.payload(source=captured.local) == b""
        assert wire.connections(source=captured.local) == []
        assert len(wire.connections(source=captured.seen, target=captured.target)) == 1
        assert direct.marker in wire.payload(source=direct.local, target=direct.target)
        assert direct.marker in wire.payload(source=direct.target, target=direct.local)
        assert wire.saw(captured.marker)
        assert not wire.saw(os.urandom(16))


def test_a_tap_puts_segments_in_order() -> None:
    assert _assemble({5: b"five", 1: b"onex", 12: b"."}) == b"onexfive\0\0\0."
    assert _assemble({2**32 - 2: b"ab", 0: b"cd", 2: b"e"}) == b"abcde"


def test_proxies_side_by_side_and_a_drain(world: World, pod: Host) -> None:
    with EchoServer(world.outside) as server, Proxy(pod) as old, Proxy(pod) as new:
        redirect_by_hand(pod)
        target = (world.outside.v4, server.port)
        with Stream(pod, world.outside, (world.outside.v4, 0)) as stream:
            assert hammer(pod, target, count=200).captured == 200
            assert len(old.captured) > 10
            assert len(new.captured) > 10
            carrier, other = (old, new) if old.streams else (new, old)
            carrier.close_listeners()
            before = len(carrier.captured)
            assert hammer(pod, target, count=100).captured == 100
            assert len(carrier.captured) == before
            assert stream.outcome() == "alive"
            stream.finish()
            carrier.stop(drain=5)
            assert exchange(pod, target).seen == server.peers[-1]
            assert other.captured.find(original=target)


def test_a_proxy_process_that_is_killed(world: World, pod: Host) -> None:
    with EchoServer(world.outside) as server, ProxyProcess(pod) as proxy:
        redirect_by_hand(pod)
        result = hammer(pod, (world.outside.v4, server.port), count=200)
        assert result.captured == 200
        eventually(lambda: len(proxy.captured) == 200, "the process's log arrives")
        assert result.contradicted(proxy.captured) == []
        with Stream(pod, world.outside, (world.outside.v4, 0)) as stream:
            assert stream.outcome() == "alive"
            proxy.stop(signal.SIGKILL)
            assert "alive" not in stream.outcome()
        with pytest.raises(ConnectionRefusedError):
            exchange(pod, (world.outside.v4, server.port))
