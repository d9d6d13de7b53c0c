"""One proxy's socket: packets in and out in turn, each answer within its time.

No packet only asks whether the proxy is there: a unix socket tells of the other end's close at once, a process's death
included, and the protocol has no request without an effect.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Protocol

from agent.mesh.session import Phase, Session, Violation, Wishes
from agent.mesh.status import Proxy, ProxyState
from agent.mesh.wire import Add, Garbled, Request, decode_answer, decode_hello, encode
from agent.words import printable

_SO_PEERCRED = struct.Struct("3i")  # pid, uid, gid (unix(7))
_LONGEST_ANSWER = 65536  # bytes: ztunnel quotes errors at any length


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long things may take, in seconds."""

    hello: float = 5.0
    answer: float = 5.0  # then nobody knows what the next answer is to, so the connection ends
    retry: float = 5.0  # until what was refused is asked again; ztunnel tries by itself as often
    pause: float = 1.0  # for a peer that is turned away: ztunnel comes back within 2 ms


class Owner(Protocol):
    """Who is told what happens on a connection."""

    def greeted(self, connection: "Connection") -> None:
        """It has said hello."""

    def answered(self, connection: "Connection", request: Request, error: str, seconds: float) -> None:
        """It has answered; `error` is empty for an acknowledgement."""

    def ended(self, connection: "Connection", why: str, *, fault: bool) -> None:
        """It is over. `fault`: for something that the proxy did or failed to do."""


class Connection:
    """A connected proxy. Everything happens in the loop's thread."""

    def __init__(self, opened: socket.socket, proxy: Proxy, wishes: Wishes, owner: Owner, patience: Patience) -> None:
        """Take a socket that is non-blocking; it is closed by `end`'s caller."""
        self.proxy = proxy
        self.session = Session(wishes)
        self.socket = opened
        self.newest = False
        self._version = 0
        self._owner = owner
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._sent_at = 0.0
        self._open = True
        self._blocked = False
        self._retry: asyncio.TimerHandle | None = None
        self._late = self._expect(patience.hello, "it has not said hello")
        self._loop.add_reader(opened, self._readable)

    def pump(self) -> None:
        """Send what is to be sent next, if it is its turn."""
        if not self._open or self._blocked:
            return
        request = self.session.next(newest=self.newest)
        if request is None:
            return
        try:
            _send(self.socket, request)
        except BlockingIOError:
            # What is to be said may be another thing by the time that the peer reads again.
            self._blocked = True
            self._loop.add_writer(self.socket, self._writable)
            self._late = self._expect(self._patience.answer, "it has not read")
        except OSError as error:
            self.end(f"{request} could not be sent: {error.strerror or error}")
        else:
            self.session.sent(request)
            self._sent_at = self._loop.time()
            self._late = self._expect(self._patience.answer, f"it has not answered {request}")

    def end(self, why: str, *, fault: bool = False) -> None:
        """Speak no more; the socket stays open, for the owner to close."""
        if not self._open:
            return
        self._open = False
        self._late.cancel()
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self.socket)
        self._loop.remove_writer(self.socket)
        self._owner.ended(self, why, fault=fault)

    def asked(self) -> str:
        """Return the request that has no answer yet, and since when, in words; empty without one."""
        if self.session.in_flight is None:
            return ""
        return f"{self.session.in_flight}, {self._loop.time() - self._sent_at:.1f} s ago"

    def state(self) -> ProxyState:
        """Return how it stands."""
        return ProxyState(
            proxy=self.proxy,
            phase=self.session.phase,
            newest=self.newest,
            version=self._version,
            seconds=self._loop.time() - self._since,
            told=len(self.session.told),
            queued=self.session.queued,
            asked=self.asked(),
            refused=dict(self.session.refused),
        )

    def _expect(self, seconds: float, otherwise: str) -> asyncio.TimerHandle:
        if hasattr(self, "_late"):
            self._late.cancel()
        return self._loop.call_later(seconds, self._too_late, f"{otherwise} within {seconds:g} s")

    def _too_late(self, why: str) -> None:
        self.end(why, fault=True)

    def _writable(self) -> None:
        self._loop.remove_writer(self.socket)
        self._blocked = False
        self._late.cancel()
        self.pump()

    def _readable(self) -> None:
        try:
            # Without room for descriptors: those that a peer sends are closed by the kernel.
            packet, _, flags, _ = self.socket.recvmsg(_LONGEST_ANSWER)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.end(f"it is gone: {error.strerror or error}")
            return
        if not packet:
            self.end("it closed the connection")
            return
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                what = "a packet that is too long" if flags & socket.MSG_TRUNC else "descriptors"
                raise Violation(f"it sent {what}")
            self._heard(packet)
        except Garbled as error:
            self.end(f"it sent what is no ZDS: {error}", fault=True)
        except Violation as error:
            self.end(str(error), fault=True)

    def _heard(self, packet: bytes) -> None:
        if self.session.phase is Phase.GREETING:
            self._version = decode_hello(packet)
            self._late.cancel()
            self.session.greeted()
            self._owner.greeted(self)
        else:
            error = printable(decode_answer(packet))
            request = self.session.answered(error)
            self._late.cancel()
            if self.session.refused and self._retry is None:
                self._retry = self._loop.call_later(self._patience.retry, self._ask_again)
            self._owner.answered(self, request, error, self._loop.time() - self._sent_at)
        self.pump()

    def _ask_again(self) -> None:
        self._retry = None
        self.session.retry()
        self.pump()


def peer(opened: socket.socket, number: int) -> Proxy:
    """Return who is at the other end of a connected socket."""
    pid, user, _ = _SO_PEERCRED.unpack(opened.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _SO_PEERCRED.size))
    return Proxy(pid=pid, user=user, number=number)


def _send(opened: socket.socket, request: Request) -> None:
    packet = encode(request)
    match request:
        case Add(netns=netns):
            socket.send_fds(opened, [packet], [netns.fileno()], socket.MSG_NOSIGNAL)
        case _:
            opened.send(packet, socket.MSG_NOSIGNAL)
