"""A tiny HTTP proxy that knows one method, CONNECT: what a transparent proxy such as redsocks passes connections to."""

import socket
import threading
from typing import Self

from netns_tests.captured import Address
from netns_tests.namespace import Namespace

__all__ = ["ConnectProxy"]

CHUNK = 65536
SECONDS_TO_ANSWER = 10.0


class ConnectProxy:
    """It listens in a namespace, and notes what it was asked for in `asked`. Use it in a `with` block."""

    def __init__(self, place: Namespace, port: int = 3128) -> None:
        """Take where to listen."""
        self.asked: list[Address] = []
        self._place = place
        self._listener = place.socket(socket.AF_INET)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("0.0.0.0", port))
        self._listener.listen(64)
        self._open: list[socket.socket] = [self._listener]

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._place.thread(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        """Cut everything."""
        for each in self._open:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            self._open.append(client)
            self._place.thread(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            data = client.recv(CHUNK)
            if not data:
                return
            request += data
        head, _, rest = request.partition(b"\r\n\r\n")
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        target = (host, int(port))
        try:
            server = socket.create_connection(target, timeout=SECONDS_TO_ANSWER)
        except OSError:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        server.settimeout(None)
        self._open.append(server)
        self.asked.append(target)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        server.sendall(rest)
        threading.Thread(target=_copy, args=(server, client), daemon=True).start()
        _copy(client, server)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:  # one side is gone
        pass
