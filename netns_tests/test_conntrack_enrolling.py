"""Enrolling a pod with streams open: entries for the old ones, then rules that redirect whatever has no entry.

The rules are loaded by hand here. What is shown is that the entries Conntrack makes carry real streams through it,
busy, idle, half closed and with large windows, while every new connection is redirected.
"""

import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from agent.kernel.conntrack import Conntrack, Flow, FlowTuple
from agent.kernel.sockets import Listener, SocketDiag, TcpSocket, TcpState
from netns_tests.world import Host, eventually

V4: int = socket.AF_INET
V6: int = socket.AF_INET6
SECONDS = 10.0
SERVER, OUTBOUND, INBOUND = 80, 15001, 15006
KEPT = 0x0EE9
BULK = 100 << 20
"""Bytes of each bulk transfer, at least; half of them after enrolling."""

CHAINS = """
add table inet capture
add chain inet capture in { type nat hook prerouting priority -101; }
add chain inet capture out { type nat hook output priority -101; }
flush table inet capture
"""
SYN = "tcp flags & (fin | syn | rst | ack) == syn "


def rules(match: str) -> str:
    """One transaction that leaves nothing but these rules."""
    return CHAINS + (
        f"add rule inet capture in meta l4proto tcp {match}redirect to :{INBOUND}\n"
        f"add rule inet capture out meta l4proto tcp {match}redirect to :{OUTBOUND}\n"
    )


@dataclass(kw_only=True)
class Stream:
    """Both ends of a connection between the pod and its peer."""

    name: str
    inside: socket.socket
    outside: socket.socket

    def flows(self, *, inwards: bool = True, outwards: bool = True) -> bool:
        """Whether fresh bytes arrive whole at the other end, in the directions asked for."""
        for wanted, sender, receiver in ((outwards, self.inside, self.outside), (inwards, self.outside, self.inside)):
            if wanted:
                question = f"{self.name} {sender.fileno()}".encode()
                try:
                    sender.sendall(question)
                    received = receive(receiver, len(question))
                except OSError:
                    return False
                if received != question:
                    return False
        return True


def receive(one: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := one.recv(size - len(data))):
        data += part
    return data


class Streams:
    """A pod with a server, a proxy that isn't in use yet, and a peer with a server; streams both ways."""

    def __init__(self, pod: Host, peer: Host, stack: ExitStack) -> None:
        self.pod, self.peer, self._stack = pod, peer, stack
        self.servers = {
            (host, family): self._listen(host, family, SERVER) for host in (pod, peer) for family in (V4, V6)
        }
        self._proxies = {
            (port, family): self._listen(pod, family, port) for port in (OUTBOUND, INBOUND) for family in (V4, V6)
        }

    def _listen(self, host: Host, family: int, port: int) -> socket.socket:
        listener = self._stack.enter_context(host.socket(family))
        if family == V6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.settimeout(SECONDS)
        listener.bind(("", port))
        listener.listen()
        return listener

    def dial(self, client: Host, server: Host, family: int) -> socket.socket:
        near = self._stack.enter_context(client.socket(family))
        near.settimeout(SECONDS)
        near.connect((server.address(family), SERVER))
        return near

    def accept(self, listener: socket.socket) -> socket.socket:
        one = self._stack.enter_context(listener.accept()[0])
        one.settimeout(SECONDS)
        return one

    def open(self, name: str, family: int, *, outbound: bool) -> Stream:
        client, server = (self.pod, self.peer) if outbound else (self.peer, self.pod)
        near = self.dial(client, server, family)
        far = self.accept(self.servers[server, family])
        name = f"{name} {'IPv4' if family == V4 else 'IPv6'} {'outbound' if outbound else 'inbound'}"
        return Stream(name=name, inside=near if outbound else far, outside=far if outbound else near)

    def every_way(self, name: str) -> list[Stream]:
        return [self.open(name, family, outbound=outbound) for family in (V4, V6) for outbound in (True, False)]

    def assert_new_ones_are_redirected(self) -> None:
        for family in (V4, V6):
            for outbound, port in ((True, OUTBOUND), (False, INBOUND)):
                client, server = (self.pod, self.peer) if outbound else (self.peer, self.pod)
                near = self.dial(client, server, family)
                far = self.accept(self._proxies[port, family])
                assert far.getpeername()[:2] == near.getsockname()[:2]


@pytest.fixture
def streams(pods: tuple[Host, ...]) -> Iterator[Streams]:
    with ExitStack() as stack:
        yield Streams(pods[0], pods[1], stack)


def original(one: TcpSocket, listeners: frozenset[Listener]) -> FlowTuple:
    """The tuple of the first packet of a stream: who accepted it has somebody listening on its port."""
    flow = FlowTuple(
        source=one.local,
        destination=one.remote,
        protocol=socket.IPPROTO_TCP,
        source_port=one.local_port,
        destination_port=one.remote_port,
    )
    inbound = any(
        each.protocol == "tcp" and each.port == one.local_port and each.answers(one.local) for each in listeners
    )
    return flow.reversed() if inbound else flow


def keep_open_streams(pod: Host) -> int:
    """Give every open socket without an entry one; return how many got one."""

    def keep() -> int:
        with SocketDiag() as diag, Conntrack() as table:
            listeners = diag.listening_ports()
            flows = [original(one, listeners) for one in diag.tcp_sockets()]
            return sum(table.create_established(flow, mark=KEPT, timeout=600) for flow in flows)

    return pod.run(keep)


def enrol(pod: Host) -> int:
    pod.nft(rules(SYN))
    kept = keep_open_streams(pod)
    pod.nft(rules(""))
    return kept


def entries(pod: Host) -> tuple[Flow, ...]:
    def listed() -> tuple[Flow, ...]:
        with Conntrack() as table:
            return table.flows(socket.IPPROTO_TCP)

    return pod.run(listed)


def test_idle_streams_live_on_and_new_connections_are_redirected(streams: Streams) -> None:
    old = streams.every_way("idle")
    assert enrol(streams.pod) == len(old)
    assert {flow.mark for flow in entries(streams.pod)} == {KEPT}
    assert [one.name for one in old if not one.flows()] == []
    streams.assert_new_ones_are_redirected()
    assert [one.name for one in old if not one.flows()] == []
    kept = {flow.original for flow in entries(streams.pod) if flow.mark == KEPT}
    assert {(flow.source_port, flow.destination_port) for flow in kept} == {
        (dialled.getsockname()[1], SERVER)
        for one in old
        for dialled in (one.inside, one.outside)
        if dialled.getsockname()[1] != SERVER
    }


def test_without_entries_the_same_rules_break_old_streams(streams: Streams) -> None:
    # What makes the other tests mean something: conntrack that starts now takes an old stream's next packet for new.
    old = streams.every_way("idle")
    streams.pod.nft(rules(""))
    for one in old:
        one.inside.send(b"x")
        with pytest.raises(ConnectionResetError):
            one.inside.recv(1)


@pytest.mark.parametrize("loose", [1, 0])
def test_busy_streams_live_on_whatever_conntrack_thinks_of_streams_it_has_not_seen_begin(
    streams: Streams, loose: int
) -> None:
    streams.pod.sysctl("net/netfilter/nf_conntrack_tcp_loose", loose)
    old = streams.every_way("busy")
    ended = threading.Event()
    rounds = dict.fromkeys(range(len(old)), 0)

    def talk(number: int) -> bool:
        while not ended.is_set():
            if not old[number].flows():
                return False
            rounds[number] += 1
        return True

    talks = [streams.pod.thread(talk, number) for number in rounds]

    def all_talk() -> Callable[[], bool]:
        before = dict(rounds)
        return lambda: (
            all(rounds[number] > before[number] + 10 for number in rounds) or any(each.done() for each in talks)
        )

    eventually(all_talk(), "every stream is busy before")
    enrol(streams.pod)
    eventually(all_talk(), "every stream is busy after", SECONDS)
    streams.assert_new_ones_are_redirected()
    eventually(all_talk(), "every stream is busy to the end", SECONDS)
    ended.set()
    assert [each.result(SECONDS) for each in talks] == [True] * len(old)


def test_half_closed_streams_carry_what_is_left_of_them(streams: Streams) -> None:
    closing, closed = streams.every_way("closed inside"), streams.every_way("closed outside")
    for one in closing:
        one.inside.shutdown(socket.SHUT_WR)
        assert one.outside.recv(1) == b""
    for one in closed:
        one.outside.shutdown(socket.SHUT_WR)
        assert one.inside.recv(1) == b""

    def states() -> set[TcpState]:
        def listed() -> set[TcpState]:
            with SocketDiag() as diag:
                return {each.state for each in diag.tcp_sockets()}

        return streams.pod.run(listed)

    eventually(lambda: states() == {TcpState.FIN_WAIT2, TcpState.CLOSE_WAIT}, "half closed, both ways")
    enrol(streams.pod)
    assert [one.name for one in closing if not one.flows(outwards=False)] == []
    assert [one.name for one in closed if not one.flows(inwards=False)] == []
    for one in closing:
        one.outside.shutdown(socket.SHUT_WR)
        assert one.inside.recv(1) == b""
    for one in closed:
        one.inside.shutdown(socket.SHUT_WR)
        assert one.outside.recv(1) == b""


@pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("upload", [True, False], ids=["upload", "download"])
def test_a_bulk_transfer_with_large_windows_goes_on(streams: Streams, family: int, upload: bool) -> None:
    for host in (streams.pod, streams.peer):
        for buffer in ("rmem", "wmem"):
            host.sysctl(f"net/ipv4/tcp_{buffer}", f"4096 1048576 {64 << 20}")  # windows of up to 64 MB: scale 11
    stream = streams.open("bulk", family, outbound=True)
    idle = streams.open("idle", family, outbound=False)
    sender, receiver = (stream.inside, stream.outside) if upload else (stream.outside, stream.inside)
    enrolled = threading.Event()
    received = 0

    def send() -> tuple[int, int]:
        block = bytes(range(256)) * 1024
        sent = checksum = after = 0
        while sent < BULK or after < BULK // 2:
            after += len(block) if enrolled.is_set() else 0
            sender.sendall(block)
            checksum = zlib.crc32(block, checksum)
            sent += len(block)
        sender.shutdown(socket.SHUT_WR)
        return sent, checksum

    def take() -> tuple[int, int]:
        nonlocal received
        checksum = 0
        while part := receiver.recv(1 << 20):
            checksum = zlib.crc32(part, checksum)
            received += len(part)
        return received, checksum

    sending, taking = streams.pod.thread(send), streams.pod.thread(take)
    eventually(lambda: received > BULK // 10, "the transfer is under way", SECONDS)
    enrol(streams.pod)
    assert not sending.done()
    enrolled.set()
    assert sending.result(60) == taking.result(60)
    assert idle.flows()
    streams.assert_new_ones_are_redirected()


@pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])
def test_a_connection_being_made_is_kept_as_well(streams: Streams, family: int) -> None:
    pod, peer = streams.pod, streams.peer
    # The answers to the pod's SYN are lost until the pod is enrolled.
    peer.nft("table inet lossy {\nchain output { type filter hook output priority 0; tcp flags & syn == syn drop; }\n}")
    near = pod.socket(family)
    with near:
        near.setblocking(False)
        near.connect_ex((peer.address(family), SERVER))
        assert enrol(pod) == 1
        peer.nft("delete table inet lossy")
        near.settimeout(SECONDS)
        eventually(lambda: connected(near), "a repeated SYN is answered", SECONDS)
        far = streams.accept(streams.servers[peer, family])
        assert Stream(name="late", inside=near, outside=far).flows()


def connected(one: socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError:
        return False
    return True
