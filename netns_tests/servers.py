"""Servers for the test world, each a thread in a namespace. The peer that they see tells captured from direct."""

import json
import socket
from typing import Self

from netns_tests import dns
from netns_tests.captured import Address, plain
from netns_tests.loop import IN, OUT, Loop, Place, listener
from netns_tests.resolver import Resolver

__all__ = ["DnsServer", "EchoServer", "HttpServer", "UdpEchoServer"]

CHUNK = 256 * 1024


class _Server:
    """A loop in a namespace and what it saw. Use it in a `with` block; inside it, it listens."""

    def __init__(self, place: Place, port: int = 0, address: str = "::") -> None:
        """Listen on a port (0: any; see `.port`) of an address; `::` means both families."""
        self.port = port
        self._place = place
        self._address = address
        self._loop = Loop()
        self._peers: list[Address] = []

    @property
    def peers(self) -> list[Address]:
        """Return the clients it saw, in order."""
        return list(self._peers)

    def start(self) -> Self:
        """Listen; return when it does."""
        self._loop.start(self._place, self._listen)
        return self

    def stop(self) -> None:
        """Close everything."""
        self._loop.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _listen(self) -> None:
        sock = listener(self._address, self.port)
        self.port = sock.getsockname()[1]
        self._loop.accept(sock, self._accepted)

    def _accepted(self, connection: socket.socket) -> None:
        raise NotImplementedError


class EchoServer(_Server):
    """TCP: greets with a line `ADDRESS PORT` of the peer it saw, then sends back what it gets, until the peer's end."""

    def _accepted(self, connection: socket.socket) -> None:
        waiting: list[bytes | memoryview] = []

        def send(data: bytes | memoryview) -> None:
            try:
                sent = connection.send(data)
            except BlockingIOError:
                sent = 0
            if sent < len(data):
                waiting.append(memoryview(data)[sent:])
                self._loop.change(connection, OUT)

        def ready(events: int) -> None:
            try:
                if waiting:
                    send(waiting.pop())
                    if not waiting:
                        self._loop.change(connection, IN)
                    return
                data = connection.recv(CHUNK)
                if data:
                    send(data)
                    return
            except BlockingIOError:
                return
            except OSError:
                pass
            self._loop.close(connection)

        try:
            peer = plain(connection.getpeername())
            self._peers.append(peer)
            self._loop.watch(connection, IN, ready)
            send(f"{peer[0]} {peer[1]}\n".encode())
        except OSError:
            self._loop.close(connection)


class HttpServer(_Server):
    """HTTP/1.1: answers every request with JSON: `peer`, `path`, `server` (its name). Keeps connections open."""

    def __init__(self, place: Place, port: int = 80, address: str = "::", name: str = "test") -> None:
        """Take a name to be told from other servers by."""
        super().__init__(place, port, address)
        self.name = name

    def _accepted(self, connection: socket.socket) -> None:
        received = bytearray()

        def ready(events: int) -> None:
            try:
                data = connection.recv(CHUNK)
                received.extend(data)
                while (end := received.find(b"\r\n\r\n")) >= 0:
                    connection.send(self._response(bytes(received[:end]), peer))
                    del received[: end + 4]
            except OSError:
                data = b""
            if not data:
                self._loop.close(connection)

        try:
            peer = plain(connection.getpeername())
        except OSError:
            self._loop.close(connection)
            return
        self._peers.append(peer)
        self._loop.watch(connection, IN, ready)

    def _response(self, request: bytes, peer: Address) -> bytes:
        path = request.split(b" ", 2)[1].decode() if request.count(b" ") > 1 else ""
        body = json.dumps({"peer": f"{peer[0]} {peer[1]}", "path": path, "server": self.name}).encode() + b"\n"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


class UdpEchoServer(_Server):
    """UDP: sends every datagram back to whom it came from."""

    def _listen(self) -> None:
        sock = listener(self._address, self.port, kind=socket.SOCK_DGRAM)
        self.port = sock.getsockname()[1]

        def ready(events: int) -> None:
            try:
                while True:
                    data, peer = sock.recvfrom(65535)
                    self._peers.append(plain(peer))
                    sock.sendto(data, peer)
            except BlockingIOError:
                pass
            except OSError:
                pass  # an ICMP error for an earlier datagram

        self._loop.watch(sock, IN, ready)


DNS_SERVER_ANSWER = {dns.A: "198.51.100.53", dns.AAAA: "2001:db8::53"}


class DnsServer(_Server):
    """DNS over UDP and TCP, with one fixed answer that differs from the proxy's."""

    def __init__(
        self, place: Place, port: int = 53, address: str = "::", answers: dict[int, str] | None = None
    ) -> None:
        """Take the addresses to answer with, by kind."""
        super().__init__(place, port, address)
        self._resolver = Resolver(
            self._loop, answers or DNS_SERVER_ANSWER, lambda client, name: self._peers.append(client)
        )

    def _listen(self) -> None:
        sock = listener(self._address, self.port, kind=socket.SOCK_DGRAM)
        self.port = sock.getsockname()[1]
        self._resolver.serve(sock)
        self._loop.accept(listener(self._address, self.port), self._resolver.accept)
