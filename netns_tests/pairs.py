"""Plain sockets in namespaces: a bound one, both ends of a connection, one that is not made; and what is listed."""

import errno
import socket
from contextlib import ExitStack

import pytest

from agent.kernel.sockets import SocketDiag, TcpSocket, TcpState
from netns_tests.captured import plain
from netns_tests.clients import connect
from netns_tests.namespace import Namespace
from netns_tests.world import Host

__all__ = ["EACH_FAMILY", "V4", "V6", "bound", "half_open", "let_answers_through", "pair", "sockets"]

V4, V6 = socket.AF_INET, socket.AF_INET6
EACH_FAMILY = pytest.mark.parametrize("family", [V4, V6], ids=["ipv4", "ipv6"])
SECONDS_TO_ANSWER = 5.0


def bound(
    stack: ExitStack,
    host: Host,
    family: int,
    port: int = 0,
    *,
    address: str = "",
    kind: int = socket.SOCK_STREAM,
    v6only: bool = False,
) -> socket.socket:
    """Return a socket on a port (0: any) of the host's own address or another; one for TCP listens."""
    one = stack.enter_context(host.socket(family, kind))
    one.settimeout(SECONDS_TO_ANSWER)
    if v6only:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.bind((address or host.address(family), port))
    if kind == socket.SOCK_STREAM:
        one.listen()
    return one


def pair(stack: ExitStack, client: Host, server: Host, family: int) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection: the client's and the server's."""
    listener = bound(stack, server, family)
    near = stack.enter_context(connect(client, plain(listener.getsockname())))
    far = stack.enter_context(listener.accept()[0])
    far.settimeout(SECONDS_TO_ANSWER)
    return near, far


def half_open(
    stack: ExitStack, node: Namespace, client: Host, server: Host, family: int
) -> tuple[socket.socket, socket.socket]:
    """Return the client of a connection that is not made, and the listener: the node drops the answers to its SYN."""
    node.nft(
        "table inet lossy {\n"
        "chain forward { type filter hook forward priority 0; tcp flags & (syn | ack) == (syn | ack) drop; }\n"
        "}"
    )
    listener = bound(stack, server, family)
    near = stack.enter_context(client.socket(family))
    near.setblocking(False)
    assert near.connect_ex(plain(listener.getsockname())) == errno.EINPROGRESS
    return near, listener


def let_answers_through(node: Namespace) -> None:
    """Let the connection of `half_open` be made after all, with the next SYN that is repeated."""
    node.nft("delete table inet lossy")


def sockets(host: Namespace, *states: TcpState) -> tuple[TcpSocket, ...]:
    """Return what `SocketDiag` lists in a namespace: the open sockets, or those in the states given."""

    def listed() -> tuple[TcpSocket, ...]:
        with SocketDiag() as diag:
            return diag.tcp_sockets(frozenset(states)) if states else diag.tcp_sockets()

    return host.run(listed)
