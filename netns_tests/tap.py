"""A wire tap: the TCP segments that an interface carries, so that a test can say what was never seen on the wire."""

import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from netns_tests.captured import Address
from netns_tests.loop import IN, Loop, Place
from netns_tests.packet_filter import beginnings

__all__ = ["Segment", "Tap"]

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER = 256 * 1024 * 1024
SYN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A TCP segment as it was on the interface."""

    time: float
    outgoing: bool
    source: Address
    target: Address
    flags: int
    sequence: int
    payload: bytes


class Tap:
    """What an interface of a namespace carries. Use it in a `with` block; ask it inside or afterwards."""

    def __init__(self, place: Place, interface: str = "eth0", *, only_from: Sequence[int] | None = None) -> None:
        """Take the interface to listen on. With `only_from`: first segments alone, and what comes from these ports."""
        self._place = place
        self._only_from = only_from
        self._interface = interface
        self._loop = Loop()
        self._lock = threading.Lock()
        self._segments: list[Segment] = []
        self._socket: socket.socket
        self._dropped = 0

    def start(self) -> Self:
        """Listen; what is sent after this returns is recorded."""
        self._loop.start(self._place, self._listen)
        return self

    def stop(self) -> None:
        """Read the rest and end."""
        with self._lock:
            self._read()
        self._loop.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def segments(self) -> list[Segment]:
        """Return everything carried until now. A tap that missed something raises: it can prove nothing."""
        with self._lock:
            self._read()  # a packet is queued here before its sender's system call returns
            if self._dropped:
                raise AssertionError(f"the tap on {self._interface} missed {self._dropped} packets")
            return list(self._segments)

    def connections(self, *, source: Address | None = None, target: Address | None = None) -> list[Segment]:
        """Return the first segments (SYN, without ACK) of connections, from and to where is asked for."""
        return [segment for segment in self._find(source, target) if segment.flags & 0x12 == SYN]

    def payload(self, *, source: Address | None = None, target: Address | None = None) -> bytes:
        """Return the bytes that were carried, flow after flow, each in order of sequence, what was sent again once."""
        flows: dict[tuple[Address, Address], dict[int, bytes]] = {}
        for segment in self._find(source, target):
            if segment.payload:
                flow = flows.setdefault((segment.source, segment.target), {})
                if len(segment.payload) > len(flow.get(segment.sequence, b"")):
                    flow[segment.sequence] = segment.payload
        return b"".join(map(_assemble, flows.values()))

    def saw(self, data: bytes) -> bool:
        """Say if bytes were carried in any flow, in one piece or several."""
        return data in self.payload()

    def _find(self, source: Address | None, target: Address | None) -> list[Segment]:
        return [s for s in self.segments if source in (None, s.source) and target in (None, s.target)]

    def _listen(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._socket.setblocking(False)
        if self._only_from is not None:
            beginnings(self._socket, self._only_from)
        # Protocol 0 until here: nothing of other interfaces gets in before the bind.
        self._socket.bind((self._interface, ETH_P_ALL))
        self._loop.watch(self._socket, IN, self._ready)

    def _ready(self, events: int) -> None:
        with self._lock:
            self._read()

    def _read(self) -> None:
        if self._socket.fileno() < 0:
            return
        while True:
            try:
                packet, (_, protocol, kind, *_) = self._socket.recvfrom(1 << 18)
            except BlockingIOError:
                break
            if protocol in (ETH_P_IP, ETH_P_IPV6):
                segment = _parse(packet, protocol, kind == socket.PACKET_OUTGOING)
                if segment is not None:
                    self._segments.append(segment)
        # Reading the statistics sets them back to zero.
        self._dropped += struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]


def _parse(packet: bytes, protocol: int, outgoing: bool) -> Segment | None:
    """Return the TCP segment in an IP packet, if there is one."""
    if protocol == ETH_P_IP:
        start, end = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0]
        kind, family, addresses = packet[9], socket.AF_INET, (packet[12:16], packet[16:20])
    else:
        start, end = 40, 40 + struct.unpack_from("!H", packet, 4)[0]
        kind, family, addresses = packet[6], socket.AF_INET6, (packet[8:24], packet[24:40])
    if kind != socket.IPPROTO_TCP:
        return None
    source, target, sequence = struct.unpack_from("!HHI", packet, start)
    return Segment(
        time=time.monotonic(),
        outgoing=outgoing,
        source=(socket.inet_ntop(family, addresses[0]), source),
        target=(socket.inet_ntop(family, addresses[1]), target),
        flags=packet[start + 13],
        sequence=sequence,
        payload=packet[start + (packet[start + 12] >> 4) * 4 : end],
    )


def _assemble(pieces: dict[int, bytes]) -> bytes:
    """Join segments by sequence. Sequence numbers wrap: the piece after the widest gap is the first."""
    starts = sorted(pieces)
    gaps = [(after - before) % 2**32 for before, after in zip([starts[-1], *starts], starts, strict=False)]
    first = gaps.index(max(gaps)) if len(starts) > 1 else 0
    joined = bytearray()
    base = starts[first]
    for start in starts[first:] + starts[:first]:
        at = (start - base) % 2**32
        if at > len(joined):
            joined.extend(bytes(at - len(joined)))  # a hole
        joined[at : at + len(pieces[start])] = pieces[start]
    return bytes(joined)
