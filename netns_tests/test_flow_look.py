"""A look at a namespace's connections: captured and direct, who is at the other end, and what is about to break."""

import socket
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.flows import look as looking
from agent.flows.look import Look, look, words
from agent.flows.peers import top_peers
from agent.kernel.conntrack import Conntrack, FlowTuple
from netns_tests.command import Command
from netns_tests.enrolling import Weir, alive, capture, every_way, slow
from netns_tests.proxy import Proxy
from netns_tests.traffic import Stream
from netns_tests.world import Host, World, eventually

ESTABLISHED = "net/netfilter/nf_conntrack_tcp_timeout_established"


def looked(weir: Weir) -> Look:
    return weir.call(look, weir.handle, capture())


def test_captured_and_direct_connections_are_told_apart(
    world: World, pod: Host, weir: Weir, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(pod), ExitStack() as stack:
        assert looked(weir).states == dict.fromkeys(looking.STATES, 0)
        kept = every_way(stack, world, pod)
        weir.capture()
        through = every_way(stack, world, pod)
        assert alive([*kept, *through]) == ["alive"] * 8
        by_sockets = looked(weir)
        assert (by_sockets.captured, by_sockets.direct) == (4, 4)
        assert by_sockets.states["established"] >= 8
        assert sum(by_sockets.silences) == 8
        assert not by_sockets.listed
        assert "4 captured, 4 direct" in words(by_sockets)[0]

        monkeypatch.setattr(looking, "UNEXPLAINED", -(10**6))  # as where a namespace forwards
        by_entries = looked(weir)
        assert by_entries.listed
        assert by_entries.captured == 4
        assert by_entries.states["established"] == by_sockets.states["established"]


@pytest.mark.parametrize(
    ("outbound", "family"), [(True, socket.AF_INET), (False, socket.AF_INET6)], ids=["outbound", "inbound"]
)
def test_a_silent_stream_is_told_of_before_its_entry_runs_out(
    world: World, pod: Host, weir: Weir, outbound: bool, family: int
) -> None:
    client, server = (pod, world.outside) if outbound else (world.pods[1], pod)
    with Proxy(pod), ExitStack() as stack:
        weir.capture()
        pod.sysctl(ESTABLISHED, 20)
        talking = stack.enter_context(Stream(client, server, (server.address(family), 0), interval=0.1))
        silent = stack.enter_context(Stream(client, server, (server.address(family), 0), interval=None))
        port = silent.target[1]

        def told() -> list[str]:
            return [str(each) for each in looked(weir).expiring if each.stream.destination_port == port]

        eventually(told, "the silent stream is told of", slow(40))
        found = looked(weir)
        assert {each.stream.destination_port for each in found.expiring} == {port}, "and not the one that talks"
        assert all(0 < each.left <= 20 and each.silent >= 4 and each.keepalive is None for each in found.expiring)
        assert f"{server.address(family)}" in told()[0]
        assert "no keepalive is on" in told()[0]
        assert any(line.startswith("about to break: ") for line in words(found))
        assert alive([silent, talking]) == ["alive", "alive"], "told of before it broke"
        assert not told(), "it has said something since"


def test_streams_whose_keepalive_comes_first_are_not_told_of(world: World, pod: Host, weir: Weir) -> None:
    with Proxy(pod), ExitStack() as stack:
        weir.capture()
        pod.sysctl(ESTABLISHED, 20)
        listener = stack.enter_context(world.outside.socket(socket.AF_INET))
        listener.bind((world.outside.v4, 0))
        listener.listen()
        clients = [stack.enter_context(pod.socket(socket.AF_INET)) for _ in range(2)]
        clients[0].setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        clients[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7)
        for each in clients:
            each.settimeout(slow(5.0))
            each.connect(listener.getsockname())
        without = clients[1].getsockname()[1]
        eventually(
            lambda: {each.stream.source_port for each in looked(weir).expiring} == {without}, "one of two", slow(30)
        )


def test_peers_are_counted_the_largest_first(world: World, pod: Host, weir: Weir) -> None:
    pod.sysctl("net/netfilter/nf_conntrack_acct", 1)
    with Proxy(pod), ExitStack() as stack:
        weir.capture()
        for _ in range(3):
            stack.enter_context(Stream(pod, world.outside, (world.outside.v4, 0)))
        other = stack.enter_context(Stream(pod, world.pods[1], (world.pods[1].v6, 0)))
        assert other.outcome() == "alive"
        first, *rest = weir.call(top_peers, weir.handle, 10)
        assert str(first.address) == world.outside.v4
        assert first.established >= 3
        assert first.bytes is not None
        assert first.bytes > 0
        assert world.pods[1].v6 in {str(each.address) for each in rest}
        assert len(weir.call(top_peers, weir.handle, 1)) == 1


def test_a_flood_is_counted_from_entries(pod: Host, weir: Weir) -> None:
    def flood() -> None:
        with Conntrack() as conntrack:
            for port in range(3000):
                made = FlowTuple(
                    source=ip_address("10.9.9.9"),
                    destination=ip_address("10.8.8.8"),
                    protocol=socket.IPPROTO_TCP,
                    source_port=port + 1,
                    destination_port=80,
                )
                assert conntrack.create_established(made, mark=0, timeout=600)

    pod.run(flood)
    found = looked(weir)
    assert found.listed
    assert found.states["established"] == found.direct == 3000
    (peer, *_) = weir.call(top_peers, weir.handle, 3)
    assert (str(peer.address), peer.entries) == ("10.8.8.8", 3000)


def test_explain_says_so_before_it_breaks(world: World, pod: Host, weir: Weir, tmp_path: Path) -> None:
    file = tmp_path / "weir.toml"
    file.write_text(f'[[target]]\nname = "web"\nnetns = "{pod.name}"\n')
    command = Command(tmp_path / "run")
    with Proxy(pod):
        weir.capture()
        pod.sysctl(ESTABLISHED, 20)
        with Stream(pod, world.outside, (world.outside.v4, 0), interval=None):
            eventually(lambda: looked(weir).expiring, "the silent stream is told of", slow(40))
            done = command("explain", "web", "--file", str(file))
    assert done.code == 0
    assert done.out.startswith("web is captured, but 1 idle stream will soon lose what carries them")
    assert "about to break: " in done.out
    assert f"most entries: {world.outside.v4}: " in done.out
    assert "nf_conntrack_tcp_timeout_established" in done.out.splitlines()[-1]
