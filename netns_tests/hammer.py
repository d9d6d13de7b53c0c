"""Many short connections to an `EchoServer`: how many were answered, by whom, how fast, and how the others failed."""

import errno
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from netns_tests.captured import Address, Log, plain
from netns_tests.clients import family_of
from netns_tests.loop import END, ERROR, IN, OUT, Loop, Place

__all__ = ["Attempt", "Hammer", "Hammered", "hammer"]

CAPTURED, DIRECT = "captured", "direct"
SECONDS_TO_ANSWER = 5.0
PING = b"ping"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One connection. `result` is `captured`, `direct`, or how it failed: the name of an errno, EOF, wrong, timeout."""

    time: float
    seconds: float
    local: Address
    result: str


@dataclass(frozen=True, kw_only=True)
class Hammered:
    """What came of many connections, in the order of their ends."""

    attempts: tuple[Attempt, ...]
    seconds: float

    @cached_property
    def results(self) -> Counter[str]:
        """Return how many had which result."""
        return Counter(attempt.result for attempt in self.attempts)

    @property
    def captured(self) -> int:
        """Return how many went through a proxy: the server saw another socket than the client's own."""
        return self.results[CAPTURED]

    @property
    def direct(self) -> int:
        """Return how many reached the server themselves."""
        return self.results[DIRECT]

    @property
    def ok(self) -> int:
        """Return how many were answered."""
        return self.captured + self.direct

    @property
    def failed(self) -> Counter[str]:
        """Return how many failed in which way."""
        return Counter({result: n for result, n in self.results.items() if result not in (CAPTURED, DIRECT)})

    @cached_property
    def latencies(self) -> list[float]:
        """Return the seconds that the answered ones took from connect to the last byte, sorted."""
        return sorted(attempt.seconds for attempt in self.attempts if attempt.result in (CAPTURED, DIRECT))

    def percentile(self, percent: float) -> float:
        """Return the seconds in which that share of the answered ones was done."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))]

    def first(self, result: str) -> Attempt | None:
        """Return the first attempt that ended so."""
        return next((attempt for attempt in self.attempts if attempt.result == result), None)

    def last(self, result: str) -> Attempt | None:
        """Return the last attempt that ended so."""
        return next((attempt for attempt in reversed(self.attempts) if attempt.result == result), None)

    def contradicted(self, log: Log) -> list[Attempt]:
        """Return the attempts about which the servers' view and a proxy's log disagree; none, if all is well."""
        logged = Counter(entry.client for entry in log)
        known = Counter(attempt.local for attempt in self.attempts if attempt.result != DIRECT)
        unlogged = Counter(attempt.local for attempt in self.attempts if attempt.result == CAPTURED) - logged
        wrongly_logged = logged - known
        return [
            attempt
            for attempt in self.attempts
            if (attempt.result == CAPTURED and attempt.local in unlogged)
            or (attempt.result == DIRECT and attempt.local in wrongly_logged)
        ]

    def __str__(self) -> str:
        slowest = f", slowest {self.latencies[-1] * 1e3:.1f} ms" if self.latencies else ""
        return f"{len(self.attempts)} connections in {self.seconds:.2f} s: {dict(self.results)}{slowest}"


class Hammer:
    """Connections in the background, a number of them at any time. Use it in a `with` block, then read `result()`."""

    def __init__(
        self,
        place: Place,
        target: Address,
        *,
        clients: int = 8,
        count: int | None = None,
        mark: int | None = None,
        user: int | None = None,
        timeout: float = SECONDS_TO_ANSWER,
        pause: float = 0.0,
    ) -> None:
        """Take the namespace, an `EchoServer`'s address, and how many connections in all (`None`: until stopped).

        `pause` is how long, in seconds, each client waits between two connections.
        """
        self._place = place
        self._target = target
        self._clients = clients
        self._left = count
        self._mark = mark
        self._user = user
        self._timeout = timeout
        self._pause = pause
        self._loop = Loop()
        self._attempts: list[Attempt] = []
        self._open = 0
        self._stopping = False
        self._done = threading.Event()
        self._started = self._ended = 0.0

    def __len__(self) -> int:
        """Return how many connections have ended."""
        return len(self._attempts)

    def start(self) -> Self:
        """Begin."""
        self._started = time.monotonic()
        self._loop.start(self._place, self._begin, self._user)
        return self

    def result(self) -> Hammered:
        """Make no more connections, wait for the open ones, and return what came of all. After a count: wait for it."""
        if self._left is None:
            self._stopping = True
        while not self._done.wait(self._timeout + SECONDS_TO_ANSWER):
            if self._left is None or not self._loop.running:
                self._loop.stop()  # raises what went wrong in the thread
                raise TimeoutError(f"the hammer on {self._target} does not end; {self._open} connections are open")
        self._loop.stop()
        return Hammered(attempts=tuple(self._attempts), seconds=self._ended - self._started)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self._stopping = True
        self._loop.stop()

    def _begin(self) -> None:
        for _ in range(self._clients):
            self._next()

    def _next(self) -> None:
        """Open one more connection, unless there have been enough; a failed one ends in a later round of the loop."""
        if self._stopping or self._left == 0:
            if not self._open:
                self._ended = time.monotonic()
                self._done.set()
            return
        if self._left is not None:
            self._left -= 1
        self._open += 1
        _Attempt(self._loop, self._target, self._mark, self._timeout, self._finish)

    def _finish(self, attempt: Attempt) -> None:
        self._attempts.append(attempt)
        self._open -= 1
        if self._pause:
            self._loop.after(self._pause, self._next)
        else:
            self._next()


class _Attempt:
    """One connection: send, end, read to the end, compare."""

    def __init__(
        self, loop: Loop, target: Address, mark: int | None, timeout: float, finish: Callable[[Attempt], None]
    ) -> None:
        self._loop = loop
        self._finish = finish
        self._received = b""
        self._local: Address = ("", 0)
        self._begun = time.monotonic()
        self._open = True
        self._socket = sock = socket.socket(family_of(target))
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if mark is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        failure = sock.connect_ex(target)
        loop.watch(sock, OUT, self._ready)
        loop.after(timeout, self._late)
        if failure not in (0, errno.EINPROGRESS):
            loop.call(lambda: self._end(errno.errorcode[failure]))

    def _ready(self, events: int) -> None:
        try:
            if not self._local[1]:
                if failure := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    self._end(errno.errorcode[failure])
                    return
                self._local = plain(self._socket.getsockname())
                self._socket.send(PING)
                self._socket.shutdown(socket.SHUT_WR)
                self._loop.change(self._socket, IN)
                return
            if events & (IN | ERROR | END):
                data = self._socket.recv(4096)
                self._received += data
                if not data:
                    self._end(self._answer())
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(errno.errorcode[error.errno or errno.EIO])

    def _answer(self) -> str:
        greeting, newline, echoed = self._received.partition(b"\n")
        if not newline or len(echoed) < len(PING):
            return "EOF"
        if echoed != PING:
            return "wrong"
        return DIRECT if greeting.decode() == f"{self._local[0]} {self._local[1]}" else CAPTURED

    def _late(self) -> None:
        self._end("timeout")

    def _end(self, result: str) -> None:
        if self._open:
            self._open = False
            self._loop.close(self._socket)
            self._finish(Attempt(self._begun, time.monotonic() - self._begun, self._local, result))


def hammer(
    place: Place,
    target: Address,
    *,
    seconds: float | None = None,
    count: int | None = None,
    clients: int = 8,
    mark: int | None = None,
    user: int | None = None,
    timeout: float = SECONDS_TO_ANSWER,
) -> Hammered:
    """Make connections for some seconds, or a number of them; return what came of them."""
    if (seconds is None) == (count is None):
        raise ValueError("hammer takes either seconds or count")
    options = Hammer(place, target, clients=clients, count=count, mark=mark, user=user, timeout=timeout)
    with options as running:
        if seconds is not None:
            time.sleep(seconds)  # the duration is what was asked for
        return running.result()
