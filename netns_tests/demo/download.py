"""A download over HTTP that takes as long as the demo wants, and then says if every byte arrived."""

import contextlib
import hashlib
import itertools
import os
import re
import socket
import threading
from collections.abc import Callable
from typing import Self

from netns_tests.captured import Address, plain
from netns_tests.clients import connect, family_of
from netns_tests.namespace import Namespace
from netns_tests.world import eventually

__all__ = ["Download", "endpoint"]

CHUNK = 16 * 1024
INTERVAL = 0.01
HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n"
SECONDS_TO_ANSWER = 10.0


class Download:
    """One client reading one file from one server, at some 1.5 MB a second until `finish`."""

    def __init__(self, name: str, client: Namespace, server: Namespace, target: Address) -> None:
        """Begin the download: `target` is an address and port of the server's namespace."""
        self.name = name
        self.received = 0
        self._sent = 0
        self._finishing = threading.Event()
        self._failures: list[str] = []
        self._digests = (hashlib.sha256(), hashlib.sha256())
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(server.socket(family_of(target)))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
            listener.listen()
            listener.settimeout(SECONDS_TO_ANSWER)
            self._client = stack.enter_context(connect(client, target, timeout=SECONDS_TO_ANSWER))
            self._server, _ = listener.accept()
            self._server.settimeout(SECONDS_TO_ANSWER)
            stack.callback(self._server.close)
            self.target = target
            self.local = plain(self._client.getsockname())
            self.seen = plain(self._server.getpeername())
            self._client.sendall(f"GET /{name} HTTP/1.0\r\nHost: demo\r\n\r\n".encode())
            self._server.recv(4096)
            stack.pop_all()
        listener.close()
        self._threads = [
            threading.Thread(target=self._run, args=(each,), daemon=True) for each in (self._serve, self._read)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def captured(self) -> bool:
        """Say if it goes through a proxy: the server sees another socket than the client's own."""
        return self.local != self.seen

    def listed(self, text: str) -> bool:
        """Say if a text names both of its ends, as they are in the client's namespace and at the server."""
        return all(re.search(rf"{re.escape(endpoint(each))}\b", text) for each in (self.local, self.target))

    def goes_on(self, seconds: float = 5.0) -> int:
        """Wait until new bytes have arrived (more than could be on their way), and return how many there are in all."""
        goal = self.received + 8 * CHUNK
        eventually(lambda: self._failures or self.received >= goal, f"the download {self.name} goes on", seconds)
        if self._failures:
            raise AssertionError(f"the download {self.name} ended early: {'; '.join(self._failures)}")
        return self.received

    def finish(self) -> int:
        """Let it end, compare what was sent with what was received, close it, and return how many bytes that were."""
        self._finishing.set()
        for thread in self._threads:
            thread.join(SECONDS_TO_ANSWER)
        sent, received = (digest.hexdigest() for digest in self._digests)
        alive = any(thread.is_alive() for thread in self._threads)
        if self._failures or alive or sent != received or self.received != self._sent:
            raise AssertionError(
                f"the download {self.name} did not end well: {self._sent} bytes sent ({sent}),"
                f" {self.received} received ({received}); {'; '.join(self._failures) or 'no error'}"
                f"{'; it hangs' if alive else ''}"
            )
        self.close()
        return self.received

    @property
    def checksum(self) -> str:
        """Return the SHA-256 of what has arrived."""
        return self._digests[1].hexdigest()

    def close(self) -> None:
        """Close both ends at once."""
        self._finishing.set()
        for sock in (self._client, self._server):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, side: Callable[[], None]) -> None:
        try:
            side()
        except OSError as error:
            self._failures.append(f"{side.__name__.strip('_')}: {error}")

    def _serve(self) -> None:
        self._server.sendall(HEAD)
        noise = os.urandom(CHUNK)
        for number in itertools.count():
            # No two chunks are alike, so that one that is lost, doubled or misplaced changes the checksum.
            chunk = number.to_bytes(8, "big") + noise[8:]
            self._server.sendall(chunk)
            self._digests[0].update(chunk)
            self._sent += len(chunk)
            if self._finishing.wait(INTERVAL):
                break
        self._server.shutdown(socket.SHUT_WR)

    def _read(self) -> None:
        with self._client.makefile("rb") as answer:
            while answer.readline() not in (b"\r\n", b""):
                pass
            while data := answer.read1(CHUNK):
                self._digests[1].update(data)
                self.received += len(data)


def endpoint(address: Address) -> str:
    """Return an address and port as a user writes them."""
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
