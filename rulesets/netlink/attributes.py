"""Netlink attributes as bytes: a length, a type, a payload, padded to four bytes (netlink(7))."""

import struct

from rulesets.netlink import constants as c

_HEADER = struct.Struct("=HH")
_BE32 = struct.Struct(">I")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
LONGEST = 0xFFFF  # the length of an attribute, its header included, has 16 bits


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute."""
    size = len(payload)
    return _HEADER.pack(size + 4, kind) + payload + _PADDING[size & 3]


def nested(kind: int, inner: bytes) -> bytes:
    """Return an attribute that holds attributes, which are padded already."""
    return _HEADER.pack(len(inner) + 4, kind | c.NLA_F_NESTED) + inner


def be32(kind: int, value: int) -> bytes:
    """Return an attribute of four bytes in network byte order: nf_tables' own numbers are all of this kind."""
    return _HEADER.pack(8, kind) + _BE32.pack(value)


def text(kind: int, value: str) -> bytes:
    """Return an attribute that holds a name, with the NUL that ends it."""
    return attribute(kind, value.encode() + b"\0")


def data(kind: int, value: bytes) -> bytes:
    """Return an attribute that holds a value to load or to compare with."""
    return nested(kind, attribute(c.NFTA_DATA_VALUE, value))


def host64(value: int) -> bytes:
    """Return eight bytes in the machine's byte order, as the numbers of cgroups are kept in registers."""
    return struct.pack("=Q", value)


def host32(value: int) -> bytes:
    """Return four bytes in the machine's byte order, as marks and users are kept in registers."""
    return struct.pack("=I", value)


def host16(value: int) -> bytes:
    """Return two bytes in the machine's byte order, as zones are kept in registers."""
    return struct.pack("=H", value)
