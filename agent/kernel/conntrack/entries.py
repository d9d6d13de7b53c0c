"""Entries as messages of ctnetlink, read where each number stands: for dumps and events by the ten thousand.

The kernel writes a tuple's attributes in one order and size (ctnetlink_dump_tuples_ip, ctnetlink_dump_tuples_proto), so
that addresses and ports have fixed places in it; what follows the tuples is found by its type. `codec` reads a single
entry whole, in 13 us; this reads the parts that are counted in 3.
"""

import socket
import struct
from typing import NamedTuple

from agent.kernel.attributes import attributes

TUPLE_ORIG = 4  # where the first tuple begins in a message's body, after nfgenmsg
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("!I")
_PORT = struct.Struct("!H")
# CTA_COUNTERS_PACKETS and _BYTES, or CTA_TIMESTAMP_START and _STOP (nanoseconds), each with its header.
_PAIR = struct.Struct("!4xQ4xQ")
_PAIR_LENGTH = 4 + _PAIR.size  # longer where the processor wants them aligned
_TYPE = 0x3FFF
_WITH_PORTS = frozenset({socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_SCTP, 33, 136})  # DCCP, UDP-Lite
# From the beginning of a tuple: the source address, the destination, the protocol, the two ports.
_PLACES: dict[int, tuple[int, int, int, int, int, int]] = {
    socket.AF_INET: (12, 20, 4, 32, 40, 48),
    socket.AF_INET6: (12, 32, 16, 56, 64, 72),
}
_CTA_STATUS, _CTA_PROTOINFO, _CTA_MARK, _CTA_COUNTERS_ORIG, _CTA_COUNTERS_REPLY, _CTA_ID, _CTA_TIMESTAMP = (
    3,
    4,
    8,
    9,
    10,
    12,
    20,
)


class Entry(NamedTuple):
    """What is counted of an entry.

    Addresses are packed. `reply_port` is the source port of what answers. `state` is the number of enum tcp_conntrack,
    0 for other protocols. Counts are of the original and of the reply direction, None where nf_conntrack_acct was off
    when it began. `seconds` is how long it lasted, None unless it has ended and nf_conntrack_timestamp was on. `id` is
    the kernel's hash, as in `Flow`.
    """

    protocol: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    reply_port: int
    mark: int
    status: int
    state: int
    packets: tuple[int, int] | None
    bytes: tuple[int, int] | None
    seconds: float | None
    id: int


def read_entry(data: bytes | memoryview, start: int, end: int) -> Entry | None:
    """Return the entry of the message body (nfgenmsg first) between two places; None where it isn't one."""
    places = _PLACES.get(data[start])
    at = start + TUPLE_ORIG
    if places is None or end - at < 2 * (places[3] + 4):
        return None
    source, destination, size, protocol_at, source_port, destination_port = places
    protocol = data[at + protocol_at]
    ports = protocol in _WITH_PORTS
    reply = at + (_ATTRIBUTE.unpack_from(data, at)[0] + 3 & ~3)
    rest = reply + (_ATTRIBUTE.unpack_from(data, reply)[0] + 3 & ~3)
    mark = status = state = identity = 0
    original = answered = times = None
    while rest + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, rest)
        if length < 4:
            break
        kind &= _TYPE
        if kind == _CTA_MARK:
            (mark,) = _U32.unpack_from(data, rest + 4)
        elif kind == _CTA_STATUS:
            (status,) = _U32.unpack_from(data, rest + 4)
        elif kind == _CTA_ID:
            (identity,) = _U32.unpack_from(data, rest + 4)
        elif kind == _CTA_COUNTERS_ORIG:
            original = _pair(data, rest, length)
        elif kind == _CTA_COUNTERS_REPLY:
            answered = _pair(data, rest, length)
        elif kind == _CTA_TIMESTAMP:
            times = _pair(data, rest, length)
        elif kind == _CTA_PROTOINFO and length >= 13 and protocol == socket.IPPROTO_TCP:
            state = data[rest + 12]  # CTA_PROTOINFO_TCP, and in it first CTA_PROTOINFO_TCP_STATE
        rest += length + 3 & ~3
    return Entry(
        protocol,
        bytes(data[at + source : at + source + size]),
        bytes(data[at + destination : at + destination + size]),
        _PORT.unpack_from(data, at + source_port)[0] if ports else 0,
        _PORT.unpack_from(data, at + destination_port)[0] if ports else 0,
        _PORT.unpack_from(data, reply + source_port)[0] if ports else 0,
        mark,
        status,
        state,
        None if original is None or answered is None else (original[0], answered[0]),
        None if original is None or answered is None else (original[1], answered[1]),
        # The kernel writes 0 for a time that hasn't come yet.
        None if times is None or not times[1] else max(0, times[1] - times[0]) / 1e9,
        identity,
    )


def _pair(data: bytes | memoryview, at: int, length: int) -> tuple[int, int] | None:
    """Return the two numbers of 64 bits of an attribute that holds them; None where it doesn't."""
    if length == _PAIR_LENGTH:
        first, second = _PAIR.unpack_from(data, at + 4)
        return first, second
    found = attributes(bytes(data[at : at + length]), 4)
    return int.from_bytes(found.get(1, b""), "big"), int.from_bytes(found.get(2, b""), "big")
