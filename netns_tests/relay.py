"""Two TCP connections joined into one: half-close, back-pressure and resets pass through."""

import contextlib
import socket
import struct

from netns_tests.loop import END, ERROR, IN, OUT, Loop

__all__ = ["Relay", "reset"]

CHUNK = 256 * 1024
PAUSED = -1
ABORT = struct.pack("ii", 1, 0)


class Relay:
    """A client and the server that is being dialled for it."""

    __slots__ = ("_alive", "_eof", "_events", "_loop", "_pending", "_relays", "_sockets")

    def __init__(self, loop: Loop, client: socket.socket, server: socket.socket, relays: "set[Relay]") -> None:
        """Take two non-blocking sockets, `server` with a connect under way; be in `relays` until the end."""
        self._loop = loop
        self._sockets = (client, server)
        self._pending: list[bytes | memoryview] = [b"", b""]  # what one side sent and the other has not taken yet
        self._eof = [False, False]
        self._events = [0, OUT]
        self._alive = True
        self._relays = relays
        relays.add(self)
        loop.watch(server, OUT, self._connected)

    def abort(self) -> None:
        """Reset both connections."""
        for sock in self._sockets:
            reset(sock)
        self._close()

    def _close(self) -> None:
        self._alive = False
        self._relays.discard(self)
        for sock in self._sockets:
            self._loop.close(sock)

    def _connected(self, events: int) -> None:
        """Start reading when the server answers; the client's data waits in the kernel until then."""
        client, server = self._sockets
        if server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()
            return
        self._events = [IN, IN]
        self._loop.change(server, IN, self._server_ready)
        self._loop.watch(client, IN, self._client_ready)

    def _client_ready(self, events: int) -> None:
        self._ready(0, events)

    def _server_ready(self, events: int) -> None:
        self._ready(1, events)

    def _ready(self, side: int, events: int) -> None:
        try:
            if events & OUT:
                self._flush(side)
            if self._alive and events & (IN | ERROR | END):
                self._pump(side, events)
        except OSError:
            self.abort()
        else:
            if self._alive:
                self._want(side)
                self._want(1 - side)

    def _pump(self, side: int, events: int) -> None:
        """Move what one side sent to the other."""
        if self._pending[side] or self._eof[side]:
            if events & ERROR:
                self.abort()
            elif self._events[side] == 0:
                # Both directions have ended for the kernel, but data still waits here or there.
                self._events[side] = PAUSED
                self._loop.pause(self._sockets[side])
            return
        try:
            data = self._sockets[side].recv(CHUNK)
        except BlockingIOError:
            return
        if data:
            self._send(side, data)
        else:
            self._eof[side] = True
            self._shut(1 - side)

    def _flush(self, side: int) -> None:
        """Write what waits for a side."""
        other = 1 - side
        if waiting := self._pending[other]:
            self._pending[other] = b""
            self._send(other, waiting)
            if self._eof[other] and not self._pending[other]:
                self._shut(side)

    def _send(self, side: int, data: bytes | memoryview) -> None:
        try:
            sent = self._sockets[1 - side].send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._pending[side] = memoryview(data)[sent:]

    def _shut(self, side: int) -> None:
        """Pass an end of data on; end when both directions have ended and nothing waits."""
        if not self._pending[1 - side]:
            with contextlib.suppress(OSError):  # the peer may be gone already
                self._sockets[side].shutdown(socket.SHUT_WR)
        if all(self._eof) and not any(self._pending):
            self._close()

    def _want(self, side: int) -> None:
        reads = IN if not self._eof[side] and not self._pending[side] else 0
        events = reads | (OUT if self._pending[1 - side] else 0)
        if self._events[side] == PAUSED:
            if events:
                self._events[side] = events
                self._loop.resume(self._sockets[side], events)
        elif events != self._events[side]:
            self._events[side] = events
            self._loop.change(self._sockets[side], events)


def reset(sock: socket.socket) -> None:
    """Have the socket's close send a reset, so that the peer sees an error rather than an end."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
