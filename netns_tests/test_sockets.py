"""SocketDiag against real sockets: what it lists, and what both ends notice when it ends one."""

import ctypes
import errno
import os
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address

import pytest

from agent.errors import FeatureMissing, PermissionMissing
from agent.kernel.rawnetlink import RawNetlink
from agent.kernel.sockets import Listener, SocketDiag, TcpSocket, TcpState
from netns_tests.world import Host, eventually, set_fsuid

V4, V6 = socket.AF_INET, socket.AF_INET6
FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])
SECONDS = 5.0
ANYWHERE = str(IPv4Address(socket.INADDR_ANY))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def sockets(host: Host, *states: TcpState) -> tuple[TcpSocket, ...]:
    def listed() -> tuple[TcpSocket, ...]:
        with SocketDiag() as diag:
            return diag.tcp_sockets(frozenset(states)) if states else diag.tcp_sockets()

    return host.run(listed)


def listeners(host: Host) -> frozenset[Listener]:
    def listed() -> frozenset[Listener]:
        with SocketDiag() as diag:
            return diag.listening_ports()

    return host.run(listed)


def destroy(host: Host, one: TcpSocket) -> bool:
    def destroyed() -> bool:
        with SocketDiag() as diag:
            return diag.destroy(one)

    return host.run(destroyed)


def listen(stack: ExitStack, host: Host, family: int, address: str, port: int = 0) -> socket.socket:
    listener = stack.enter_context(host.socket(family))
    listener.settimeout(SECONDS)
    listener.bind((address, port))
    listener.listen(1024)
    return listener


def connect(stack: ExitStack, client: Host, server: Host, family: int) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection: the client's and the server's."""
    listener = listen(stack, server, family, server.address(family))
    near = stack.enter_context(client.socket(family))
    near.settimeout(SECONDS)
    near.connect(listener.getsockname()[:2])
    far = stack.enter_context(listener.accept()[0])
    far.settimeout(SECONDS)
    return near, far


def half_open(stack: ExitStack, client: Host, server: Host, family: int) -> socket.socket:
    """A connection that is never made: the answers to its SYN are dropped on the client's side."""
    client.nft(
        "table inet lossy {\n"
        "chain input { type filter hook input priority 0; tcp flags & (syn | ack) == (syn | ack) drop; }\n"
        "}"
    )
    listener = listen(stack, server, family, server.address(family))
    near = stack.enter_context(client.socket(family))
    near.setblocking(False)
    assert near.connect_ex(listener.getsockname()[:2]) == errno.EINPROGRESS
    return near


@FAMILIES
def test_an_open_socket_is_listed_with_its_ends_owner_and_mark(
    pods: tuple[Host, ...], stack: ExitStack, family: int
) -> None:
    client, server = pods
    listener = listen(stack, server, family, server.address(family))

    def dial_as_1337() -> socket.socket:
        set_fsuid(1337)
        dialled = socket.socket(family)
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x539)
        dialled.connect(listener.getsockname()[:2])
        return dialled

    near = stack.enter_context(client.run(dial_as_1337))
    stack.enter_context(listener.accept()[0])

    (one,) = sockets(client)
    assert (one.local, one.local_port) == (ip_address(client.address(family)), near.getsockname()[1])
    assert (one.remote, one.remote_port) == (ip_address(server.address(family)), listener.getsockname()[1])
    assert one.state is TcpState.ESTABLISHED
    assert (one.user, one.mark) == (1337, 0x539)
    assert one.inode == os.fstat(near.fileno()).st_ino
    assert one.interface == 0

    (other,) = sockets(server)  # the same connection from the other namespace, and nothing of this one
    assert (other.local, other.local_port) == (one.remote, one.remote_port)
    assert (other.remote, other.remote_port) == (one.local, one.local_port)
    assert (other.user, other.mark) == (0, 0)
    assert other.cookie != one.cookie


def test_a_mapped_address_is_listed_as_the_ipv4_address_on_the_wire(pods: tuple[Host, ...], stack: ExitStack) -> None:
    client, server = pods
    listener = listen(stack, server, V6, "::")
    near = stack.enter_context(client.socket(V6))
    near.settimeout(SECONDS)
    near.connect((f"::ffff:{server.v4}", listener.getsockname()[1]))
    stack.enter_context(listener.accept()[0])
    for host, local, remote in ((client, client.v4, server.v4), (server, server.v4, client.v4)):
        (one,) = sockets(host)
        assert (one.local, one.remote) == (ip_address(local), ip_address(remote))


def test_a_socket_bound_to_an_interface_names_it(pods: tuple[Host, ...], stack: ExitStack) -> None:
    client, server = pods
    listener = listen(stack, server, V4, server.v4)
    near = stack.enter_context(client.socket(V4))
    near.settimeout(SECONDS)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    near.connect(listener.getsockname())
    (one,) = sockets(client)
    assert one.interface == client.run(socket.if_nametoindex, "eth0")
    assert destroy(client, one)
    assert not sockets(client)


@FAMILIES
def test_states_are_named_as_the_kernel_does(pods: tuple[Host, ...], stack: ExitStack, family: int) -> None:
    client, server = pods
    near, far = connect(stack, client, server, family)
    near.shutdown(socket.SHUT_WR)
    assert far.recv(1) == b""
    eventually(lambda: [one.state for one in sockets(client)] == [TcpState.FIN_WAIT2], "FIN_WAIT2 at the closing end")
    assert [one.state for one in sockets(server)] == [TcpState.CLOSE_WAIT]
    far.close()
    eventually(lambda: not sockets(client), "a finished connection no longer counts as open")
    assert [one.local_port for one in sockets(client, TcpState.TIME_WAIT)] == [near.getsockname()[1]]
    assert [one.state for one in sockets(server, TcpState.LISTEN)] == [TcpState.LISTEN]


@FAMILIES
def test_half_open_connections_are_listed_on_both_sides(pods: tuple[Host, ...], stack: ExitStack, family: int) -> None:
    client, server = pods
    near = half_open(stack, client, server, family)
    eventually(lambda: sockets(server), "the SYN reaches the server")
    (asking,), (asked,) = sockets(client), sockets(server)
    assert asking.state is TcpState.SYN_SENT
    assert asked.state is TcpState.SYN_RECV
    assert (asked.remote, asked.remote_port) == (ip_address(client.address(family)), near.getsockname()[1])
    assert (asking.remote, asking.remote_port) == (asked.local, asked.local_port)


@FAMILIES
def test_destroy_gives_the_user_an_error_and_the_peer_a_reset(
    pods: tuple[Host, ...], stack: ExitStack, family: int
) -> None:
    client, server = pods
    near, far = connect(stack, client, server, family)
    bystander, bystander_far = connect(stack, client, server, family)
    waiting = client.thread(near.recv, 1)  # an application that waits for an answer
    (one,) = (each for each in sockets(client) if each.local_port == near.getsockname()[1])

    assert destroy(client, one)
    with pytest.raises(ConnectionAbortedError):
        waiting.result(SECONDS)
    with pytest.raises(ConnectionResetError):
        far.recv(1)
    assert not destroy(client, one)

    bystander.send(b"x")
    assert bystander_far.recv(1) == b"x"


def test_destroy_ends_a_mapped_socket(pods: tuple[Host, ...], stack: ExitStack) -> None:
    client, server = pods
    listener = listen(stack, server, V6, "::")
    near = stack.enter_context(client.socket(V4))
    near.settimeout(SECONDS)
    near.connect((server.v4, listener.getsockname()[1]))
    far = stack.enter_context(listener.accept()[0])
    (one,) = sockets(server)
    assert destroy(server, one)
    with pytest.raises(ConnectionAbortedError):
        far.recv(1)
    with pytest.raises(ConnectionResetError):
        near.recv(1)


@FAMILIES
def test_destroy_ends_a_connection_that_is_being_made(pods: tuple[Host, ...], stack: ExitStack, family: int) -> None:
    client, server = pods
    near = half_open(stack, client, server, family)
    eventually(lambda: sockets(server), "the SYN reaches the server")
    (asked,) = sockets(server)
    assert destroy(server, asked)
    assert asked.cookie not in {one.cookie for one in sockets(server)}  # a repeated SYN may have made a new one
    (asking,) = sockets(client)
    assert destroy(client, asking)
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED


def test_destroy_spares_a_new_socket_on_the_same_ports(pods: tuple[Host, ...], stack: ExitStack) -> None:
    client, server = pods
    listener = listen(stack, server, V4, server.v4)
    port = listener.getsockname()[1]

    def dial() -> tuple[socket.socket, socket.socket]:
        near = stack.enter_context(client.socket(V4))
        near.settimeout(SECONDS)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close at once, no TIME_WAIT
        near.bind((client.v4, 4444))
        near.connect((server.v4, port))
        return near, stack.enter_context(listener.accept()[0])

    first, _ = dial()
    (old,) = sockets(client)
    first.close()
    second, far = dial()
    assert not destroy(client, old)
    second.send(b"x")
    assert far.recv(1) == b"x"


def test_a_refusal_names_what_was_asked_and_what_the_kernel_said(pods: tuple[Host, ...], stack: ExitStack) -> None:
    client, server = pods
    connect(stack, client, server, V6)
    (one,) = sockets(client)

    def powerless() -> bool:
        # capset(2), version 3, for this thread alone: no capability left.
        if ctypes.CDLL(None, use_errno=True).capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)):
            raise OSError(ctypes.get_errno(), "capset")
        with SocketDiag() as diag:
            return diag.destroy(one)

    with pytest.raises(PermissionMissing) as refused:
        client.run(powerless)
    assert refused.value.statement == (
        f"ss --kill --tcp src [{client.v6}]:{one.local_port} dst [{server.v6}]:{one.remote_port}"
    )
    assert "EPERM" in refused.value.said


def test_a_kernel_without_the_protocol_is_named_as_such() -> None:
    with pytest.raises(FeatureMissing) as missing:
        RawNetlink(31, feature="a protocol nobody has", option="CONFIG_NONE")
    assert missing.value.option == "CONFIG_NONE"


def test_two_thousand_sockets_are_listed_whole(pods: tuple[Host, ...], stack: ExitStack) -> None:
    pod = pods[0]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    expected = set()
    for family, address in ((V4, "127.0.0.1"), (V6, "::1")):
        listener = listen(stack, pod, family, address)

        def dial(family: int = family, listener: socket.socket = listener) -> list[socket.socket]:
            pairs = []
            for _ in range(500):
                near = socket.socket(family)
                near.connect(listener.getsockname()[:2])
                pairs += [near, listener.accept()[0]]
            return pairs

        for one in pod.run(dial):
            stack.enter_context(one)
            expected.add((address, one.getsockname()[1], one.getpeername()[1]))
    listed = sockets(pod)
    assert len(listed) == len(expected) == 2000
    assert {(str(one.local), one.local_port, one.remote_port) for one in listed} == expected
    assert {one.cookie for one in sockets(pod)} == {one.cookie for one in listed}


def test_listeners_of_both_protocols_and_families(pods: tuple[Host, ...], stack: ExitStack) -> None:
    pod, other = pods
    listen(stack, pod, V4, pod.v4, 80)
    listen(stack, pod, V6, "::", 443)
    listen(stack, pod, V6, "::ffff:127.0.0.1", 90)
    v6only = stack.enter_context(pod.socket(V6))
    v6only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    v6only.bind(("::", 81))
    v6only.listen()
    udp = stack.enter_context(pod.socket(V4, socket.SOCK_DGRAM))
    udp.bind((ANYWHERE, 53))
    udp6 = stack.enter_context(pod.socket(V6, socket.SOCK_DGRAM))
    udp6.bind(("::", 5353))
    connected = stack.enter_context(pod.socket(V4, socket.SOCK_DGRAM))
    connected.connect((other.v4, 53))
    bound = stack.enter_context(pod.socket(V4))  # bound, but takes no connections
    bound.bind((pod.v4, 82))

    found = {(one.protocol, str(one.address), one.port, one.v6only) for one in listeners(pod)}
    assert found == {
        ("tcp", pod.v4, 80, False),
        ("tcp", "::", 443, False),
        ("tcp", "127.0.0.1", 90, False),
        ("tcp", "::", 81, True),
        ("udp", ANYWHERE, 53, False),
        ("udp", "::", 5353, False),
    }
    assert not listeners(other)


@pytest.mark.parametrize(
    ("bound", "v6only", "v4_reaches", "v6_reaches"),
    [
        ("::", False, True, True),
        ("::", True, False, True),
        (ANYWHERE, False, True, False),
        ("127.0.0.1", False, True, False),
    ],
)
def test_a_listener_answers_whom_it_says(
    pods: tuple[Host, ...], stack: ExitStack, bound: str, v6only: bool, v4_reaches: bool, v6_reaches: bool
) -> None:
    pod = pods[0]
    family = V6 if ":" in bound else V4
    server = stack.enter_context(pod.socket(family))
    if family == V6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    server.bind((bound, 0))
    server.listen()
    (listener,) = listeners(pod)
    for target_family, target, reaches in ((V4, "127.0.0.1", v4_reaches), (V6, "::1", v6_reaches)):
        client = stack.enter_context(pod.socket(target_family))
        code = client.connect_ex((target, listener.port))
        assert (code == 0) is reaches, os.strerror(code)
        assert listener.answers(ip_address(target)) is reaches
