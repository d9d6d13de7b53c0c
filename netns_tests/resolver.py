"""A DNS server on a loop, UDP and TCP: gives a fixed answer, or asks another server."""

import socket
import struct
from collections.abc import Callable

from netns_tests import dns
from netns_tests.captured import Address, plain
from netns_tests.loop import IN, Loop

__all__ = ["Resolver"]

LARGEST = 65535
FORWARD_SECONDS = 5.0


class Resolver:
    """Answers the queries of the sockets that it is given."""

    def __init__(
        self,
        loop: Loop,
        answers: dict[int, str],
        asked: Callable[[Address, str], None],
        forward: Address | None = None,
        mark: int | None = None,
    ) -> None:
        """Take the addresses to answer with, by kind; `asked` is told of each query: who and what.

        With `forward`, another server is asked instead, each time from a new socket with the mark.
        """
        self._loop = loop
        self._answers = answers
        self._asked = asked
        self._forward = forward
        self._mark = mark

    def serve(self, sock: socket.socket) -> None:
        """Answer what arrives at a UDP socket."""

        def ready(events: int) -> None:
            while True:
                try:
                    packet, client = sock.recvfrom(LARGEST)
                except BlockingIOError:
                    return
                except OSError:
                    continue  # an ICMP error for an earlier answer

                def reply(answer: bytes, client: object = client) -> None:
                    try:
                        sock.sendto(answer, client)  # type: ignore[call-overload]
                    except OSError:
                        pass  # the client is gone; it will not wait for this

                self._resolve(packet, plain(client), reply)

        self._loop.watch(sock, IN, ready)

    def accept(self, client: socket.socket) -> None:
        """Answer the queries of a TCP connection."""
        try:
            peer = plain(client.getpeername())
        except OSError:
            self._loop.close(client)
            return
        waiting = bytearray()

        def reply(answer: bytes) -> None:
            if client.fileno() >= 0:
                try:
                    client.send(struct.pack("!H", len(answer)) + answer)
                except OSError:
                    self._loop.close(client)

        def ready(events: int) -> None:
            try:
                data = client.recv(LARGEST)
            except OSError:
                data = b""
            if not data:
                self._loop.close(client)
                return
            waiting.extend(data)
            while len(waiting) >= 2 and len(waiting) >= (end := 2 + struct.unpack_from("!H", waiting)[0]):
                packet = bytes(waiting[2:end])
                del waiting[:end]
                self._resolve(packet, peer, reply)

        self._loop.watch(client, IN, ready)

    def _resolve(self, packet: bytes, client: Address, reply: Callable[[bytes], None]) -> None:
        try:
            _, name, _ = dns.question(packet)
        except (IndexError, struct.error):
            return  # not a query
        self._asked(client, name)
        if self._forward is None:
            reply(dns.answer(packet, self._answers))
        else:
            self._ask(self._forward, packet, reply)

    def _ask(self, server: Address, packet: bytes, reply: Callable[[bytes], None]) -> None:
        """Pass a query on and its answer back; without an answer the client hears nothing, as with a real server."""
        sock = socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        if self._mark is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)

        def close() -> None:
            if sock.fileno() >= 0:
                self._loop.close(sock)

        def ready(events: int) -> None:
            try:
                reply(sock.recv(LARGEST))
            except OSError:
                pass  # refused: the same silence
            close()

        try:
            sock.connect(server)
            sock.send(packet)
        except OSError:
            sock.close()
            return
        self._loop.watch(sock, IN, ready)
        self._loop.after(FORWARD_SECONDS, close)
