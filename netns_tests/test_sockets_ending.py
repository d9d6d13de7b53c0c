"""SocketDiag against real sockets: what both ends notice when it ends one."""

import errno
import socket
import struct
from contextlib import ExitStack

import pytest

from agent.errors import PermissionMissing
from agent.kernel.sockets import SocketDiag, TcpSocket
from netns_tests.clients import connect, open_socket
from netns_tests.pairs import EACH_FAMILY, V4, V6, bound, half_open, pair, sockets
from netns_tests.syscalls import drop_capabilities
from netns_tests.world import Host, World, eventually

SECONDS = 5.0


def destroy(host: Host, one: TcpSocket) -> bool:
    def destroyed() -> bool:
        with SocketDiag() as diag:
            return diag.destroy(one)

    return host.run(destroyed)


def test_a_socket_bound_to_an_interface_names_it(pods: tuple[Host, ...], stack: ExitStack) -> None:
    client, server = pods
    listener = bound(stack, server, V4)
    near = stack.enter_context(open_socket(client, V4))
    near.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    near.connect(listener.getsockname())
    (one,) = sockets(client)
    assert one.interface == client.run(socket.if_nametoindex, "eth0")
    assert destroy(client, one)
    assert not sockets(client)


@EACH_FAMILY
def test_destroy_gives_the_user_an_error_and_the_peer_a_reset(
    pods: tuple[Host, ...], stack: ExitStack, family: int
) -> None:
    client, server = pods
    near, far = pair(stack, client, server, family)
    bystander, bystander_far = pair(stack, client, server, family)
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
    listener = bound(stack, server, V6, address="::")
    near = stack.enter_context(connect(client, (server.v4, listener.getsockname()[1])))
    far = stack.enter_context(listener.accept()[0])
    (one,) = sockets(server)
    assert destroy(server, one)
    with pytest.raises(ConnectionAbortedError):
        far.recv(1)
    with pytest.raises(ConnectionResetError):
        near.recv(1)


@EACH_FAMILY
def test_destroy_ends_a_connection_that_is_being_made(world: World, stack: ExitStack, family: int) -> None:
    client, server = world.pods
    near, _ = half_open(stack, world.node, client, server, family)
    eventually(lambda: sockets(server), "the SYN reaches the server")
    (asked,) = sockets(server)
    assert destroy(server, asked)
    assert asked.cookie not in {one.cookie for one in sockets(server)}  # a repeated SYN may have made a new one
    (asking,) = sockets(client)
    assert destroy(client, asking)
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED


def test_destroy_spares_a_new_socket_on_the_same_ports(pods: tuple[Host, ...], stack: ExitStack) -> None:
    client, server = pods
    listener = bound(stack, server, V4)
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
    pair(stack, client, server, V6)
    (one,) = sockets(client)

    def powerless() -> bool:
        drop_capabilities()
        with SocketDiag() as diag:
            return diag.destroy(one)

    with pytest.raises(PermissionMissing) as refused:
        client.run(powerless)
    assert refused.value.statement == (
        f"ss --kill --tcp src [{client.v6}]:{one.local_port} dst [{server.v6}]:{one.remote_port}"
    )
    assert "EPERM" in refused.value.said
