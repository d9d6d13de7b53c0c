"""The proxy's relay where a proxy is easily wrong: one end finishes while the other's data still waits."""

import socket
import threading

from netns_tests.loop import Loop
from netns_tests.relay import Relay
from netns_tests.world import Namespace

BLOCK = bytes(range(256)) * 256


def test_an_end_is_not_taken_for_an_error_while_data_waits() -> None:
    """Once both directions have ended, the kernel reports a hang-up for ever, though unread bytes are still there."""
    client, relay_client = socket.socketpair()
    server, relay_server = socket.socketpair()
    loop = Loop()
    relays: set[Relay] = set()

    def begin() -> None:
        for sock in (relay_client, relay_server):
            sock.setblocking(False)
        Relay(loop, relay_client, relay_server, relays)

    def rounds() -> None:
        """Wait until the loop has acted upon everything that happened."""
        for _ in range(3):
            done = threading.Event()
            loop.call(done.set)
            assert done.wait(5)

    with Namespace.create("relay") as place, client, server:
        loop.start(place, begin)
        # The server reads nothing: the relay holds a part, and its socket the rest, with the client's end behind it.
        sent = 0
        client.setblocking(False)
        for _ in range(100):
            try:
                while True:
                    sent += client.send(BLOCK[sent % len(BLOCK) :])
            except BlockingIOError:
                rounds()
        client.shutdown(socket.SHUT_WR)
        client.setblocking(True)
        server.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b"", "the server's end is passed on although the client's data waits"
        rounds()
        server.settimeout(5)
        received = b"".join(iter(lambda: server.recv(1 << 20), b""))
        assert len(received) == sent
        assert received == (BLOCK * (sent // len(BLOCK) + 1))[:sent]
        rounds()
        assert not relays
        loop.stop()


def test_a_reset_passes_through_while_the_other_side_is_silent() -> None:
    client, relay_client = socket.socketpair()
    server, relay_server = socket.socketpair()
    loop = Loop()

    def begin() -> None:
        for sock in (relay_client, relay_server):
            sock.setblocking(False)
        Relay(loop, relay_client, relay_server, set())

    with Namespace.create("relay") as place, server:
        loop.start(place, begin)
        server.send(b"not read")
        client.recv(1)
        client.close()  # with unread data: a reset, on a unix socket too
        server.settimeout(5)
        try:
            assert server.recv(1) == b""
        except ConnectionResetError:
            pass
        loop.stop()
