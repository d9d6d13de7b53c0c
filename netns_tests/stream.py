"""A long-lived TCP stream of numbered blocks, both ways: it proves that no byte was lost, or says how it broke."""

import contextlib
import errno
import os
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Self

from netns_tests.captured import Address, plain
from netns_tests.clients import connect, family_of
from netns_tests.namespace import Namespace

__all__ = ["Stream"]

CLIENT, SERVER = 0, 1
SIDES = ("client", "server")
CHUNK = 256 * 1024
IDLE_POLL = 1000.0
ALIVE = "alive"


@dataclass(slots=True)
class _End:
    """One socket of the stream."""

    sock: socket.socket
    sent: int = 0  # blocks handed to the kernel or waiting in `unsent`
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: int = 0  # bytes
    ended: bool = False  # the peer's orderly end was seen
    shut: bool = False
    broken: str = ""


class Stream:
    """Both ends of a connection between two namespaces, kept busy by a thread.

    `marker` is in every block of the stream and in nothing else: a `Tap` can look for it.
    """

    def __init__(
        self,
        client: Namespace,
        server: Namespace,
        target: Address,
        *,
        interval: float | None = 0.01,
        size: int = 1024,
        mark: int | None = None,
        user: int | None = None,
        timeout: float = 5.0,
    ) -> None:
        """Connect the namespaces, over `target` (an address of the server; port 0: any).

        Every `interval` seconds each end sends a block of `size` bytes; 0 means as fast as it goes, and `None` never,
        but for the blocks that `outcome` sends.
        """
        self.interval = interval
        self.marker = os.urandom(16)
        self._size = max(size, len(self.marker) + 10)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._changed = threading.Condition()
        self._asked = self._closing = self._stopped = False
        with contextlib.ExitStack() as stack:
            self._listener = stack.enter_context(server.socket(family_of(target)))
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(target)
            self._listener.listen()
            self._listener.settimeout(timeout)
            self.target: Address = plain(self._listener.getsockname())
            one = stack.enter_context(connect(client, self.target, mark=mark, user=user, timeout=timeout))
            other, _ = self._listener.accept()
            stack.pop_all()
        self.local: Address = plain(one.getsockname())
        self.seen: Address = plain(other.getpeername())
        self._ends = (_End(one), _End(other))
        for end in self._ends:
            end.sock.setblocking(False)
            end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"stream-{self.local[1]}")
        self._thread.start()

    @property
    def captured(self) -> bool:
        """Say if the stream goes through a proxy: the server sees another socket than the client's own."""
        return self.local != self.seen

    @property
    def received(self) -> tuple[int, int]:
        """Return the bytes that client and server have received so far, all of them right."""
        return self._ends[CLIENT].received, self._ends[SERVER].received

    def outcome(self, seconds: float = 3.0) -> str:
        """Send a block from both ends: `alive` when both arrive, else what each end saw, `client EPIPE, server hang`.

        An end saw: alive, the name of an errno, EOF, corrupt (bytes lost or changed), or hang: nothing within the time.
        """
        with self._changed:
            goals = [(end.sent + 1) * self._size for end in reversed(self._ends)]
            self._asked = True
            os.eventfd_write(self._wake, 1)
            self._changed.wait_for(
                lambda: all(end.broken or end.received >= goal for end, goal in zip(self._ends, goals, strict=True)),
                seconds,
            )
            states = [
                end.broken or (ALIVE if end.received >= goal else "hang")
                for end, goal in zip(self._ends, goals, strict=True)
            ]
        if states == [ALIVE, ALIVE]:
            return ALIVE
        return ", ".join(f"{side} {state}" for side, state in zip(SIDES, states, strict=True))

    def finish(self, seconds: float = 5.0) -> int:
        """End both directions in order, prove that every byte sent was received, and return their number."""
        with self._changed:
            self._closing = True
            os.eventfd_write(self._wake, 1)
            done = self._changed.wait_for(lambda: all(end.ended or end.broken for end in self._ends), seconds)
        sent = tuple(end.sent * self._size for end in self._ends)
        broken = {side: end.broken for side, end in zip(SIDES, self._ends, strict=True) if end.broken}
        received = self.received
        self.close()
        if not done or broken or received != sent[::-1]:
            raise AssertionError(
                f"stream {self.local} to {self.target} did not end well: client and server sent {sent}, "
                f"received {received} bytes; {broken or 'no error'}{'' if done else '; no end came'}"
            )
        return sum(received)

    def close(self) -> None:
        """Close both sockets at once."""
        if not self._stopped:
            self._stopped = True
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            for end in self._ends:
                end.sock.close()
            self._listener.close()
            os.close(self._wake)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _block(self, side: int, number: int) -> bytes:
        """Return what a side sends as its block of that number: the same nowhere else in the stream."""
        head = self.marker + side.to_bytes(2, "big") + number.to_bytes(8, "big")
        return head + bytes([number % 251]) * (self._size - len(head))

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        numbers = {end.sock.fileno(): side for side, end in enumerate(self._ends)}
        next_time = time.monotonic()
        while not self._stopped:
            for number, side in numbers.items():
                end = self._ends[side]
                if end.broken:
                    with contextlib.suppress(KeyError):
                        poll.unregister(number)  # POLLHUP would be told for ever
                else:
                    writes = len(end.unsent) > 0 or (self.interval == 0 and not end.shut)
                    poll.register(number, (0 if end.ended else select.POLLIN) | (select.POLLOUT if writes else 0))
            wait = IDLE_POLL if not self.interval else max(0.0, next_time - time.monotonic())
            events = dict(poll.poll(wait * 1000))
            with self._changed:
                asked, self._asked = self._asked, False
                if self._wake in events:
                    os.eventfd_read(self._wake)
                due = self.interval is not None and time.monotonic() >= next_time
                if due:
                    next_time = time.monotonic() + (self.interval or 0)
                for number, side in numbers.items():
                    if number in events:
                        self._receive(side)
                    self._send(side, asked or due)
                self._changed.notify_all()

    def _receive(self, side: int) -> None:
        """Read what there is and compare it with what the other side sends."""
        end = self._ends[side]
        while not end.broken and not end.ended:
            try:
                data = end.sock.recv(CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                end.broken = errno.errorcode[error.errno or errno.EIO]
                return
            if not data:
                end.ended = self._closing and end.received == self._ends[1 - side].sent * self._size
                end.broken = "" if end.ended else "EOF"
            elif data == self._expected(1 - side, end.received, len(data)):
                end.received += len(data)
            else:
                end.broken = "corrupt"

    def _expected(self, side: int, start: int, length: int) -> bytes:
        first, last = start // self._size, (start + length - 1) // self._size
        blocks = b"".join(self._block(side, number) for number in range(first, last + 1))
        return blocks[start - first * self._size :][:length]

    def _send(self, side: int, one_more: bool) -> None:
        end = self._ends[side]
        if end.broken or end.shut:
            return
        try:
            if not end.unsent and one_more and not self._closing:
                end.unsent = memoryview(self._block(side, end.sent))
                end.sent += 1
            if end.unsent:
                end.unsent = end.unsent[end.sock.send(end.unsent) :]
            elif self._closing:
                end.shut = True
                end.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError as error:
            end.broken = errno.errorcode[error.errno or errno.EIO]
