"""Streams that are open when a pod is enrolled live on outside; whatever begins afterwards is captured."""

import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

import pytest

from agent.targets import State
from netns_tests.captured import plain
from netns_tests.enrolling import APP, BOTH_WAYS, Weir, alive, every_way, start_conntrack, ways
from netns_tests.proxy import Proxy
from netns_tests.traffic import EchoServer, Stream, Tap, connect
from netns_tests.world import Host, World, eventually

KEPT_MARK = 0x110
TRACKED = pytest.mark.parametrize("tracked", [False, True], ids=["untracked", "tracked"])


class Talks:
    """Connections out of and into a pod, of which the client always speaks first."""

    def __init__(self, world: World, pod: Host) -> None:
        self._world, self._pod = world, pod
        self._stack = ExitStack()
        self.marker = os.urandom(16)
        self.sockets: list[socket.socket] = []
        self._received: list[BinaryIO] = []

    def __enter__(self) -> Self:
        self._server = self._stack.enter_context(EchoServer(self._world.outside))
        self._stack.enter_context(EchoServer(self._pod, APP))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def ports(self) -> tuple[int, int]:
        return self._server.port, APP

    @property
    def outbound(self) -> list[socket.socket]:
        return [sock for sock in self.sockets if sock.getpeername()[1] != APP]

    def begin(self) -> None:
        for family, outbound in BOTH_WAYS:
            client = self._pod if outbound else self._world.pods[1]
            address = self._world.outside.address(family) if outbound else self._pod.address(family)
            sock = self._stack.enter_context(connect(client, (address, self._server.port if outbound else APP)))
            received = self._stack.enter_context(sock.makefile("rb"))
            assert received.readline() != "{} {}\n".format(*plain(sock.getsockname())).encode()
            self.sockets.append(sock)
            self._received.append(received)

    def failed(self) -> list[str]:
        """Say which connections don't carry a line and its echo any more."""
        failed = []
        for sock, received, way in zip(self.sockets, self._received, BOTH_WAYS, strict=True):
            line = self.marker.hex().encode() + b"\n"
            try:
                sock.sendall(self.marker + line)
                if received.read(len(self.marker + line)) != self.marker + line:
                    failed.append(f"{way}: EOF")
            except OSError as error:
                failed.append(f"{way}: {error}")
        return failed


@TRACKED
def test_open_streams_live_on_and_new_ones_are_captured(world: World, pod: Host, weir: Weir, tracked: bool) -> None:
    if tracked:
        start_conntrack(pod)
    with ExitStack() as stack:
        stack.enter_context(Proxy(pod))
        idle = every_way(stack, world, pod, interval=None)
        busy = every_way(stack, world, pod, interval=0.002)
        fast = every_way(stack, world, pod, interval=0)
        old = [*idle, *busy, *fast]
        outcome = weir.capture()
        assert outcome.state is State.APPLIED, outcome.reason
        assert outcome.kept == len(old)
        assert f"{len(old)} streams from before outside" in outcome.reason
        assert ways(world, pod) == ["captured"] * 4
        assert alive(old) == ["alive"] * len(old)
        marked = {flow.original.source_port for flow in weir.flows() if flow.mark & 0xFFF == KEPT_MARK}
        ports = {stream.local[1] for stream in old} | {stream.target[1] for stream in old}
        assert len(marked) == len(old)
        assert marked <= ports
        for stream in fast:
            assert stream.finish() > 100_000
        assert weir.capture().state is State.UNCHANGED
        eventually(lambda: weir.capture().kept == len(idle + busy), "ended streams are no longer counted")
        assert alive(idle + busy) == ["alive"] * len(idle + busy)


@TRACKED
def test_kept_streams_end_with_an_error_at_their_deadline(
    world: World, pod: Host, weir: Weir, tmp_path: Path, tracked: bool
) -> None:
    if tracked:
        start_conntrack(pod)
    with Proxy(pod), ExitStack() as stack:
        old = every_way(stack, world, pod, interval=None)
        first = weir.capture(kept_deadline=1)
        assert (first.state, first.kept) == (State.APPLIED, 4)
        assert first.again is not None
        assert 0 < first.again <= 1
        captured = every_way(stack, world, pod)
        with Weir(pod, tmp_path) as anew:  # the deadline outlives the process that set it
            eventually(lambda: anew.capture(kept_deadline=1).kept == 0, "the deadline is over")
        for stream in old:
            assert "alive" not in stream.outcome()
            assert "hang" not in stream.outcome()
        assert alive(captured) == ["alive"] * 4
        assert weir.capture(kept_deadline=1).again is None


def test_a_deadline_given_later_holds_from_then_on(world: World, pod: Host, weir: Weir) -> None:
    with Proxy(pod), ExitStack() as stack:
        old = every_way(stack, world, pod, interval=None)
        assert weir.capture().kept == 4
        later = weir.capture(kept_deadline=3600)
        assert (later.state, later.kept) == (State.UNCHANGED, 4)
        assert later.again is not None
        assert alive(old) == ["alive"] * 4
        assert weir.capture(kept_deadline=0.2).kept == 4
        eventually(lambda: weir.capture(kept_deadline=0.2).kept == 0, "the new deadline is over")
        assert not any("alive" in each or "hang" in each for each in alive(old))


def test_a_lost_record_does_not_hide_kept_streams(world: World, pod: Host, weir: Weir) -> None:
    with Proxy(pod), ExitStack() as stack:
        old = every_way(stack, world, pod, interval=None)
        assert weir.capture().kept == len(old)
        weir.records.forget(weir.handle.netns.identity)
        again = weir.capture()
        assert (again.state, again.kept) == (State.UNCHANGED, len(old))


def test_a_captured_stream_without_its_entry_goes_on_and_nothing_of_it_is_seen(
    world: World, pod: Host, weir: Weir
) -> None:
    with Proxy(pod), Talks(world, pod) as talks, Tap(world.node, "pod1") as tap:
        weir.capture()
        talks.begin()
        for _ in range(20):
            assert weir.forget_flows(*talks.ports) >= len(talks.sockets)
            assert talks.failed() == []
        for sock in talks.outbound:
            assert tap.payload(source=plain(sock.getsockname())) == b""
            assert tap.payload(target=plain(sock.getsockname())) == b""
        assert tap.saw(talks.marker)  # on the proxy's own connection, which this proxy doesn't encrypt: the tap works


def test_nothing_is_seen_in_plain_either_where_the_other_end_speaks_first(world: World, pod: Host, weir: Weir) -> None:
    # What the proxy or an application sends without an entry fits no connection: it is an error, and stays inside.
    with Proxy(pod), ExitStack() as stack:
        weir.capture()
        streams = every_way(stack, world, pod, interval=None)
        tap = stack.enter_context(Tap(world.node, "pod1"))
        weir.forget_flows(*(stream.target[1] for stream in streams))
        for stream, (_, outbound) in zip(streams, BOTH_WAYS, strict=True):
            assert "hang" not in stream.outcome()
            if outbound:
                assert tap.payload(source=stream.local) == tap.payload(target=stream.local) == b""
            else:
                assert tap.payload(source=stream.target, target=stream.seen) == b""


def test_a_syn_match_that_stays_would_have_leaked(world: World, pod: Host, weir: Weir) -> None:
    # The negative control of the test above: the rules of the transition alone.
    with Proxy(pod), Tap(world.node, "pod1") as tap:
        weir.capture()
        pod.nft("insert rule inet weir-pod nat-out tcp flags & (fin | syn | rst | ack) != syn accept")
        with Stream(pod, world.outside, (world.outside.v4, 0), interval=None) as stream:
            assert stream.captured
            assert weir.forget_flows(stream.target[1])
            assert stream.outcome(1) != "alive"
            assert stream.marker in tap.payload(source=stream.local)


def test_other_exclusions_keep_captured_streams_captured(world: World, pod: Host, weir: Weir) -> None:
    with Proxy(pod) as proxy, ExitStack() as stack:
        weir.capture()
        captured = every_way(stack, world, pod)
        excluded = {
            "exclude_outbound_networks": [f"{world.outside.v4}/32", f"{world.outside.v6}/128"],
            "exclude_inbound_networks": [f"{world.pods[1].v4}/32", f"{world.pods[1].v6}/128"],
        }
        assert weir.capture(**excluded).state is State.APPLIED
        direct = every_way(stack, world, pod)
        assert [stream.captured for stream in direct[::2]] == [False, False]
        assert alive(captured) == ["alive"] * 4
        assert proxy.streams == 4
        back = weir.capture()
        assert (back.state, back.kept) == (State.APPLIED, 4)
        assert proxy.streams == 4
        assert alive(captured + direct) == ["alive"] * 8
        assert ways(world, pod) == ["captured"] * 4


def test_rules_that_somebody_flushed_come_back_without_a_leak(world: World, pod: Host, weir: Weir) -> None:
    # Captured streams must not be taken for direct ones because no rule and no entry says that they are captured.
    with Proxy(pod) as proxy, Talks(world, pod) as talks, Tap(world.node, "pod1") as tap:
        weir.capture()
        talks.begin()
        pod.nft("flush ruleset")
        assert weir.forget_flows(*talks.ports) >= len(talks.sockets)
        again = weir.capture()
        assert (again.state, again.kept) == (State.APPLIED, 0)
        assert talks.failed() == []
        assert proxy.streams == len(talks.sockets)
        assert all(tap.payload(source=plain(sock.getsockname())) == b"" for sock in talks.outbound)


def test_reset_ends_open_streams_at_both_ends(world: World, pod: Host, weir: Weir) -> None:
    for tracked in (False, True):
        with Proxy(pod), ExitStack() as stack:
            idle = every_way(stack, world, pod, interval=None)
            busy = every_way(stack, world, pod, interval=0.002)
            outcome = weir.capture(established="reset")
            assert (outcome.state, outcome.kept) == (State.APPLIED, 0)
            for stream in idle + busy:
                came = stream.outcome(1)
                assert "alive" not in came, came
                assert "hang" not in came, came
                assert "EOF" not in came, came
            assert ways(world, pod) == ["captured"] * 4
        weir.remove()
        if not tracked:
            start_conntrack(pod)
