"""What the kernel tells of changes: notifications of nf_tables and of rtnetlink as frozen values.

Strict and total: bytes that aren't what a kernel sends raise `KernelError`, and nothing else; messages of a kind that
isn't asked for are passed over. Names in them are whatever somebody has chosen: show them by `agent.words.printable`.

Of nf_tables a transaction is some datagrams of changes, then one that says which process made them (`Commit`). The
process is numbered as in the first namespace of processes, whichever the reader is in, and by its thread
(nf_tables_api.c, nf_tables_fill_gen_info). rtnetlink tells the netlink port alone: 0 is the kernel itself.
"""

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from agent.errors import KernelError
from agent.kernel.tablequery import TableName, family_name

LARGEST = 65536
"""Bytes to receive with: the kernel sends none that are more."""

What = Literal["table", "chain", "rule", "set", "element", "object", "flowtable"]

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
_NFGENMSG, _RTMSG, _IFINFOMSG = 4, 12, 16  # bytes of struct nfgenmsg, rtmsg (and fib_rule_hdr), ifinfomsg
_NFNL_SUBSYS_NFTABLES = 10
_NEWGEN = 15
_GEN_PROC_PID, _GEN_PROC_NAME = 2, 3
# include/uapi/linux/netfilter/nf_tables.h: the type of message, what it is about, whether that came, and the attributes
# that name the table and the thing itself (0: the table is the thing).
_MESSAGES: dict[int, tuple[What, bool, int, int]] = {
    0: ("table", True, 1, 0),
    2: ("table", False, 1, 0),
    3: ("chain", True, 1, 3),
    5: ("chain", False, 1, 3),
    6: ("rule", True, 1, 2),
    8: ("rule", False, 1, 2),
    9: ("set", True, 1, 2),
    11: ("set", False, 1, 2),
    12: ("element", True, 1, 2),
    14: ("element", False, 1, 2),
    18: ("object", True, 1, 2),
    20: ("object", False, 1, 2),
    22: ("flowtable", True, 1, 2),
    24: ("flowtable", False, 1, 2),
}
_CHAIN_HOOK, _OBJ_TYPE = 4, 3
_CT_HELPER = 3  # NFT_OBJECT_CT_HELPER
_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWROUTE, _RTM_DELROUTE, _RTM_NEWRULE, _RTM_DELRULE = 16, 17, 24, 25, 32, 33
_TABLE = 15  # RTA_TABLE and FRA_TABLE
_PROTOCOL_OF_RULE = 21  # FRA_PROTOCOL


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that came into a table of nf_tables or left it, by a netlink socket's port.

    `name` is the chain's, set's or object's; a rule's is its chain's, an element's its set's, and a table's is empty.
    `hooked`: a chain that the kernel calls. `helper`: an object that assigns a helper of connection tracking.
    """

    port: int
    what: What
    added: bool
    table: TableName
    name: str = ""
    hooked: bool = False
    helper: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The end of a transaction of nf_tables: all changes before it, from the last one on, are this process's."""

    port: int
    process: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """A policy rule, a route or an interface that came, changed or left. `port` 0: no process asked for it.

    `table` and `protocol` are a rule's or a route's. The number of an interface stands in `index`.
    """

    port: int
    what: Literal["rule", "route", "link"]
    added: bool
    family: int
    table: int = 0
    protocol: int = 0
    index: int = 0


def port_of(told: bytes) -> int:
    """Return the port of the socket that made what a datagram tells of: one datagram is of one. 0 for too few bytes."""
    return int.from_bytes(told[12:16], sys.byteorder) if len(told) >= _HEADER.size else 0


def of_tables(told: bytes) -> tuple[Change | Commit, ...]:
    """Return what a datagram of nf_tables tells. Raises `KernelError`."""
    found: list[Change | Commit] = []
    for kind, port, body in _messages(told, "nf_tables"):
        if kind >> 8 != _NFNL_SUBSYS_NFTABLES:
            continue
        number = kind & 0xFF
        if number == _NEWGEN:
            found.extend(_commit(port, body))
        elif number in _MESSAGES:
            found.append(_change(number, port, body))
    return tuple(found)


def of_routing(told: bytes) -> tuple[Routed, ...]:
    """Return what a datagram of rtnetlink tells. Raises `KernelError`."""
    found = []
    for kind, port, body in _messages(told, "rtnetlink"):
        if kind in (_RTM_NEWLINK, _RTM_DELLINK):
            _expect(len(body) >= _IFINFOMSG, "an interface without a header")
            index = int.from_bytes(body[4:8], sys.byteorder, signed=True)
            found.append(Routed(port=port, what="link", added=kind == _RTM_NEWLINK, family=body[0], index=index))
        elif kind in (_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_NEWRULE, _RTM_DELRULE):
            _expect(len(body) >= _RTMSG, "a route or a rule without a header")
            told_of, route = _attributes(body, _RTMSG), kind in (_RTM_NEWROUTE, _RTM_DELROUTE)
            found.append(
                Routed(
                    port=port,
                    what="route" if route else "rule",
                    added=kind in (_RTM_NEWROUTE, _RTM_NEWRULE),
                    family=body[0],
                    table=_number(told_of.get(_TABLE), sys.byteorder) or body[4],
                    protocol=body[5] if route else _number(told_of.get(_PROTOCOL_OF_RULE), sys.byteorder),
                )
            )
    return tuple(found)


def _change(number: int, port: int, body: bytes) -> Change:
    what, added, table_at, name_at = _MESSAGES[number]
    _expect(len(body) >= _NFGENMSG, f"a {what} without a header")
    told = _attributes(body, _NFGENMSG)
    _expect(table_at in told, f"a {what} of no table")
    return Change(
        port=port,
        what=what,
        added=added,
        table=TableName(family=family_name(body[0]), name=_text(told[table_at])),
        name=_text(told.get(name_at, b"")) if name_at else "",
        hooked=what == "chain" and _CHAIN_HOOK in told,
        helper=what == "object" and _number(told.get(_OBJ_TYPE), "big") == _CT_HELPER,
    )


def _commit(port: int, body: bytes) -> Iterator[Commit]:
    _expect(len(body) >= _NFGENMSG, "a generation without a header")
    told = _attributes(body, _NFGENMSG)
    if _GEN_PROC_PID in told:  # not told before Linux 4.14
        yield Commit(port=port, process=_number(told[_GEN_PROC_PID], "big"), name=_text(told.get(_GEN_PROC_NAME, b"")))


def _messages(told: bytes, whose: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, port and body of each message."""
    at = 0
    while at < len(told):
        _expect(len(told) - at >= _HEADER.size, f"{len(told) - at} bytes behind the last message of {whose}")
        length, kind, _, _, port = _HEADER.unpack_from(told, at)
        _expect(_HEADER.size <= length <= len(told) - at, f"a message of {length} bytes in {len(told) - at}")
        yield kind, port, told[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at < len(body):
        _expect(len(body) - at >= _ATTRIBUTE.size, "bytes behind the last attribute")
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        _expect(_ATTRIBUTE.size <= length <= len(body) - at, f"an attribute of {length} bytes in {len(body) - at}")
        found[kind & _TYPE_MASK] = body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _number(value: bytes | None, order: Literal["big", "little"]) -> int:
    _expect(value is None or len(value) in (1, 2, 4, 8), "a number that is none")
    return int.from_bytes(value or b"", order)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="backslashreplace")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise KernelError(statement="read a notification", said=otherwise)
