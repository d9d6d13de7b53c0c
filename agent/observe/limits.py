"""What an HTTP server takes from those who only hold on to it: so many connections, so long for each request.

aiohttp waits for ever for the head of a request, and takes any number of connections. Who may reach the port could
so take the daemon's descriptors from its namespaces.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

_AT_ONCE = struct.pack("ii", 1, 0)  # struct linger: what the other side never reads isn't kept for it, socket(7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`most` connections at once; seconds for the `head` of the first request, between two, and for an `answer`."""

    most: int = 64
    head: float = 15.0
    idle: float = 15.0
    answer: float = 60.0


class Guard:
    """The connections of one server. Where there are too many, the oldest that has asked for nothing goes."""

    def __init__(self, limits: Limits) -> None:
        """Have no connection yet."""
        self.limits = limits
        self._open: dict[asyncio.BaseTransport, _Connection] = {}

    def around(self, make: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """Return what makes guarded protocols of the server's own."""
        return lambda: _Connection(self, make)

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Note that a connection has asked for something: whoever reads the answer slowly has its time, too."""
        found = self._open.get(request.transport) if request.transport is not None else None
        if found is None:
            return await handler(request)
        found.expect(self.limits.answer)
        found.served = True
        try:
            return await handler(request)
        finally:
            found.served = False

    def admit(self, transport: asyncio.BaseTransport, connection: "_Connection") -> bool:
        """Take a connection, in the place of another one where there are too many; False where none makes room."""
        if len(self._open) >= self.limits.most:
            waiting = next((each for each, other in self._open.items() if not other.served), None)
            if waiting is None:
                return False
            self.end(waiting)
        self._open[transport] = connection
        return True

    def end(self, transport: asyncio.BaseTransport) -> None:
        """Let go of a connection at once, with what is still to be sent: the other side sees a reset."""
        self.forget(transport)
        opened = transport.get_extra_info("socket")
        if opened is not None and isinstance(transport, asyncio.WriteTransport) and not transport.is_closing():
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            transport.abort()

    def forget(self, transport: asyncio.BaseTransport) -> None:
        """Count a connection that has ended no longer."""
        self._open.pop(transport, None)


class _Connection(asyncio.Protocol):
    """One connection: the server's own protocol, and how long it may be waited for."""

    def __init__(self, guard: Guard, make: Callable[[], asyncio.Protocol]) -> None:
        self.served = False
        self._guard, self._make = guard, make
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.BaseTransport | None = None
        self._late: asyncio.TimerHandle | None = None

    def expect(self, seconds: float) -> None:
        """Give it so long until it has asked for something (more)."""
        if self._late is not None:
            self._late.cancel()
        if self._transport is not None:
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(seconds, self._guard.end, self._transport)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._guard.admit(transport, self):
            self._guard.end(transport)
            return
        self._transport, self._inner = transport, self._make()
        self._inner.connection_made(transport)
        self.expect(self._guard.limits.head)

    def data_received(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._inner is None else self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        if self._inner is not None and self._transport is not None:
            self._guard.forget(self._transport)
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()


class Site(web.BaseSite):
    """A listener whose connections are guarded: at a unix socket's path, else at a host and port."""

    def __init__(self, runner: web.AppRunner, guard: Guard, where: Path | tuple[str, int]) -> None:
        """Name where; nothing listens before `start`."""
        super().__init__(runner)
        self._guard, self._where = guard, where

    @property
    def name(self) -> str:
        """Where it listens, for people."""
        return str(self._where) if isinstance(self._where, Path) else "{}:{}".format(*self._where)

    async def start(self) -> None:
        """Listen. Raises `OSError`."""
        await super().start()
        server = self._runner.server
        if server is None:
            raise OSError("the runner has not been set up")
        loop, make = asyncio.get_running_loop(), self._guard.around(server)
        if isinstance(self._where, Path):
            self._server = await loop.create_unix_server(make, str(self._where), backlog=self._backlog)
        else:
            self._server = await loop.create_server(make, *self._where, backlog=self._backlog)
