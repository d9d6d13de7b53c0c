"""ctnetlink messages to `Flow` and back: attributes of include/uapi/linux/netfilter/nfnetlink_conntrack.h."""

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from agent.errors import KernelError
from agent.kernel.attributes import attribute, attributes, nested
from agent.kernel.conntrack.flow import Count, Flow, FlowTuple, Status

CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_STATUS = 3
CTA_PROTOINFO = 4
CTA_TIMEOUT = 7
CTA_MARK = 8
CTA_COUNTERS_ORIG = 9
CTA_COUNTERS_REPLY = 10
CTA_ID = 12
CTA_ZONE = 18
CTA_MARK_MASK = 21

_CTA_TUPLE_IP = 1
_CTA_TUPLE_PROTO = 2
_CTA_TUPLE_ZONE = 3
_CTA_IP_V4_SRC = 1
_CTA_IP_V4_DST = 2
_CTA_IP_V6_SRC = 3
_CTA_IP_V6_DST = 4
_CTA_PROTO_NUM = 1
_CTA_PROTO_SRC_PORT = 2
_CTA_PROTO_DST_PORT = 3
_CTA_PROTOINFO_TCP = 1
_CTA_PROTOINFO_TCP_STATE = 1
_CTA_PROTOINFO_TCP_WSCALE_ORIGINAL = 2
_CTA_PROTOINFO_TCP_WSCALE_REPLY = 3
_CTA_PROTOINFO_TCP_FLAGS_ORIGINAL = 4
_CTA_PROTOINFO_TCP_FLAGS_REPLY = 5
_CTA_COUNTERS_PACKETS = 1
_CTA_COUNTERS_BYTES = 2

# enum tcp_conntrack, include/uapi/linux/netfilter/nf_conntrack_tcp.h
_TCP_STATES = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)
_ESTABLISHED = _TCP_STATES.index("ESTABLISHED")
_TCP_FLAG_WINDOW_SCALE = 0x01
_TCP_FLAG_SACK_PERM = 0x02
_TCP_FLAG_BE_LIBERAL = 0x08
_LARGEST_WINDOW_SCALE = 14  # RFC 7323, 2.3

HEADER = 4  # nfgenmsg: family, version, resource (big endian)


def header(family: int) -> bytes:
    """The nfgenmsg that every message of nfnetlink begins with."""
    return struct.pack("!BBH", family, 0, 0)


def family(flow_tuple: FlowTuple) -> int:
    """The address family number of a tuple."""
    return socket.AF_INET if flow_tuple.source.version == 4 else socket.AF_INET6


def number(data: bytes | None) -> int:
    """An attribute's number, big endian as all of ctnetlink's; 0 for an attribute that isn't there."""
    return int.from_bytes(data, "big") if data else 0


def encode_tuple(kind: int, flow_tuple: FlowTuple, zone: int | None = None) -> bytes:
    """CTA_TUPLE_ORIG or CTA_TUPLE_REPLY; ``zone`` is given where it holds for this direction alone.

    `ValueError` for ICMP, whose identity (id, type, code) a `FlowTuple` doesn't hold.
    """
    if flow_tuple.protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6):
        raise ValueError(f"an ICMP flow can't be named by a tuple of ports: {flow_tuple}")
    source, destination = (
        (_CTA_IP_V4_SRC, _CTA_IP_V4_DST) if flow_tuple.source.version == 4 else (_CTA_IP_V6_SRC, _CTA_IP_V6_DST)
    )
    return nested(
        kind,
        nested(
            _CTA_TUPLE_IP,
            attribute(source, flow_tuple.source.packed),
            attribute(destination, flow_tuple.destination.packed),
        ),
        nested(
            _CTA_TUPLE_PROTO,
            attribute(_CTA_PROTO_NUM, bytes((flow_tuple.protocol,))),
            attribute(_CTA_PROTO_SRC_PORT, flow_tuple.source_port.to_bytes(2, "big")),
            attribute(_CTA_PROTO_DST_PORT, flow_tuple.destination_port.to_bytes(2, "big")),
        ),
        b"" if zone is None else attribute(_CTA_TUPLE_ZONE, zone.to_bytes(2, "big")),
    )


def encode_identity(flow: Flow) -> bytes:
    """The attributes that name an existing entry: its original tuple and its zone, given as the kernel keeps it."""
    if flow.zone == flow.reply_zone:
        zone = attribute(CTA_ZONE, flow.zone.to_bytes(2, "big")) if flow.zone else b""
        return encode_tuple(CTA_TUPLE_ORIG, flow.original) + zone
    if flow.zone:
        return encode_tuple(CTA_TUPLE_ORIG, flow.original, flow.zone)
    # The zone holds for the reply alone. ctnetlink looks up one direction, with the zone written inside that tuple.
    return encode_tuple(CTA_TUPLE_REPLY, flow.reply, flow.reply_zone)


def encode_established(original: FlowTuple, *, mark: int, timeout: int) -> bytes:
    """All attributes of a new entry of an established, untranslated TCP stream."""
    # What conntrackd gives an entry whose window it hasn't seen: liberal in both directions, so that no segment is
    # INVALID, and the largest scale, so that the window learnt from the first segments is never too small.
    flags = _TCP_FLAG_WINDOW_SCALE | _TCP_FLAG_SACK_PERM | _TCP_FLAG_BE_LIBERAL
    flags_and_mask = bytes((flags, flags))
    scale = bytes((_LARGEST_WINDOW_SCALE,))
    return (
        encode_tuple(CTA_TUPLE_ORIG, original)
        + encode_tuple(CTA_TUPLE_REPLY, original.reversed())
        + attribute(CTA_STATUS, (Status.CONFIRMED | Status.SEEN_REPLY | Status.ASSURED).to_bytes(4, "big"))
        + attribute(CTA_TIMEOUT, timeout.to_bytes(4, "big"))
        + attribute(CTA_MARK, mark.to_bytes(4, "big"))
        + nested(
            CTA_PROTOINFO,
            nested(
                _CTA_PROTOINFO_TCP,
                attribute(_CTA_PROTOINFO_TCP_STATE, bytes((_ESTABLISHED,))),
                attribute(_CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, scale),
                attribute(_CTA_PROTOINFO_TCP_WSCALE_REPLY, scale),
                attribute(_CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, flags_and_mask),
                attribute(_CTA_PROTOINFO_TCP_FLAGS_REPLY, flags_and_mask),
            ),
        )
    )


def decode_flow(body: bytes, *, statement: str, protocol: int | None = None) -> Flow | None:
    """The entry of one message; None where ``protocol`` is given and the entry's is another."""
    found = attributes(body, HEADER)
    try:
        original, zone = _decode_tuple(found[CTA_TUPLE_ORIG])
        if protocol is not None and original.protocol != protocol:
            return None
        reply, reply_zone = _decode_tuple(found[CTA_TUPLE_REPLY])
    except (KeyError, ValueError) as error:
        said = f"{errno.errorcode[errno.EBADMSG]}: an entry without addresses or protocol: {body.hex()}"
        raise KernelError(statement=statement, said=said) from error
    both = number(found.get(CTA_ZONE))
    return Flow(
        original=original,
        reply=reply,
        mark=number(found.get(CTA_MARK)),  # left out where it is 0
        zone=zone or both,
        reply_zone=reply_zone or both,
        status=Status(number(found.get(CTA_STATUS))),
        tcp_state=_tcp_state(found.get(CTA_PROTOINFO)),
        timeout=number(found.get(CTA_TIMEOUT)),
        original_count=_count(found.get(CTA_COUNTERS_ORIG)),
        reply_count=_count(found.get(CTA_COUNTERS_REPLY)),
        id=number(found.get(CTA_ID)),
    )


def _decode_tuple(data: bytes) -> tuple[FlowTuple, int]:
    parts = attributes(data)
    addresses, protocol = attributes(parts[_CTA_TUPLE_IP]), attributes(parts[_CTA_TUPLE_PROTO])
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    if _CTA_IP_V4_SRC in addresses:
        source, destination = IPv4Address(addresses[_CTA_IP_V4_SRC]), IPv4Address(addresses[_CTA_IP_V4_DST])
    else:
        source, destination = IPv6Address(addresses[_CTA_IP_V6_SRC]), IPv6Address(addresses[_CTA_IP_V6_DST])
    flow_tuple = FlowTuple(
        source=source,
        destination=destination,
        protocol=protocol[_CTA_PROTO_NUM][0],
        source_port=number(protocol.get(_CTA_PROTO_SRC_PORT)),
        destination_port=number(protocol.get(_CTA_PROTO_DST_PORT)),
    )
    return flow_tuple, number(parts.get(_CTA_TUPLE_ZONE))


def _tcp_state(data: bytes | None) -> str | None:
    tcp = attributes(data).get(_CTA_PROTOINFO_TCP) if data else None
    if tcp is None:
        return None
    state = number(attributes(tcp).get(_CTA_PROTOINFO_TCP_STATE))
    return _TCP_STATES[state] if state < len(_TCP_STATES) else str(state)


def _count(data: bytes | None) -> Count | None:
    if data is None:
        return None
    counters = attributes(data)
    return Count(packets=number(counters.get(_CTA_COUNTERS_PACKETS)), bytes=number(counters.get(_CTA_COUNTERS_BYTES)))
