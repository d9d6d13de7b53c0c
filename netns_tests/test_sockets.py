"""SocketDiag against real sockets: what it lists."""

import os
import resource
import socket
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address

import pytest

from agent.errors import FeatureMissing
from agent.kernel.rawnetlink import RawNetlink
from agent.kernel.sockets import OPEN_STATES, Listener, SocketDiag, TcpState, tcp_count
from netns_tests.captured import plain
from netns_tests.clients import connect
from netns_tests.pairs import EACH_FAMILY, V4, V6, bound, half_open, pair, sockets
from netns_tests.world import Host, World, eventually, set_fsuid

ANYWHERE = str(IPv4Address(socket.INADDR_ANY))


def listeners(host: Host) -> frozenset[Listener]:
    def listed() -> frozenset[Listener]:
        with SocketDiag() as diag:
            return diag.listening_ports()

    return host.run(listed)


@EACH_FAMILY
def test_an_open_socket_is_listed_with_its_ends_owner_and_mark(
    pods: tuple[Host, ...], stack: ExitStack, family: int
) -> None:
    client, server = pods
    listener = bound(stack, server, family)

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
    listener = bound(stack, server, V6, address="::")
    stack.enter_context(connect(client, (f"::ffff:{server.v4}", listener.getsockname()[1])))
    stack.enter_context(listener.accept()[0])
    for host, local, remote in ((client, client.v4, server.v4), (server, server.v4, client.v4)):
        (one,) = sockets(host)
        assert (one.local, one.remote) == (ip_address(local), ip_address(remote))


@EACH_FAMILY
def test_states_are_named_as_the_kernel_does(pods: tuple[Host, ...], stack: ExitStack, family: int) -> None:
    client, server = pods
    near, far = pair(stack, client, server, family)
    near.shutdown(socket.SHUT_WR)
    assert far.recv(1) == b""
    eventually(lambda: [one.state for one in sockets(client)] == [TcpState.FIN_WAIT2], "FIN_WAIT2 at the closing end")
    assert [one.state for one in sockets(server)] == [TcpState.CLOSE_WAIT]
    far.close()
    eventually(lambda: not sockets(client), "a finished connection no longer counts as open")
    assert [one.local_port for one in sockets(client, TcpState.TIME_WAIT)] == [near.getsockname()[1]]
    assert [one.state for one in sockets(server, TcpState.LISTEN)] == [TcpState.LISTEN]


@EACH_FAMILY
def test_half_open_connections_are_listed_on_both_sides(world: World, stack: ExitStack, family: int) -> None:
    client, server = world.pods
    near, _ = half_open(stack, world.node, client, server, family)
    eventually(lambda: sockets(server), "the SYN reaches the server")
    (asking,), (asked,) = sockets(client), sockets(server)
    assert asking.state is TcpState.SYN_SENT
    assert asked.state is TcpState.SYN_RECV
    assert (asked.remote, asked.remote_port) == (ip_address(client.address(family)), near.getsockname()[1])
    assert (asking.remote, asking.remote_port) == (asked.local, asked.local_port)


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
        listener = bound(stack, pod, family, address=address)

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
    bound(stack, pod, V4, 80)
    bound(stack, pod, V6, 443, address="::")
    bound(stack, pod, V6, 90, address="::ffff:127.0.0.1")
    bound(stack, pod, V6, 81, address="::", v6only=True)
    bound(stack, pod, V4, 53, address=ANYWHERE, kind=socket.SOCK_DGRAM)
    bound(stack, pod, V6, 5353, address="::", kind=socket.SOCK_DGRAM)
    connected = stack.enter_context(pod.socket(V4, socket.SOCK_DGRAM))
    connected.connect((other.v4, 53))
    silent = stack.enter_context(pod.socket(V4))  # bound, but takes no connections
    silent.bind((pod.v4, 82))

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
    ("address", "v6only", "v4_reaches", "v6_reaches"),
    [
        ("::", False, True, True),
        ("::", True, False, True),
        (ANYWHERE, False, True, False),
        ("127.0.0.1", False, True, False),
    ],
)
def test_a_listener_answers_whom_it_says(
    pods: tuple[Host, ...], stack: ExitStack, address: str, v6only: bool, v4_reaches: bool, v6_reaches: bool
) -> None:
    pod = pods[0]
    bound(stack, pod, V6 if ":" in address else V4, address=address, v6only=v6only)
    (listener,) = listeners(pod)
    for target_family, target, reaches in ((V4, "127.0.0.1", v4_reaches), (V6, "::1", v6_reaches)):
        client = stack.enter_context(pod.socket(target_family))
        code = client.connect_ex((target, listener.port))
        assert (code == 0) is reaches, os.strerror(code)
        assert listener.answers(ip_address(target)) is reaches


@EACH_FAMILY
def test_the_number_of_sockets_is_of_one_namespace_and_of_all_states(
    pods: tuple[Host, ...], stack: ExitStack, family: int
) -> None:
    def counted(host: Host) -> int:
        found = host.run(tcp_count)
        assert found == len(sockets(host, *OPEN_STATES, TcpState.LISTEN, TcpState.TIME_WAIT))
        return found

    client, server = pods
    assert counted(client) == counted(server) == 0
    listener = bound(stack, server, family)
    assert (counted(client), counted(server)) == (0, 1)
    near = stack.enter_context(connect(client, plain(listener.getsockname())))
    far = stack.enter_context(listener.accept()[0])
    assert (counted(client), counted(server)) == (1, 2)
    near.close()
    far.close()
    listener.close()
    eventually(lambda: sockets(client, TcpState.TIME_WAIT), "the client's end waits")
    eventually(lambda: not sockets(server), "the server's has gone")
    assert (counted(client), counted(server)) == (1, 0)
