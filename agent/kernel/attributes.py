"""Netlink attributes as bytes (include/uapi/linux/netlink.h, struct nlattr)."""

import struct

_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF  # NLA_F_NESTED and NLA_F_NET_BYTEORDER are the two top bits of an attribute's type


def attributes(data: bytes, start: int = 0) -> dict[int, bytes]:
    """The netlink attributes of ``data`` from ``start`` on, by type; of one that repeats, the last."""
    found = {}
    end = len(data)
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = data[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(payload) + 4, kind) + payload + bytes(-len(payload) % 4)


def nested(kind: int, *inner: bytes) -> bytes:
    """An attribute that holds attributes: NLA_F_NESTED is demanded by strict parsers since 5.2."""
    return attribute(kind | 0x8000, b"".join(inner))
