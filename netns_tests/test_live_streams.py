"""Whatever state a stream is in when its pod is enrolled, it lives on outside: in bulk, half closed, not yet made."""

import socket
from contextlib import ExitStack

import pytest

from agent.kernel.sockets import TcpState
from agent.targets import State
from netns_tests.enrolling import BOTH_WAYS, Weir, alive, capture, every_way, slow, ways
from netns_tests.pairs import EACH_FAMILY, half_open, let_answers_through, pair, sockets
from netns_tests.proxy import Proxy
from netns_tests.traffic import Stream
from netns_tests.world import Host, World, eventually
from rulesets import pod as pods
from rulesets.diff import diff

CAPTURED = ["captured"] * 4
OUTBOUND = pytest.mark.parametrize("outbound", [True, False], ids=["outbound", "inbound"])
LOOSE = "net/netfilter/nf_conntrack_tcp_loose"
BULK = 50 << 20  # bytes each way, before enrolling at least a tenth of them, afterwards all
# What some firewalls do, and kube-proxy: a segment that fits no window of its entry would be lost.
STRICT = """
table inet strict {
    chain in { type filter hook input priority 0; ct state invalid drop; }
    chain out { type filter hook output priority 0; ct state invalid drop; }
}
"""


def ends(world: World, pod: Host, outbound: bool) -> tuple[Host, Host]:
    """The client and the server of a stream out of a pod or into it."""
    return (pod, world.outside) if outbound else (world.pods[1], pod)


@EACH_FAMILY
@OUTBOUND
def test_a_bulk_transfer_with_large_windows_goes_on(
    world: World, pod: Host, weir: Weir, family: int, outbound: bool
) -> None:
    client, server = ends(world, pod, outbound)
    pod.sysctl(LOOSE, 0)  # so that the entry is Weir's own, rather than one that its next segment has made
    for host in (client, server):
        for buffer in ("rmem", "wmem"):
            host.sysctl(f"net/ipv4/tcp_{buffer}", f"4096 1048576 {64 << 20}")  # windows of up to 64 MB: scale 11
    with Proxy(pod), Stream(client, server, (server.address(family), 0), interval=0, size=256 << 10) as bulk:
        eventually(lambda: min(bulk.received) > BULK // 10, "the transfer is under way", slow(10))
        outcome = weir.capture()
        assert (outcome.state, outcome.kept) == (State.APPLIED, 1)
        pod.nft(STRICT)
        enough = min(bulk.received) + BULK
        eventually(lambda: min(bulk.received) > enough, "both directions go on", slow(20))
        assert ways(world, pod) == CAPTURED
        assert bulk.finish(slow(20)) > 2 * BULK


def test_streams_live_on_where_conntrack_takes_up_none_midway(world: World, pod: Host, weir: Weir) -> None:
    pod.sysctl(LOOSE, 0)
    with Proxy(pod), ExitStack() as stack:
        old = [stream for interval in (None, 0.002, 0) for stream in every_way(stack, world, pod, interval=interval)]
        outcome = weir.capture()
        assert (outcome.state, outcome.kept) == (State.APPLIED, len(old))
        pod.nft(STRICT)
        assert alive(old) == ["alive"] * len(old)
        assert ways(world, pod) == CAPTURED
        assert all(stream.finish() > 0 for stream in old)


def test_the_rules_without_the_entries_would_have_cut_them(world: World, pod: Host, weir: Weir) -> None:
    # The negative control: conntrack that starts now takes an old stream's next segment for a new connection.
    with Proxy(pod), ExitStack() as stack:
        old = every_way(stack, world, pod, interval=None)
        weir.call(weir.handle.apply, diff(None, pods.build(capture())))
        assert not [fared for fared in alive(old) if "alive" in fared]


def test_half_closed_streams_carry_what_is_left_of_them(world: World, pod: Host, weir: Weir, stack: ExitStack) -> None:
    half_closed = []
    for family, outbound in BOTH_WAYS:
        for closed_by_client in (True, False):
            near, far = pair(stack, *ends(world, pod, outbound), family)
            closed, open_ = (near, far) if closed_by_client else (far, near)
            closed.shutdown(socket.SHUT_WR)
            assert open_.recv(1) == b""
            half_closed.append((closed, open_))

    def states() -> list[TcpState]:
        return sorted(each.state for each in sockets(pod))

    both = sorted([TcpState.FIN_WAIT2, TcpState.CLOSE_WAIT] * 4)
    eventually(lambda: states() == both, "half closed, both ways")
    with Proxy(pod):
        assert weir.capture().kept == len(half_closed)
        pod.nft(STRICT)
        for closed, open_ in half_closed:
            what_is_left = f"{open_.getsockname()}".encode()
            open_.sendall(what_is_left)
            assert closed.recv(len(what_is_left), socket.MSG_WAITALL) == what_is_left
        assert ways(world, pod) == CAPTURED
        assert states() == both
        for closed, open_ in half_closed:
            open_.shutdown(socket.SHUT_WR)
            assert closed.recv(1) == b""
        eventually(lambda: weir.capture().kept == 0, "ended streams are no longer counted")


@EACH_FAMILY
@OUTBOUND
def test_a_connection_that_is_being_made_is_kept_as_well(
    world: World, pod: Host, weir: Weir, stack: ExitStack, family: int, outbound: bool
) -> None:
    near, listener = half_open(stack, world.node, *ends(world, pod, outbound), family)
    state = TcpState.SYN_SENT if outbound else TcpState.SYN_RECV
    eventually(lambda: [each.state for each in sockets(pod)] == [state], f"{state.name} in the pod")
    with Proxy(pod):
        outcome = weir.capture()
        assert (outcome.state, outcome.kept) == (State.APPLIED, 1)
        pod.nft(STRICT)
        let_answers_through(world.node)
        far = stack.enter_context(listener.accept()[0])
        assert far.getpeername() == near.getsockname()  # direct: whoever accepts sees the client's own socket
        for one in (near, far):
            one.settimeout(slow(5))
        for sender, receiver in ((near, far), (far, near)):
            sender.sendall(b"x")
            assert receiver.recv(1) == b"x"
        assert weir.capture().kept == 1
        assert ways(world, pod) == CAPTURED
