"""A small epoll loop in a thread inside a namespace: what the proxy and the servers run on.

Not asyncio: a relayed connection costs some 25 system calls and little else, so a thread carries thousands a second.
"""

import contextlib
import heapq
import itertools
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from netns_tests.syscalls import enter, set_fsuid

__all__ = ["END", "ERROR", "IN", "OUT", "Loop", "Place", "listener"]

IN, OUT, ERROR, END = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR, select.EPOLLHUP
Callback = Callable[[int], None]
ACCEPTED_AT_ONCE = 64
SECONDS_TO_STOP = 10.0


class Place(Protocol):
    """Something with a namespace path: `Namespace`, or whatever a caller has."""

    @property
    def path(self) -> Path:
        """Return the path that setns takes."""


class Loop:
    """Callbacks on sockets, in one thread. Everything but `call`, `start` and `stop` is for that thread only."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, IN)
        self._ended: Future[None] = Future()
        self._running = True

    def start(self, place: Place, setup: Callable[[], None], user: int | None = None) -> None:
        """Run in a thread inside a namespace; return when `setup`, called there, is done."""
        ready: Future[None] = Future()
        threading.Thread(target=self._run, args=(place.path, setup, user, ready), daemon=True).start()
        try:
            ready.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the thread and close every socket; an error that a callback raised is raised here."""
        if self._wake < 0:
            return
        self.call(self._end)
        self._ended.exception(SECONDS_TO_STOP)
        for sock in list(self._sockets.values()):
            sock.close()
        self._sockets.clear()
        self._callbacks.clear()
        self._epoll.close()
        os.close(self._wake)
        self._wake = -1
        self._ended.result()

    @property
    def running(self) -> bool:
        """Say if the thread is still at it."""
        return not self._ended.done()

    def call(self, fn: Callable[[], None]) -> None:
        """Have the loop's thread call `fn` soon; from any thread."""
        self._calls.append(fn)
        os.eventfd_write(self._wake, 1)

    def after(self, seconds: float, fn: Callable[[], None]) -> None:
        """Have `fn` called after a while."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), fn))

    def watch(self, sock: socket.socket, events: int, callback: Callback) -> None:
        """Call `callback` with the events of a socket. The loop closes the socket when it stops."""
        number = sock.fileno()
        self._callbacks[number] = callback
        self._sockets[number] = sock
        self._epoll.register(number, events)

    def change(self, sock: socket.socket, events: int, callback: Callback | None = None) -> None:
        """Watch a socket for other events from now on."""
        if callback is not None:
            self._callbacks[sock.fileno()] = callback
        self._epoll.modify(sock, events)

    def pause(self, sock: socket.socket) -> None:
        """Hear nothing of a socket until `resume`, not even of its end, which epoll otherwise repeats for ever."""
        self._epoll.unregister(sock)

    def resume(self, sock: socket.socket, events: int) -> None:
        """Watch a paused socket again."""
        self._epoll.register(sock, events)

    def close(self, sock: socket.socket) -> None:
        """Close a socket and forget it."""
        number = sock.fileno()
        self._callbacks.pop(number, None)
        self._sockets.pop(number, None)
        sock.close()

    def accept(self, sock: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        """Watch a listener; `accepted` gets each connection, non-blocking. The loop closes it when it stops."""

        def ready(events: int) -> None:
            for _ in range(ACCEPTED_AT_ONCE):
                try:
                    connection, _ = sock.accept()
                except BlockingIOError:
                    return
                except ConnectionError:
                    continue  # it was reset while it waited
                connection.setblocking(False)
                self._sockets[connection.fileno()] = connection
                accepted(connection)

        self.watch(sock, IN, ready)

    def _end(self) -> None:
        self._running = False

    def _run(self, path: Path, setup: Callable[[], None], user: int | None, ready: Future[None]) -> None:
        try:
            enter(path)
            if user is not None:
                set_fsuid(user)
            setup()
        except BaseException as error:  # noqa: BLE001 - raised again where start was called
            self._running = False
            self._ended.set_result(None)
            ready.set_exception(error)
            return
        ready.set_result(None)
        try:
            while self._running:
                self._once()
        except BaseException as error:  # noqa: BLE001 - raised again by stop
            self._running = False
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def _once(self) -> None:
        timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1
        for number, events in self._epoll.poll(timeout):
            if number == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(number)
            elif callback := self._callbacks.get(number):  # an earlier callback of this round may have closed it
                callback(events)
        while self._calls:
            self._calls.popleft()()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()


def listener(address: str, port: int, mark: int | None = None, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """Return a non-blocking socket that listens, in the calling thread's namespace; `::` means both families."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is accepted inherits this and the mark
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if mark is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(4096)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"listen on {address} port {port}: {error.strerror}") from error
    sock.setblocking(False)
    return sock
