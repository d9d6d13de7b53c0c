"""Events of connections, counted: the messages of ctnetlink, read no further than the counting needs.

A core decodes 50,000 events a second and more because most is passed over: a connection that begins is a number, one
that ended is four attributes, found in one walk.
"""

import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.flows.totals import Totals
from agent.kernel.attributes import attributes

_MESSAGE = struct.Struct("=IH")  # of nlmsghdr: length, type
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("!I")
_PORT = struct.Struct("!H")
_PAIR = struct.Struct("!4xQ4xQ")
_NEW, _DESTROY = 1 << 8, 1 << 8 | 2
# Of each family: where in a tuple the protocol is, the source port and the destination port (`entries`).
_PLACES: dict[int, tuple[int, int, int]] = {socket.AF_INET: (32, 40, 48), socket.AF_INET6: (56, 64, 72)}
_FIRST = 20  # where the original tuple begins, after nlmsghdr and nfgenmsg
_TCP = socket.IPPROTO_TCP
_DST_NAT = 1 << 5
_MOST_BEGUN = 65536  # connections whose beginning is remembered, where the kernel doesn't


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """How a target's connections are told apart: the connection mark and its mask, and the proxy's ports.

    0 is no port. Without a mask nothing is captured.
    """

    mark: int = 0
    mask: int = 0
    outbound_port: int = 0
    inbound_port: int = 0
    hbone_port: int = 0


@dataclass(slots=True)
class Counting:
    """One target's events as they are counted. `timed`: the kernel knows how long a connection lasted.

    `kept` is for how many seconds the kernel keeps an entry after its last packet, by its TCP state's number.
    """

    ways: Ways
    timed: bool = True
    kept: Mapping[int, int] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    begun: dict[int, float] = field(default_factory=dict)


def count(counting: Counting, data: bytearray, start: int, end: int) -> None:
    """Count the messages between two places. One that can't be read is counted as such: a pod may send them too."""
    while start + 16 <= end:
        length, kind = _MESSAGE.unpack_from(data, start)
        if length < 16:
            break
        last = start + length
        try:
            if last > end:
                counting.totals.unmeasured["message"] += 1
            elif kind == _NEW:
                counting.totals.events["new"] += 1
                if not counting.timed:
                    _begin(counting, data, start, last)
            elif kind == _DESTROY:
                counting.totals.events["destroy"] += 1
                _end(counting, data, start, last)
        except (struct.error, IndexError, KeyError):
            counting.totals.unmeasured["message"] += 1
        start += length + 3 & ~3


def _end(counting: Counting, data: bytearray, start: int, end: int) -> None:
    at = start + _FIRST
    protocol, source_port, destination_port = _PLACES[data[start + 16]]
    if data[at + protocol] != _TCP:
        return
    reply = at + (_ATTRIBUTE.unpack_from(data, at)[0] + 3 & ~3)
    rest = reply + (_ATTRIBUTE.unpack_from(data, reply)[0] + 3 & ~3)
    mark = status = identity = state = left = 0
    original = answered = times = None
    while rest < end:
        length, kind = _ATTRIBUTE.unpack_from(data, rest)
        if length < 4:  # else it would never end
            break
        kind &= 0x3FFF
        if kind == 9:
            original = _pair(data, rest, length)
        elif kind == 10:
            answered = _pair(data, rest, length)
        elif kind == 20:
            times = _pair(data, rest, length)
        elif kind == 4:
            state = data[rest + 12]
        elif kind == 7:
            (left,) = _U32.unpack_from(data, rest + 4)  # of one that was forgotten before its time
        elif kind == 8:
            (mark,) = _U32.unpack_from(data, rest + 4)
        elif kind == 3:
            (status,) = _U32.unpack_from(data, rest + 4)
        elif kind == 12:
            (identity,) = _U32.unpack_from(data, rest + 4)
        rest += length + 3 & ~3
    totals, ways = counting.totals, counting.ways
    if original is not None and answered is not None:
        totals.packets["original"] += original[0]
        totals.packets["reply"] += answered[0]
        totals.bytes["original"].observe(original[1])
        totals.bytes["reply"].observe(answered[1])
    else:
        totals.unmeasured["bytes"] += 1
    if times is not None and times[1]:
        lasted = (times[1] - times[0]) / 1e9
    else:
        began = counting.begun.pop(identity, None)
        if began is None:
            totals.unmeasured["seconds"] += 1
            return
        lasted = time.monotonic() - began
    # The entry of a connection that was closed is kept for two minutes more. What was left is told in whole seconds.
    lasted -= max(0, counting.kept.get(state, 0) - (left + 1 if left else 0))
    answers_from = _PORT.unpack_from(data, reply + source_port)[0] if status & _DST_NAT else 0
    if answers_from and answers_from == ways.outbound_port:
        path = "captured"
    elif answers_from and answers_from == ways.inbound_port:
        path = "proxy"
    elif ways.mask and mark & ways.mask == ways.mark:
        path = "captured"
    elif ways.hbone_port and _PORT.unpack_from(data, at + destination_port)[0] == ways.hbone_port:
        path = "proxy"
    else:
        path = "direct"
    totals.seconds[path].observe(max(0.0, lasted))


def _begin(counting: Counting, data: bytearray, start: int, end: int) -> None:
    """Remember when a connection began; of too many, the oldest is forgotten."""
    identity = attributes(bytes(data[start + _FIRST : end])).get(12)
    if identity:
        counting.begun[int.from_bytes(identity, "big")] = time.monotonic()
        if len(counting.begun) > _MOST_BEGUN:
            del counting.begun[next(iter(counting.begun))]


def _pair(data: bytearray, at: int, length: int) -> tuple[int, int]:
    """Return the two numbers of 64 bits of an attribute; aligned ones are longer."""
    if length == 28:
        first, second = _PAIR.unpack_from(data, at + 4)
        return first, second
    found = attributes(bytes(data[at : at + length]), 4)
    return int.from_bytes(found[1][:8], "big"), int.from_bytes(found[2][:8], "big")
