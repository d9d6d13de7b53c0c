"""DNS queries that are always under way, from ports that stay the same, and a server that takes its time."""

import errno
import itertools
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from netns_tests import dns
from netns_tests.captured import Address, plain
from netns_tests.loop import IN, Loop, Place, listener
from netns_tests.servers import DNS_SERVER_ANSWER

__all__ = ["Asked", "Askers", "LateDnsServer"]

DNS_PORT = 53
PAUSE = 0.005  # seconds between an answer and the next query of its port


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One query: its name, which nobody else asks for, and `answered`, or how it failed."""

    time: float
    name: str
    source: Address
    server: Address
    result: str


class LateDnsServer:
    """DNS over UDP that answers after a while, so that a query is under way whenever something changes."""

    def __init__(self, place: Place, delay: float) -> None:
        """Take the seconds from a query to its answer."""
        self._place = place
        self._delay = delay
        self._loop = Loop()
        self._peers: list[Address] = []

    @property
    def peers(self) -> list[Address]:
        """Return who asked, in order."""
        return list(self._peers)

    def __enter__(self) -> Self:
        self._loop.start(self._place, self._listen)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.stop()

    def _listen(self) -> None:
        sock = listener("::", DNS_PORT, kind=socket.SOCK_DGRAM)

        def ready(events: int) -> None:
            while True:
                try:
                    packet, peer = sock.recvfrom(4096)
                except BlockingIOError:
                    return
                except OSError:
                    continue  # an ICMP error for an earlier answer
                self._peers.append(plain(peer))
                answer = dns.answer(packet, DNS_SERVER_ANSWER)

                def reply(answer: bytes = answer, peer: object = peer) -> None:
                    try:
                        sock.sendto(answer, peer)  # type: ignore[call-overload]
                    except OSError:
                        pass  # who asked is gone

                self._loop.after(self._delay, reply)

        self._loop.watch(sock, IN, ready)


class Askers:
    """Clients that each ask one server again and again, always from one port. Use it in a `with` block."""

    def __init__(
        self, place: Place, servers: Sequence[Address], ports: Sequence[int], timeout: float, answer: str
    ) -> None:
        """Take the servers, the ports from which each is asked, the seconds to wait, and the answer that is right."""
        self.timeout, self.answer = timeout, answer
        self.ports = tuple(ports)
        self._place = place
        self._servers = tuple(servers)
        self._loop = Loop()
        self._numbers = itertools.count()
        self._tag = os.urandom(4).hex()
        self._open = 0
        self._stopping = False
        self.asked: list[Asked] = []

    def __enter__(self) -> Self:
        self._loop.start(self._place, self._begin)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.stop()

    def finish(self) -> tuple[Asked, ...]:
        """Ask no more, wait for what is under way, and return what came of every query."""
        self._stopping = True
        deadline = time.monotonic() + self.timeout * 2
        while self._open and self._loop.running and time.monotonic() < deadline:
            time.sleep(0.002)  # polling with a deadline
        return tuple(self.asked)

    def _begin(self) -> None:
        for server in self._servers:
            for port in self.ports:
                sock = socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM)
                sock.setblocking(False)
                if sock.family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
                sock.bind(("", port))
                sock.connect(server)  # so that an answer from elsewhere is not taken for one, and ICMP errors are heard
                _Asker(self, self._loop, sock, server)

    def begun(self) -> str:
        """Count a query, and return its name; none where no more are wanted."""
        if self._stopping:
            return ""
        self._open += 1
        return f"q{next(self._numbers)}.{self._tag}.weir.test"

    def ended(self, asked: Asked) -> None:
        """Write down what came of a query."""
        self.asked.append(asked)
        self._open -= 1


class _Asker:
    """One socket: a query, its answer or its time-out, a pause, the next query."""

    def __init__(self, askers: Askers, loop: Loop, sock: socket.socket, server: Address) -> None:
        self._askers, self._loop, self._socket, self._server = askers, loop, sock, server
        self._name = ""
        self._began = 0.0
        loop.watch(sock, IN, self._ready)
        self._ask()

    def _ask(self) -> None:
        self._name = name = self._askers.begun()
        if not name:
            return
        self._began = time.monotonic()
        self._loop.after(self._askers.timeout, lambda: self._end(name, "timeout"))
        try:
            self._socket.send(dns.query(int(name[1:].partition(".")[0]) & 0xFFFF, name))
        except OSError as error:
            self._end(name, errno.errorcode[error.errno or errno.EIO])

    def _ready(self, events: int) -> None:
        try:
            answer = self._socket.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(self._name, errno.errorcode[error.errno or errno.EIO])
            return
        name = dns.question(answer)[1]
        right = dns.answered(answer) == [self._askers.answer]
        self._end(name, "answered" if right else f"answered {dns.answered(answer)}")

    def _end(self, name: str, result: str) -> None:
        """End the query of this name; a late answer and a time-out that is over find that it has ended."""
        if not name or name != self._name:
            return
        self._name = ""
        source = plain(self._socket.getsockname())
        self._askers.ended(Asked(time=self._began, name=name, source=source, server=self._server, result=result))
        self._loop.after(PAUSE, self._ask)
