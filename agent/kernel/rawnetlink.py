"""One raw netlink socket: requests, dumps and attributes as bytes, for the questions that Weir asks often.

Sources: netlink(7), net/netlink/af_netlink.c, Documentation/userspace-api/netlink/intro.rst. The bytes are packed with
``struct`` because pyroute2's sockets start an event loop each and decode every attribute into dictionaries: opening one
and dumping ten sockets or flows takes it tens of times longer (measured: sockets.py, conntrack/table.py).
"""

import errno
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from agent.errors import AnswerLost, FeatureMissing, KernelError, PermissionMissing
from agent.kernel import brief
from agent.kernel.attributes import attributes
from agent.kernel.closing import Closing

NETLINK_SOCK_DIAG = 4
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLM_F_EXCL = 0x200
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLMSGERR_ATTR_MSG = 1

_HEADER = struct.Struct("=IHHII")
# include/uapi/asm-generic/socket.h; the first goes beyond net.core.wmem_max, for which CAP_NET_ADMIN is needed.
_SO_SNDBUFFORCE, _SO_NETNS_COOKIE = 32, 71
_BUFFER = 65536  # the kernel never makes a dump message of more than 32 KiB (netlink_recvmsg, max_recvmsg_len)
_PATIENCE = struct.pack("@ll", 5, 0)  # seconds; the kernel answers within the call to send, so this only ends a bug
_ATTEMPTS = 64  # where somebody changes rules without a pause, most are torn


class _Thread(threading.local):
    def __init__(self) -> None:
        self.buffer = bytearray(_BUFFER)  # one for each socket would be 13 MB for a hundred namespaces


_thread = _Thread()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The kernel's word on one message: the sequence number, errno (0: acknowledged), and its words."""

    sequence: int
    errno: int
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the kernel answered: the bodies of its messages (after nlmsghdr), its errno (0: done) and its words."""

    messages: tuple[bytes, ...]
    errno: int
    said: str

    def expect(self, statement: str) -> tuple[bytes, ...]:
        """The messages, or `KernelError` naming ``statement`` when the kernel refused (EPERM: `PermissionMissing`)."""
        if self.errno == errno.EPERM:
            raise PermissionMissing(statement=statement, said=self.said)
        if self.errno:
            raise KernelError(statement=statement, said=self.said)
        return self.messages


class RawNetlink(Closing):
    """A netlink socket in the network namespace of the thread that makes it; used by one thread at a time.

    It pins its namespace until `close`. ``feature`` and ``option`` (a kernel CONFIG_ name) say what is missing when the
    kernel doesn't know the protocol: `FeatureMissing`.
    """

    __slots__ = ("_room", "_sequence", "_socket", "_unread")

    def __init__(self, protocol: int, *, feature: str, option: str) -> None:
        statement = f"socket(AF_NETLINK, SOCK_RAW, {protocol})"
        try:
            self._socket = brief.netlink_socket(protocol)
        except OSError as error:
            if error.errno == errno.EPROTONOSUPPORT:
                raise FeatureMissing(statement=statement, said=str(error), feature=feature, option=option) from error
            raise KernelError(statement=statement, said=str(error)) from error
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        self._room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32
        self._unread = False  # whether an answer to what was sent may still be there
        self._sequence = count(1)

    def close(self) -> None:
        """Close the socket; twice is once."""
        self._socket.close()

    @property
    def cookie(self) -> int:
        """The kernel's number for the socket's namespace, unique until the next boot; 0 before Linux 5.14."""
        try:
            return int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return 0

    @property
    def port(self) -> int:
        """The port id by which the kernel knows this socket (netlink(7), nl_pid); 0 before anything was sent."""
        return int(self._socket.getsockname()[0])

    def ask(self, kind: int, body: bytes, *, statement: str, flags: int = 0) -> Answer:
        """Send one request and wait for its acknowledgement.

        ``kind`` is nlmsg_type, ``body`` what follows nlmsghdr, ``statement`` what to name in an error. A refusal is in
        the answer; `KernelError` is raised when no answer came (ENOBUFS: it may have been carried out all the same).
        """
        sequence = self._send(kind, flags | NLM_F_ACK, body, statement)
        messages: list[bytes] = []
        while True:
            for message_kind, message_flags, body_ in self._receive(sequence, statement):
                if message_kind == _NLMSG_ERROR:
                    code = -_signed(body_)
                    self._unread = False
                    return Answer(messages=tuple(messages), errno=code, said=_said(code, body_, message_flags))
                messages.append(body_)

    def dump(self, kind: int, body: bytes, *, statement: str, most: int | None = None) -> Answer:
        """Send one dump request and gather its messages, again from the start while the kernel says it is torn.

        The kernel flags a dump with NLM_F_DUMP_INTR when what it walks changed in a way that may lose entries, and says
        ENOBUFS when a message was lost. `KernelError` after 64 torn attempts.

        Of more messages than `most` the rest is left where it is; the socket is then of no more use.
        """
        for _ in range(_ATTEMPTS):
            answer = self._dump(kind, body, statement, most)
            if answer is not None:
                return answer
        raise KernelError(statement=statement, said=f"the dump was interrupted {_ATTEMPTS} times in a row")

    def exchange(self, data: bytes, *, last: int) -> tuple["Receipt", ...]:
        """Send messages that are whole already, and return what is acknowledged or refused.

        netlink carries out what it is sent within the call to send, so nothing is waited for. The answer to the message
        with the sequence number ``last`` is the last that is read; without one, whatever there is. Raises `KernelError`
        when it isn't taken, and `AnswerLost` when an answer was lost: it may have been carried out all the same.
        """
        statement = f"send {len(data)} bytes of netlink messages"
        if self._unread:
            with suppress(AnswerLost):
                self._receipts(statement, last=None)
        try:
            if len(data) > self._room:
                # af_netlink.c, netlink_sendmsg: a datagram of more is EMSGSIZE. The kernel doubles what is asked for.
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, len(data))
                self._room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32
            self._unread = True
            self._socket.send(data)
        except OSError as error:
            raise KernelError(statement=statement, said=str(error)) from error
        receipts = self._receipts(statement, last=last)
        self._unread = False
        return receipts

    def ask_together(self, requests: Sequence[tuple[int, bytes]], *, flags: int = 0) -> dict[int, Receipt]:
        """Send requests (nlmsg_type and body) at once; return what the kernel said of those it refused, by their place.

        Each is carried out or refused for itself. Raises `KernelError` when it isn't known what became of them.
        """
        first = next(self._sequence)
        self._sequence = count(first + len(requests))
        data = b""
        for place, (kind, body) in enumerate(requests):
            # Who is refused is told so in any case: one acknowledgement, of the last, is enough.
            how = NLM_F_REQUEST | flags | (NLM_F_ACK if place + 1 == len(requests) else 0)
            data += _HEADER.pack(_HEADER.size + len(body), kind, how, first + place, 0) + body
        last = first + len(requests) - 1
        receipts = self.exchange(data, last=last)
        if not receipts or receipts[-1].sequence != last:
            raise KernelError(statement=f"send {len(requests)} netlink requests", said="the last was not acknowledged")
        return {each.sequence - first: each for each in receipts if each.errno}

    def _receipts(self, statement: str, *, last: int | None) -> tuple["Receipt", ...]:
        receipts: list[Receipt] = []
        lost: OSError | None = None
        buffer = _thread.buffer
        while not (receipts and receipts[-1].sequence == last):
            try:
                size = brief.receive(self._socket.fileno(), buffer)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError(statement=statement, said=str(error)) from error
                lost = error  # said once; what did arrive is still there
                continue
            receipts += _receipts(memoryview(buffer)[:size])
        if lost:
            raise AnswerLost(statement=statement, said=str(lost))
        return tuple(receipts)

    def _dump(self, kind: int, body: bytes, statement: str, most: int | None) -> Answer | None:
        sequence = self._send(kind, NLM_F_DUMP, body, statement)
        messages: list[bytes] = []
        whole = True
        while True:
            try:
                for message_kind, message_flags, body_ in self._receive(sequence, statement):
                    whole = whole and not message_flags & NLM_F_DUMP_INTR
                    if message_kind in (_NLMSG_ERROR, _NLMSG_DONE):
                        # Both begin with an errno: a dump that fails half-way reports it in NLMSG_DONE.
                        code = -_signed(body_)
                        if code == errno.EINTR or not whole:
                            return None
                        self._unread = False
                        return Answer(messages=tuple(messages), errno=code, said=_said(code, body_, message_flags))
                    messages.append(body_)
                if most is not None and len(messages) > most:
                    return Answer(messages=tuple(messages), errno=0, said="")
            except _MessageLostError:
                whole = False  # the dump goes on; a new one would be EBUSY until this one is read to its end

    def _send(self, kind: int, flags: int, body: bytes, statement: str) -> int:
        sequence = next(self._sequence)
        self._unread = True
        header = _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, sequence, 0)
        try:
            self._socket.send(header + body)
        except OSError as error:
            raise KernelError(statement=statement, said=str(error)) from error
        return sequence

    def _receive(self, sequence: int, statement: str) -> Iterator[tuple[int, int, bytes]]:
        """Type, flags and body of every message of one datagram that answers ``sequence``."""
        buffer = _thread.buffer
        try:
            size, _, flags, _ = self._socket.recvmsg_into([buffer])
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise _MessageLostError(statement=statement, said=str(error)) from error
            said = "no answer within 5 seconds" if error.errno == errno.EAGAIN else str(error)
            raise KernelError(statement=statement, said=said) from error
        if flags & socket.MSG_TRUNC:
            raise KernelError(statement=statement, said=f"an answer of more than {_BUFFER} bytes")
        view = memoryview(buffer)
        at = 0
        while at + _HEADER.size <= size:
            length, kind, message_flags, answered, _ = _HEADER.unpack_from(view, at)
            if answered == sequence:
                yield kind, message_flags, bytes(view[at + _HEADER.size : at + length])
            at += (length + 3) & ~3


class _MessageLostError(KernelError):
    """The receive buffer overflowed (ENOBUFS); the socket itself goes on working."""


def _receipts(view: memoryview) -> Iterator[Receipt]:
    at = 0
    while at + _HEADER.size <= len(view):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(view, at)
        body = bytes(view[at + _HEADER.size : at + length])
        if length < _HEADER.size + 4:
            break
        if kind == _NLMSG_ERROR:
            code = -_signed(body)
            yield Receipt(sequence=sequence, errno=code, said=_said(code, body, flags))
        at += (length + 3) & ~3


def _signed(body: bytes) -> int:
    return int.from_bytes(body[:4], sys.byteorder, signed=True)


def _said(code: int, body: bytes, flags: int) -> str:
    """The kernel's words: errno's text and, where the kernel gave one, its own message (NLMSGERR_ATTR_MSG)."""
    if not code:
        return ""
    said = f"{errno.errorcode.get(code, code)} ({os.strerror(code)})"
    if flags & NLM_F_ACK_TLVS:
        # NLMSG_ERROR repeats the request's header after errno (and no more of it: NETLINK_CAP_ACK); NLMSG_DONE doesn't.
        words = attributes(body, 4 + _HEADER.size if flags & NLM_F_CAPPED else 4).get(_NLMSGERR_ATTR_MSG)
        if words:
            said += ": " + words.rstrip(b"\0").decode(errors="replace")
    return said
